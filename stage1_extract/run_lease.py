"""One run at a time for a manifest and a store, on whatever machines they are started.

A lease is a file beside the shards that its run touches again and again. Whether it does so is seen
by looking twice, and not by comparing times: clocks of machines differ.
"""

import dataclasses
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stage1_extract.store import StoreError

BEAT_SECONDS = 3.0
STALE_SECONDS = 30.0
"""A lease that was not touched for so long is that of a run which was killed."""
_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Who holds a lease: a process, told from later ones of its number by when it started."""

    token: str
    host: str
    machine: str
    pid: int
    process_started: str
    since: str

    @classmethod
    def ourselves(cls) -> "_Holder":
        pid = os.getpid()
        return cls(
            token=secrets.token_hex(8),
            host=platform.node(),
            machine=_machine(),
            pid=pid,
            process_started=_process_start(pid),
            since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        )

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, where its process can be looked up."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def is_alive_here(self) -> bool:
        """Whether its process is there, if it could be."""
        return self.is_here and _process_start(self.pid) == self.process_started


_UNKNOWN = _Holder("", "an unknown machine", "", 0, "", "an unknown time")
"""Of a lease that is being written, or whose writer was killed in the middle."""


@contextmanager
def run_lease(folder: Path, manifest_sha256: str) -> Iterator[None]:
    """Hold the lease of a manifest on a store for the time of the block.

    A run that was killed leaves its lease behind. On the same machine that is seen at once, on
    another it is waited for a sign of life.

    Raises:
        StoreError: Another run embeds the same manifest into this store.
        OSError: The folder cannot be written.
    """
    path = folder / f".run-{manifest_sha256[:16]}.lease"
    ours = _Holder.ourselves()
    _acquire(path, ours, folder)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, ended), name="lease", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if (holder := _read(path)) is not None and holder.token == ours.token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, ours: _Holder, folder: Path) -> None:
    has_waited = False
    while not (_create(path, ours) and (not has_waited or _settles(path, ours))):
        _wait_until_stale(path, folder)
        has_waited = True


def _settles(path: Path, ours: _Holder) -> bool:
    """Whether a lease stays ours: others that waited too may take it for the one that was stale."""
    time.sleep(_SETTLE_SECONDS)
    holder = _read(path)
    return holder is not None and holder.token == ours.token


def _create(path: Path, holder: _Holder) -> bool:
    """Write the lease, or find that there is one."""
    try:
        with path.open("x", encoding="utf-8") as file:  # of two, one succeeds, over a network too
            file.write(json.dumps(dataclasses.asdict(holder)))
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> _Holder | None:
    try:
        return _Holder(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError):
        return _UNKNOWN


def _wait_until_stale(path: Path, folder: Path) -> None:
    """Return when the lease is gone, or was that of a run that ended; then it is removed.

    Raises:
        StoreError: Its run is alive.
    """
    holder, seen = _read(path), _modified(path)
    deadline = time.monotonic() + STALE_SECONDS
    while holder is not None and not (holder.is_here and not holder.is_alive_here):
        if holder.is_alive_here or _modified(path) not in (seen, None):
            raise StoreError(
                f"another run embeds the same manifest into {folder}: process {holder.pid} on "
                f"{holder.host}, since {holder.since}; wait for its end, or stop it"
            )
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
        holder = _read(path)
    if holder is not None:
        _remove_stale(path, holder)


def _remove_stale(path: Path, holder: _Holder) -> None:
    """Remove the lease of a run that ended, and put one back that another run made meanwhile."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        moved = _read(aside)
        if moved is not None and moved.token != holder.token:
            with suppress(OSError):  # there is another already; or no links: its run will notice
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # a file server that is away for a while; the next beat will do
            os.utime(path)


def _machine() -> str:
    """Return what tells this machine, since it was started, from others; a container is another."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _process_start(pid: int) -> str:
    """Return when a process started, in the kernel's ticks since boot; "" if there is none."""
    with suppress(OSError):
        # The name, in parentheses, may hold anything.
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
        state, *fields = text.split()
        return "" if state == "Z" else fields[18]
    return ""

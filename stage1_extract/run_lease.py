"""One process at a time for a piece of work, on whatever machines they are started.

By a file that the process touches again and again, and not by a lock of the system, which many a
cluster's file system lacks, or keeps from other nodes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from stage1_extract.addresses import Location
from stage1_extract.store import StoreError

STALE_SECONDS = 30.0
"""A lease that was not touched for so long is that of a process which was killed."""
BEAT_SECONDS = 3.0
_POLL_SECONDS = 0.5


@contextmanager
def run_lease(folder: Path, manifest_sha256: str) -> Iterator[list[str]]:
    """Hold the lease of a manifest on a store for the time of the block.

    Yields:
        Notes for the user; there is one if the lease is lost, as by a machine that sleeps.

    Raises:
        StoreError: Another run embeds the same manifest into this store.
        OSError: The folder cannot be written.
    """
    path = folder / f".run-{manifest_sha256[:16]}.lease"
    notes: list[str] = []

    def refusal(holder: str) -> StoreError:
        return already_embedded(folder, holder, path)

    with file_lease(path, refusal, lambda reason: notes.append(_loss_note(folder, reason))):
        yield notes


def already_embedded(store: Location, holder: str, lease: Location) -> StoreError:
    """Return the error that refuses a second run; it names who holds the lease."""
    return StoreError(
        f"another run embeds the same manifest into {store}: {holder}; wait for its end, or stop "
        f"it (if there is none, remove {lease})"
    )


@contextmanager
def file_lease(
    path: Path, refusal: Callable[[str], Exception], on_loss: Callable[[str], None]
) -> Iterator[None]:
    """Hold a lease for the time of the block.

    A process that was killed leaves its lease behind. On the same machine that is seen at once, on
    another it is waited for a sign of life; clocks are not compared.

    Args:
        path: File of the lease; those that contend for it have files beside it, whose names begin
            with its name.
        refusal: Makes the error that is raised if another process holds it, which is described.
        on_loss: Told why, from another thread, if the lease is lost within the block.

    Raises:
        OSError: The folder cannot be written.
    """
    lease = SoftFileLease(
        path,
        lease_duration=STALE_SECONDS,
        heartbeat_interval=BEAT_SECONDS,
        poll_interval=_POLL_SECONDS,
        thread_local=False,
        on_compromise=lambda loss: on_loss(loss.reason),
    )
    seen = _touched(path)
    try:
        held = lease.acquire(
            timeout=2 * STALE_SECONDS,  # a busy machine may look late; who lives is seen sooner
            cancel_check=lambda: seen is not None and _touched(path) not in (seen, None),
        )
    except Timeout as error:
        raise refusal(_holder(path)) from error
    with held:
        yield


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _holder(path: Path) -> str:
    """Say who holds a lease, whose lines are `key=value`."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    record = dict(line.split("=", 1) for line in lines if "=" in line)
    return f"process {record.get('pid', 'unknown')} on {record.get('host', 'an unknown machine')}"


def _loss_note(folder: Path, reason: str) -> str:
    return (
        f"the store's lease was lost ({reason}): this run was not heard of for {STALE_SECONDS:.0f} "
        "seconds, and another may have embedded the same manifest meanwhile; "
        f"`stage1-extract verify {folder}` tells of sequences stored twice"
    )

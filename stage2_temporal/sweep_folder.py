"""The folder of a sweep: one process at a time, of one request, its journal whole."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1_extract.run_lease import STALE_SECONDS, file_lease
from stage2_temporal.sweep_storage import DOCUMENT, JOURNAL, read_sweep

_LEASE = ".sweep.lease"
_UNFINISHED = f".{DOCUMENT}"
_JOURNAL_LOCK_SECONDS = 1.0
_MOST_SHOWN = 8


@contextmanager
def locked_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Make the folder if it is not there, and keep other processes from sweeping in it.

    Yields:
        A check that raises OSError once another process may have taken the folder over.

    Raises:
        ValueError: It holds something else, or another process is at it.
    """
    _check_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, losses = folder / _LEASE, list[str]()

    def refusal(holder: str) -> ValueError:
        return ValueError(
            f"another process is at the sweep {folder}: {holder}; wait for it, or choose another "
            f"folder (if there is none, remove {path})"
        )

    def check() -> None:
        if losses:
            raise OSError(
                f"the lease of the sweep {folder} was lost ({losses[0]}): this process was not "
                f"heard of for {STALE_SECONDS:.0f} s, and another may be at the sweep; give the "
                "same command again when none is"
            )

    with file_lease(path, refusal, losses.append):
        _check_ours(folder)
        yield check


def _check_ours(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder for the sweep")
    if not folder.exists() or (folder / DOCUMENT).exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    # Processes that contend for the lease have files beside it.
    others = [name for name in names if name != _UNFINISHED and not name.startswith(_LEASE)]
    if others:
        raise ValueError(
            f"{folder} is no sweep and holds {', '.join(others[:3])}; choose another folder"
        )


def write_whole(path: Path, content: str) -> None:
    """Write a file that has its name only once it is on the disk."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def check_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse to go on with another search than the folder's.

    Raises:
        ValueError: The requests differ; the message says in what.
    """
    before = _flat(read_sweep(folder).request)
    now = _flat(json.loads(json.dumps(request)))
    lines = [
        f"  {name}: {_shown(before, name)} there, {_shown(now, name)} now"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if lines:
        more = [f"  and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
        raise ValueError(
            f"{folder} is the sweep of another search; choose another folder, or the settings of "
            "that one (--trials, --hours, --jobs and --refit-seeds may change):\n"
            + "\n".join([*lines[:_MOST_SHOWN], *more])
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"


def repair_journal(folder: Path) -> int:
    """Cut off what a power loss left of the journal's last line; return how many bytes.

    Only for who holds the folder's lease: nobody else writes then.

    Raises:
        ValueError: A line before the last is damaged.
    """
    path = folder / JOURNAL
    if not path.exists():
        return 0
    _remove_stale_lock(path)
    with path.open("r+b") as file:
        whole = _whole_bytes(file.read(), path)
        end = file.seek(0, os.SEEK_END)
        if whole < end:
            file.truncate(whole)
            os.fsync(file.fileno())
    return end - whole


def _whole_bytes(content: bytes, path: Path) -> int:
    """Return how far the journal is whole."""
    whole, lines = 0, content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not _is_whole(line):
            if any(map(_is_whole, lines[number:])):
                raise ValueError(
                    f"{path} is damaged in line {number} of {len(lines)}; restore the file from a "
                    "copy, or begin anew in another folder"
                )
            break
        whole += len(line)
    return whole


def _is_whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _remove_stale_lock(journal: Path) -> None:
    """Remove Optuna's own lock of the journal, which a killed process leaves behind.

    It is held for milliseconds, by the dashboard for instance.
    """
    lock = journal.with_name(f"{journal.name}.lock")
    until = time.monotonic() + _JOURNAL_LOCK_SECONDS
    while lock.is_symlink() or lock.exists():
        if time.monotonic() > until:
            lock.unlink(missing_ok=True)
        time.sleep(0.02)

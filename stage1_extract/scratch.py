"""Scratch folders: each of one process alone, and removed however that process ends.

A process holds a lock on its folder. The kernel frees it with the process, also with one that was
killed, so what nobody holds is stale; process numbers would say less, for they come again, and
containers that share a folder count them anew.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

PREFIX = "embed-scratch-"


class ScratchFolder:
    """A folder for files that this process needs for a while; removes those of dead processes.

    Args:
        parent: Where to make it; None for the system's folder for temporary files.

    Attributes:
        path: The folder.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        folder = Path(tempfile.gettempdir()) if parent is None else parent
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        self.path, self._lock = _locked_folder(folder)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_stale(parent: Path | None = None) -> None:
    """Remove the scratch folders of processes that are gone, as far as this user may."""
    folder = Path(tempfile.gettempdir()) if parent is None else parent
    with suppress(OSError):  # others clean up beside us, or the folder is not there yet
        for found in list(folder.glob(f"{PREFIX}*")):
            with _lock_of_nobody(found) as is_stale:
                if is_stale:
                    shutil.rmtree(found, ignore_errors=True)


def _locked_folder(parent: Path) -> "tuple[Path, int | None]":
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Until it is locked, another process may take it for stale and remove it.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


@contextmanager
def _lock_of_nobody(folder: Path) -> Iterator[bool]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, or just removed
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)

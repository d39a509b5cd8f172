"""Holding back what C libraries print."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

_MOST_CAUGHT = 4096


def nameless_file() -> IO[bytes]:
    """Return a file that is gone with its last user; in memory where the system knows such files.

    Not in /dev/shm, which containers limit to a few MB.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "wb+")
    return tempfile.TemporaryFile()


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Hold back what C libraries print on stderr; show it only if the block fails."""
    with tempfile.TemporaryFile() as held:
        try:
            with _stderr_into(held):
                yield
        except BaseException:
            held.seek(0)
            os.write(2, held.read())
            raise


class StderrTrap:
    """Catches what C libraries print on stderr.

    Its file has its room from the start, so that a disk which fills up later silences nobody.

    Raises:
        OSError: There is no room.
    """

    def __init__(self) -> None:
        self._caught = nameless_file()
        self._caught.write(bytes(_MOST_CAUGHT))
        self._caught.seek(0)

    def catching(self) -> AbstractContextManager[None]:
        """Return a block to catch in; there may be many."""
        return _stderr_into(self._caught)

    def take(self) -> str:
        """Return what was caught since the last call."""
        caught = self._caught.fileno()
        length = os.lseek(caught, 0, os.SEEK_CUR)
        if not length:
            return ""
        os.lseek(caught, 0, os.SEEK_SET)
        text = os.pread(caught, min(_MOST_CAUGHT, length), 0)
        os.ftruncate(caught, _MOST_CAUGHT)
        return text.decode(errors="replace")

    def close(self) -> None:
        """Give the file back."""
        self._caught.close()


@contextmanager
def _stderr_into(file: IO[bytes]) -> Iterator[None]:
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)

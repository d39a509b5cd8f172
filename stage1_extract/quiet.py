"""Holding back what C libraries print."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Self

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
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


class StderrTrap:
    """Catches what C libraries print on stderr in its `with` blocks, of which there may be many.

    Its file has its room from the start, so that a disk which fills up later silences nobody.

    Raises:
        OSError: There is no room.
    """

    def __init__(self) -> None:
        self._caught = nameless_file()
        self._caught.write(bytes(_MOST_CAUGHT))
        self._caught.seek(0)
        self._terminal = -1

    def __enter__(self) -> Self:
        sys.stderr.flush()
        self._terminal = os.dup(2)
        os.dup2(self._caught.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(self._terminal, 2)
        os.close(self._terminal)

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

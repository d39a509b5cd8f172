"""New HDF5 files that a full disk cannot spoil."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

_MORE_BYTES = 2**15
_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@contextmanager
def new_hdf5_file(path: Path, num_bytes: int, **options: Any) -> Iterator[Any]:
    """Yield a new HDF5 file for which there is room on the disk.

    HDF5 (1.14) writes much of it when datasets and files are closed. If the disk is full then, it
    drops the error, or crashes the process; so the room is taken before.

    Args:
        path: Where; what is there is replaced.
        num_bytes: At least what its datasets and attributes take; what is too much is given back.
        options: Of `h5py.File`.

    Raises:
        OSError: There is no room.
    """
    with h5py.File(path, "w", **options) as file:
        _reserve(path, num_bytes + _MORE_BYTES)
        yield file
        file.flush()
        size_bytes = file.id.get_filesize()
    os.truncate(path, size_bytes)


def _reserve(path: Path, num_bytes: int) -> None:
    """Have the file system keep room for a file; some cannot."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
    finally:
        os.close(descriptor)

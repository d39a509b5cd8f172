"""Texts and numbers as attributes of an HDF5 file, so that damage cannot hang its readers.

h5py keeps texts of variable length in HDF5's global heap, in which the library (1.14) can loop for
ever once a byte is wrong. Texts of fixed length lie in the object's header, where damage is an
error.
"""

from collections.abc import Mapping
from typing import Any

import h5py

_MOST_BYTES = 60_000


def write_attributes(file: Any, values: Mapping[str, str | int]) -> None:
    """Write texts, as UTF-8 of fixed length where HDF5 can (64 kB), and whole numbers."""
    for name, value in values.items():
        content = value.encode() if isinstance(value, str) else None
        if content is not None and len(content) <= _MOST_BYTES:
            dtype = h5py.string_dtype("utf-8", max(1, len(content)))
            file.attrs.create(name, content, dtype=dtype)
        else:
            file.attrs[name] = value


def read_attributes(file: Any) -> dict[str, Any]:
    """Return all attributes, texts as `str`, whether of fixed or, as once, of variable length.

    Raises:
        UnicodeDecodeError: A text is not UTF-8.
    """
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in file.attrs.items()
    }

"""Hashes of a shard's columns: the checksum of a sequence covers its embeddings, not its name.

A changed byte of an id, a view or a range would hand one clip's embeddings to another.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.shard_format import BLOCK_BYTES, FRAME_COLUMNS

ATTRIBUTE = "column_digests"
"""Of a shard, in JSON: blake2b-128 by the column's path; those of the first release lack it."""


def digest_of(values: NDArray[Any]) -> str:
    """Return the hash of a column's bytes as they are stored."""
    return _digest([values])


def column_digests(file: Any) -> dict[str, str]:
    """Return the hash of each column in an open shard, but for the embeddings'."""
    paths = [f"frames/{name}" for name in FRAME_COLUMNS]
    paths += [f"sequences/{name}" for name in sorted(file["sequences"])]
    return {path: _digest(_blocks(file[path])) for path in paths}


def _blocks(column: Any) -> Iterator[NDArray[Any]]:
    rows = max(1, BLOCK_BYTES // column.dtype.itemsize)
    for row in range(0, len(column), rows):
        yield column[row : row + rows]


def _digest(blocks: "Iterator[NDArray[Any]] | list[NDArray[Any]]") -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for block in blocks:
        hasher.update(np.ascontiguousarray(block).view(np.uint8).data)
    return hasher.hexdigest()

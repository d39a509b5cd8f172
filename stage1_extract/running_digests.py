"""Checksums of sequences that lie one after the other, whatever the pieces they are read in."""

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from stage1_extract.shard_format import embedding_hasher


class RunningDigests:
    """Hashes sequences as their frames come by.

    Args:
        lengths: Frames of each sequence, 1 or more, in the order in which they come.
    """

    def __init__(self, lengths: Iterable[int]) -> None:
        self._lengths = iter(lengths)
        self._hasher = embedding_hasher()
        self._left = next(self._lengths, 0)

    def add(self, block: NDArray[Any]) -> Iterator[str]:
        """Take frames (n, D), C-contiguous; yield the hash of each sequence that ends in them."""
        content = block.reshape(-1).view("uint8").data
        row_bytes = block.nbytes // max(len(block), 1)
        row = 0
        while row < len(block):
            end = min(row + self._left, len(block))
            self._hasher.update(content[row * row_bytes : end * row_bytes])
            self._left -= end - row
            row = end
            if not self._left:
                yield self._hasher.hexdigest()
                self._hasher, self._left = embedding_hasher(), next(self._lengths, 0)
                if not self._left:
                    return

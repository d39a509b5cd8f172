"""Filling batches of one fixed shape with frames of several clips, and handing the results back."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from stage1_extract.clips import FrameChunk

Owner = TypeVar("Owner")


@dataclasses.dataclass(frozen=True)
class EmbeddedPart(Generic[Owner]):
    """Embeddings of consecutive frames of one owner.

    Attributes:
        owner: What the frames were added for.
        embedding: (n, D) float32.
        time_seconds: (n,) float64.
        source_index: (n,) int64.
    """

    owner: Owner
    embedding: NDArray[np.float32]
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]


class BatchFiller(Generic[Owner]):
    """Collects frames until a batch is full, then embeds it.

    Args:
        embed: Function from (B, S, S, 3) uint8 to (B, D) float32.
        batch_size: B.
        input_size: S.
    """

    def __init__(
        self,
        embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        batch_size: int,
        input_size: int,
    ) -> None:
        self._embed = embed
        self._frames = np.zeros((batch_size, input_size, input_size, 3), np.uint8)
        self._parts: list[tuple[Owner, NDArray[np.float64], NDArray[np.int64]]] = []
        self._filled = 0

    def add(self, owner: Owner, chunk: FrameChunk) -> Iterator[EmbeddedPart[Owner]]:
        """Add frames; yield the parts of every batch that this fills."""
        done = 0
        while done < len(chunk.frames):
            count = min(len(chunk.frames) - done, len(self._frames) - self._filled)
            taken = slice(done, done + count)
            self._frames[self._filled : self._filled + count] = chunk.frames[taken]
            self._parts.append((owner, chunk.time_seconds[taken], chunk.source_index[taken]))
            self._filled += count
            done += count
            if self._filled == len(self._frames):
                yield from self.flush()

    def flush(self) -> Iterator[EmbeddedPart[Owner]]:
        """Embed what is there, padded with black frames, and yield its parts in order."""
        if not self._filled:
            return
        self._frames[self._filled :] = 0
        embedding = self._embed(self._frames)
        parts, self._parts, self._filled = self._parts, [], 0
        row = 0
        for owner, times, indices in parts:
            yield EmbeddedPart(owner, embedding[row : row + len(times)], times, indices)
            row += len(times)

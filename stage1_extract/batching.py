"""Filling batches of one fixed shape with frames of several clips, and handing the results back."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from stage1_extract.clips import FrameChunk
from stage1_extract.engines import Pending

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


class _Batch(Generic[Owner]):
    """A buffer of frames, and whose they are."""

    def __init__(self, batch_size: int, input_size: int) -> None:
        self.frames = np.zeros((batch_size, input_size, input_size, 3), np.uint8)
        self.parts: list[tuple[Owner, NDArray[np.float64], NDArray[np.int64]]] = []
        self.filled = 0

    def take(self, owner: Owner, chunk: FrameChunk, start: int) -> int:
        """Copy frames of a chunk from `start` on, as many as there is room for."""
        count = min(len(chunk.frames) - start, len(self.frames) - self.filled)
        taken = slice(start, start + count)
        self.frames[self.filled : self.filled + count] = chunk.frames[taken]
        self.parts.append((owner, chunk.time_seconds[taken], chunk.source_index[taken]))
        self.filled += count
        return count

    def empty(self, embedding: NDArray[np.float32]) -> list[EmbeddedPart[Owner]]:
        """Make room for other frames; return the parts with their rows of the embedding."""
        parts = []
        row = 0
        for owner, times, indices in self.parts:
            parts.append(EmbeddedPart(owner, embedding[row : row + len(times)], times, indices))
            row += len(times)
        self.parts, self.filled = [], 0
        return parts


class BatchFiller(Generic[Owner]):
    """Collects frames until a batch is full, then has it embedded while the next one fills.

    Every batch has a buffer of its own, because frames may not change while they are embedded.

    Args:
        submit: Function that starts embedding (B, S, S, 3) uint8; one that computes at once may
            return the embeddings (B, D) themselves.
        batch_size: B.
        input_size: S.
        max_in_flight: Batches that are embedded at a time. With 1, each is waited for before
            the next one fills. Parts and their order are the same with any number.
    """

    def __init__(
        self,
        submit: Callable[[NDArray[np.uint8]], Pending | NDArray[np.float32]],
        *,
        batch_size: int,
        input_size: int,
        max_in_flight: int = 1,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; expected 1 or more")
        self._submit = submit
        self._batch_size = batch_size
        self._spare: list[_Batch[Owner]] = [
            _Batch(batch_size, input_size) for _ in range(max_in_flight)
        ]
        self._in_flight: deque[tuple[Pending | NDArray[np.float32], _Batch[Owner]]] = deque()

    def add(self, owner: Owner, chunk: FrameChunk) -> Iterator[EmbeddedPart[Owner]]:
        """Add frames; yield, in order, the parts of batches that are due."""
        done = 0
        while done < len(chunk.frames):
            done += self._spare[0].take(owner, chunk, done)
            if self._spare[0].filled == self._batch_size:
                self._start()
                if not self._spare:
                    yield from self._collect()

    def flush(self) -> Iterator[EmbeddedPart[Owner]]:
        """Embed what is there, padded with black frames; yield all parts not yet handed back."""
        if self._spare[0].filled:
            self._start()
        while self._in_flight:
            yield from self._collect()

    def _start(self) -> None:
        batch = self._spare.pop(0)
        batch.frames[batch.filled :] = 0
        self._in_flight.append((self._submit(batch.frames), batch))

    def _collect(self) -> list[EmbeddedPart[Owner]]:
        pending, batch = self._in_flight.popleft()
        embedding = pending if isinstance(pending, np.ndarray) else pending.result()
        parts = batch.empty(embedding)
        self._spare.append(batch)
        return parts

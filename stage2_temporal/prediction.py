"""Predictions of a model for the batches of a sequence, in their order."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.interrupt import deferred_interrupt
from stage2_temporal.dataset import Batch, EmbeddingSequence

_BATCHES_AHEAD = 4


def predict_batches(model: Any, sequence: EmbeddingSequence) -> dict[str, NDArray[np.float64]]:
    """Return a model's outputs (N, k) by key, in the order of the sequence's positions."""
    parts = []
    with deferred_interrupt() as check_interrupt:
        for inputs, *_ in prefetched(sequence):
            parts.append(model.predict_on_batch(inputs))
            check_interrupt()
    num_clips = len(sequence.positions)  # the last batch may be filled up
    return {
        key: np.concatenate([np.asarray(part[key], np.float64) for part in parts])[:num_clips]
        for key in parts[0]
    }


def predict_frames(model: Any, sequence: EmbeddingSequence) -> list[NDArray[np.float32]]:
    """Return a model's value (T,) of each frame, without padding, sequence by sequence."""
    found: list[NDArray[np.float32]] = []
    with deferred_interrupt() as check_interrupt:
        for inputs, *_ in prefetched(sequence):
            values = np.asarray(model.predict_on_batch(inputs), np.float32)
            found += [row[mask] for row, mask in zip(values, inputs["mask"], strict=True)]
            check_interrupt()
    return found[: len(sequence.positions)]


def prefetched(sequence: EmbeddingSequence) -> Generator[Batch]:
    """Yield the batches of one epoch in order, some of them prepared ahead in a thread."""
    with ThreadPoolExecutor(max(1, sequence.workers)) as pool:
        waiting: deque[Future[Batch]] = deque()
        for index in range(len(sequence)):
            waiting.append(pool.submit(sequence.__getitem__, index))
            if len(waiting) > max(_BATCHES_AHEAD, sequence.workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

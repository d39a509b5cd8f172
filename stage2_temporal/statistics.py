"""Mean and variance of embeddings, from some sequences alone."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore
from stage2_temporal.reading import read_each

_LEAST_VARIANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Mean and variance (D,) of embeddings, over the valid frames of the training clips alone."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def feature_statistics(store: EmbeddingStore, positions: NDArray[np.intp]) -> FeatureStatistics:
    """Compute mean and variance over all frames of some sequences, one sequence at a time.

    The parts are merged as by Chan, Golub & LeVeque (1979). A feature that does not vary gets
    variance 1, so that standardising it cannot blow up noise.
    """
    count = 0
    mean = np.zeros(store.embedding_dim)
    squares = np.zeros(store.embedding_dim)
    for sequence in read_each(store, positions):
        frames = sequence.astype(np.float64)
        part_mean = frames.mean(axis=0)
        total = count + len(frames)
        squares += ((frames - part_mean) ** 2).sum(axis=0)
        squares += (part_mean - mean) ** 2 * (count * len(frames) / total)
        mean += (part_mean - mean) * (len(frames) / total)
        count = total
    variance = squares / max(count, 1)
    varies = variance > _LEAST_VARIANCE * np.maximum(mean**2, np.finfo(np.float64).tiny)
    return FeatureStatistics(mean, np.where(varies, variance, 1.0))

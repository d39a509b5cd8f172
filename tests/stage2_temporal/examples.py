"""A split of five clips, and targets with predictions to score."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.splits import Split

SPLIT = Split(np.array([0, 1]), np.array([2]), np.array([3, 4]))
CLIPS = ["a1", "a2", "b1", "c1", "c2"]


def example(
    task: str, num_clips: int = 60, seed: int = 0, num_classes: int = 4
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a target and a prediction, with ties among the predictions."""
    rng = np.random.default_rng(seed)
    if task == "binary":
        return rng.integers(0, 2, num_clips), rng.integers(0, 11, num_clips) / 10
    if task == "multiclass":
        odds = rng.integers(1, 6, (num_clips, num_classes)).astype(float)
        return rng.integers(0, num_classes, num_clips), odds / odds.sum(axis=1, keepdims=True)
    if task == "multilabel":
        labels = rng.integers(0, 2, (num_clips, num_classes))
        return labels, rng.integers(0, 11, labels.shape) / 10
    target = rng.normal(50, 10, num_clips)
    return target, target + rng.normal(0, 5, num_clips)

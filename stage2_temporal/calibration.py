"""How far probabilities are from what happened: calibration bins and Brier scores, by clip."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 15
_CELLS_AT_ONCE = 4_000_000


def calibration_gaps(
    task: str, target: NDArray[Any], prediction: NDArray[Any]
) -> tuple[NDArray[np.intp], Floats]:
    """Return each clip's bin, and how much more confident than right it is, both (N,).

    Bin m of M holds confidences in (m / M, (m + 1) / M], the first one 0 too (Guo et al. 2017).
    """
    if task == "binary":
        confidence, right = prediction, target
    else:
        confidence, right = prediction.max(axis=1), prediction.argmax(axis=1) == target
    inner_edges = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    return np.searchsorted(inner_edges, confidence), confidence.astype(np.float64) - right


def brier_of_clips(task: str, target: NDArray[Any], prediction: NDArray[Any]) -> Floats:
    """Return each clip's squared error of probabilities (N,): the Brier score is their mean."""
    if task != "multiclass":
        squares: Floats = (prediction - target) ** 2
        return squares if task == "binary" else squares.mean(axis=1)
    result = np.empty(len(target))
    rows = max(1, _CELLS_AT_ONCE // prediction.shape[1])
    for start in range(0, len(target), rows):
        part = slice(start, start + rows)
        error = prediction[part].astype(np.float64)
        error[np.arange(len(error)), target[part]] -= 1
        result[part] = (error**2).sum(axis=1)
    return result

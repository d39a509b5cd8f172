"""How wrong predictions of single clips are, and which clips come first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST = np.finfo(np.float64).tiny  # a wrong clip is wrong, even if its class got all probability


def worst_first(wrongness: Floats) -> NDArray[np.intp]:
    """Return the rows of what is wrong at all, the worst first; equal ones in order of rows."""
    order = np.argsort(-wrongness, kind="stable")
    return order[wrongness[order] > 0]


def wrongness(
    task: str, target: NDArray[Any], decided: NDArray[Any], prediction: NDArray[Any]
) -> Floats:
    """Return (N,) how wrong each clip is predicted; 0 where right.

    What is missing from the probability of the true class; of several labels, how many are wrong,
    and among equals how far the probabilities are off; the size of a regression's error.

    Args:
        task: One of `TASKS`.
        target: (N,) class numbers or values, (N, L) 0 or 1 for multilabel.
        decided: The same as predicted; not used for regression.
        prediction: Probabilities as for `metrics.scores`, or values.
    """
    if task == "regression":
        size: Floats = np.abs(np.asarray(prediction, np.float64) - target)
        return size
    is_wrong = np.asarray(decided != target, np.float64)
    if task == "multilabel":
        far = np.abs(prediction - target).mean(axis=1) / 2  # below 1: it never outweighs a label
        return np.asarray(is_wrong.sum(axis=1) + is_wrong.max(axis=1) * far, np.float64)
    if task == "binary":
        missing = np.abs(prediction - target)
    else:
        missing = 1.0 - prediction[np.arange(len(target)), target]
    return np.asarray(is_wrong * np.maximum(missing, _LEAST), np.float64)


def most_confident_wrong(is_wrong: NDArray[np.bool_], confidence: Floats) -> NDArray[np.intp]:
    """Return the rows that are wrong, those first whose predicted class was the most probable.

    Args:
        is_wrong: (N,) whether the predicted class is not the true one.
        confidence: (N,) probability of the predicted class.
    """
    order = np.argsort(-confidence, kind="stable")
    return order[is_wrong[order]]

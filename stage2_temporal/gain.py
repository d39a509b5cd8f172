"""Whether validation shows that a trained model is better than the one that it started from."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

MIN_GROUPS = 3


def gain_confidence(
    before: NDArray[np.float64], after: NDArray[np.float64], groups: NDArray[np.intp]
) -> float:
    """Return how sure it is that a loss became smaller: a paired, one-sided t-test (Student 1908).

    Each group's mean gain is one observation: the clips of a patient are not independent, and a
    validation side may hold most of its clips of one. With fewer than 3 groups nothing is sure.

    Args:
        before: (n,) loss of each clip.
        after: (n,) loss of each clip.
        groups: (n,) group numbers.

    Returns:
        0 to 1.
    """
    _, group = np.unique(groups, return_inverse=True)
    with np.errstate(invalid="ignore"):
        gains = np.bincount(group, before - after) / np.bincount(group)
    if len(gains) < MIN_GROUPS:
        return 0.0
    if not np.isfinite(gains).all():  # a model that predicted no numbers
        return float((gains > 0).all())
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    if error == 0:
        return float(gains[0] > 0)
    return float(student_t.cdf(gains.mean() / error, len(gains) - 1))

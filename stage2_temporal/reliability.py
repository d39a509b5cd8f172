"""How often what a probability promises comes true: binned frequencies with intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.calibration import NUM_BINS, calibration_gaps

Floats = NDArray[np.float64]

_Z = 1.959963984540054  # of a 95 % interval of the normal distribution


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: of the bins that hold predictions, in rising order (B,).

    Attributes:
        predicted: Mean predicted probability.
        observed: Share that came true.
        low: Lower bound of the interval of `observed`.
        high: Its upper bound.
        counts: (NUM_BINS,) predictions in every bin of equal width from 0 to 1.
        ece: Expected calibration error: mean distance of observed and predicted, by predictions.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    counts: NDArray[np.intp]
    ece: float


def reliability(
    came_true: NDArray[np.bool_], probability: Floats, groups: NDArray[np.intp]
) -> Reliability:
    """Compare probabilities with what happened, in the bins of the score `ece`.

    Intervals are Wilson's (1927), for as many independent clips as Kish's (1965) effective sample
    size, (sum n)^2 / sum n^2 over the n clips of each group: as if the clips of one group were all
    alike. So they are wide rather than narrow, and never of no width.

    Args:
        came_true: (N,) what happened.
        probability: (N,) how probable it was said to be.
        groups: (N,) group numbers.
    """
    bins, gaps = calibration_gaps("binary", came_true, probability)
    counts = np.bincount(bins, minlength=NUM_BINS)
    used = np.flatnonzero(counts)
    num = counts[used]
    observed = np.bincount(bins, came_true)[used] / num
    low, high = wilson(observed, _effective(bins, groups)[used])
    return Reliability(
        predicted=np.bincount(bins, probability)[used] / num,
        observed=observed,
        low=low,
        high=high,
        counts=counts,
        ece=float(np.abs(np.bincount(bins, gaps)).sum() / len(gaps)),
    )


def _effective(bins: NDArray[np.intp], groups: NDArray[np.intp]) -> Floats:
    """Return (NUM_BINS,) how many independent clips each bin is worth; 0 of an empty one."""
    numbers = np.unique(groups, return_inverse=True)[1]
    cells, sizes = np.unique(bins * (int(numbers.max()) + 1) + numbers, return_counts=True)
    of_bin = cells // (int(numbers.max()) + 1)
    total = np.bincount(of_bin, sizes, NUM_BINS)
    squares = np.bincount(of_bin, sizes.astype(np.float64) ** 2, NUM_BINS)
    return total**2 / np.maximum(squares, 1)


def wilson(share: Floats, num: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval of shares (B,) of `num` (B,) independent trials (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * num)) / (1 + _Z**2 / num)
    half = _Z / (1 + _Z**2 / num) * np.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)

"""Bands around curves: pointwise bootstrap intervals that resample whole groups, as scores do."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.bootstrap import resampled_counts

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
NUM_RESAMPLES = 300
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Band:
    """Where a curve may lie: (G,) x, and lower and upper y."""

    x: Floats
    low: Floats
    high: Floats

    def at(self, x: float) -> tuple[float, float]:
        """Return lower and upper y at a point between the first and the last x."""
        return float(np.interp(x, self.x, self.low)), float(np.interp(x, self.x, self.high))


def group_numbers(groups: NDArray[np.object_]) -> NDArray[np.intp]:
    """Return (N,) group numbers of group names; a clip without a name is a group of its own."""
    blank = groups == ""
    numbers = np.unique(groups.astype(str), return_inverse=True)[1].astype(np.intp)
    numbers[blank] = numbers.max(initial=0) + 1 + np.arange(np.count_nonzero(blank))
    return numbers


def resampled(groups: NDArray[np.intp], *, seed: int) -> Iterator[Floats]:
    """Yield (R, N) how often each clip is drawn, in the resamples that scores begin with."""
    rng = np.random.default_rng(seed)
    return resampled_counts(groups, num_resamples=NUM_RESAMPLES, rng=rng)


def ranking_bands(
    is_positive: NDArray[np.bool_], probability: Floats, groups: NDArray[np.intp], *, seed: int
) -> tuple[Band, Band] | None:
    """Return bands of the ROC curve, by false positive rate, and of precision, by recall.

    None where fewer than half of the resamples hold clips of both kinds.

    Args:
        is_positive: (N,) truths.
        probability: (N,) higher is more positive.
        groups: (N,) group numbers.
        seed: Fixes the resamples.
    """
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    positive = is_positive[order]
    rocs, precisions = [], []
    for counts in resampled(groups[order], seed=seed):
        hits = np.cumsum(counts * positive, axis=1)[:, ends]  # clips of equal rank move as one
        alarms = np.cumsum(counts * ~positive, axis=1)[:, ends]
        for row in np.flatnonzero((hits[:, -1] > 0) & (alarms[:, -1] > 0)):
            rocs.append(_true_positive_rates(hits[row], alarms[row]))
            precisions.append(_precisions(hits[row], alarms[row]))
    if 2 * len(rocs) < NUM_RESAMPLES:
        return None
    return _band(GRID, np.stack(rocs)), _band(GRID[1:], np.stack(precisions))


def _band(x: Floats, values: Floats) -> Band:
    """Return the band of resampled curves (R, G)."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Band(x, low, high)


def _true_positive_rates(hits: Floats, alarms: Floats) -> Floats:
    """Return (G,) the ROC curve on the grid, at its highest where it rises straight up.

    Args:
        hits: (P,) positive clips down to each rank.
        alarms: (P,) the same of negative ones.
    """
    x, y = np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])
    left = np.searchsorted(x, GRID, side="right") - 1
    right = np.minimum(left + 1, len(x) - 1)
    width = np.where(right > left, x[right] - x[left], 1.0)
    share = np.where(width > 0, (GRID - x[left]) / np.where(width > 0, width, 1.0), 0.0)
    found: Floats = y[left] + share * (y[right] - y[left])
    return found


def _precisions(hits: Floats, alarms: Floats) -> Floats:
    """Return (G - 1,) the precision at the first rank that reaches each recall above 0."""
    rank = np.searchsorted(hits, GRID[1:] * hits[-1] * (1 - 1e-12), side="left")
    found: Floats = hits[rank] / (hits[rank] + alarms[rank])
    return found

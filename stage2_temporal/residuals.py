"""Errors of a regression: bias, limits of agreement, and how they change with the true value."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.curve_bands import CONFIDENCE, NUM_RESAMPLES, resampled

Floats = NDArray[np.float64]

MIN_RUNNING_CLIPS = 30
_LIMITS_DEVIATIONS = 1.96  # hold 95 % of normally distributed errors
_NUM_WINDOWS = 60
_MIN_WINDOW = 15
_WINDOW_SHARE = 0.1
_MIDDLE = 0.8  # of the errors of a window


@dataclass(frozen=True)
class Agreement:
    """Bias and limits of agreement (Bland & Altman 1986).

    Attributes:
        bias: Mean error.
        low: Bias minus 1.96 standard deviations.
        high: Bias plus as many.
        share: Of the errors that lie between the limits; 0.95 of normally distributed ones.
        intervals: (3, 2) lower and upper bound of low, bias and high; NaN where undefined.
    """

    bias: float
    low: float
    high: float
    share: float
    intervals: Floats


@dataclass(frozen=True)
class Running:
    """Errors along the true value: (W,) x, median, and the bounds of the middle 80 %."""

    x: Floats
    median: Floats
    low: Floats
    high: Floats


def agreement(errors: Floats, groups: NDArray[np.intp], *, seed: int) -> Agreement | None:
    """Return bias and limits of (N,) errors, with bootstrap intervals; None of a single clip.

    Args:
        errors: Predicted minus true values.
        groups: (N,) group numbers, resampled as a whole.
        seed: Fixes the resamples.
    """
    if len(errors) < 2:
        return None
    every = np.ones((1, len(errors)))
    low, bias, high = _limits(errors, every)[0].tolist()
    drawn = [_limits(errors, counts) for counts in resampled(groups, seed=seed)]
    intervals = np.full((3, 2), np.nan)
    if drawn:
        known = np.concatenate(drawn)
        known = known[np.isfinite(known).all(axis=1)]
        if 2 * len(known) >= NUM_RESAMPLES:
            bounds = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            intervals = np.quantile(known, bounds, axis=0).T
    share = float(((errors >= low) & (errors <= high)).mean())
    return Agreement(bias, low, high, share, intervals)


def _limits(errors: Floats, counts: Floats) -> Floats:
    """Return (R, 3) lower limit, bias and upper limit of each resample; NaN of a single clip."""
    total, centre = counts.sum(axis=1), errors.mean()
    shift = counts @ (errors - centre) / total
    bias = centre + shift
    squares = np.maximum(counts @ (errors - centre) ** 2 - total * shift**2, 0)
    variance = np.full(len(total), np.nan)
    np.divide(squares, total - 1, out=variance, where=total > 1)
    half = _LIMITS_DEVIATIONS * np.sqrt(variance)
    return np.stack([bias - half, bias, bias + half], axis=1)


def running(true: Floats, errors: Floats) -> Running | None:
    """Return median and middle 80 % of the errors (N,) of windows along the true values (N,).

    A window holds a tenth of the clips, at least 15, and all others of equal value. None of fewer
    than 30 clips, or where fewer than two windows differ.
    """
    if len(true) < MIN_RUNNING_CLIPS:
        return None
    order = np.argsort(true, kind="stable")
    x, e = true[order], errors[order]
    size = max(_MIN_WINDOW, round(_WINDOW_SHARE * len(x)))
    starts = np.unique(np.linspace(0, len(x) - size, _NUM_WINDOWS).astype(np.intp))
    begin = np.searchsorted(x, x[starts], side="left")
    end = np.searchsorted(x, x[starts + size - 1], side="right")
    windows = np.unique(np.stack([begin, end], axis=1), axis=0).tolist()
    levels = [0.5, (1 - _MIDDLE) / 2, (1 + _MIDDLE) / 2]
    found = np.array([[np.median(x[a:b]), *np.quantile(e[a:b], levels)] for a, b in windows])
    found = found[np.append(True, np.diff(found[:, 0]) > 0)]
    return Running(*found.T) if len(found) > 1 else None


@dataclass(frozen=True)
class BinErrors:
    """Errors by bin of the true value (B,), NaN without test clips.

    Attributes:
        mae: Mean absolute error.
        low: Lower bound of its interval; NaN where undefined.
        high: Upper bound.
        counts: Test clips.
    """

    mae: Floats
    low: Floats
    high: Floats
    counts: NDArray[np.intp]


def bin_errors(
    bins: NDArray[np.intp], num_bins: int, errors: Floats, groups: NDArray[np.intp], *, seed: int
) -> BinErrors:
    """Return the mean absolute error in each bin, with bootstrap intervals.

    A bin with clips of one group has no interval, nor one that half of the resamples leave empty.

    Args:
        bins: (N,) each clip's bin.
        num_bins: How many there are.
        errors: (N,) predicted minus true values.
        groups: (N,) group numbers, resampled as a whole.
        seed: Fixes the resamples.
    """
    is_in = np.zeros((len(bins), num_bins))
    is_in[np.arange(len(bins)), bins] = 1
    sizes = np.abs(errors)
    low, high = np.full((2, num_bins), np.nan)
    drawn = [
        _ratio(counts @ (is_in * sizes[:, None]), counts @ is_in)
        for counts in resampled(groups, seed=seed)
    ]
    if drawn:
        values = np.concatenate(drawn)
        enough = 2 * np.isfinite(values).sum(axis=0) >= NUM_RESAMPLES
        bounds = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        for number in np.flatnonzero(enough):
            if len(np.unique(groups[bins == number])) > 1:
                low[number], high[number] = np.nanquantile(values[:, number], bounds)
    counts = np.bincount(bins, minlength=num_bins)
    mae = _ratio(np.bincount(bins, sizes, num_bins).astype(np.float64), counts.astype(np.float64))
    return BinErrors(mae, low, high, counts)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out

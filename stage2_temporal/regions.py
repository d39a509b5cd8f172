"""Errors of a regression where training labels were many, medium and few."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

REGIONS = ("many", "medium", "few")
_NUM_BINS = 60
_SMOOTHING_BINS = 2.0


def region_errors(
    train_values: NDArray[Any], target: NDArray[Any], prediction: NDArray[Any]
) -> list[dict[str, Any]]:
    """Return the errors where training labels are dense (many), medium and rare (few).

    The range of the training labels is cut into 60 bins, and their counts are smoothed by a
    Gaussian kernel (label distribution smoothing; Yang et al. 2021, who report many-, medium- and
    few-shot regions). The third of the bins with the lowest density is `few`, as is all outside the
    range; the third with the highest is `many`.

    Args:
        train_values: (M,) labels of the training clips.
        target: (N,) labels of the clips to score.
        prediction: (N,) their predictions.

    Returns:
        For each of `REGIONS`: `region`, its name; `num_training_clips` and `num_clips` in it; and
        `mae`, the mean absolute error of these clips, NaN without any.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or training labels are all the same.
    """
    train_values, target, prediction = (
        np.asarray(values, np.float64) for values in (train_values, target, prediction)
    )
    _check(train_values, target, prediction)
    region_of_train, region = (regions_of(train_values, v) for v in (train_values, target))
    errors = np.abs(prediction - target)
    return [
        {
            "region": name,
            "num_training_clips": int((region_of_train == number).sum()),
            "num_clips": int((region == number).sum()),
            "mae": _mean(errors[region == number]),
        }
        for number, name in enumerate(REGIONS)
    ]


def regions_of(train_values: NDArray[Any], values: NDArray[Any]) -> NDArray[np.intp]:
    """Return the number in `REGIONS` of each value (N,), by the density of training labels (M,)."""
    edges = np.linspace(train_values.min(), train_values.max(), _NUM_BINS + 1)
    counts = np.histogram(train_values, edges)[0].astype(np.float64)
    region_of_bin = _regions(ndimage.gaussian_filter1d(counts, _SMOOTHING_BINS, mode="constant"))
    return _region_of(values, edges, region_of_bin)


def _regions(density: Floats) -> NDArray[np.intp]:
    """Return each bin's number in `REGIONS`: thirds of the bins, by density."""
    rank = np.argsort(np.argsort(-density, kind="stable"), kind="stable")
    return rank * len(REGIONS) // len(density)


def _region_of(values: Floats, edges: Floats, region_of_bin: NDArray[np.intp]) -> NDArray[np.intp]:
    number = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(region_of_bin) - 1)
    outside = (values < edges[0]) | (values > edges[-1])
    return np.where(outside, REGIONS.index("few"), region_of_bin[number])


def _mean(errors: Floats) -> float:
    return float(errors.mean()) if errors.size else np.nan


def _check(train_values: Floats, target: Floats, prediction: Floats) -> None:
    if train_values.ndim != 1 or target.ndim != 1 or target.shape != prediction.shape:
        raise ValueError(
            f"train_values, target and prediction have shapes {train_values.shape}, {target.shape} "
            f"and {prediction.shape}: expected (M,), (N,) and (N,)"
        )
    together = np.concatenate([train_values, target, prediction])
    if not np.isfinite(together).all():
        raise ValueError(
            f"{(~np.isfinite(together)).sum()} labels or predictions are not finite: leave such "
            "clips out, or find their cause"
        )
    if not train_values.size or np.ptp(train_values) == 0:
        raise ValueError(
            f"the {len(train_values)} training labels have no range: expected two different values "
            "or more"
        )

"""The scores of `metrics.py` for many resamples at once.

The bootstrap needs each score a thousand times. Scikit-learn's overhead a call makes that slow.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stage2_temporal.calibration import NUM_BINS, brier_of_clips, calibration_gaps
from stage2_temporal.metrics import THRESHOLD, Floats, check_task
from stage2_temporal.ranking import one_vs_rest, ranking, ratio
from stage2_temporal.score_inputs import Threshold, checked

Weighted = dict[str, Floats]


def weighted_scores(
    task: str,
    target: NDArray[Any],
    prediction: NDArray[Any],
    weights: NDArray[Any],
    *,
    threshold: Threshold = THRESHOLD,
    rank_classes: bool = True,
) -> Weighted:
    """Compute `scores` for many resamples at once.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        prediction: as for `scores`.
        weights: (R, N) whole numbers: how often resample r contains clip n; no row is all zero.
        threshold: as for `scores`.
        rank_classes: whether to compute AUROC and AUPRC of each class or label, which is dear.

    Returns:
        For each score (R,) float64, the score of the data repeated as `weights` say.

    Raises:
        ValueError: as `scores`, or `weights` has another shape.
    """
    check_task(task)
    target, prediction = checked(task, target, prediction, threshold=threshold)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(target):
        raise ValueError(f"weights has shape {weights.shape}: expected (R, {len(target)})")
    found = _WEIGHTED[task](target, prediction, weights, threshold)
    if rank_classes and task in {"multiclass", "multilabel"}:
        auroc, auprc = one_vs_rest(target, prediction, weights)
        found |= {"auroc_macro": _macro(auroc), "auprc_macro": _macro(auprc)}
    return found


def _macro(values: Floats) -> Floats:
    """(R, C) -> (R,): the mean over the classes in which the score is defined."""
    return ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))


def _mean(values: NDArray[Any], weights: Floats) -> Floats:
    """(N,) -> (R,): the mean over each resample's clips."""
    mean: Floats = weights @ values.astype(np.float64) / weights.sum(axis=1)
    return mean


def _class_totals(
    numbers: NDArray[np.int64], weights: Floats, num_classes: int, counted: NDArray[Any]
) -> Floats:
    """Return (R, C) how many clips of each class number are counted."""
    clips = np.arange(len(numbers))
    shape = (num_classes, len(numbers))
    of_class = sparse.csr_array((counted.astype(np.float64), (numbers, clips)), shape=shape)
    totals: Floats = (of_class @ weights.T).T
    return totals


def _class_scores(
    target: NDArray[Any], predicted: NDArray[Any], weights: Floats, num_classes: int
) -> tuple[Weighted, Floats, Floats]:
    """Return accuracy and balanced accuracy, each (R,), then recall and F1 of each class (R, C)."""
    every = np.ones(len(target))
    hits = _class_totals(target, weights, num_classes, target == predicted)
    support = _class_totals(target, weights, num_classes, every)
    recall = ratio(hits, support)
    several = (support > 0).sum(axis=1) > 1
    result = {
        "accuracy": ratio(hits.sum(axis=1), support.sum(axis=1)),
        "balanced_accuracy": np.where(several, _macro(recall), np.nan),
    }
    return (
        result,
        recall,
        ratio(2 * hits, support + _class_totals(predicted, weights, num_classes, every)),
    )


def _calibration(
    task: str, target: NDArray[Any], prediction: NDArray[Any], weights: Floats
) -> Weighted:
    number, gaps = calibration_gaps(task, target, prediction)
    of_bin = _class_totals(number.astype(np.int64), weights, NUM_BINS, gaps)
    return {
        "ece": np.abs(of_bin).sum(axis=1) / weights.sum(axis=1),
        "brier": _mean(brier_of_clips(task, target, prediction), weights),
    }


def _binary(
    target: NDArray[Any], prediction: NDArray[Any], weights: Floats, threshold: Threshold
) -> Weighted:
    predicted = (prediction >= threshold).astype(np.int64)
    result, recall, f1 = _class_scores(target, predicted, weights, 2)
    auroc, auprc = ranking(target == 1, prediction, weights)
    return {
        **result,
        "f1": f1[:, 1],
        "auroc": auroc,
        "auprc": auprc,
        "sensitivity": recall[:, 1],
        "specificity": recall[:, 0],
        **_calibration("binary", target, prediction, weights),
    }


def _multiclass(
    target: NDArray[Any], prediction: NDArray[Any], weights: Floats, threshold: Threshold
) -> Weighted:
    del threshold  # the most probable class is predicted
    num_classes = prediction.shape[1]
    result, _, f1 = _class_scores(target, prediction.argmax(axis=1), weights, num_classes)
    calibration = _calibration("multiclass", target, prediction, weights)
    return {**result, "f1_macro": _macro(f1), **calibration}


def _multilabel(
    target: NDArray[Any], prediction: NDArray[Any], weights: Floats, threshold: Threshold
) -> Weighted:
    predicted = prediction >= threshold
    wrong = predicted != target
    support, total = weights @ target, weights.sum(axis=1)
    f1 = ratio(2 * (weights @ (target * predicted)), support + weights @ predicted)
    both = (support > 0) & (support < total[:, None])
    return {
        "f1_macro": _macro(np.where(both, f1, np.nan)),
        "exact_match": _mean(~wrong.any(axis=1), weights),
        "hamming_loss": _mean(wrong.mean(axis=1), weights),
        "brier": _mean(brier_of_clips("multilabel", target, prediction), weights),
    }


def _deviations(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return (R, N) deviations from each resample's mean and their (R,) weighted squares' sum."""
    means = weights @ values / weights.sum(axis=1)
    drawn = weights > 0
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    lowest = np.where(drawn, values, np.inf).min(axis=1)
    deviations = values - means[:, None]
    # A constant resample must give exactly zero, which rounding of its mean would not.
    squares = np.where(highest > lowest, (weights * deviations**2).sum(axis=1), 0.0)
    return deviations, squares


def _regression(
    target: NDArray[Any], prediction: NDArray[Any], weights: Floats, threshold: Threshold
) -> Weighted:
    del threshold
    error = prediction - target
    squared_error = weights @ error**2
    of_target, target_squares = _deviations(target, weights)
    of_prediction, prediction_squares = _deviations(prediction, weights)
    covariance = (weights * of_target * of_prediction).sum(axis=1)
    return {
        "mae": _mean(np.abs(error), weights),
        "rmse": np.sqrt(squared_error / weights.sum(axis=1)),
        "r2": 1 - ratio(squared_error, target_squares),
        "pearson": ratio(covariance, np.sqrt(target_squares) * np.sqrt(prediction_squares)),
    }


_WEIGHTED: dict[str, Callable[[NDArray[Any], NDArray[Any], Floats, Threshold], Weighted]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}

"""Bootstrap confidence intervals of scores.

The bootstrap needs each score a thousand times. Scikit-learn's overhead a call makes that slow, so
`weighted_scores` computes the same scores for many resamples at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.metrics import THRESHOLD, Floats, checked, scores

_CELLS_AT_ONCE = 4_000_000  # resamples x clips held in memory together: 32 MB an array


@dataclass(frozen=True)
class Score:
    """A score with its confidence interval; NaN where it is undefined.

    `num_resamples` counts the bootstrap resamples in which the score was defined.
    """

    value: float
    low: float
    high: float
    num_resamples: int


def weighted_scores(
    task: str, target: NDArray[Any], prediction: NDArray[Any], weights: NDArray[Any]
) -> dict[str, Floats]:
    """Compute `scores` for many resamples at once.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        prediction: as for `scores`.
        weights: (R, N) whole numbers: how often resample r contains clip n; no row is all zero.

    Returns:
        For each score (R,) float64, the score of the data repeated as `weights` say.

    Raises:
        ValueError: as `scores`, or `weights` has another shape.
    """
    target, prediction = checked(task, target, prediction)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(target):
        raise ValueError(f"weights has shape {weights.shape}: expected (R, {len(target)})")
    return _WEIGHTED[task](target, prediction, weights)


def bootstrap(
    task: str,
    target: NDArray[Any],
    prediction: NDArray[Any],
    groups: NDArray[np.integer[Any]],
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | Sequence[int],
) -> dict[str, Score]:
    """Score with percentile bootstrap intervals (Efron 1979), resampling whole groups.

    Clips of one patient are not independent, so groups are drawn with replacement, each with all
    its clips (cluster bootstrap; Field & Welsh 2007). Resamples in which a score is undefined are
    left out; its bounds are NaN where fewer than half are left, or where there is only one group.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        prediction: as for `scores`.
        groups: (N,) group numbers; all distinct for independent clips.
        num_resamples: how many resamples to draw.
        confidence: the interval's coverage, between 0 and 1.
        seed: fixes the resamples.

    Raises:
        ValueError: as `scores`, or another argument is out of its range.
    """
    _check_bootstrap(target, groups, num_resamples, confidence)
    drawn = _drawn_scores(task, target, prediction, groups, num_resamples, seed)
    return {
        name: _interval(value, drawn[name], num_resamples, confidence)
        for name, value in scores(task, target, prediction).items()
    }


def bootstrap_difference(
    task: str,
    target: NDArray[Any],
    prediction: NDArray[Any],
    baseline: NDArray[Any],
    groups: NDArray[np.integer[Any]],
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | Sequence[int],
) -> dict[str, Score]:
    """Return the scores of `prediction` minus those of `baseline`, with paired intervals.

    Both are scored on the same resamples. What makes a resample hard is then hard for both and
    cancels, so the interval is narrower than two separate ones suggest.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        prediction: as for `scores`.
        baseline: as `prediction`, of the other model.
        groups: as for `bootstrap`.
        num_resamples: how many resamples to draw.
        confidence: the interval's coverage, between 0 and 1.
        seed: fixes the resamples.

    Raises:
        ValueError: as `bootstrap`.
    """
    _check_bootstrap(target, groups, num_resamples, confidence)
    ours = _drawn_scores(task, target, prediction, groups, num_resamples, seed)
    theirs = _drawn_scores(task, target, baseline, groups, num_resamples, seed)
    other = scores(task, target, baseline)
    return {
        name: _interval(value - other[name], ours[name] - theirs[name], num_resamples, confidence)
        for name, value in scores(task, target, prediction).items()
    }


def _drawn_scores(
    task: str,
    target: NDArray[Any],
    prediction: NDArray[Any],
    groups: NDArray[Any],
    num_resamples: int,
    seed: int | Sequence[int],
) -> dict[str, Floats]:
    """Return each score (R,) in every resample; empty where there is one group only."""
    names = scores(task, target, prediction)
    drawn: dict[str, list[Floats]] = {name: [np.empty(0)] for name in names}
    for weights in _resamples(np.asarray(groups), num_resamples, np.random.default_rng(seed)):
        for name, values in weighted_scores(task, target, prediction, weights).items():
            drawn[name].append(values)
    return {name: np.concatenate(values) for name, values in drawn.items()}


def _resamples(
    groups: NDArray[Any], num_resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield (R, N) clip counts of resampled groups, R bounded so that memory stays small."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return
    at_once = max(1, _CELLS_AT_ONCE // len(group))
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield drawn[:, group].astype(np.float64)


def _interval(value: float, drawn: Floats, num_resamples: int, confidence: float) -> Score:
    defined = drawn[~np.isnan(drawn)]
    if 2 * len(defined) < num_resamples:
        return Score(value, np.nan, np.nan, len(defined))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Score(value, float(low), float(high), len(defined))


def _check_bootstrap(
    target: NDArray[Any], groups: NDArray[Any], num_resamples: int, confidence: float
) -> None:
    if np.shape(groups) != np.shape(target):
        raise ValueError(
            f"groups has shape {np.shape(groups)}, target {np.shape(target)}: "
            "give one group number for each clip"
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: expected 1 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected between 0 and 1, such as 0.95")


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is zero."""
    out = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _macro(values: Floats) -> Floats:
    """(R, C) -> (R,): the mean over the classes in which the score is defined."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))


def _weighted_class_scores(
    target: NDArray[Any], predicted: NDArray[Any], weights: Floats, num_classes: int
) -> tuple[dict[str, Floats], Floats]:
    """Return accuracy and balanced accuracy, each (R,), and the F1 score of each class (R, C)."""
    is_target = (target[:, None] == np.arange(num_classes)).astype(np.float64)
    is_predicted = (predicted[:, None] == np.arange(num_classes)).astype(np.float64)
    hits, support = weights @ (is_target * is_predicted), weights @ is_target
    recall = _macro(_ratio(hits, support))
    result = {
        "accuracy": _ratio(hits.sum(axis=1), support.sum(axis=1)),
        "balanced_accuracy": np.where((support > 0).sum(axis=1) > 1, recall, np.nan),
    }
    return result, _ratio(2 * hits, support + weights @ is_predicted)


def _weighted_ranking(
    positive: NDArray[np.bool_], prediction: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Return AUROC (trapezoids) and AUPRC (average precision, a step function), each (R,)."""
    order = np.argsort(-prediction, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(prediction[order])), len(order) - 1)  # ties move as one
    ordered = weights[:, order]
    hits = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    alarms = np.cumsum(ordered * ~positive[order], axis=1)[:, ends]
    hits_before = np.pad(hits, ((0, 0), (1, 0)))[:, :-1]
    area = np.diff(alarms, prepend=0) * (hits + hits_before) / 2
    precision = hits / np.maximum(hits + alarms, 1)
    auroc = _ratio(area.sum(axis=1), hits[:, -1] * alarms[:, -1])
    auprc = _ratio(((hits - hits_before) * precision).sum(axis=1), hits[:, -1])
    return auroc, np.where(alarms[:, -1] > 0, auprc, np.nan)


def _weighted_binary(
    target: NDArray[Any], prediction: Floats, weights: Floats
) -> dict[str, Floats]:
    predicted = (prediction >= THRESHOLD).astype(np.int64)
    result, f1 = _weighted_class_scores(target, predicted, weights, 2)
    auroc, auprc = _weighted_ranking(target == 1, prediction, weights)
    return {**result, "f1": f1[:, 1], "auroc": auroc, "auprc": auprc}


def _weighted_multiclass(
    target: NDArray[Any], prediction: Floats, weights: Floats
) -> dict[str, Floats]:
    num_classes = prediction.shape[1]
    result, f1 = _weighted_class_scores(target, prediction.argmax(axis=1), weights, num_classes)
    one_vs_rest = [
        _weighted_ranking(target == c, prediction[:, c], weights)[0] for c in range(num_classes)
    ]
    return {**result, "f1_macro": _macro(f1), "auroc_macro": _macro(np.stack(one_vs_rest, axis=1))}


def _weighted_deviations(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return (R, N) deviations from each resample's mean and their (R,) weighted squares' sum."""
    means = weights @ values / weights.sum(axis=1)
    drawn = weights > 0
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    lowest = np.where(drawn, values, np.inf).min(axis=1)
    deviations = values - means[:, None]
    # A constant resample must give exactly zero, which rounding of its mean would not.
    squares = np.where(highest > lowest, (weights * deviations**2).sum(axis=1), 0.0)
    return deviations, squares


def _weighted_regression(
    target: NDArray[Any], prediction: Floats, weights: Floats
) -> dict[str, Floats]:
    error, total = prediction - target, weights.sum(axis=1)
    squared_error = weights @ error**2
    of_target, target_squares = _weighted_deviations(target, weights)
    of_prediction, prediction_squares = _weighted_deviations(prediction, weights)
    covariance = (weights * of_target * of_prediction).sum(axis=1)
    return {
        "mae": weights @ np.abs(error) / total,
        "rmse": np.sqrt(squared_error / total),
        "r2": 1 - _ratio(squared_error, target_squares),
        "pearson": _ratio(covariance, np.sqrt(target_squares) * np.sqrt(prediction_squares)),
    }


_WEIGHTED: dict[str, Callable[[NDArray[Any], Floats, Floats], dict[str, Floats]]] = {
    "binary": _weighted_binary,
    "multiclass": _weighted_multiclass,
    "regression": _weighted_regression,
}

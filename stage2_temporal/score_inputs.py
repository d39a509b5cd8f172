"""Checks of what is to be scored: targets, predictions and thresholds that fit together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Threshold = float | NDArray[Any]
"""Probability from which a clip is positive: one, or one for each label or clip."""

_ROUNDING = 1e-2  # probabilities may come from float16 or bfloat16 arithmetic


def checked(
    task: str, target: NDArray[Any], prediction: NDArray[Any], *, threshold: Threshold
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return target as int64, or float64 for regression, and prediction as floats.

    Predictions become float64, but float32 ones of many classes stay: a copy would be large. For
    the arguments see `metrics.scores`.

    Raises:
        ValueError: a shape, class number or probability is impossible, or a value is not finite.
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    if task != "multiclass" or prediction.dtype != np.float32:
        prediction = prediction.astype(np.float64)
    _check_shapes(task, target, prediction)
    for name, values in (("target", target), ("prediction", prediction)):
        _check_finite(name, values)
    if task == "regression":
        return target.astype(np.float64), prediction
    if task != "multiclass":
        _check_threshold(threshold, prediction)
    _check_probabilities(prediction, must_sum=task == "multiclass")
    return _class_numbers(target, prediction.shape[1] if task == "multiclass" else 2), prediction


def _check_finite(name: str, values: NDArray[Any]) -> None:
    sums = values.reshape(len(values), -1).sum(axis=1, dtype=np.float64)  # of a NaN: NaN
    bad = np.flatnonzero(~np.isfinite(sums))
    if bad.size:
        raise ValueError(
            f"{name} is not finite for {bad.size} of {len(values)} clips, the first is "
            f"{name}[{bad[0]}] = {values[bad[0]]}: leave such clips out, or find their cause"
        )


def _check_shapes(task: str, target: NDArray[Any], prediction: NDArray[Any]) -> None:
    if target.dtype.kind not in "biuf":
        raise ValueError(
            f"target has dtype {target.dtype}: expected numbers; turn class names into 0..C-1"
        )
    of_target, of_prediction, fits = _shapes(task, target, prediction)
    if not fits or target.size == 0:
        raise ValueError(
            f"target has shape {target.shape} and prediction {prediction.shape}: {task} needs "
            f"target {of_target} and prediction {of_prediction}, of the same N, 1 or more"
        )


def _shapes(task: str, target: NDArray[Any], prediction: NDArray[Any]) -> tuple[str, str, bool]:
    """Return what shapes a task needs, and whether these are such."""
    if task == "multilabel":
        return "(N, L)", "(N, L)", target.ndim == 2 and target.shape == prediction.shape
    if task == "multiclass":
        fits = prediction.ndim == 2 and prediction.shape[1] > 1
        fits = fits and target.shape == prediction.shape[:1]
        return "(N,)", "(N, C) with two classes or more", fits
    return "(N,)", "(N,)", target.ndim == 1 and target.shape == prediction.shape


def _check_probabilities(prediction: NDArray[Any], *, must_sum: bool) -> None:
    low, high = prediction.min(), prediction.max()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"prediction ranges from {low:g} to {high:g}: expected probabilities from 0 to 1; "
            "apply a sigmoid or softmax to logits"
        )
    if not must_sum:
        return
    sums = prediction.sum(axis=1, dtype=np.float64)
    row = int(np.abs(sums - 1).argmax())
    if abs(sums[row] - 1) > _ROUNDING:
        raise ValueError(
            f"prediction[{row}] sums to {sums[row]:g}: expected the probabilities of all classes, "
            "summing to 1; apply a softmax to logits"
        )


def _check_threshold(threshold: Threshold, prediction: NDArray[Any]) -> None:
    values = np.asarray(threshold, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"threshold is {threshold}: expected probabilities from 0 to 1")
    if values.shape not in {(), prediction.shape, prediction.shape[1:]}:
        raise ValueError(
            f"threshold has shape {values.shape} and prediction {prediction.shape}: expected one, "
            "or one for each label or clip"
        )


def _class_numbers(target: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    numbers = target.astype(np.int64)
    wrong = np.unique(target[(numbers != target) | (numbers < 0) | (numbers >= num_classes)])
    if wrong.size:
        raise ValueError(
            f"target contains {wrong[:5].tolist()}: expected class numbers 0 to {num_classes - 1}"
        )
    return numbers

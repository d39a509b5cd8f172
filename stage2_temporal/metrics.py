"""Scores of predictions, by scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

Floats = NDArray[np.float64]

TASKS = ("binary", "multiclass", "regression")
PRIMARY = {"binary": "auroc", "multiclass": "balanced_accuracy", "regression": "mae"}
_HIGHER_IS_BETTER = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "auroc", "auprc"), True),
    **dict.fromkeys(("f1_macro", "auroc_macro", "r2", "pearson"), True),
    **dict.fromkeys(("mae", "rmse"), False),
}
THRESHOLD = 0.5
_ROUNDING = 1e-2  # probabilities may come from float16 or bfloat16 arithmetic


def higher_is_better(score: str) -> bool:
    """Whether a larger value of the named score is better.

    Raises:
        ValueError: no task has a score of that name.
    """
    if score not in _HIGHER_IS_BETTER:
        raise ValueError(f"unknown score {score!r}: use one of {', '.join(_HIGHER_IS_BETTER)}")
    return _HIGHER_IS_BETTER[score]


def check_task(task: str) -> None:
    """Raise ValueError unless `task` is one of `TASKS`."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")


def scores(task: str, target: NDArray[Any], prediction: NDArray[Any]) -> dict[str, float]:
    """Score predictions against the truth; a score that the data leave undefined is NaN.

    With one class in `target`, balanced accuracy, AUROC and AUPRC are undefined; F1 is where no
    clip has or is predicted class 1; R2 and Pearson's r where target (or prediction) is constant.
    Macro scores average over the classes that occur: in target or prediction for F1, in target for
    the others. Probability 0.5 or more is class 1.

    Args:
        task: one of `TASKS`.
        target: (N,) class numbers, or (N,) floats for regression.
        prediction: (N,) probability of class 1, (N, C) probabilities, or (N,) floats.

    Raises:
        ValueError: a shape, class number or probability is impossible, or a value is not finite.
    """
    target, prediction = checked(task, target, prediction)
    return _SCORES[task](target, prediction)


def checked(
    task: str, target: NDArray[Any], prediction: NDArray[Any]
) -> tuple[NDArray[Any], Floats]:
    """Return target (N,) as int64 or float64 and prediction as float64.

    Raises:
        ValueError: a shape, class number or probability is impossible, or a value is not finite.
    """
    check_task(task)
    target, prediction = np.asarray(target), np.asarray(prediction, dtype=np.float64)
    _check_shapes(task, target, prediction)
    for name, values in (("target", target), ("prediction", prediction)):
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{name} is not finite for {bad.size} of {len(values)} clips, the first is "
                f"{name}[{bad[0]}] = {values[bad[0]]}: leave such clips out, or find their cause"
            )
    if task == "regression":
        return target.astype(np.float64), prediction
    num_classes = 2 if task == "binary" else prediction.shape[1]
    _check_probabilities(prediction)
    return _class_numbers(target, num_classes), prediction


def _check_shapes(task: str, target: NDArray[Any], prediction: Floats) -> None:
    if target.dtype.kind not in "biuf":
        raise ValueError(
            f"target has dtype {target.dtype}: expected numbers; turn class names into 0..C-1"
        )
    wanted = 2 if task == "multiclass" else 1
    aligned = target.ndim == 1 and len(target) and prediction.shape[:1] == target.shape
    if not aligned or prediction.ndim != wanted or (wanted == 2 and prediction.shape[1] < 2):
        expected = "(N, C) with two classes or more" if wanted == 2 else "(N,)"
        raise ValueError(
            f"target has shape {target.shape} and prediction {prediction.shape}: {task} needs "
            f"target (N,) and prediction {expected}, of the same N, 1 or more"
        )


def _check_probabilities(prediction: Floats) -> None:
    low, high = prediction.min(), prediction.max()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"prediction ranges from {low:g} to {high:g}: expected probabilities from 0 to 1; "
            "apply a sigmoid or softmax to logits"
        )
    if prediction.ndim == 2 and (off := np.abs(prediction.sum(axis=1) - 1)).max() > _ROUNDING:
        row = int(off.argmax())
        raise ValueError(
            f"prediction[{row}] sums to {prediction[row].sum():g}: expected the probabilities of "
            "all classes, summing to 1; apply a softmax to logits"
        )


def _class_numbers(target: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    numbers = target.astype(np.int64)
    wrong = np.unique(target[(numbers != target) | (numbers < 0) | (numbers >= num_classes)])
    if wrong.size:
        raise ValueError(
            f"target contains {wrong[:5].tolist()}: expected class numbers 0 to {num_classes - 1}"
        )
    return numbers


def _class_scores(target: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    present = np.unique(target)
    recall = sklearn_metrics.recall_score(target, predicted, labels=present, average="macro")
    return {
        "accuracy": float(sklearn_metrics.accuracy_score(target, predicted)),
        "balanced_accuracy": float(recall) if len(present) > 1 else np.nan,
    }


def _binary_scores(target: NDArray[Any], prediction: Floats) -> dict[str, float]:
    predicted = (prediction >= THRESHOLD).astype(np.int64)
    f1 = auroc = auprc = np.nan
    if (target | predicted).any():
        f1 = float(sklearn_metrics.f1_score(target, predicted))
    if len(np.unique(target)) == 2:
        auroc = float(sklearn_metrics.roc_auc_score(target, prediction))
        auprc = float(sklearn_metrics.average_precision_score(target, prediction))
    return {**_class_scores(target, predicted), "f1": f1, "auroc": auroc, "auprc": auprc}


def _multiclass_scores(target: NDArray[Any], prediction: Floats) -> dict[str, float]:
    predicted, present, auroc = prediction.argmax(axis=1), np.unique(target), np.nan
    if len(present) > 1:
        one_vs_rest = [
            sklearn_metrics.roc_auc_score(target == c, prediction[:, c]) for c in present
        ]
        auroc = float(np.mean(one_vs_rest))
    f1 = float(sklearn_metrics.f1_score(target, predicted, average="macro"))
    return {**_class_scores(target, predicted), "f1_macro": f1, "auroc_macro": auroc}


def _regression_scores(target: NDArray[Any], prediction: Floats) -> dict[str, float]:
    r2 = pearson = np.nan
    if np.ptp(target) > 0:
        r2 = float(sklearn_metrics.r2_score(target, prediction))
        if np.ptp(prediction) > 0:
            pearson = float(np.corrcoef(target, prediction)[0, 1])
    return {
        "mae": float(sklearn_metrics.mean_absolute_error(target, prediction)),
        "rmse": float(sklearn_metrics.root_mean_squared_error(target, prediction)),
        "r2": r2,
        "pearson": pearson,
    }


_SCORES: dict[str, Callable[[NDArray[Any], Floats], dict[str, float]]] = {
    "binary": _binary_scores,
    "multiclass": _multiclass_scores,
    "regression": _regression_scores,
}

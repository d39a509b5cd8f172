"""Scores of predictions, by scikit-learn where it has them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from stage2_temporal.calibration import brier_of_clips, calibration_gaps
from stage2_temporal.ranking import one_vs_rest
from stage2_temporal.score_inputs import Threshold, checked

Floats = NDArray[np.float64]

TASKS = ("binary", "multiclass", "multilabel", "regression")
PRIMARY = {
    "binary": "auroc",
    "multiclass": "balanced_accuracy",
    "multilabel": "auprc_macro",
    "regression": "mae",
}
_HIGHER_IS_BETTER = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "auroc", "auprc"), True),
    **dict.fromkeys(("sensitivity", "specificity", "exact_match"), True),
    **dict.fromkeys(("f1_macro", "auroc_macro", "auprc_macro", "r2", "pearson"), True),
    **dict.fromkeys(("ece", "brier", "hamming_loss", "mae", "rmse"), False),
}
THRESHOLD = 0.5
_MANY_CLASSES = 100  # scikit-learn ranks them one by one, which takes minutes for thousands


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


def scores(
    task: str, target: NDArray[Any], prediction: NDArray[Any], *, threshold: Threshold = THRESHOLD
) -> dict[str, float]:
    """Score predictions against the truth; a score that the data leave undefined is NaN.

    With one class in `target`, balanced accuracy, AUROC and AUPRC are undefined; F1 is where no
    clip has or is predicted class 1; sensitivity (specificity) is without clips of class 1 (0); R2
    and Pearson's r are where target (or prediction) is constant. Macro scores average over the
    classes that occur: in target or prediction for F1, in target for the others; those of
    multilabel over the labels that some clips have and some have not.

    `ece` is the expected calibration error in 15 bins of equal width: of the probability of class 1
    against its frequency for binary (Naeini et al. 2015), of the highest probability against the
    accuracy for multiclass (Guo et al. 2017). `brier` is the mean squared error of the probability
    of class 1, of all labels alike, or summed over classes (Brier 1950).

    Args:
        task: one of `TASKS`.
        target: (N,) class numbers, (N, L) 0 or 1 for multilabel, or (N,) floats for regression.
        prediction: (N,) probability of class 1, (N, C) or (N, L) probabilities, or (N,) floats.
        threshold: probability from which a clip is of class 1, or has a label: one, (N,) or (N, L)
            one for each clip, or (L,) one for each label.

    Raises:
        ValueError: a shape, class number or probability is impossible, or a value is not finite.
    """
    check_task(task)
    target, prediction = checked(task, target, prediction, threshold=threshold)
    return _SCORES[task](target, prediction, threshold)


def choose_threshold(target: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Return the threshold of the highest balanced accuracy (Youden's index, 1950).

    Of all that are equally good the one nearest to 0.5: 0.5 itself, or the middle between two
    neighbouring predictions. Where all clips are of one class, all are equally good. Choose it on
    validation clips, never on those that are scored.

    Args:
        target: (N,) 0 or 1.
        prediction: (N,) probability of class 1.

    Raises:
        ValueError: as `scores`.
    """
    target, prediction = checked("binary", target, prediction, threshold=THRESHOLD)
    if len(np.unique(target)) < 2:
        return THRESHOLD
    alarms, hits, values = sklearn_metrics.roc_curve(target, prediction, drop_intermediate=False)
    upper = np.clip(np.append(1.0, values[1:]), 0, 1)  # any threshold in (lower, upper] is alike
    lower = np.clip(np.append(values[1:], 0.0), 0, 1)
    index = np.where(upper > lower, hits - alarms, -np.inf)
    best = np.flatnonzero(np.isclose(index, index.max(), rtol=0, atol=1e-12))
    if ((lower[best] < THRESHOLD) & (upper[best] >= THRESHOLD)).any():
        return THRESHOLD
    middle = np.maximum((lower[best] + upper[best]) / 2, np.nextafter(lower[best], 1))
    return float(middle[np.abs(middle - THRESHOLD).argmin()])


def _calibration(task: str, target: NDArray[Any], prediction: NDArray[Any]) -> dict[str, float]:
    number, gaps = calibration_gaps(task, target, prediction)
    return {
        "ece": float(np.abs(np.bincount(number, gaps)).sum() / len(gaps)),
        "brier": float(brier_of_clips(task, target, prediction).mean()),
    }


def _class_scores(target: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    present = np.unique(target)
    recall = sklearn_metrics.recall_score(target, predicted, labels=present, average="macro")
    return {
        "accuracy": float(sklearn_metrics.accuracy_score(target, predicted)),
        "balanced_accuracy": float(recall) if len(present) > 1 else np.nan,
    }


def _binary_scores(
    target: NDArray[Any], prediction: Floats, threshold: Threshold
) -> dict[str, float]:
    predicted = (prediction >= threshold).astype(np.int64)
    f1, (auroc, auprc) = np.nan, _ranking(target == 1, prediction)
    if (target | predicted).any():
        f1 = float(sklearn_metrics.f1_score(target, predicted))
    return {
        **_class_scores(target, predicted),
        "f1": f1,
        "auroc": auroc,
        "auprc": auprc,
        "sensitivity": _recall(target, predicted, 1),
        "specificity": _recall(target, predicted, 0),
        **_calibration("binary", target, prediction),
    }


def _recall(target: NDArray[Any], predicted: NDArray[Any], number: int) -> float:
    if not (target == number).any():
        return np.nan
    return float(sklearn_metrics.recall_score(target, predicted, pos_label=number))


def _ranking(positive: NDArray[np.bool_], prediction: NDArray[Any]) -> tuple[float, float]:
    """Return AUROC and AUPRC; NaN where all clips are of one class."""
    if positive.all() or not positive.any():
        return np.nan, np.nan
    return (
        float(sklearn_metrics.roc_auc_score(positive, prediction)),
        float(sklearn_metrics.average_precision_score(positive, prediction)),
    )


def _multiclass_scores(
    target: NDArray[Any], prediction: NDArray[Any], threshold: Threshold
) -> dict[str, float]:
    del threshold  # the most probable class is predicted
    predicted = prediction.argmax(axis=1)
    auroc, auprc = _ranking_of_classes(target, prediction)
    return {
        **_class_scores(target, predicted),
        "f1_macro": float(sklearn_metrics.f1_score(target, predicted, average="macro")),
        "auroc_macro": auroc,
        "auprc_macro": auprc,
        **_calibration("multiclass", target, prediction),
    }


def _ranking_of_classes(target: NDArray[Any], prediction: NDArray[Any]) -> tuple[float, float]:
    """Return AUROC and AUPRC, one class against the rest, averaged over the target's classes."""
    present = np.unique(target)
    if len(present) < 2:
        return np.nan, np.nan
    if len(present) > _MANY_CLASSES:
        auroc, auprc = one_vs_rest(target, prediction, np.ones((1, len(target))))
        return float(auroc.mean()), float(auprc.mean())
    return _averaged([_ranking(target == c, prediction[:, c]) for c in present])


def _averaged(rankings: Sequence[tuple[float, float]]) -> tuple[float, float]:
    auroc, auprc = np.mean(rankings, axis=0).tolist()
    return auroc, auprc


def _multilabel_scores(
    target: NDArray[Any], prediction: Floats, threshold: Threshold
) -> dict[str, float]:
    predicted = (prediction >= threshold).astype(np.int64)
    both = np.flatnonzero((target == 0).any(axis=0) & (target == 1).any(axis=0))
    f1 = auroc = auprc = np.nan
    if both.size:
        f1 = float(np.mean([sklearn_metrics.f1_score(target[:, i], predicted[:, i]) for i in both]))
        auroc, auprc = _averaged([_ranking(target[:, i] == 1, prediction[:, i]) for i in both])
    return {
        "f1_macro": f1,
        "auroc_macro": auroc,
        "auprc_macro": auprc,
        "exact_match": float((predicted == target).all(axis=1).mean()),
        "hamming_loss": float(sklearn_metrics.hamming_loss(target, predicted)),
        "brier": float(brier_of_clips("multilabel", target, prediction).mean()),
    }


def _regression_scores(
    target: NDArray[Any], prediction: Floats, threshold: Threshold
) -> dict[str, float]:
    del threshold
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


_SCORES: dict[str, Callable[[NDArray[Any], NDArray[Any], Threshold], dict[str, float]]] = {
    "binary": _binary_scores,
    "multiclass": _multiclass_scores,
    "multilabel": _multilabel_scores,
    "regression": _regression_scores,
}

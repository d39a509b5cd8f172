"""Scores by subject: the clips of one patient, animal or scene count as one."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stage2_temporal.metrics import check_task


@dataclasses.dataclass(frozen=True)
class Subjects:
    """Clips put together by subject, ready to be scored.

    Attributes:
        target: (S,) class numbers or values, or (S, L) labels.
        prediction: (S,) or (S, k), the mean over each subject's clips.
        groups: (S,) group number of each subject, ascending.
        num_mixed: Subjects that were left out because their clips have different labels.
    """

    target: NDArray[Any]
    prediction: NDArray[Any]
    groups: NDArray[Any]
    num_mixed: int


def per_subject(
    task: str, groups: NDArray[Any], target: NDArray[Any], prediction: NDArray[Any]
) -> Subjects:
    """Average the predictions of each subject's clips.

    A subject has the label of its clips; where they differ, as when it fell ill between two
    recordings, it is left out and counted. For regression its target is their mean.

    Args:
        task: one of `metrics.TASKS`.
        groups: (N,) group number of each clip.
        target: (N,) or (N, L), as for `metrics.scores`.
        prediction: (N,) or (N, k), as for `metrics.scores`.

    Raises:
        ValueError: The task is unknown, or the arrays do not have the same N, 1 or more.
    """
    check_task(task)
    lengths = {len(groups), len(target), len(prediction)}
    if len(lengths) > 1 or not len(groups):
        raise ValueError(
            f"groups, target and prediction have shapes {np.shape(groups)}, {np.shape(target)} and "
            f"{np.shape(prediction)}: expected the same number of clips, 1 or more"
        )
    names, subject = np.unique(groups, return_inverse=True)
    if task == "regression":
        return Subjects(_means(subject, target), _means(subject, prediction), names, 0)
    first, mixed = _labels(subject, target)
    same = ~mixed
    means = _means(subject, prediction)
    return Subjects(target[first[same]], means[same], names[same], int(mixed.sum()))


def _means(subject: NDArray[np.intp], values: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of each subject's values, (S,) or (S, k), in their own precision."""
    dtype = np.result_type(values, np.float32) if values.dtype.kind == "f" else np.float64
    counts = np.bincount(subject).astype(dtype)
    clips = (np.ones(len(subject), dtype), (subject, np.arange(len(subject))))
    sums: NDArray[Any] = sparse.csr_array(clips) @ values.astype(dtype, copy=False)
    sums /= counts.reshape(-1, *(1,) * (values.ndim - 1))
    return sums


def _labels(
    subject: NDArray[np.intp], target: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return (S,) a clip of each subject, and whether others of its clips have another label."""
    _, first = np.unique(subject, return_index=True)
    differs = np.not_equal(target, target[first[subject]]).reshape(len(target), -1).any(axis=1)
    mixed = np.bincount(subject, differs) > 0
    return first, mixed

"""How well predictions rank clips: AUROC and AUPRC in many resamples at once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]

_CELLS_AT_ONCE = 4_000_000  # of the largest arrays: 32 MB each
_FEW_POSITIVES = 128  # with fewer, comparing them with all clips is faster than sorting all clips
_SPARSE = 0.02  # a matrix with fewer ones is multiplied faster as a sparse one
_LARGEST_EXACT = 2**23  # float32 counts halves up to here


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is zero."""
    out = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def ranking(positive: NDArray[np.bool_], prediction: NDArray[Any], weights: Floats) -> Pair:
    """Return AUROC (trapezoids) and AUPRC (average precision, a step function), each (R,).

    Args:
        positive: (N,) which clips are positive.
        prediction: (N,) numbers; higher is more positive.
        weights: (R, N) how often resample r contains clip n.
    """
    order = np.argsort(-prediction, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(prediction[order])), len(order) - 1)  # ties move as one
    ordered = weights[:, order]
    hits = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    alarms = np.cumsum(ordered * ~positive[order], axis=1)[:, ends]
    hits_before = np.pad(hits, ((0, 0), (1, 0)))[:, :-1]
    area = np.diff(alarms, prepend=0) * (hits + hits_before) / 2
    precision = hits / np.maximum(hits + alarms, 1)
    auroc = ratio(area.sum(axis=1), hits[:, -1] * alarms[:, -1])
    auprc = ratio(((hits - hits_before) * precision).sum(axis=1), hits[:, -1])
    return auroc, np.where(alarms[:, -1] > 0, auprc, np.nan)


def one_vs_rest(target: NDArray[np.int64], prediction: NDArray[Any], weights: Floats) -> Pair:
    """Return AUROC and AUPRC of each class or label that has positive clips, each (R, C').

    Classes of few clips are compared with all others in blocks, as matrix products; the others are
    ranked one by one. Memory stays at some arrays of `_CELLS_AT_ONCE` and (R, C').

    Args:
        target: (N,) class numbers, or (N, L) 0 or 1 for each label.
        prediction: (N, C) or (N, L).
        weights: (R, N) how often resample r contains clip n.
    """
    clips, classes = positives(target)
    names, column, counts = np.unique(classes, return_inverse=True, return_counts=True)
    auroc, auprc = np.full((2, len(weights), len(names)), np.nan)
    for place in np.flatnonzero(counts >= _FEW_POSITIVES):
        positive = _is_positive(target, names[place : place + 1])[:, 0]
        found = ranking(positive, prediction[:, names[place]], weights)
        auroc[:, place], auprc[:, place] = found
    few = counts[column] < _FEW_POSITIVES
    rare = np.flatnonzero(counts < _FEW_POSITIVES)
    if rare.size:
        found = _compared(clips[few], classes[few], target, prediction, weights)
        auroc[:, rare], auprc[:, rare] = found
    return auroc, auprc


def positives(target: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return all pairs of a clip and a class (or label) that it has, sorted by class."""
    if target.ndim == 1:
        clips = np.argsort(target, kind="stable")
        return clips, target[clips]
    labels, clips = np.nonzero(target.T)
    return clips, labels.astype(np.int64)


def comparisons(target: NDArray[np.int64]) -> int:
    """Return what `one_vs_rest` compares for each resample: its time grows with that number."""
    counts = np.unique(positives(target)[1], return_counts=True)[1]
    return int(np.minimum(counts, _FEW_POSITIVES).sum()) * len(target)


def _is_positive(target: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N, K) whether each clip has each of the K classes."""
    if target.ndim == 1:
        return np.equal(target[:, None], classes)
    return np.equal(target[:, classes], 1)


def _compared(
    clips: NDArray[np.intp],
    classes: NDArray[np.int64],
    target: NDArray[np.int64],
    prediction: NDArray[Any],
    weights: Floats,
) -> Pair:
    """Return AUROC and AUPRC (R, C') from comparisons of each positive clip with all clips.

    AUROC is the chance that a positive clip is ranked above a negative one (Hanley & McNeil 1982);
    average precision is the mean, over positive clips, of the precision down to their rank.
    """
    _, column = np.unique(classes, return_inverse=True)
    above, precisions, hits = np.zeros((3, int(column[-1]) + 1, len(weights)))
    total = weights.sum(axis=1)
    exact = np.float32 if total.max() < _LARGEST_EXACT else np.float64
    drawn = np.ascontiguousarray(weights.T, exact)
    for part in _blocks(len(clips), len(target)):
        own, of_class = drawn[clips[part]].astype(np.float64), classes[part]
        negative_above, hits_above, all_above = _counts_above(
            prediction[clips[part], of_class],
            np.take(prediction, of_class, axis=1),
            _is_positive(target, of_class),
            drawn,
        )
        _add(above, column[part], own * negative_above)
        _add(precisions, column[part], own * hits_above / np.maximum(all_above, 1))
        _add(hits, column[part], own)
    alarms = total - hits
    auroc = 1 - ratio(above, hits * alarms)
    return auroc.T, np.where(alarms > 0, ratio(precisions, hits), np.nan).T


def _counts_above(
    own: NDArray[Any], others: NDArray[Any], positive: NDArray[np.bool_], drawn: NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    """Count, for K positive clips, who is ranked above or with them, in each resample (K, R).

    Returns:
        Negative clips (those of equal rank count half), positive clips, and all clips.
    """
    not_below = others >= own
    all_above = _totals(not_below, drawn)
    hits_above = _totals(not_below & positive, drawn)
    level = _totals((others == own) & ~positive, drawn)
    return all_above - hits_above - level / 2, hits_above, all_above


def _totals(counted: NDArray[np.bool_], drawn: NDArray[Any]) -> Floats:
    """Return (K, R) how often each resample drew the clips that are counted (N, K)."""
    if np.count_nonzero(counted) < _SPARSE * counted.size:
        clips, numbers = np.nonzero(counted)
        ones = np.ones(len(clips), drawn.dtype)
        chosen = sparse.csr_array((ones, (numbers, clips)), shape=counted.shape[::-1])
        totals: NDArray[Any] = chosen @ drawn
    else:
        totals = counted.T.astype(drawn.dtype) @ drawn
    return totals.astype(np.float64)


def _blocks(num_positives: int, num_clips: int) -> Iterator[slice]:
    size = max(1, _CELLS_AT_ONCE // num_clips)
    for start in range(0, num_positives, size):
        yield slice(start, start + size)


def _add(sums: Floats, column: NDArray[np.intp], values: Floats) -> None:
    """Add values (K, R) to the rows (sorted) of sums (C', R) that they belong to."""
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    sums[column[starts]] += np.add.reduceat(values, starts, axis=0)

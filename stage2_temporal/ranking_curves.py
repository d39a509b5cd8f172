"""How well probabilities rank clips: ROC and precision-recall curves with their areas."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

Floats = NDArray[np.float64]

_CELLS = 400  # a side of the figure, in steps that can be told apart


@dataclass(frozen=True)
class Curve:
    """A curve with rising x.

    Attributes:
        x: (P,) false positive rate, or recall.
        y: (P,) true positive rate, or precision.
        area: AUROC (trapezoids), or AUPRC (average precision, a step function).
    """

    x: Floats
    y: Floats
    area: float


@dataclass(frozen=True)
class Ranking:
    """How one model ranks clips by the probability of one class or label.

    Attributes:
        roc: True against false positive rate; points are joined by lines.
        precision_recall: Precision against recall; the precision of a point holds for all recalls
            after the point before, as average precision counts it.
        share: Of the clips that are positive: the precision of ranking by chance.
    """

    roc: Curve
    precision_recall: Curve
    share: float


def rank(is_positive: NDArray[np.bool_], probability: Floats) -> Ranking | None:
    """Compute the curves of (N,) truths and probabilities; None where all are of one class."""
    if is_positive.all() or not is_positive.any():
        return None
    alarms, hits, _ = roc_curve(is_positive, probability)
    precision, recall, _ = precision_recall_curve(is_positive, probability)
    precision, recall = precision[::-1].copy(), recall[::-1]
    precision[0] = precision[1]  # of no clips; by convention 1, which no threshold reaches
    area = float(average_precision_score(is_positive, probability))
    return Ranking(
        Curve(*thinned(alarms, hits), float(auc(alarms, hits))),
        Curve(*thinned(recall, precision), area),
        float(is_positive.mean()),
    )


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Leave out points (P,) that no figure could tell from the ones before and after them."""
    cells = np.rint(np.stack([x, y]) * _CELLS)
    moved = (np.diff(cells, axis=1) != 0).any(axis=0)
    kept = np.append(True, moved) | np.append(moved, True)
    return x[kept], y[kept]

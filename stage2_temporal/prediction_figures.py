"""Figures of test predictions: confusion matrix, ROC curves, predicted against true values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve

from stage2_temporal.picture import (
    GREY,
    LINES,
    MAX_VECTOR_POINTS,
    MODEL_COLOUR,
    WIDTH_INCHES,
    Look,
    canvas,
    shorten,
    styled,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MAX_STYLED_CURVES = len(LINES)
MAX_MATRIX_CLASSES = 20


def confusion_counts(
    targets: Sequence[str], predictions: Sequence[str], classes: Sequence[str]
) -> Counts:
    """Count clips per target (row) and prediction (column); (C, C) in the order of `classes`."""
    counts: Counts = confusion_matrix(targets, predictions, labels=list(classes))
    return counts


@styled
def confusion_figure(counts: Counts, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts in cells, share of the row as shade.

    Args:
        counts: (C, C) clips, rows are targets and columns predictions; C at most 20.
        classes: C labels.
    """
    num_classes = len(classes)
    side = max(WIDTH_INCHES, 0.38 * num_classes + 1.6)
    figure, axes = canvas(side * 0.86, width=side)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1.15, edgecolors="#ffffff", linewidth=1.5)
    _write_cells(axes, counts, share)
    labels = [shorten(label, 14) for label in classes]
    ticks = np.arange(num_classes) + 0.5
    crowded = max(map(len, labels)) * num_classes > 32
    slant: Look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(ticks, labels, **slant)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("target")
    return figure


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic: (P,) false and true positive rates and their area."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    area: float


def roc_points(is_positive: NDArray[np.bool_], scores: Floats) -> Roc | None:
    """Compute a ROC curve from (N,) truths and scores; None where only one class is present."""
    if is_positive.all() or not is_positive.any():
        return None
    false_positive_rate, true_positive_rate, _ = roc_curve(is_positive, scores)
    area = float(auc(false_positive_rate, true_positive_rate))
    return Roc(false_positive_rate, true_positive_rate, area)


@styled
def roc_figure(curves: Mapping[str, Roc]) -> Figure:
    """Draw ROC curves; of more than eight, the four smallest areas stand out of the grey rest."""
    few = len(curves) <= MAX_STYLED_CURVES
    named = list(curves) if few else sorted(curves, key=lambda label: curves[label].area)[:4]
    rows = (len(named) + 1) // 2
    figure, axes = canvas(WIDTH_INCHES * 0.86 + 0.2 * rows)
    for label in [] if few else curves:
        axes.plot(*_rates(curves[label]), color="#bbbbbb", linewidth=0.8)
    for look, label in zip(LINES, named, strict=False):
        text = f"{curves[label].area:.3f}  {shorten(label, 23)}"
        axes.plot(*_rates(curves[label]), label=text, markersize=4.5, markevery=0.15, **look)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    figure.legend(loc="outside lower center", ncols=2, title="AUROC", handlelength=3)
    return figure


@styled
def scatter_figure(
    targets: Floats, predictions: Floats, *, limits: tuple[float, float], colour: str = MODEL_COLOUR
) -> Figure:
    """Draw (N,) predictions against targets with the identity line, both axes within `limits`."""
    figure, axes = canvas(WIDTH_INCHES * 0.9)
    dots: Look = {"s": 16, "facecolors": "none", "edgecolors": colour, "linewidths": 0.8}
    axes.scatter(targets, predictions, rasterized=len(targets) > MAX_VECTOR_POINTS, **dots)
    margin = 0.03 * (limits[1] - limits[0]) or 1.0
    ends = (limits[0] - margin, limits[1] + margin)
    axes.plot(ends, ends, color="#444444", linestyle="--", linewidth=1, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true", ylabel="predicted")
    figure.legend(loc="outside upper left")
    return figure


def _rates(curve: Roc) -> tuple[Floats, Floats]:
    return curve.false_positive_rate, curve.true_positive_rate


def _write_cells(axes: Axes, counts: Counts, share: Floats) -> None:
    roomy = len(counts) <= 8
    for (row, column), count in np.ndenumerate(counts):
        if count == 0 and not roomy:
            continue
        text = f"{count:,}\n{share[row, column]:.0%}" if roomy else f"{count}"
        colour = "#ffffff" if share[row, column] > 0.6 else "#222222"
        size = 9.5 if roomy else 7.5
        place: Look = {"ha": "center", "va": "center", "fontsize": size, "color": colour}
        axes.text(column + 0.5, row + 0.5, text, **place)

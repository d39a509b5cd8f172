"""Figures of test predictions: confusion matrix, predicted against true values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from stage2_temporal.picture import (
    MODEL_COLOUR,
    WIDTH_INCHES,
    Look,
    canvas,
    open_dots,
    shorten,
    styled,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

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


@styled
def scatter_figure(
    targets: Floats, predictions: Floats, *, limits: tuple[float, float], colour: str = MODEL_COLOUR
) -> Figure:
    """Draw (N,) predictions against targets with the identity line, both axes within `limits`."""
    figure, axes = canvas(WIDTH_INCHES * 0.9)
    axes.plot(targets, predictions, **open_dots(len(targets), colour))
    margin = 0.03 * (limits[1] - limits[0]) or 1.0
    ends = (limits[0] - margin, limits[1] + margin)
    axes.plot(ends, ends, color="#444444", linestyle="--", linewidth=1, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true", ylabel="predicted")
    figure.legend(loc="outside upper left")
    return figure


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

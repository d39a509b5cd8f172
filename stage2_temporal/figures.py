"""The figures of the report: arrays in, matplotlib figure or self-contained image out.

Every figure is drawn with matplotlib's object-oriented API, tells its series apart by line style,
marker or hatch as well as by colour (Okabe and Ito, 2008), and takes labels from strangers: they
are never parsed as mathematics and never break the SVG.
"""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Look = dict[str, Any]  # keyword arguments of a matplotlib artist

MODEL_COLOUR, BASELINE_COLOUR, GREY = "#0072B2", "#D55E00", "#8a8a8a"
LINES: list[Look] = [
    {"color": MODEL_COLOUR, "linestyle": "-", "marker": "o"},
    {"color": BASELINE_COLOUR, "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": (0, (6, 1)), "marker": "v"},
    {"color": "#000000", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "x"},
    {"color": "#56B4E9", "linestyle": (0, (1, 1)), "marker": "P"},
    {"color": "#7a5c00", "linestyle": (0, (8, 2, 1, 2)), "marker": "*"},
]
MAX_STYLED_CURVES = len(LINES)
MAX_MATRIX_CLASSES = 20
MAX_BAR_LABELS = 40
MAX_VECTOR_POINTS = 500
WIDTH_INCHES = 4.6  # on a 360 px phone the text is still about 9 px high

_STYLE = {
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.7,
    "text.parse_math": False,
    "svg.fonttype": "none",  # the browser draws the text: any script, no font file needed
    "svg.hashsalt": "stage2_temporal",  # the same figure is the same bytes
}
# Begins from matplotlib's defaults, so that a personal matplotlibrc cannot change a report.
_styled = style.context(["default", _STYLE])


@dataclass(frozen=True)
class Picture:
    """An image that a page can embed without any other file.

    Attributes:
        uri: `data:` URI of an SVG. Used in an `<img>`, so ids of two figures cannot collide.
        alt: What the figure shows, in words.
        width: Natural width in CSS pixels.
        height: Natural height in CSS pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


@_styled
def embed(figure: Figure, alt: str) -> Picture:
    """Render a figure as a deterministic SVG in a `data:` URI."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", append=False)
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(uri, alt, width, height)


def shorten(label: str, limit: int = 18) -> str:
    """Return a label fit for a figure: printable, at most `limit` characters, both ends kept."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


@_styled
def interval_figure(scores: Mapping[str, tuple[float, float, float]], *, name: str) -> Figure:
    """Draw one score of several models as points with intervals.

    Args:
        scores: Model to (value, low, high); at most eight models.
        name: The score's name, for the axis.
    """
    figure, axes = _canvas(0.55 + 0.36 * len(scores))
    for row, (value, low, high) in enumerate(scores.values()):
        look = LINES[row] | {"linestyle": "none"}
        errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar([value], [row], xerr=errors, capsize=4, markersize=6, **look)
    axes.set_yticks(range(len(scores)), [shorten(model, 24) for model in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_xlabel(shorten(name, 40))
    return figure


@_styled
def curve_figure(
    epochs: Counts, curves: Mapping[str, Floats], *, name: str, best_epoch: int | None
) -> Figure:
    """Draw values against epochs, one line a curve, and mark the chosen epoch.

    Args:
        epochs: (E,) epoch numbers.
        curves: Name to (E,) values; NaN leaves a gap. The last one carries the mark.
        name: Label of the value axis.
        best_epoch: The epoch whose weights were kept, or None for no mark.
    """
    figure, axes = _canvas(3.2)
    marked_every = max(1, len(epochs) // 10)
    for look, (label, values) in zip(LINES, curves.items(), strict=False):
        axes.plot(epochs, values, label=label, markersize=4, markevery=marked_every, **look)
    if best_epoch is not None:
        last = list(curves.values())[-1][epochs == best_epoch]
        axes.axvline(best_epoch, color="#444444", linestyle=":", linewidth=1)
        label = f"chosen: epoch {best_epoch}"
        star: Look = {"linestyle": "none", "marker": "*", "markersize": 11, "color": "#000000"}
        axes.plot([best_epoch], last[:1], label=label, **star)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(shorten(name, 32))
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=2.4)
    return figure


def confusion_counts(
    targets: Sequence[str], predictions: Sequence[str], classes: Sequence[str]
) -> Counts:
    """Count clips per target (row) and prediction (column); (C, C) in the order of `classes`."""
    counts: Counts = confusion_matrix(targets, predictions, labels=list(classes))
    return counts


@_styled
def confusion_figure(counts: Counts, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts in cells, share of the row as shade.

    Args:
        counts: (C, C) clips, rows are targets and columns predictions; C at most 20.
        classes: C labels.
    """
    num_classes = len(classes)
    side = max(WIDTH_INCHES, 0.38 * num_classes + 1.6)
    figure, axes = _canvas(side * 0.86, width=side)
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


@_styled
def roc_figure(curves: Mapping[str, Roc]) -> Figure:
    """Draw ROC curves; of more than eight, the four smallest areas stand out of the grey rest."""
    few = len(curves) <= MAX_STYLED_CURVES
    named = list(curves) if few else sorted(curves, key=lambda label: curves[label].area)[:4]
    rows = (len(named) + 1) // 2
    figure, axes = _canvas(WIDTH_INCHES * 0.86 + 0.2 * rows)
    for label in [] if few else curves:
        axes.plot(*_rates(curves[label]), color="#bbbbbb", linewidth=0.8)
    for look, label in zip(LINES, named, strict=False):
        text = f"{curves[label].area:.3f}  {shorten(label)}"
        axes.plot(*_rates(curves[label]), label=text, markersize=4.5, markevery=0.15, **look)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    figure.legend(loc="outside lower center", ncols=2, title="AUROC", handlelength=3)
    return figure


@_styled
def scatter_figure(
    targets: Floats, predictions: Floats, *, limits: tuple[float, float], colour: str = MODEL_COLOUR
) -> Figure:
    """Draw (N,) predictions against targets with the identity line, both axes within `limits`."""
    figure, axes = _canvas(WIDTH_INCHES * 0.9)
    dots: Look = {"s": 16, "facecolors": "none", "edgecolors": colour, "linewidths": 0.8}
    axes.scatter(targets, predictions, rasterized=len(targets) > MAX_VECTOR_POINTS, **dots)
    margin = 0.03 * (limits[1] - limits[0]) or 1.0
    ends = (limits[0] - margin, limits[1] + margin)
    axes.plot(ends, ends, color="#444444", linestyle="--", linewidth=1, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true", ylabel="predicted")
    figure.legend(loc="outside upper left")
    return figure


@_styled
def distribution_figure(
    labels: Sequence[str], before: Sequence[float], after: Sequence[float] | None
) -> Figure:
    """Draw training clips per label; `after` (balancing) is None where nothing was balanced.

    Above 40 labels the bars lose their names: the page's table has them.
    """
    rows = np.arange(len(labels))
    figure, axes = _canvas(0.9 + min(0.36 * len(labels), 6.0))
    thickness = 0.7 if after is None else 0.38
    centre = rows if after is None else rows - 0.2
    axes.barh(centre, before, thickness, color=MODEL_COLOUR, label="before balancing")
    if after is not None:
        bars: Look = {"color": "#ffffff", "edgecolor": BASELINE_COLOUR, "hatch": "////"}
        axes.barh(rows + 0.2, after, thickness, label="after balancing", **bars)
        figure.legend(loc="outside upper left", ncols=2)
    named = len(labels) <= MAX_BAR_LABELS
    axes.set_yticks(rows if named else [], [shorten(x) for x in labels] if named else [])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("clips in the training set")
    return figure


def _canvas(height: float, *, width: float = WIDTH_INCHES) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


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

"""Figures of scores, training and data: arrays in, matplotlib figure out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stage2_temporal.picture import (
    BASELINE_COLOUR,
    LINES,
    MAX_VECTOR_POINTS,
    MODEL_COLOUR,
    Look,
    canvas,
    shorten,
    styled,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MAX_BAR_LABELS = 40


@styled
def interval_figure(scores: Mapping[str, tuple[float, float, float]], *, name: str) -> Figure:
    """Draw one score of several models as points with intervals.

    Args:
        scores: Model to (value, low, high); at most eight models.
        name: The score's name, for the axis.
    """
    figure, axes = canvas(0.55 + 0.36 * len(scores))
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


@styled
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
    figure, axes = canvas(3.2)
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


@styled
def curves_figure(
    curves: Sequence[tuple[Counts, Floats, int]], *, name: str, center: str = "median"
) -> Figure:
    """Draw values against epochs of many trainings: all thin, their median thick.

    The median begins and ends where at least half of the trainings have a value, as they stop at
    different epochs.

    Args:
        curves: Of each training (E,) epoch numbers, (E,) values and the chosen epoch.
        name: Label of the value axis.
        center: What to call the median.
    """
    figure, axes = canvas(3.2)
    crowd = sum(len(epochs) for epochs, _, _ in curves) > 10 * MAX_VECTOR_POINTS
    for number, (epochs, values, _) in enumerate(curves):
        label = "each training" if number == 0 else None
        thin: Look = {"color": "#999999", "linewidth": 0.8, "rasterized": crowd}
        axes.plot(epochs, values, label=label, **thin)
    chosen = [(best, values[epochs == best][0]) for epochs, values, best in curves]
    star: Look = {"linestyle": "none", "marker": "*", "markersize": 7, "color": "#000000"}
    axes.plot(*zip(*chosen, strict=True), label="chosen epoch", rasterized=crowd, **star)
    thick: Look = {"color": MODEL_COLOUR, "linewidth": 2.6, "label": center}
    axes.plot(*median_curve([(epochs, values) for epochs, values, _ in curves]), **thick)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(shorten(name, 32))
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=2.4)
    return figure


def median_curve(curves: Sequence[tuple[Counts, Floats]]) -> tuple[Counts, Floats]:
    """Return epochs, and the median of the curves there; NaN where less than half have a value."""
    epochs = np.unique(np.concatenate([epochs for epochs, _ in curves]))
    table = np.full((len(curves), len(epochs)), np.nan)
    for row, (at, values) in zip(table, curves, strict=True):
        row[np.searchsorted(epochs, at)] = values
    enough = 2 * np.isfinite(table).sum(axis=0) >= len(curves)
    median = np.full(len(epochs), np.nan)
    median[enough] = np.nanmedian(table[:, enough], axis=0)
    return epochs, median


@styled
def strip_figure(values: Mapping[str, Floats], *, name: str) -> Figure:
    """Draw one score of several models, a mark for each fold, and their mean.

    Args:
        values: Model to (n,) scores, the same folds in the same order; NaN leaves a gap. At most
            eight models.
        name: The score's name, for the axis.
    """
    figure, axes = canvas(0.95 + 0.62 * len(values))
    most = max(map(len, values.values()))
    for row, of_folds in enumerate(values.values()):
        look = LINES[row] | {"linestyle": "none", "markerfacecolor": "none", "markersize": 5}
        height = row + np.linspace(-0.26, 0.26, len(of_folds)) if len(of_folds) > 1 else [row]
        axes.plot(of_folds, height, rasterized=most > MAX_VECTOR_POINTS, **look)
        known = of_folds[np.isfinite(of_folds)]
        if known.size:
            label = "mean" if row == 0 else None
            mean: Look = {"color": "#000000", "linewidth": 2.2, "label": label}
            axes.plot([known.mean()] * 2, [row - 0.36, row + 0.36], **mean)
    axes.set_yticks(range(len(values)), [shorten(model, 24) for model in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_xlabel(shorten(name, 40))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", handlelength=1.4)
    return figure


@styled
def distribution_figure(
    labels: Sequence[str],
    before: Sequence[float],
    after: Sequence[float] | None,
    *,
    after_is: str = "draws an epoch",
) -> Figure:
    """Draw training clips per label; `after` (balancing) is None where nothing was balanced.

    Above 40 labels there are steps instead of bars, without names: the page's table has them.

    Args:
        labels: L names.
        before: L clips.
        after: L of what `after_is` says.
        after_is: What balancing made of the clips.
    """
    few = len(labels) <= MAX_BAR_LABELS
    figure, axes = canvas(0.9 + (0.36 * len(labels) if few else 4.0))
    names = ["before: clips", f"after: {after_is}"]
    (_draw_bars if few else _draw_steps)(axes, before, after, names)
    if after is not None:
        figure.legend(loc="outside upper left", ncols=2)
    axes.set_yticks(*((range(len(labels)), [shorten(x) for x in labels]) if few else ([], [])))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("clips in the training set" if after is None else "training set")
    return figure


def _draw_bars(
    axes: Axes, before: Sequence[float], after: Sequence[float] | None, names: Sequence[str]
) -> None:
    rows = np.arange(len(before))
    if after is None:
        axes.barh(rows, before, 0.7, color=MODEL_COLOUR)
        return
    axes.barh(rows - 0.2, before, 0.38, color=MODEL_COLOUR, label=names[0])
    bars: Look = {"color": "#ffffff", "edgecolor": BASELINE_COLOUR, "hatch": "////"}
    axes.barh(rows + 0.2, after, 0.38, label=names[1], **bars)


def _draw_steps(
    axes: Axes, before: Sequence[float], after: Sequence[float] | None, names: Sequence[str]
) -> None:
    steps: Look = {"orientation": "horizontal", "rasterized": len(before) > MAX_VECTOR_POINTS}
    axes.stairs(before, color=MODEL_COLOUR, fill=True, label=names[0], **steps)
    if after is not None:
        axes.stairs(after, color=BASELINE_COLOUR, linewidth=1.2, label=names[1], **steps)
    axes.set_ylabel("one step a label, in the order of the table")

"""Figures of a sweep: arrays in, matplotlib figure out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from stage2_temporal.picture import (
    BASELINE_COLOUR,
    GREY,
    LINES,
    MAX_VECTOR_POINTS,
    MODEL_COLOUR,
    Look,
    canvas,
    shorten,
    styled,
)

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Points = tuple[Numbers, Floats]
"""Trial numbers, and a value of each."""

MAX_NAMED_CURVES = 3
_SPREAD = 0.6180339887  # golden ratio: consecutive trials land far apart within a strip
_COLOUR_MAP = "cividis_r"  # told apart with any colour vision (Nuñez, Anderton and Renslow 2018)
_LABELS_FIT = 34  # characters of tick labels below an axis


@dataclass(frozen=True)
class ValueAxis:
    """How trials' values are drawn.

    Attributes:
        name: The score's name.
        limits: Lowest and highest value shown; None: as the values are.
        baseline: The mean-pool baseline's score on the same folds; None where there is none.
    """

    name: str
    limits: tuple[float, float] | None
    baseline: float | None


@dataclass(frozen=True)
class Setting:
    """A searched setting and what trials had for it.

    Attributes:
        name: Of the setting.
        values: (N,) numbers; of choices their positions 0.. among `labels`; NaN where a trial
            lacks the setting.
        labels: Of the choices; None for a setting of numbers.
        is_log: Whether numbers were searched on a logarithmic scale.
    """

    name: str
    values: Floats
    labels: Sequence[str] | None
    is_log: bool

    @property
    def share(self) -> Floats:
        """(N,) positions between the lowest (0) and the highest value (1)."""
        values = np.log(self.values) if self.is_log else self.values
        low, high = self._ends(values)
        return (values - low) / (high - low) if high > low else np.full_like(values, 0.5)

    def _ends(self, values: Floats) -> tuple[float, float]:
        if self.labels is not None:
            return 0.0, len(self.labels) - 1.0
        known = values[np.isfinite(values)]
        return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return where in 0..1 a value is named, and its name."""
        if self.labels is not None:
            last = max(len(self.labels) - 1, 1)
            middle = 0.5 if len(self.labels) == 1 else None
            places = [n / last if middle is None else middle for n in range(len(self.labels))]
            room = max(_LABELS_FIT // len(self.labels), 5)
            return [(p, shorten(t, room)) for p, t in zip(places, self.labels, strict=True)]
        known = self.values[np.isfinite(self.values)]
        if not known.size:
            return []
        low, high = float(known.min()), float(known.max())
        if low == high:
            return [(0.5, f"{low:.4g}")]
        middle_value = float(np.sqrt(low * high)) if self.is_log else (low + high) / 2
        return [(0, f"{low:.4g}"), (0.5, f"{middle_value:.3g}"), (1, f"{high:.4g}")]


@styled
def history_figure(
    states: Mapping[str, Points], best: Points, failed: Numbers, axis: ValueAxis
) -> Figure:
    """Draw trials' values in the order of their numbers, and the best value so far.

    Args:
        states: `complete` trials and their values, `pruned` ones and their last value.
        best: Complete trials and the best value up to them.
        failed: Numbers of the trials that failed; marked at the foot.
        axis: The value axis.
    """
    figure, axes = canvas(3.3)
    looks: dict[str, Look] = {
        "complete": {"marker": "o", "color": MODEL_COLOUR, "markerfacecolor": "none"},
        "pruned": {"marker": "x", "color": GREY},
    }
    for state, (numbers, values) in states.items():
        if len(numbers):
            dots = looks[state] | {"linestyle": "none", "markersize": 4.5}
            crowd = len(numbers) > MAX_VECTOR_POINTS
            axes.plot(numbers, values, label=state, rasterized=crowd, **dots)
    if len(best[0]):
        axes.step(*best, where="post", color="#000000", linewidth=1.6, label="best so far")
    _draw_baseline(axes, axis)
    if len(failed):
        at_foot = axes.get_xaxis_transform()
        mark: Look = {"linestyle": "none", "marker": "v", "color": "#000000", "markersize": 5}
        axes.plot(failed, np.full(len(failed), 0.025), label="failed", transform=at_foot, **mark)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    begin, end = axes.get_xlim()
    axes.set_xlim(min(begin, -0.5), max(end, 0.5))
    axes.set_xlabel("trial")
    _label_values(axes, axis)
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=2)
    return figure


@styled
def importance_figure(importances: Mapping[str, float]) -> Figure:
    """Draw the share of the variation in the values that each setting explains."""
    figure, axes = canvas(0.75 + 0.32 * len(importances))
    rows = np.arange(len(importances))
    axes.barh(rows, list(importances.values()), 0.62, color=MODEL_COLOUR)
    for row, value in enumerate(importances.values()):
        axes.text(value, row, f" {value:.2f}", va="center", fontsize=9)
    axes.set_yticks(rows, [shorten(name, 22) for name in importances])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.12 * max(importances.values()) or 1)
    axes.set_xlabel("importance (share)")
    return figure


@styled
def parallel_figure(settings: Sequence[Setting], values: Floats, axis: ValueAxis) -> Figure:
    """Draw each trial as a line through its settings, from top to bottom, to its value.

    Args:
        settings: What N trials had; an axis each.
        values: (N,) values of the trials, the best last, so that it is drawn on top.
        axis: The value axis.
    """
    figure, axes = canvas(1.0 + 0.62 * (len(settings) + 1))
    value = Setting(axis.name, values, None, is_log=False)
    rows = [*settings, value]
    places = np.stack([row.share for row in rows], axis=1)  # (N, rows)
    heights = np.broadcast_to(np.arange(len(rows)), places.shape)
    lines = LineCollection(
        [np.column_stack(line) for line in zip(places, heights, strict=True)],
        cmap=_COLOUR_MAP,
        array=np.arange(len(values)),
        linewidths=np.where(np.arange(len(values)) == len(values) - 1, 2.4, 0.7),
    )
    axes.add_collection(lines)
    for number, row in enumerate(rows):
        _draw_rail(axes, row, number)
    axes.set(xlim=(-0.04, 1.04), ylim=(len(rows) - 0.45, -0.5))
    axes.set_axis_off()
    bar = figure.colorbar(lines, ax=axes, orientation="horizontal", aspect=40, shrink=0.7)
    bar.set_ticks([0, max(len(values) - 1, 1)], labels=["worst", "best"])
    bar.outline.set_visible(False)
    return figure


def _draw_rail(axes: Axes, row: Setting, number: int) -> None:
    box: Look = {"boxstyle": "round,pad=0.1", "facecolor": "#ffffffd0", "edgecolor": "none"}
    axes.plot([0, 1], [number, number], color="#444444", linewidth=0.9, zorder=3)
    name: Look = {"fontweight": "bold", "fontsize": 9, "va": "bottom", "bbox": box, "zorder": 4}
    axes.text(0, number - 0.09, shorten(row.name, 34), **name)
    for place, label in row.ticks():
        side = "left" if place == 0 else "right" if place == 1 else "center"
        axes.plot([place] * 2, [number - 0.06, number + 0.06], color="#444444", linewidth=0.9)
        text: Look = {"fontsize": 8.5, "va": "top", "ha": side, "bbox": box, "zorder": 4}
        axes.text(place, number + 0.1, label, **text)


@styled
def slice_figure(setting: Setting, values: Floats, axis: ValueAxis) -> Figure:
    """Draw values (N,) against a setting: numbers along, choices as strips with their median."""
    if setting.labels is not None:
        return _strips(setting, values, axis)
    figure, axes = canvas(2.5)
    axes.plot(setting.values, values, **_dots(len(values)))
    _mark_best(axes, setting.values, values)
    _draw_baseline(axes, axis)
    if setting.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(setting.values)))
        axes.xaxis.set_major_formatter("{x:.3g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(shorten(setting.name, 40))
    _label_values(axes, axis)
    return figure


def _log_steps(values: Floats) -> tuple[float, ...]:
    """Return which multiples of powers of ten are named: more of them on a short axis."""
    known = values[np.isfinite(values)]
    decades = np.log10(known.max() / known.min()) if known.size else 0
    return (1.0, 2.0, 3.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.5 else (1.0,)


def _strips(setting: Setting, values: Floats, axis: ValueAxis) -> Figure:
    labels = setting.labels or ()
    figure, axes = canvas(0.85 + 0.42 * len(labels))
    jitter = 0.5 * ((np.arange(len(values)) * _SPREAD) % 1 - 0.5)
    axes.plot(values, setting.values + jitter, **_dots(len(values)))
    _mark_best(axes, values, setting.values + jitter)
    for number in range(len(labels)):
        found = values[setting.values == number]
        if found.size:
            bar: Look = {"color": "#000000", "linewidth": 2.2}
            axes.plot([np.median(found)] * 2, [number - 0.34, number + 0.34], **bar)
    if axis.baseline is not None:
        axes.axvline(axis.baseline, color=BASELINE_COLOUR, linestyle="--", linewidth=1.3)
    axes.set_yticks(range(len(labels)), [shorten(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel(shorten(setting.name, 24))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel(shorten(axis.name, 40))
    if axis.limits is not None:
        axes.set_xlim(axis.limits)
    return figure


def _dots(count: int) -> Look:
    crowd = count > MAX_VECTOR_POINTS
    open_dots: Look = {"linestyle": "none", "marker": "o", "markerfacecolor": "none"}
    return open_dots | {"color": MODEL_COLOUR, "markersize": 4, "rasterized": crowd}


def _mark_best(axes: Axes, x: Floats, y: Floats) -> None:
    """Put a star on the last point, which is the best trial."""
    if len(x):
        star: Look = {"linestyle": "none", "marker": "*", "markersize": 11, "color": "#000000"}
        axes.plot(x[-1:], y[-1:], zorder=4, **star)


@styled
def steps_figure(
    named: Mapping[str, Points],
    complete: Sequence[Points],
    pruned: Sequence[Points],
    axis: ValueAxis,
    *,
    steps_of_fold: int | None,
) -> Figure:
    """Draw trials' intermediate values against the steps of training, fold after fold.

    Args:
        named: The best trials by name, at most three: (S,) steps and values.
        complete: Other complete trials.
        pruned: Pruned trials; a cross marks where they were given up.
        axis: The value axis.
        steps_of_fold: Steps of each fold; None where unknown.
    """
    figure, axes = canvas(3.3)
    for curves, colour, style, label in (
        (complete, "#9fb8cc", "solid", "complete"),
        (pruned, GREY, "dotted", "pruned"),
    ):
        if curves:
            lines = [np.column_stack(curve) for curve in curves]
            drawn = LineCollection(lines, colors=colour, linestyles=style, label=label)
            drawn.set_linewidth(0.7)
            axes.add_collection(drawn)
    ends = [(steps[-1], values[-1]) for steps, values in pruned]
    if ends:
        cross: Look = {"linestyle": "none", "marker": "x", "color": GREY, "markersize": 5}
        axes.plot(*zip(*ends, strict=True), **cross)
    for look, (label, curve) in zip(LINES[2:], named.items(), strict=False):
        axes.plot(*curve, label=label, markersize=4, markevery=steps_of_fold or 1, **look)
    _draw_baseline(axes, axis)
    axes.autoscale_view()
    if steps_of_fold is None:
        axes.set_xlabel("step")
    else:
        _name_folds(axes, [*named.values(), *complete, *pruned], steps_of_fold)
    _label_values(axes, axis)
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=2.2)
    return figure


def _name_folds(axes: Axes, curves: Sequence[Points], steps_of_fold: int) -> None:
    last = max(int(steps.max()) for steps, _ in curves)
    num_folds = last // steps_of_fold + 1
    for fold in range(1, num_folds):
        axes.axvline(fold * steps_of_fold - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    every = max(1, num_folds // 8)
    shown = range(0, num_folds, every)
    axes.set_xticks([(n + 0.5) * steps_of_fold - 0.5 for n in shown], [str(n + 1) for n in shown])
    axes.set_xlim(-0.5, num_folds * steps_of_fold - 0.5)
    axes.set_xlabel("fold; within it 1, 2, 4, 8, … epochs")


@styled
def folds_figure(trials: Mapping[str, tuple[float, Floats]], axis: ValueAxis) -> Figure:
    """Draw the scores of single folds of trials, a row each, with the pooled score as a bar.

    Args:
        trials: Name to the pooled score and (F,) scores of the folds; NaN leaves a gap.
        axis: The value axis; its limits are not used.
    """
    figure, axes = canvas(1.0 + 0.36 * len(trials))
    for row, (value, of_folds) in enumerate(trials.values()):
        ring: Look = {"linestyle": "none", "marker": "o", "markerfacecolor": "none"}
        label = "a fold" if row == 0 else None
        heights = np.full(len(of_folds), row)
        axes.plot(of_folds, heights, color=MODEL_COLOUR, markersize=5, label=label, **ring)
        bar: Look = {"color": "#000000", "linewidth": 2.4, "label": label and "all folds together"}
        axes.plot([value, value], [row - 0.3, row + 0.3], **bar)
    if axis.baseline is not None:
        line: Look = {"color": BASELINE_COLOUR, "linestyle": "--", "linewidth": 1.4}
        axes.axvline(axis.baseline, label="mean-pool baseline, all folds", **line)
    axes.set_yticks(range(len(trials)), [shorten(name, 24) for name in trials])
    axes.set_ylim(len(trials) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_xlabel(shorten(axis.name, 40))
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handlelength=1.6)
    return figure


def _draw_baseline(axes: Axes, axis: ValueAxis) -> None:
    if axis.baseline is not None:
        line: Look = {"color": BASELINE_COLOUR, "linestyle": "--", "linewidth": 1.4}
        axes.axhline(axis.baseline, label="mean-pool baseline", **line)


def _label_values(axes: Axes, axis: ValueAxis) -> None:
    axes.set_ylabel(shorten(axis.name, 32))
    if axis.limits is not None:
        axes.set_ylim(axis.limits)

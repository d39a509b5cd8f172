"""Reliability diagrams: how often what a probability promises comes true."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stage2_temporal.calibration import NUM_BINS
from stage2_temporal.picture import (
    GREY,
    LINES,
    MODEL_COLOUR,
    WIDTH_INCHES,
    Look,
    panels,
    shorten,
    styled,
)
from stage2_temporal.reliability import Reliability


@styled
def calibration_figure(models: Mapping[str, Reliability], *, x: str, y: str, unit: str) -> Figure:
    """Draw observed against predicted frequencies, and below how many predictions there are.

    Args:
        models: By name, at most eight; the first with intervals and filled bars.
        x: What is predicted.
        y: What is observed.
        unit: What is counted below.
    """
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * 1.14), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    _diagonal(upper)
    for row, (look, (name, found)) in enumerate(zip(LINES, models.items(), strict=False)):
        text = f"{found.ece:.3f}  {shorten(name, 24)}"
        _points(upper, found, look | {"label": text}, intervals=row == 0)
        _counts(lower, found, look, filled=row == 0)
    upper.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), ylabel=y)
    lower.set(xlabel=x, ylabel=unit)
    figure.legend(loc="outside lower center", ncols=2, title="ECE", handlelength=3)
    return figure


@styled
def calibration_panels(labels: Mapping[str, Reliability]) -> Figure:
    """Draw a small diagram for each class or label of one model.

    Args:
        labels: Two or more, by name.
    """
    figure, axes = panels(len(labels), height=2.15)
    for place, (at, (name, found)) in enumerate(zip(axes, labels.items(), strict=True)):
        _diagonal(at)
        _points(at, found, LINES[0], intervals=True)
        at.set_title(f"{shorten(name, 20)}\nECE {found.ece:.3f}", fontsize=9, loc="left")
        ticks: Look = {"xticks": [0, 0.5, 1], "yticks": [0, 0.5, 1], "aspect": "equal"}
        at.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), **ticks)
        at.set_ylabel("" if place % 2 else "observed")
        at.set_xlabel("predicted" if place >= len(labels) - 2 else "")
    return figure


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)


def _points(axes: Axes, found: Reliability, look: Look, *, intervals: bool) -> None:
    """Draw the bins, and perhaps their intervals; models without have hollow marks."""
    errors = None
    if intervals:
        below, above = found.observed - found.low, found.high - found.observed
        errors = np.maximum(np.stack([below, above]), 0)
    look = look | {"linestyle": "none", "markersize": 5, "elinewidth": 0.9, "capsize": 2}
    if not intervals:
        look = look | {"markerfacecolor": "none"}
    axes.errorbar(found.predicted, found.observed, yerr=errors, **look)


def _counts(axes: Axes, found: Reliability, look: Look, *, filled: bool) -> None:
    edges = np.linspace(0, 1, NUM_BINS + 1)
    if filled:
        axes.stairs(found.counts, edges, fill=True, color=MODEL_COLOUR, alpha=0.35)
    outline: Look = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.3}
    axes.stairs(found.counts, edges, **outline)

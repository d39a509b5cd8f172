"""Figures of the errors of a regression: along the true value, and beside the training data."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stage2_temporal.picture import (
    BASELINE_COLOUR,
    GREY,
    LINES,
    MODEL_COLOUR,
    WIDTH_INCHES,
    Look,
    canvas,
    open_dots,
    shorten,
    styled,
)
from stage2_temporal.residuals import Agreement, BinErrors, Running

Floats = NDArray[np.float64]


@styled
def residual_figure(
    true: Floats,
    errors: Floats,
    agreed: Agreement | None,
    along: Running | None,
    *,
    limits: tuple[tuple[float, float], tuple[float, float]],
    colour: str = MODEL_COLOUR,
) -> Figure:
    """Draw (N,) errors against true values, with bias, limits of agreement and running median.

    Args:
        true: The values.
        errors: Predicted minus true.
        agreed: Bias and limits; None for no lines.
        along: Running median; None for none.
        limits: Of the horizontal and the vertical axis.
        colour: Of the dots.
    """
    figure, axes = canvas(WIDTH_INCHES * 0.9)
    look = open_dots(len(true), colour) | {"zorder": 2}
    axes.plot(true, errors, **look)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    if along is not None:
        shade: Look = {"color": "#dddddd", "linewidth": 0, "label": "middle 80%"}
        axes.fill_between(along.x, along.low, along.high, zorder=1, **shade)
        middle: Look = {"color": "#000000", "linewidth": 2, "label": "running median"}
        axes.plot(along.x, along.median, zorder=3, **middle)
    if agreed is not None:
        line: Look = {"color": "#444444", "linewidth": 1.1, "zorder": 3}
        axes.axhline(agreed.bias, linestyle="-.", label="bias", **line)
        axes.axhline(agreed.low, linestyle="--", label="limits of agreement", **line)
        axes.axhline(agreed.high, linestyle="--", **line)
    axes.set(xlim=_wider(limits[0]), ylim=_wider(limits[1]))
    axes.set_xlabel("true")
    axes.set_ylabel("predicted minus true")
    if along is not None or agreed is not None:
        figure.legend(loc="outside upper left", ncols=2, handlelength=2.6)
    return figure


def _wider(limits: tuple[float, float]) -> tuple[float, float]:
    margin = 0.03 * (limits[1] - limits[0]) or 1.0
    return limits[0] - margin, limits[1] + margin


@styled
def density_figure(
    labels: Sequence[str], num_training: Sequence[float], models: Mapping[str, BinErrors]
) -> Figure:
    """Draw training clips of each bin beside the mean absolute error of its test clips.

    Args:
        labels: B names of the bins.
        num_training: B clips.
        models: By name, at most eight; the first one with intervals.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 1.4 + 0.26 * len(labels)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.5])
    rows = np.arange(len(labels))
    left.barh(rows, num_training, 0.7, color="#ffffff", edgecolor=BASELINE_COLOUR, hatch="////")
    for number, (look, (name, found)) in enumerate(zip(LINES, models.items(), strict=False)):
        spread = [found.mae - found.low, found.high - found.mae] if number == 0 else None
        errors = None if spread is None else np.maximum(np.stack(spread), 0)
        place = rows + 0.22 * (number - (len(models) - 1) / 2)
        dots = look | {"linestyle": "none", "markersize": 5, "capsize": 2.5, "elinewidth": 1}
        right.errorbar(found.mae, place, xerr=errors, label=shorten(name, 24), **dots)
    left.set_yticks(rows, [shorten(label, 20) for label in labels])
    left.set_xlabel("training clips")
    right.set_xlabel("mean absolute error")
    right.set_xlim(left=0)
    left.invert_yaxis()
    left.locator_params(axis="x", nbins=3, integer=True)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.4)
    return figure

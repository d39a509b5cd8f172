"""Figures of how well probabilities rank clips: ROC and precision-recall curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stage2_temporal.curve_bands import Band
from stage2_temporal.picture import (
    BAND_COLOUR,
    GREY,
    LINES,
    MAX_VECTOR_POINTS,
    WIDTH_INCHES,
    Look,
    canvas,
    panels,
    shorten,
    styled,
)
from stage2_temporal.ranking_curves import Curve

MAX_STYLED_CURVES = len(LINES)
_MARKS: Look = {"markersize": 4.5, "markevery": 0.15}
_NUM_NAMED = 4  # of more curves than can be styled


@dataclass(frozen=True)
class Axis:
    """What the axes of a curve are.

    Attributes:
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        area: Name of the area.
        steps: Whether a point's y holds back to the point before.
    """

    x: str
    y: str
    area: str
    steps: bool


ROC = Axis("false positive rate", "true positive rate", "AUROC", steps=False)
PRECISION_RECALL = Axis("recall", "precision", "AUPRC", steps=True)


@dataclass(frozen=True)
class Panel:
    """The curves of one class or label.

    Attributes:
        title: Its name; not drawn where it is the only panel.
        curves: Of each model, by name; the first one has the band. At most eight.
        band: Where the first curve may lie; None where unknown.
        chance: Precision of chance; None draws the diagonal.
    """

    title: str
    curves: Mapping[str, Curve]
    band: Band | None
    chance: float | None


@styled
def ranking_figure(found: Sequence[Panel], axis: Axis) -> Figure:
    """Draw the curves of all models, in a panel for each class or label.

    Args:
        found: One panel, or some small ones, with the same models.
        axis: What is drawn.
    """
    if len(found) == 1:
        return _single(found[0], axis)
    figure, axes = panels(len(found), height=2.35)
    for place, (panel, at) in enumerate(zip(found, axes, strict=True)):
        _draw(at, panel, axis, list(panel.curves), small=True)
        areas = " / ".join(f"{curve.area:.3f}" for curve in panel.curves.values())
        at.set_title(f"{shorten(panel.title, 20)}\n{areas}", fontsize=9, loc="left")
        at.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        if place % 2:
            at.set_ylabel("")
        if place < len(found) - 2:
            at.set_xlabel("")
    handles = axes[0].get_legend_handles_labels()
    title = f"{axis.area} above each panel, in this order"
    figure.legend(*handles, loc="outside lower center", ncols=2, title=title, handlelength=3)
    return figure


def _single(panel: Panel, axis: Axis) -> Figure:
    rows = (len(panel.curves) + 2) // 2
    figure, axes = canvas(WIDTH_INCHES * 0.86 + 0.2 * rows)
    _draw(axes, panel, axis, [f"{c.area:.3f}  {name}" for name, c in panel.curves.items()])
    figure.legend(loc="outside lower center", ncols=2, title=axis.area, handlelength=3)
    return figure


def _draw(
    axes: Axes, panel: Panel, axis: Axis, labels: Sequence[str], *, small: bool = False
) -> None:
    marks: Look = {"markersize": 3.2, "markevery": 0.3} if small else _MARKS
    for look, label, curve in zip(LINES, labels, panel.curves.values(), strict=False):
        axes.plot(*_path(curve, axis), label=shorten(label, 32), **(look | marks))
    if panel.band is not None:
        shade: Look = {"color": BAND_COLOUR, "linewidth": 0, "label": "95% band", "zorder": 1}
        axes.fill_between(panel.band.x, panel.band.low, panel.band.high, **shade)
    if panel.chance is None:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    else:
        axes.axhline(panel.chance, color=GREY, linestyle=":", linewidth=1)
    _frame(axes, axis)
    axes.set_aspect("auto" if small else "equal")


@styled
def overlay_figure(curves: Mapping[str, Curve], axis: Axis) -> Figure:
    """Draw one curve a class; of more than eight, the four smallest areas stand out of the rest."""
    few = len(curves) <= MAX_STYLED_CURVES
    named = list(curves)
    if not few:
        named = sorted(curves, key=lambda label: curves[label].area)[:_NUM_NAMED]
    rows = (len(named) + 1) // 2
    figure, axes = canvas(WIDTH_INCHES * 0.86 + 0.2 * rows)
    crowd = sum(len(curve.x) for curve in curves.values()) > 10 * MAX_VECTOR_POINTS
    grey: Look = {"color": "#bbbbbb", "linewidth": 0.8, "rasterized": crowd}
    for label in [] if few else curves:
        axes.plot(*_path(curves[label], axis), **grey)
    for look, label in zip(LINES, named, strict=False):
        text = f"{curves[label].area:.3f}  {shorten(label, 23)}"
        axes.plot(*_path(curves[label], axis), label=text, **(look | _MARKS))
    if axis is ROC:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    _frame(axes, axis)
    figure.legend(loc="outside lower center", ncols=2, title=axis.area, handlelength=3)
    return figure


def _frame(axes: Axes, axis: Axis) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=axis.x, ylabel=axis.y)


def _path(curve: Curve, axis: Axis) -> tuple[list[float], list[float]]:
    """Return the points of a line; steps have a corner before each point."""
    x, y = curve.x.tolist(), curve.y.tolist()
    if not axis.steps:
        return x, y
    corners = [(x[0], y[0])]
    for before, to, height in zip(x[:-1], x[1:], y[1:], strict=True):
        corners += [(before, height), (to, height)]
    return [at for at, _ in corners], [height for _, height in corners]

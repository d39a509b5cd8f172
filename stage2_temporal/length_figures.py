"""Figures of the lengths of clips."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stage2_temporal.picture import MODEL_COLOUR, WIDTH_INCHES, Look, shorten, styled

_MAX_BARS = 40


@styled
def length_figure(
    every: NDArray[np.float64], parts: Mapping[str, NDArray[np.float64]], *, name: str
) -> Figure:
    """Draw a histogram of the lengths of all clips, and below a box for each part of them.

    Boxes reach from the lower to the upper quartile with a line at the median, whiskers from the
    shortest to the longest.

    Args:
        every: (N,) lengths, two or more different ones.
        parts: By name, lengths of one clip or more; perhaps none.
        name: What the lengths are.
    """
    size = (WIDTH_INCHES, 1.9 + 0.34 * len(parts) + (0.15 if parts else 0))
    figure = Figure(figsize=size, layout="constrained")
    heights = [1.4, 0.34 * len(parts) + 0.1] if parts else [1]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    upper, lower = axes[0, 0], axes[-1, 0]
    upper.stairs(*np.histogram(every, _edges(every)), fill=True, color=MODEL_COLOUR)
    upper.set_ylabel("clips")
    upper.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    if parts:
        line: Look = {"color": "#222222", "linewidth": 1.1}
        middle: Look = {"color": "#000000", "linewidth": 2.4}
        looks: dict[str, Look] = {"boxprops": line, "whiskerprops": line, "capprops": line}
        rows = np.arange(len(parts))
        lower.boxplot(
            list(parts.values()),
            positions=rows.tolist(),
            orientation="horizontal",
            whis=(0, 100),
            widths=0.5,
            medianprops=middle,
            **looks,
        )
        lower.set_yticks(rows, [shorten(part, 22) for part in parts])
        lower.invert_yaxis()
        lower.tick_params(axis="y", length=0)
    lower.set_xlabel(name)
    return figure


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges of bins of equal width; whole numbers in steps of whole numbers."""
    low, high = values.min(), values.max()
    if not (values == np.rint(values)).all():
        return np.linspace(low, high, min(_MAX_BARS, 2 + int(np.sqrt(len(values)))))
    step = max(1, int(np.ceil((high - low + 1) / _MAX_BARS)))
    return np.arange(low - 0.5, high + 0.5 + step, step)

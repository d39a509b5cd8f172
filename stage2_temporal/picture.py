"""How the report's figures look, and how a page embeds them.

Figures are drawn with matplotlib's object-oriented API, tell their series apart by line style,
marker or hatch as well as by colour (Okabe and Ito, 2008), and take labels from strangers: they
are never parsed as mathematics and never break the SVG.
"""

import base64
import io
import warnings
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
BAND_COLOUR = "#cfe2f0"  # MODEL_COLOUR, faint enough to be printed under lines
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
styled = style.context(["default", _STYLE])


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


@styled
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


def canvas(height: float, *, width: float = WIDTH_INCHES) -> tuple[Figure, Axes]:
    """Return a figure of so many inches, and its only axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def open_dots(count: int, colour: str) -> Look:
    """Return the look of a cloud of hollow dots, a picture in the SVG where they are many."""
    dots: Look = {"linestyle": "none", "marker": "o", "markersize": 4, "markerfacecolor": "none"}
    rim: Look = {"markeredgecolor": colour, "markeredgewidth": 0.8}
    return dots | rim | {"rasterized": count > MAX_VECTOR_POINTS}


def panels(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of small axes, two in a row, each so many inches high, and these axes.

    Args:
        count: How many axes.
        height: Of each of their rows, in inches.
    """
    rows = (count + 1) // 2
    figure = Figure(figsize=(WIDTH_INCHES, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]

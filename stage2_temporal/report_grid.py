"""Tables of the report page."""

from collections.abc import Sequence
from dataclasses import dataclass

from stage2_temporal.picture import Picture, shorten
from stage2_temporal.report_words import format_number

MAX_ROWS = 100
_MAX_CHARACTERS = 120

Plate = tuple[Picture, str]
"""A figure and its caption."""


@dataclass(frozen=True)
class Grid:
    """A table: texts to the left, numbers aligned.

    Attributes:
        caption: What it shows.
        head: Names of the columns.
        rows: Texts, whole numbers and floats; None and NaN are undefined.
        summary: Title under which the page folds the table away; blank to show it.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    summary: str = ""


def cell(value: object) -> str:
    """Return a table's cell as text."""
    if isinstance(value, str):
        return shorten(value, _MAX_CHARACTERS)
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or isinstance(value, float):
        return format_number(value)
    raise TypeError(f"{value!r} is no text or number")


def is_number(value: object) -> bool:
    """Whether a cell is aligned as a number."""
    return not isinstance(value, str)

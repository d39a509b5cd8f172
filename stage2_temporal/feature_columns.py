"""What the columns of a table of side features hold, and their values as float32."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.manifest import is_missing

MAX_CAST_ERROR = 1e-3
_NUM_EXAMPLES = 3
_BOOLEAN_TEXTS = {"false", "true"}
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?|\d{1,2}:\d{2}(:\d{2}.*)?")


@dataclasses.dataclass(frozen=True)
class FeatureColumn:
    """How a column of the table becomes columns of features.

    Attributes:
        name: The column.
        kind: number, boolean or category.
        levels: The values of a category, in sorted order.
        as_text: Whether it is read as text.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    as_text: bool = True

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: `name`, or `name=value` of each value of a category."""
        if self.kind != "category":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in self.levels)


class NumberSurvey:
    """Smallest and greatest value of number columns, gathered piece by piece.

    Args:
        names: The columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.low = np.full(len(names), np.inf)
        self.high = np.full(len(names), -np.inf)
        self.other: set[str] = set()
        self._infinite: dict[str, int] = {}
        self._row = 0

    def add(self, piece: pd.DataFrame) -> None:
        """Look at the next rows; columns that are no numbers there are noted in `other`."""
        self.other |= {name for name in self.names if piece[name].dtype.kind not in "iuf"}
        usable = [name not in self.other for name in self.names]
        names = [name for name, is_number in zip(self.names, usable, strict=True) if is_number]
        if len(piece) and names:
            values = piece[names].to_numpy(np.float64)
            self.low[usable] = np.fmin(self.low[usable], np.fmin.reduce(values))
            self.high[usable] = np.fmax(self.high[usable], np.fmax.reduce(values))
            self._note_infinite(names, values)
        self._row += len(piece)

    def _note_infinite(self, names: Sequence[str], values: NDArray[np.float64]) -> None:
        rows, columns = np.nonzero(np.isinf(values))
        for row, column in zip(rows[:100].tolist(), columns[:100].tolist(), strict=True):
            self._infinite.setdefault(names[column], self._row + row + 1)

    def problems(self) -> Iterator[str]:
        """Yield what keeps columns from being stored as float32."""
        for name, low, high in zip(self.names, self.low.tolist(), self.high.tolist(), strict=True):
            if name in self.other:
                continue
            if name in self._infinite:
                yield (
                    f"column {name!r} is infinite in row {self._infinite[name]} (counted from 1, "
                    f"below the header); blank it, correct it, or leave it out with --drop {name}"
                )
            elif problem := _range_problem(low, high):
                yield f"column {name!r} {problem}, or leave it out with --drop {name}"


def _range_problem(low: float, high: float) -> str:
    """Say why values from low to high do not survive as float32; empty if they do."""
    peak = max(abs(low), abs(high)) if low <= high else 0.0
    if peak > float(np.finfo(np.float32).max):
        return f"reaches {peak:g}, and float32 ends at 3.4e38; rescale it"
    step = float(np.spacing(np.float32(peak)))
    if low < high and step > MAX_CAST_ERROR * (high - low):
        return (
            f"lies between {low!r} and {high!r}, where float32 has steps of {step:g}; subtract "
            "a constant, or rescale it"
        )
    return ""


class TextSurvey:
    """Distinct texts of a column, gathered piece by piece; it remembers no more than it may.

    Args:
        name: The column.
        limit: How many distinct texts a category may have.
        forced: Whether it is a category even if its texts look like numbers.
    """

    def __init__(self, name: str, *, limit: int, forced: bool) -> None:
        self.name = name
        self.limit = limit
        self.forced = forced
        self.levels: set[str] = set()
        self._numbers = NumberSurvey([name])
        self._some_number = False
        self._no_number: list[str] = []
        self._full = False

    def add(self, texts: "pd.Series[str]") -> None:
        """Look at the next rows."""
        distinct = pd.Series(stripped(texts).dropna().unique(), dtype=object)
        numbers = pd.to_numeric(distinct, errors="coerce").astype(np.float64)
        self._numbers.add(numbers.to_frame(self.name))
        self._some_number |= bool(numbers.notna().any())
        room = _NUM_EXAMPLES - len(self._no_number)
        self._no_number += distinct[numbers.isna()].astype(str).tolist()[: max(0, room)]
        if not self._full:
            self.levels |= set(distinct)
            self._full = len(self.levels) > self.limit

    def column(self) -> FeatureColumn:
        """Return what the column holds.

        Raises:
            ValueError: Dates, numbers mixed with texts, or too many distinct texts.
        """
        if not self.forced and not self._no_number:
            if problems := list(self._numbers.problems()):
                raise ValueError(problems[0])
            return FeatureColumn(self.name, "number")
        if not self.forced and self.levels <= _either_case(self.levels, _BOOLEAN_TEXTS):
            return FeatureColumn(self.name, "boolean")
        if problem := self._problem():
            raise ValueError(problem)
        return FeatureColumn(self.name, "category", tuple(sorted(self.levels)))

    def _problem(self) -> str:
        shown = self._no_number or sorted(self.levels)[:_NUM_EXAMPLES]
        drop = f"leave it out with --drop {self.name}"
        if not self.forced and all(_DATE.fullmatch(text) for text in self._no_number):
            return (
                f"column {self.name!r} looks like dates or times ({shown}); turn it into a number, "
                f"such as days since a date, or {drop}"
            )
        if not self.forced and self._some_number:
            return (
                f"column {self.name!r} holds numbers, but also texts such as {shown}; blank these, "
                f"take all its values for names with --category {self.name}, or {drop}"
            )
        if self._full:
            return (
                f"column {self.name!r} has more than {self.limit} distinct texts, such as {shown}; "
                f"raise --max-categories, or {drop}"
            )
        folded: dict[str, list[str]] = {}
        for level in sorted(self.levels):
            folded.setdefault(level.casefold(), []).append(level)
        if doubled := [levels for levels in folded.values() if len(levels) > 1]:
            return (
                f"column {self.name!r} has texts that differ only in case: {doubled[:5]}; write "
                "each one way"
            )
        return ""


def _either_case(texts: Collection[str], wanted: Collection[str]) -> set[str]:
    return {text for text in texts if text.lower() in wanted}


def stripped(texts: "pd.Series[str]") -> "pd.Series[str]":
    """Return texts without spaces around them, and None where a manifest would say blank."""
    plain = texts.astype("string").str.strip()
    return plain.where(~is_missing(texts).to_numpy(), None)


def as_float32(columns: Sequence[FeatureColumn], piece: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features (n, F) of a piece of n rows; NaN where blank.

    Raises:
        ValueError: A text that was not there when the table was surveyed.
    """
    blocks = [_block(column, piece) for column in columns]
    return np.concatenate(blocks, axis=1)


def _block(column: FeatureColumn, piece: pd.DataFrame) -> NDArray[np.float32]:
    values: NDArray[np.float32]
    if not column.as_text:
        values = piece[column.name].to_numpy(np.float32)[:, None]
        return values
    texts = stripped(piece[column.name])
    blank = texts.isna().to_numpy(bool)
    if column.kind == "category":
        levels = pd.Index(column.levels).get_indexer(pd.Index(texts.fillna("")))
        values = (levels[:, None] == np.arange(len(column.levels))).astype(np.float32)
        unknown = (levels < 0) & ~blank
    elif column.kind == "boolean":
        lower = texts.str.lower().fillna("").to_numpy(object)
        values = (lower == "true").astype(np.float32)[:, None]
        unknown = ~np.isin(lower, [*_BOOLEAN_TEXTS, ""])
    else:
        numbers = pd.to_numeric(texts.astype(object).where(~blank, None), errors="coerce")
        values = np.asarray(numbers, np.float64).astype(np.float32)[:, None]
        unknown = np.isnan(values[:, 0]) & ~blank
    if unknown.any():
        raise ValueError(f"column {column.name!r} has another text than a moment ago")
    values[blank] = np.nan
    return values

"""Side features beside the video, read batch by batch, and scaled as the training clips ask for."""

import dataclasses
import itertools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stage2_temporal.feature_file import FeatureError, FeatureLayout, open_features, read_ids
from stage2_temporal.feature_file import signature as file_signature

_NUM_EXAMPLES = 5
_BLOCK_VALUES = 2**22
_VALUE_BYTES = 4


class FeatureTable:
    """A file of side features, opened for reading; rows stay on disk until they are asked for.

    It pickles without an open handle and is safe to read from several threads.

    Args:
        path: File that `stage2-temporal features` made.

    Attributes:
        columns: Names of the features.

    Raises:
        FileNotFoundError: Nothing is there.
        FeatureError: It is no such file, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.layout: FeatureLayout = open_features(Path(path))
        self.columns: tuple[str, ...] = self.layout.columns
        self._numbers: dict[tuple[str, ...], NDArray[np.intp]] = {}
        self._open_file()

    def _open_file(self) -> None:
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self.layout.path

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return self.layout.num_rows

    @property
    def sha256(self) -> str:
        """Hash of the table that was imported."""
        return str(self.layout.attributes["source_sha256"])

    @property
    def identity(self) -> list[Any]:
        """What tells this file from any other import, of the same table too."""
        return [dict(self.layout.attributes), list(self.columns)]

    @property
    def ids(self) -> NDArray[np.str_]:
        """(N,) the rows' ids, in the order of the table; read anew each time."""
        self._check_unchanged()
        return np.concatenate(list(read_ids(self.layout)))

    def positions(self, video_ids: ArrayLike | Sequence[str]) -> NDArray[np.intp]:
        """Return the row of each id, in the order of the ids; an id may be asked for repeatedly.

        Memory holds what is asked for, and a piece of the file's ids.

        Raises:
            FeatureError: Ids that are no text, or have no row, or more than one; the message says
                where one is written differently.
        """
        self._check_unchanged()
        wanted, places = np.unique(_as_texts(video_ids), return_inverse=True)
        found = np.full(len(wanted), -1, np.intp)
        row, doubled = 0, list[str]()
        for ids in read_ids(self.layout):
            rows, numbers = _matches(ids, wanted)
            doubled += wanted[numbers[found[numbers] >= 0]].tolist()
            doubled += wanted[_repeated(numbers)].tolist()
            found[numbers] = row + rows
            row += len(ids)
        if doubled:
            raise FeatureError(
                f"{self.path} has more than one row for {len(doubled)} clips, e.g. "
                f"{doubled[:_NUM_EXAMPLES]}; import a table with one row for each"
            )
        if missing := wanted[found < 0].tolist():
            raise FeatureError(self._describe_missing(missing))
        return found[places.reshape(-1)]

    def _describe_missing(self, missing: list[str]) -> str:
        alike: dict[str, str] = {}
        by_key = {_key(video_id): video_id for video_id in missing}
        for ids in read_ids(self.layout):
            alike |= {by_key[k]: i for i in ids.tolist() if (k := _key(i)) in by_key}
        lines = [f"{self.path} has no row for {len(missing)} clips, e.g. {missing[:_NUM_EXAMPLES]}"]
        if alike:
            wanted, written = next(iter(alike.items()))
            lines.append(
                f"{len(alike)} of them are written differently there: {wanted!r} is "
                f"{written!r} ({_difference(wanted, written)}); write ids alike on both sides"
            )
        else:
            lines.append("add them to the table (blank values are allowed) and import it again")
        return "; ".join(lines)

    def read(self, positions: ArrayLike, columns: Sequence[str] = ()) -> NDArray[np.float32]:
        """Return rows, in the order of the positions.

        Args:
            positions: (B,) rows, as `positions` returns them; repeated ones are returned again.
            columns: Features to return, in this order; default: all.

        Returns:
            (B, F) float32, NaN where blank.

        Raises:
            IndexError: There is no such row.
            FeatureError: There is no such column, or the file was changed, replaced or removed
                since it was opened.
        """
        rows = np.asarray(positions, np.intp).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.num_rows):
            raise IndexError(f"row {rows.min()} or {rows.max()} of {self.num_rows} in {self.path}")
        chosen = tuple(columns)
        numbers = self._column_numbers(chosen)
        descriptor = self._file()
        self._check_unchanged()
        values = np.empty((len(rows), len(self.columns)), np.float32)
        for start, end in _stretches(rows):
            self._read_into(descriptor, values[start:end], int(rows[start]))
        return values if chosen in ((), self.columns) else values[:, numbers]

    def _column_numbers(self, columns: tuple[str, ...]) -> NDArray[np.intp]:
        numbers = self._numbers.get(columns)
        if numbers is None:
            numbers = self._numbers[columns] = column_numbers(self.columns, columns, self.path)
        return numbers

    def _read_into(self, descriptor: int, values: NDArray[np.float32], row: int) -> None:
        offset = self.layout.offset_bytes + row * values.shape[1] * _VALUE_BYTES
        content = values.data.cast("B")
        while content:
            count = os.preadv(descriptor, [content], offset)
            if not count:
                raise self._changed()
            content, offset = content[count:], offset + count

    def _file(self) -> int:
        """Return the open file; it is closed with the last reference to this table."""
        with self._opening:
            if self._descriptor is None:
                try:
                    self._descriptor = os.open(self.path, os.O_RDONLY)
                except FileNotFoundError as error:
                    raise self._changed() from error
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor

    def _check_unchanged(self) -> None:
        try:
            now = file_signature(self.path)
        except FileNotFoundError as error:
            raise self._changed() from error
        if now != self.layout.signature:
            raise self._changed()

    def _changed(self) -> FeatureError:
        return FeatureError(
            f"{self.path} was changed, replaced or removed since it was opened; let it be while a "
            "run uses it, and start again"
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_descriptor"], state["_opening"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_file()


def column_numbers(columns: Sequence[str], chosen: Sequence[str], where: Path) -> NDArray[np.intp]:
    """Return the number of each chosen column.

    Raises:
        FeatureError: One is not there, or is named twice.
    """
    numbers = {name: number for number, name in enumerate(columns)}
    if missing := [name for name in chosen if name not in numbers]:
        near = [name for name in columns if name.startswith(f"{missing[0]}=")]
        shown = f"; it became {near[:_NUM_EXAMPLES]}" if near else ""
        raise FeatureError(
            f"{where} has no side feature {missing[0]!r}{shown}; it has {len(columns)}: "
            f"{list(columns[:20])}"
        )
    if len(set(chosen)) < len(chosen):
        raise FeatureError(f"side features {list(chosen)} name a column twice")
    return np.array([numbers[name] for name in chosen], np.intp)


def _as_texts(video_ids: ArrayLike | Sequence[str]) -> NDArray[np.str_]:
    ids = np.asarray(video_ids)
    texts = ids.dtype.kind in "UT" or all(isinstance(i, str) for i in ids.reshape(-1).tolist())
    if not texts:
        shown = ids.reshape(-1)[:_NUM_EXAMPLES].tolist()
        raise FeatureError(
            f"ids have the type {ids.dtype}, e.g. {shown}; side features are found by text, such "
            "as '007': give ids as they stand in the manifest"
        )
    return ids.reshape(-1).astype(np.str_)


def _matches(
    ids: NDArray[np.str_], wanted: NDArray[np.str_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which ids are wanted, and which of the sorted wanted ones each of them is."""
    if not len(wanted):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    numbers = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
    rows = np.flatnonzero(wanted[numbers] == ids)
    return rows, numbers[rows]


def _repeated(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    values, counts = np.unique(numbers, return_counts=True)
    repeated: NDArray[np.intp] = values[counts > 1]
    return repeated


def _key(video_id: str) -> str:
    """Return what is left of an id without case, spaces and what spreadsheets do to numbers."""
    plain = "".join(video_id.split()).casefold()
    return plain.removesuffix(".0").lstrip("0") or "0"


def _difference(wanted: str, written: str) -> str:
    if wanted.casefold() == written.casefold():
        return "other capitals"
    if "".join(wanted.split()) == "".join(written.split()):
        return "other spaces"
    return "as a spreadsheet rewrites numbers"


def _stretches(rows: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return where rows follow each other, as slices of `rows`: one read each."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return list(itertools.pairwise([0, *breaks.tolist(), len(rows)]))


# ---------------------------------------------------------------------------------------- scaling


@dataclasses.dataclass(frozen=True)
class FeatureScaler:
    """Standardises side features as the training clips have them.

    A feature becomes (value - mean) / deviation; a blank becomes the mean, 0. Features that were
    blank in some training clips get a companion that is 1 where they are blank. Features that are
    constant or blank in all training clips tell nothing and are left out.

    Attributes:
        columns: Features expected, in order.
        mean, deviation: (F,) float64 of the training clips; deviation 0 for what is left out.
        indicators: (F,) bool, whether the feature has a companion.
        notices: What was left out, for the report.
    """

    columns: tuple[str, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    indicators: NDArray[np.bool_]
    notices: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `transform` returns."""
        used, marked = np.flatnonzero(self.deviation > 0), np.flatnonzero(self.indicators)
        companions = (f"{self.columns[i]} is blank" for i in marked)
        return (*(self.columns[i] for i in used), *companions)

    @property
    def num_outputs(self) -> int:
        """Width of what `transform` returns."""
        return int(np.count_nonzero(self.deviation > 0) + np.count_nonzero(self.indicators))

    def transform(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return features (B, F) standardised and without blanks: (B, num_outputs) float32.

        Raises:
            FeatureError: Another number of features, or a value too far out for float32.
        """
        if features.ndim != 2 or features.shape[1] != len(self.columns):
            raise FeatureError(
                f"features have the shape {features.shape}; expected (B, {len(self.columns)}): "
                f"{list(self.columns[:_NUM_EXAMPLES])}, ..."
            )
        used = self.deviation > 0
        values = (features[:, used] - self.mean[used]) / self.deviation[used]
        self._check_range(values, np.flatnonzero(used))
        standard = np.where(np.isnan(values), 0.0, values)
        blank = np.isnan(features[:, self.indicators])
        return np.concatenate([standard, blank], axis=1, dtype=np.float32)

    def _check_range(self, values: NDArray[np.float64], used: NDArray[np.intp]) -> None:
        far = np.abs(values) > np.finfo(np.float32).max
        if far.any():
            column = self.columns[used[int(np.flatnonzero(far.any(axis=0))[0])]]
            raise FeatureError(
                f"side feature {column!r} has a value more than 1e38 deviations away from the "
                "training clips'; correct it"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it, exactly."""
        return {
            "columns": list(self.columns),
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "indicators": self.indicators.tolist(),
            "notices": list(self.notices),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "FeatureScaler":
        """Return the scaler that `to_dict` described."""
        return cls(
            columns=tuple(stored["columns"]),
            mean=np.array(stored["mean"], np.float64),
            deviation=np.array(stored["deviation"], np.float64),
            indicators=np.array(stored["indicators"], np.bool_),
            notices=tuple(stored["notices"]),
        )


def fit_feature_scaler(
    table: FeatureTable, positions: NDArray[np.intp], columns: Sequence[str] = ()
) -> FeatureScaler:
    """Compute mean and deviation of the training clips, a block of rows at a time.

    Mean and sum of squares of the blocks are joined as by Chan, Golub & LeVeque (1983); rows are
    read in the order of the file, so that the order of the clips changes no bit.

    Args:
        table: The features.
        positions: (n,) rows of the training clips, and of no others.
        columns: Features to use; default: all.

    Returns:
        The scaler of what `table.read(positions, columns)` returns.

    Raises:
        FeatureError: No clips, an unknown column, or no feature that varies.
    """
    if not len(positions):
        raise FeatureError("there are no training clips to take the scale of side features from")
    used = tuple(columns) or table.columns
    moments = _Moments(len(used))
    rows = np.sort(np.asarray(positions, np.intp))
    step = max(1, _BLOCK_VALUES // len(table.columns))
    for start in range(0, len(rows), step):
        moments.add(table.read(rows[start : start + step], used))
    varies = moments.low < moments.high
    deviation = np.sqrt(moments.squares / np.maximum(moments.count, 1))
    scaler = FeatureScaler(
        columns=used,
        mean=np.where(varies, moments.mean, 0.0),
        deviation=np.where(varies, deviation, 0.0),
        indicators=(moments.count > 0) & (moments.count < len(rows)),
        notices=_left_out(used, moments),
    )
    if not scaler.num_outputs:
        raise FeatureError(f"no side feature of {table.path} varies among the training clips")
    return scaler


class _Moments:
    """Count, mean, sum of squared distances from it, and range of F features; NaN is left out."""

    def __init__(self, num_features: int) -> None:
        self.count = np.zeros(num_features, np.int64)
        self.mean = np.zeros(num_features)
        self.squares = np.zeros(num_features)
        self.low = np.full(num_features, np.inf)
        self.high = np.full(num_features, -np.inf)

    def add(self, block: NDArray[np.float32]) -> None:
        """Join the rows (n, F) to what is known."""
        values = block.astype(np.float64)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        distance = np.where(known, values - mean, 0.0)
        both = np.maximum(self.count + count, 1)
        shift = mean - self.mean
        self.squares += (distance**2).sum(axis=0) + shift**2 * (self.count * count / both)
        self.mean += shift * (count / both)
        self.count += count
        self.low = np.fmin(self.low, np.fmin.reduce(values))
        self.high = np.fmax(self.high, np.fmax.reduce(values))


def _left_out(columns: Sequence[str], moments: _Moments) -> tuple[str, ...]:
    blank = moments.count == 0
    constant = ~blank & ~(moments.low < moments.high)
    notices = []
    for which, why in ((constant, "constant"), (blank, "blank")):
        if names := [columns[i] for i in np.flatnonzero(which).tolist()]:
            more = ", ..." if len(names) > _NUM_EXAMPLES else ""
            notices.append(
                f"{len(names)} side features are {why} in all training clips and left out: "
                f"{', '.join(names[:_NUM_EXAMPLES])}{more}"
            )
    return tuple(notices)

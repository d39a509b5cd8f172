"""The list of clips: a CSV or Parquet table with one clip a row."""

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.addresses import (
    Address,
    Location,
    as_location,
    source_location,
    without_suffix,
)
from stage1_extract.remote import read_bytes
from stage1_extract.remote_calls import check_scheme
from stage1_extract.sources import Clip
from stage1_extract.texts import is_writable

_MAX_PROBLEMS_SHOWN = 20
_RESERVED = {"path", "video_id", "start_seconds", "end_seconds"}
_MISSING = {"", "nan", "na", "n/a", "null"}


class ManifestError(ValueError):
    """A manifest cannot be used: all its problems, each with its row."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes:
        path: The file it was read from.
        table: One row a clip, in the file's order, with a unique text column `video_id`. From CSV
            all columns are text, from Parquet they have their own types; see `is_missing`.
        clips: The clips, in the same order.
        sha256: Hash of the file.
    """

    path: Location
    table: pd.DataFrame
    clips: tuple[Clip, ...]
    sha256: str

    def column(self, name: str) -> "pd.Series[Any]":
        """Return a column by name.

        Raises:
            ManifestError: There is no such column; the message lists those there are.
        """
        if name not in self.table.columns:
            others = [column for column in self.table.columns if column not in _RESERVED]
            raise ManifestError(f"{self.path} has no column {name!r}; it has {others}")
        return self.table[name]


def read_manifest(path: Location | str, *, files_must_exist: bool = True) -> Manifest:
    """Read and check a manifest as a whole, before any work begins.

    Args:
        path: CSV (comma-separated, UTF-8) or Parquet, on the disk or at an address. The column
            `path` is required, relative to the manifest's folder, or an address. `video_id`
            defaults to the path without its suffix. `start_seconds` and `end_seconds` cut clips
            out of longer videos.
        files_must_exist: Whether a missing video is a problem; training needs the ids alone. Of
            addresses it is only checked that their file system is installed: what is there shows
            when it is decoded.

    Raises:
        FileNotFoundError: There is no manifest.
        ManifestError: It cannot be read, is empty, or rows are wrong: every problem is listed.
        MissingPackageError: It is at an address whose file system is not installed.
        OSError: It is at an address that cannot be reached.
    """
    path = as_location(path)
    content = _read_content(path)
    table = _read_table(path, content)
    _check_columns(path, table)
    has_ids = "video_id" in table.columns
    table = _with_ids(table)
    problems = list(_row_problems(path, table, has_ids=has_ids, files_must_exist=files_must_exist))
    if problems:
        raise ManifestError(_describe(path, problems))
    clips = tuple(_clips(path, table))
    return Manifest(path, table, clips, hashlib.sha256(content).hexdigest())


def is_missing(values: "pd.Series[Any]") -> "pd.Series[bool]":
    """Return which values are blank: empty text, NaN, NA, N/A or null in any case, or None."""
    text = values.astype("string").str.strip().str.lower()
    return values.isna() | text.isin(_MISSING).fillna(value=True).astype(bool)


def _read_content(path: Location) -> bytes:
    if isinstance(path, Address):
        return read_bytes(path)
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}; expected a CSV or Parquet file")
    return path.read_bytes()


def _read_table(path: Location, content: bytes) -> pd.DataFrame:
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            return pd.read_parquet(io.BytesIO(content)).reset_index(drop=True)
        return _read_csv(path, content)
    except ImportError as error:
        raise ManifestError(
            f"{path} is a Parquet file, and reading it needs pyarrow: "
            "pip install 'embed-then-sequence[parquet]'"
        ) from error
    except pd.errors.EmptyDataError as error:
        raise ManifestError(f"{path} is empty; expected a header line with `path`") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path} is not a comma-separated UTF-8 table: {error}. "
            "From a spreadsheet, save it as 'CSV UTF-8'"
        ) from error
    except ManifestError:
        raise
    except (ValueError, OSError) as error:  # pyarrow's errors are subclasses of these
        raise ManifestError(f"{path} cannot be read as a table: {error}") from error


def _read_csv(path: Location, content: bytes) -> pd.DataFrame:
    table = _read_text_columns(content)
    if not isinstance(table.index, pd.RangeIndex):  # pandas shifts the columns silently
        raise ManifestError(
            f"{path} has rows with more fields than its header's {list(table.columns)}; put texts "
            "that hold commas in quotes, and end no line with a comma"
        )
    # As they stand in the file: pandas renames the second of two equal names.
    header = _read_text_columns(content, header=None, nrows=1).iloc[0].str.strip()
    doubled = header[header.duplicated()].tolist()
    if doubled:
        raise ManifestError(f"{path} names these columns twice: {doubled}")
    table.columns = pd.Index(header)
    return table


def _read_text_columns(
    content: bytes, *, header: Literal[0] | None = 0, nrows: int | None = None
) -> pd.DataFrame:
    return pd.read_csv(
        io.BytesIO(content),
        header=header,
        nrows=nrows,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        skipinitialspace=True,
    )


def _check_columns(path: Location, table: pd.DataFrame) -> None:
    if "path" not in table.columns:
        header = str(table.columns[0])
        guess = {";": "; it looks semicolon-separated", "\t": "; it looks tab-separated"}
        found = next((text for mark, text in guess.items() if mark in header), "")
        raise ManifestError(
            f"{path} has no column 'path'; its columns are {list(table.columns)}{found}. Expected "
            "a comma-separated table with one clip a row"
        )
    for name in table.columns:
        plain = str(name).strip().lower().replace(" ", "_")
        if plain in _RESERVED and name != plain:
            raise ManifestError(f"{path} has a column {name!r}; write it {plain!r} if it is meant")
    if table.empty:
        raise ManifestError(f"{path} has a header but no rows; expected one clip a row")


def _with_ids(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(path=table["path"].astype("string").fillna("").astype(object))
    if "video_id" in table.columns:
        ids = table["video_id"].astype("string").str.strip().fillna("")
    else:
        ids = table["path"].map(without_suffix)
    return table.assign(video_id=ids.astype(object))


def _row_problems(
    path: Location, table: pd.DataFrame, *, has_ids: bool, files_must_exist: bool
) -> Iterator[tuple[int, str]]:
    """Yield (position, problem) for every problem of every row."""
    doubled = table["video_id"].duplicated(keep=False)
    positions = table[doubled].groupby("video_id").groups
    seconds = {name: _seconds(table, name) for name in ("start_seconds", "end_seconds")}
    is_doubled, times_to_look_at = doubled.to_numpy(), _odd_times(seconds)
    for i, (text, video_id) in enumerate(zip(table["path"], table["video_id"], strict=True)):
        if not text.strip():
            yield i, "the path is blank"
        elif files_must_exist and (problem := _source_problem(path, text)):
            yield i, problem
        if not video_id and text.strip():
            yield i, "the video_id is blank"
        elif not is_writable(video_id):
            yield i, f"video_id {video_id!r} holds control characters"
        elif video_id and is_doubled[i]:
            others = _lines(path, positions[video_id].to_numpy())
            source = "" if has_ids else " (made from the path)"
            yield (
                i,
                (
                    f"video_id {video_id!r}{source} stands in {others}; give each row its own "
                    "video_id in a column of that name"
                ),
            )
        if times_to_look_at[i]:
            yield from ((i, problem) for problem in _time_problems(seconds, i))


def _source_problem(manifest: Location, text: str) -> str:
    try:
        found = source_location(manifest, text)
        if isinstance(found, Address):
            check_scheme(found)
            return ""
    except ValueError as error:
        return str(error)
    return _file_problem(found)


def _file_problem(path: Path) -> str:
    try:
        if path.is_file() or path.is_dir():  # a folder of images is a source too
            return ""
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        return f"{str(path)!r} {what}"
    except OSError as error:  # too long a name: a quote that is not closed swallows lines
        return f"{str(path)[:80]!r}... is no path: {error.strerror}"


def _seconds(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    """Return a time column: NaN where blank, infinity where it is no number."""
    if name not in table.columns:
        return pd.Series(np.nan, index=table.index)
    values = pd.to_numeric(table[name], errors="coerce")
    return values.where(values.notna() | is_missing(table[name]), np.inf)


def _odd_times(seconds: dict[str, "pd.Series[float]"]) -> NDArray[np.bool_]:
    """Return which rows have problems with their times; a look at each takes long."""
    start, end = (seconds[name].to_numpy(float) for name in ("start_seconds", "end_seconds"))
    odd: NDArray[np.bool_] = (start < 0) | (end < 0) | np.isinf(start) | np.isinf(end)
    return odd | (start >= end)


def _time_problems(seconds: dict[str, "pd.Series[float]"], i: int) -> Iterator[str]:
    start, end = (float(seconds[name].iloc[i]) for name in ("start_seconds", "end_seconds"))
    for name, value in (("start_seconds", start), ("end_seconds", end)):
        if value < 0 or value == np.inf:
            yield f"{name} is no time in seconds from 0, such as 12.5"
    if start >= end and start < np.inf:
        yield f"start_seconds {start:g} is not before end_seconds {end:g}"


def _describe(path: Location, problems: list[tuple[int, str]]) -> str:
    shown = [f"  {_lines(path, [i])}: {text}" for i, text in problems[:_MAX_PROBLEMS_SHOWN]]
    rest = len(problems) - len(shown)
    more = [f"  and {rest} more"] if rest else []
    rows = len({i for i, _ in problems})
    return "\n".join(
        [f"{path} has {len(problems)} problems in {rows} rows; correct them first:", *shown, *more]
    )


def _lines(path: Location, positions: "np.typing.ArrayLike") -> str:
    """Name rows as a person finds them: a CSV's header is line 1."""
    is_csv = path.suffix.lower() not in {".parquet", ".pq"}
    numbers = [int(i) + (2 if is_csv else 0) for i in np.atleast_1d(positions)]
    word = "line" if is_csv else "row"
    return f"{word}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:5]))}"


def _clips(path: Location, table: pd.DataFrame) -> Iterator[Clip]:
    starts, ends = (_seconds(table, name) for name in ("start_seconds", "end_seconds"))
    for text, video_id, start, end in zip(
        table["path"], table["video_id"], starts, ends, strict=True
    ):
        yield Clip(
            video_id=video_id,
            path=source_location(path, text).absolute(),
            start_seconds=None if np.isnan(start) else float(start),
            end_seconds=None if np.isnan(end) else float(end),
        )

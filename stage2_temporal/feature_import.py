"""Import of a table of side features, CSV or Parquet, in bounded memory.

Memory holds a piece of the table (a few times 32 MiB; of Parquet also 2 MB for each of 128 columns)
and 8 bytes a row, to find ids that stand twice; the table is read two or three times.
"""

import dataclasses
import difflib
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from stage1_extract.store import remove_stale_partials
from stage1_extract.texts import is_writable
from stage2_temporal.feature_columns import FeatureColumn, NumberSurvey, TextSurvey, as_float32
from stage2_temporal.feature_file import FILE_SUFFIXES, FeatureBlock, signature, write_features
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.feature_source import FeatureImportError, TableSource, open_table

_MAX_PROBLEMS_SHOWN = 20
_NUM_EXAMPLES = 5
_MAX_COUNTED = 100_000


@dataclasses.dataclass(frozen=True)
class FeatureImport:
    """What was imported.

    Attributes:
        path: The file that was written.
        num_rows, num_features: Its size.
        kinds: How many columns of the table were numbers, booleans and categories.
        categories: The texts of each category, in the order of their features.
        num_blank: Blank values; a blank category counts once a feature.
        dropped: Columns left out as asked.
        sha256: Hash of the table's bytes.
    """

    path: str
    num_rows: int
    num_features: int
    kinds: dict[str, int]
    categories: dict[str, tuple[str, ...]]
    num_blank: int
    dropped: tuple[str, ...]
    sha256: str


def import_features(
    table: Path, out: Path, settings: FeatureImportSettings, *, show_progress: bool = False
) -> FeatureImport:
    """Turn a table into a file of float32 features, one row a clip.

    Numbers stay, booleans become 0 and 1, a column of few distinct texts one feature a text,
    `name=text`; blanks (as in a manifest) become NaN. The file appears whole, or not at all.

    Args:
        table: CSV (comma-separated UTF-8 with a header) or Parquet.
        out: The file to write.
        settings: Which columns, and how.
        show_progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: There is no table, or no folder for the file.
        FileExistsError: The file is there and may not be replaced.
        FeatureImportError: The table cannot be used; every problem of its columns is listed.
        OSError: The disk is full or fails; nothing is left behind.
    """
    _check_out(out, overwrite=settings.overwrite)
    source = open_table(table)
    before = signature(table)
    names = _feature_columns(source, settings)
    sha256 = source.check()
    survey = _Survey(source, names, settings, show_progress=show_progress)
    blocks = _Blocks(survey, before, show_progress=show_progress)
    features = _feature_names(table, survey.columns)
    attributes = {
        "source": table.name,
        "source_sha256": sha256,
        "num_rows": survey.ids.num_rows,
        "num_features": len(features),
        "id_column": settings.id_column,
    }
    _write(out, blocks, features, attributes, id_bytes=survey.ids.max_bytes)
    return FeatureImport(
        path=str(out),
        num_rows=survey.ids.num_rows,
        num_features=len(features),
        kinds=dict(Counter(column.kind for column in survey.columns)),
        categories={c.name: c.levels for c in survey.columns if c.kind == "category"},
        num_blank=blocks.num_blank,
        dropped=tuple(settings.drop),
        sha256=sha256,
    )


def _write(
    out: Path,
    blocks: "_Blocks",
    features: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    id_bytes: int,
) -> None:
    try:
        write_features(
            out,
            blocks,
            columns=features,
            num_rows=attributes["num_rows"],
            id_bytes=id_bytes,
            attributes=attributes,
        )
    except FeatureImportError:
        raise
    except ValueError as error:  # what the survey found is not there any more
        raise FeatureImportError(
            f"{attributes['source']} was changed while it was imported ({error}); import it again"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(
            f"cannot write {out}: {reason}. Nothing was left behind; make space or mend the disk, "
            "and run the same command again"
        ) from error


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(f"{out} is to be an HDF5 file; give it a name that ends with .h5")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already; --overwrite replaces it")
    remove_stale_partials(out.parent)


def _feature_columns(source: TableSource, settings: FeatureImportSettings) -> list[str]:
    """Return the columns to import, after checking the header and the columns asked for."""
    columns = list(source.columns)
    if doubled := [name for name, count in Counter(columns).items() if count > 1]:
        raise FeatureImportError(f"{source.path} names these columns twice: {doubled}")
    if "" in columns:
        raise FeatureImportError(
            f"{source.path}: column {columns.index('') + 1} has no name; name it in the header"
        )
    if settings.id_column not in columns:
        raise FeatureImportError(_no_id_column(source, settings.id_column))
    for option, names in (("--drop", settings.drop), ("--category", settings.category)):
        if unknown := [name for name in names if name not in columns]:
            near = difflib.get_close_matches(unknown[0], columns, n=3)
            raise FeatureImportError(
                f"{source.path} has no column {unknown[0]!r} ({option}); names like it: {near}"
            )
    names = [name for name in columns if name not in {settings.id_column, *settings.drop}]
    if not names:
        raise FeatureImportError(f"{source.path} has no column beside {settings.id_column!r}")
    return names


def _no_id_column(source: TableSource, name: str) -> str:
    shown = ", ".join(source.columns[:10]) + (", ..." if len(source.columns) > 10 else "")
    marks = {";": "; it looks semicolon-separated", "\t": "; it looks tab-separated"}
    guess = next((text for mark, text in marks.items() if mark in source.columns[0]), "")
    return (
        f"{source.path} has no column {name!r}; its columns are {shown}{guess}. Name the column of "
        "the clips' ids with --id-column"
    )


def _feature_names(table: Path, columns: Sequence[FeatureColumn]) -> list[str]:
    names = [name for column in columns for name in column.features]
    if len(set(names)) < len(names):
        doubled = [name for name, count in Counter(names).items() if count > 1]
        raise FeatureImportError(
            f"{table}: the features {doubled[:_NUM_EXAMPLES]} come from two columns each; rename "
            "one of them"
        )
    return names


class _Ids:
    """Checks the ids of the rows; of each it remembers 8 bytes."""

    def __init__(self, source: TableSource, column: str) -> None:
        self._source = source
        self._column = column
        self._hashes: list[NDArray[np.uint64]] = []
        self.num_rows = 0
        self.max_bytes = 1

    def add(self, texts: "pd.Series[str]") -> None:
        ids = clean_ids(texts)
        for row, video_id in enumerate(ids, start=self.num_rows + 1):
            if not video_id or not is_writable(video_id):
                what = "is blank" if not video_id else f"{video_id!r} holds control characters"
                raise FeatureImportError(
                    f"{self._source.path}: the {self._column!r} of row {row} (counted from 1, "
                    f"below the header) {what}"
                )
        self._hashes.append(_hashes(ids))
        self.max_bytes = max((self.max_bytes, *(len(video_id.encode()) for video_id in ids)))
        self.num_rows += len(ids)

    def check_unique(self) -> None:
        """Raise if an id stands twice; the ids of equal hashes are read again."""
        hashes = np.sort(np.concatenate([*self._hashes, np.empty(0, np.uint64)]))
        self._hashes.clear()
        suspicious = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if not len(suspicious):
            return
        counts: Counter[str] = Counter()
        for piece in self._source.pieces(numbers=(), texts=[self._column]):
            ids = np.array(clean_ids(piece[self._column]), object)
            counts.update(ids[np.isin(_hashes(ids.tolist()), suspicious)].tolist())
            if len(counts) > _MAX_COUNTED:
                break
        doubled = [video_id for video_id, count in counts.items() if count > 1]
        if doubled:
            raise FeatureImportError(
                f"{self._source.path} has rows with the same {self._column!r}: "
                f"{len(hashes) - len(np.unique(hashes))} rows more than ids, e.g. "
                f"{doubled[:_NUM_EXAMPLES]}; leave one row for each"
            )


def clean_ids(texts: "pd.Series[str]") -> list[str]:
    """Return ids without spaces around them; blank where there is none."""
    ids: list[str] = texts.astype("string").str.strip().fillna("").tolist()
    return ids


def _hashes(ids: list[str]) -> NDArray[np.uint64]:
    return pd.util.hash_array(np.array(ids, object), categorize=False)


class _Survey:
    """What the first reading of a table finds: its ids and the kinds of its columns."""

    def __init__(
        self,
        source: TableSource,
        names: Sequence[str],
        settings: FeatureImportSettings,
        *,
        show_progress: bool,
    ) -> None:
        self.source = source
        self.id_column = settings.id_column
        self.ids = _Ids(source, settings.id_column)
        self._forced = {*settings.category} | (source.category_columns() & {*names})
        self._limit = settings.max_categories
        self._texts: dict[str, TextSurvey] = {}
        self._numbers: list[NumberSurvey] = []
        texts = self._forced | (source.text_columns() & {*names})
        with _bar("survey", show=show_progress) as bar:
            for number, group in enumerate(batched(names, source.columns_at_once)):
                self._read(group, texts, bar, with_ids=number == 0)
        if not self.ids.num_rows:
            raise FeatureImportError(f"{source.path} has a header but no rows; expected some")
        self.ids.check_unique()
        self.columns = self._decide(names)

    def _read(
        self, group: Sequence[str], texts: Collection[str], bar: "tqdm[Any]", *, with_ids: bool
    ) -> None:
        """Read some columns, and the ids if asked."""
        numbers = NumberSurvey([name for name in group if name not in texts])
        surveys = {name: self._text_survey(name) for name in group if name in texts}
        wanted = [*surveys, *([self.id_column] if with_ids else [])]
        for piece in self.source.pieces(numbers=numbers.names, texts=wanted):
            if with_ids:
                self.ids.add(piece[self.id_column])
                bar.update(len(piece))
            numbers.add(piece)
            for name, survey in surveys.items():
                survey.add(piece[name])
        self._numbers.append(numbers)
        self._texts |= surveys
        self._read_late(sorted(numbers.other))

    def _read_late(self, names: Sequence[str]) -> None:
        """Read columns again whose texts begin further down the table."""
        surveys = {name: self._text_survey(name) for name in names}
        for piece in self.source.pieces(numbers=(), texts=names) if names else ():
            for name, survey in surveys.items():
                survey.add(piece[name])
        self._texts |= surveys

    def _text_survey(self, name: str) -> TextSurvey:
        return TextSurvey(name, limit=self._limit, forced=name in self._forced)

    def _decide(self, names: Sequence[str]) -> list[FeatureColumn]:
        columns = []
        problems = [problem for numbers in self._numbers for problem in numbers.problems()]
        for name in names:
            try:
                survey = self._texts.get(name)
                number = FeatureColumn(name, "number", as_text=False)
                columns.append(survey.column() if survey else number)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            shown = [f"  {problem}" for problem in problems[:_MAX_PROBLEMS_SHOWN]]
            rest = len(problems) - len(shown)
            raise FeatureImportError(
                "\n".join(
                    [
                        f"{self.source.path} has columns that are no features yet:",
                        *shown,
                        *([f"  and {rest} more"] if rest else []),
                    ]
                )
            )
        return columns


class _Blocks:
    """Ids and features of successive rows, for the writer; counts blank values on the way."""

    def __init__(
        self, survey: _Survey, before: tuple[int, int, int], *, show_progress: bool
    ) -> None:
        self._survey = survey
        self._before = before
        self._show_progress = show_progress
        self.num_blank = 0

    def __iter__(self) -> Iterator[FeatureBlock]:
        source, column = self._survey.source, 0
        total = self._survey.ids.num_rows * len(self._survey.columns)
        with _bar("write", unit="value", show=self._show_progress, total=total) as bar:
            for group in batched(self._survey.columns, source.columns_at_once):
                for block in self._read(group, column):
                    self.num_blank += int(np.isnan(block.values).sum())
                    yield block
                    bar.update(len(block.values) * len(group))
                column += sum(len(member.features) for member in group)
        if signature(source.path) != self._before:
            raise FeatureImportError(
                f"{source.path} was changed while it was imported; import it again"
            )

    def _read(self, group: Sequence[FeatureColumn], column: int) -> Iterator[FeatureBlock]:
        id_column = self._survey.id_column
        numbers = [member.name for member in group if not member.as_text]
        texts = [member.name for member in group if member.as_text]
        texts += [] if column else [id_column]
        row = 0
        for piece in self._survey.source.pieces(numbers=numbers, texts=texts, known=True):
            ids = () if column else clean_ids(piece[id_column])
            yield FeatureBlock(row, column, as_float32(group, piece), ids)
            row += len(piece)


def batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the values in groups of at most `size`."""
    return (values[start : start + size] for start in range(0, len(values), size))


def _bar(what: str, *, show: bool, unit: str = "row", total: int | None = None) -> "tqdm[Any]":
    hidden = not (show and sys.stderr.isatty())
    return tqdm(total=total, unit=unit, desc=what, unit_scale=True, disable=hidden)

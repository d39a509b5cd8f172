"""Tables of side features read in pieces: CSV, and Parquet by row groups."""

import csv
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

PIECE_VALUES = 2**22
"""Values of a piece: 32 MiB of float64."""
_MIN_ROWS = 64
_PARQUET_BUFFER_BYTES = 2**15
_HASH_BYTES = 2**20
_BLANKS = ("", "nan", "na", "n/a", "null")


class FeatureImportError(ValueError):
    """A table of side features cannot be used: where, why, and what to do."""


class TableSource(Protocol):
    """A table that is read in pieces, as often as needed.

    Attributes:
        path: The file.
        columns: Its columns, in order.
        columns_at_once: How many columns to read together, so that memory is bounded.
    """

    path: Path
    columns: tuple[str, ...]
    columns_at_once: int

    def check(self) -> str:
        """Check the file's lines and return the sha256 of its bytes."""

    def text_columns(self) -> set[str]:
        """Return columns that hold texts, as far as the beginning of the table tells."""

    def category_columns(self) -> set[str]:
        """Return columns whose type says that their values are names, whatever they look like."""

    def pieces(
        self, *, numbers: Sequence[str], texts: Sequence[str], known: bool = False
    ) -> Iterator[pd.DataFrame]:
        """Yield the table in pieces of whole rows.

        Args:
            numbers: Columns that should be numbers, blanks NaN. In a piece where one holds
                something else its type says so.
            texts: Columns to return as text, just as they are written.
            known: Whether `numbers` are known to be nothing else.
        """


def open_table(path: Path) -> TableSource:
    """Open a CSV or Parquet table.

    Raises:
        FileNotFoundError: There is none.
        FeatureImportError: It cannot be read as a table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; expected a CSV or Parquet file")
    if path.suffix.lower() in {".parquet", ".pq"}:
        return ParquetSource(path)
    return CsvSource(path)


def _piece_rows(num_columns: int) -> int:
    return max(_MIN_ROWS, PIECE_VALUES // max(1, num_columns))


# -------------------------------------------------------------------------------------------- CSV


class CsvSource:
    """A comma-separated UTF-8 table with a header; blanks are written as in a manifest."""

    columns_at_once = sys.maxsize  # each reading goes through the whole file anyway

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = _csv_header(path)

    def check(self) -> str:
        """Check that every row has as many fields as the header; return the file's sha256.

        pandas would fill short rows, such as the last of a file that was cut, with blanks.
        """
        hasher, simple = hashlib.sha256(), True
        expected = len(self.columns)
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                hasher.update(line)
                if b'"' in line or b"\r" in line.rstrip(b"\r\n"):
                    simple = False
                if simple and line.strip() and line.count(b",") + 1 != expected:
                    raise self._wrong_fields(number, line.count(b",") + 1)
        if not simple:
            self._check_quoted()
        return hasher.hexdigest()

    def _check_quoted(self) -> None:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, skipinitialspace=True)
                for fields in reader:
                    blank = len(fields) < 2 and not "".join(fields).strip()
                    if len(fields) != len(self.columns) and not blank:
                        raise self._wrong_fields(reader.line_num, len(fields))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _not_csv(self.path, error) from error

    def _wrong_fields(self, line: int, found: int) -> FeatureImportError:
        return FeatureImportError(
            f"{self.path}, line {line} has {found} fields, the header has {len(self.columns)}; put "
            "texts that hold commas in quotes, end no line with a comma, and see whether the file "
            "was cut short"
        )

    def text_columns(self) -> set[str]:
        """Return columns that hold something else than numbers in the first piece."""
        first = next(self.pieces(numbers=self.columns, texts=()), pd.DataFrame())
        return {name for name in first.columns if first[name].dtype.kind not in "iuf"}

    def category_columns(self) -> set[str]:
        """Return nothing: CSV has no types."""
        return set()

    def pieces(
        self, *, numbers: Sequence[str], texts: Sequence[str], known: bool = False
    ) -> Iterator[pd.DataFrame]:
        """Yield pieces; see `TableSource`."""
        types: dict[str, Any] = dict.fromkeys(texts, str)
        if known:
            types |= dict.fromkeys(numbers, np.float64)
        wanted = {*numbers, *texts}
        try:
            with pd.read_csv(
                self.path,
                header=0,
                names=list(self.columns),
                usecols=[name for name in self.columns if name in wanted],
                dtype=types,
                keep_default_na=False,
                na_values=dict.fromkeys(numbers, _blank_spellings()),
                encoding="utf-8-sig",
                skipinitialspace=True,
                chunksize=_piece_rows(len(wanted)),
                low_memory=False,
            ) as reader:
                yield from reader
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise _not_csv(self.path, error) from error


def _csv_header(path: Path) -> tuple[str, ...]:
    try:
        header = pd.read_csv(
            path,
            header=None,
            nrows=1,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    except pd.errors.EmptyDataError as error:
        raise FeatureImportError(f"{path} is empty; expected a header line") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise _not_csv(path, error) from error
    return tuple(str(name).strip() for name in header.iloc[0])


def _not_csv(path: Path, error: Exception) -> FeatureImportError:
    return FeatureImportError(
        f"{path} is not a comma-separated UTF-8 table: {error}. "
        "From a spreadsheet, save it as 'CSV UTF-8'"
    )


def _blank_spellings() -> list[str]:
    """Return what a manifest takes for blank, in every mixture of small and capital letters."""
    letters = ([(c, c.upper()) if c.isalpha() else (c,) for c in text] for text in _BLANKS)
    return ["".join(choice) for several in letters for choice in itertools.product(*several)]


# ---------------------------------------------------------------------------------------- Parquet


class ParquetSource:
    """A Parquet table, decoded a batch of rows at a time: not even a row group is held whole."""

    columns_at_once = 128  # of each column a page and its dictionary are in memory: some 2 MB

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise FeatureImportError(
                f"{path} is a Parquet file, and reading it needs pyarrow: "
                "pip install 'embed-then-sequence[parquet]'"
            ) from error
        try:
            self._schema = pyarrow.parquet.read_schema(path)
        except (ValueError, OSError) as error:  # pyarrow's errors are subclasses of these
            raise FeatureImportError(f"{path} cannot be read as Parquet: {error}") from error
        hidden = _pandas_index_columns(self._schema)
        self.columns = tuple(name for name in self._schema.names if name not in hidden)

    def check(self) -> str:
        """Return the file's sha256; Parquet knows the number of its own fields."""
        hasher = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                hasher.update(block)
        return hasher.hexdigest()

    def text_columns(self) -> set[str]:
        """Return columns of a text type, and of types that are no numbers."""
        import pyarrow

        kinds = pyarrow.types
        number = (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_boolean)
        return {
            name
            for name in self.columns
            if not any(is_kind(self._type(name)) for is_kind in (*number, kinds.is_null))
        }

    def category_columns(self) -> set[str]:
        """Return columns of a dictionary type, which pandas calls categorical."""
        import pyarrow

        return {n for n in self.columns if pyarrow.types.is_dictionary(self._type(n))}

    def _type(self, name: str) -> Any:
        return self._schema.field(name).type

    def pieces(
        self,
        *,
        numbers: Sequence[str],
        texts: Sequence[str],
        known: bool = False,  # noqa: ARG002 (a Parquet file knows its types itself)
    ) -> Iterator[pd.DataFrame]:
        """Yield pieces; see `TableSource`."""
        import pyarrow
        import pyarrow.parquet

        self._check_text_types(texts)
        wanted = [*numbers, *texts]
        target = dict.fromkeys(numbers, pyarrow.float64()) | dict.fromkeys(texts, pyarrow.string())
        try:
            with pyarrow.parquet.ParquetFile(
                self.path, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False
            ) as file:
                for batch in file.iter_batches(
                    _piece_rows(len(wanted)), columns=wanted, use_threads=False
                ):
                    columns = {n: _cast(batch.column(n), target[n]) for n in wanted}
                    yield pd.DataFrame(columns, copy=False)
        except (ValueError, OSError) as error:
            raise FeatureImportError(f"{self.path} cannot be read as Parquet: {error}") from error

    def _check_text_types(self, names: Sequence[str]) -> None:
        import pyarrow

        kinds = pyarrow.types
        text = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
        usable = (*text, kinds.is_dictionary, kinds.is_integer, kinds.is_boolean)
        for name in names:
            found = self._type(name)
            if kinds.is_floating(found) or kinds.is_decimal(found):
                raise FeatureImportError(
                    f"{self.path}, column {name!r} has the type {found}, which names nothing for "
                    "sure (7 or 7.0?); store ids and categories as text"
                )
            if not any(is_kind(found) for is_kind in usable):
                raise FeatureImportError(
                    f"{self.path}, column {name!r} has the type {found}; expected numbers, texts "
                    "or booleans. Turn it into numbers (a date into days since a date), or leave "
                    f"it out with --drop {name}"
                )


def _pandas_index_columns(schema: Any) -> set[str]:
    stated = (schema.pandas_metadata or {}).get("index_columns", [])
    return {name for name in stated if isinstance(name, str) and name.startswith("__index_level_")}


def _cast(values: Any, target: Any) -> Any:
    """Return an Arrow array as numpy: float64 with NaN, or texts with None, where null."""
    import pyarrow

    if pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pyarrow.types.is_boolean(values.type) and pyarrow.types.is_floating(target):
        values = values.cast(pyarrow.uint8())
    return values.cast(target, safe=False).to_numpy(zero_copy_only=False)

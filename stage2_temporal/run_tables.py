"""Reading the CSV files of a run folder: texts stay texts, numbers are numbers."""

import csv
from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file.

    Attributes:
        texts: Columns as they are written: a class named "NA" or "01" is not a missing value or 1.
        numbers: Columns of numbers, float64; NaN where blank.
    """

    texts: pd.DataFrame
    numbers: pd.DataFrame


def incomplete(path: Path, problem: str) -> ValueError:
    """Return the error of a file that is not what a complete run holds."""
    return ValueError(f"{path}: {problem}. This folder is not a complete run: train it again.")


def check_is_file(path: Path) -> None:
    """Raise FileNotFoundError unless there is a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. This folder is not a complete run.")


def read_table(
    path: Path,
    *,
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    where: Mapping[str, Container[str]] | None = None,
    others: bool = False,
) -> Table:
    """Read columns of a CSV file row by row, so that memory grows with the rows that are kept.

    Args:
        path: The file.
        texts: Columns to read as they are.
        numbers: Columns of numbers or blanks.
        where: Columns of the rows to keep, with the texts that they may have; default: all.
        others: Whether columns that are not named are numbers to read, too.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It is no CSV table, lacks a column, a number or all rows.
    """
    where = where or {}
    with closing(_lines(path)) as lines:
        header = next(lines, [])
        _check_header(path, header, [*texts, *numbers, *where])
        more = [name for name in header if others and name not in {*texts, *numbers}]
        names = [*numbers, *more]
        place = {name: index for index, name in enumerate(header)}
        wanted = [(place[name], allowed) for name, allowed in where.items()]
        kept, values = [], []
        for number, row in enumerate(lines, start=2):
            if len(row) != len(header):
                raise incomplete(path, f"row {number} has {len(row)} of {len(header)} fields")
            if all(row[index] in allowed for index, allowed in wanted):
                kept.append([row[place[name]] for name in texts])
                values.append(_numbers(path, number, [row[place[name]] for name in names]))
    if not kept:
        raise incomplete(path, f"no row{_conditions(where)}; the columns are {header[:30]}")
    matrix = np.stack(values)
    return Table(
        pd.DataFrame(kept, columns=list(texts), dtype=object), pd.DataFrame(matrix, columns=names)
    )


def _lines(path: Path) -> Generator[list[str], None, None]:
    check_is_file(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise incomplete(path, f"not a CSV table ({error})") from error


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    known = set(header)
    missing = [name for name in columns if name not in known]
    if missing:
        problem = f"missing columns {missing[:10]}; the columns are {list(header[:30])}"
        raise incomplete(path, problem)


def _numbers(path: Path, number: int, row: Sequence[str]) -> Floats:
    try:
        return np.array([text or "nan" for text in row], np.float64)
    except ValueError as error:
        raise incomplete(path, f"a number was expected in row {number}: {error}") from error


def _conditions(where: Mapping[str, Container[str]]) -> str:
    if not where:
        return ""
    return " of " + ", ".join(
        f"{name} {sorted(allowed) if isinstance(allowed, set | frozenset) else allowed}"
        for name, allowed in where.items()
    )

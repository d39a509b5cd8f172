"""The file format of imported side features (version 1): writing one, and opening it.

An HDF5 file with `/features` (N, F) float32, NaN where blank, in one uncompressed piece, so that a
row is one stretch of bytes; `/ids` (N,) and `/columns` (F,) in UTF-8 of fixed width (names of
thousands of columns exceed what HDF5 takes as an attribute). Attributes say format, version, origin
and counts. A file is complete or it does not exist.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stage1_extract.hdf5_attributes import read_attributes, write_attributes
from stage1_extract.hdf5_files import new_hdf5_file
from stage1_extract.store import PARTIAL_SUFFIX, sync

FORMAT = "embed-then-sequence features"
FORMAT_VERSION = 1
FILE_SUFFIXES = (".h5", ".hdf5")
_ID_ROWS = 2**16


class FeatureError(ValueError):
    """Side features cannot be used or do not fit the clips: what is wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class FeatureLayout:
    """Where the features lie in a checked file.

    Attributes:
        path: The file.
        attributes: What it says of itself.
        columns: Names of the features.
        num_rows: N.
        offset_bytes: Where the first row begins.
        signature: Inode, size and time of change when it was opened.
    """

    path: Path
    attributes: dict[str, Any]
    columns: tuple[str, ...]
    num_rows: int
    offset_bytes: int
    signature: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class FeatureBlock:
    """Some rows of some features.

    Attributes:
        row, column: Where its first value belongs.
        values: (n, f) float32.
        ids: (n,) ids of the rows; empty in all but one block of these rows.
    """

    row: int
    column: int
    values: NDArray[np.float32]
    ids: Sequence[str] = ()


def signature(path: Path) -> tuple[int, int, int]:
    """Return inode, size in bytes and time of change in nanoseconds: what a changed file changes.

    Raises:
        FileNotFoundError: It is not there.
    """
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


# ---------------------------------------------------------------------------------------- writing


def write_features(
    path: Path,
    blocks: Iterable[FeatureBlock],
    *,
    columns: Sequence[str],
    num_rows: int,
    id_bytes: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write a file of features so that it appears whole, or not at all; replaces what is there.

    Args:
        path: The file.
        blocks: All rows and columns, in any order.
        columns: Names of the F features.
        num_rows: N.
        id_bytes: Length of the longest id in UTF-8.
        attributes: Origin and counts, beside format, version and time.

    Raises:
        ValueError: The blocks hold another number of values, or of ids.
        OSError: The disk is full or fails. Nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        num_bytes = num_rows * (id_bytes + 4 * len(columns)) + 4 * len(columns) * max(
            map(len, columns)
        )
        with new_hdf5_file(partial, num_bytes) as file:
            write_attributes(file, _as_written(attributes))
            _write_columns(file, columns)
            ids = file.create_dataset("ids", (num_rows,), h5py.string_dtype("utf-8", id_bytes))
            features = file.create_dataset("features", (num_rows, len(columns)), np.float32)
            _write_blocks(ids, features, blocks)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _as_written(attributes: Mapping[str, Any]) -> dict[str, str | int]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    known: dict[str, str | int] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": created,
    }
    return known | {
        name: value if isinstance(value, str | int) else json.dumps(value)
        for name, value in attributes.items()
    }


def _write_columns(file: Any, columns: Sequence[str]) -> None:
    encoded = [name.encode() for name in columns]
    width = max(map(len, encoded))
    file["columns"] = np.array(encoded, dtype=h5py.string_dtype("utf-8", width))


def _write_blocks(ids: Any, features: Any, blocks: Iterable[FeatureBlock]) -> None:
    num_ids = num_values = 0
    for block in blocks:
        end_row, end_column = np.add((block.row, block.column), block.values.shape)
        if end_row > len(ids):
            raise ValueError(f"{end_row} rows, but {len(ids)} were announced")
        features[block.row : end_row, block.column : end_column] = block.values
        if block.ids:
            encoded = [video_id.encode() for video_id in block.ids]
            ids[block.row : end_row] = np.array(encoded, ids.dtype)
        num_ids += len(block.ids)
        num_values += block.values.size
    if (num_ids, num_values) != (len(ids), features.size):
        raise ValueError(f"{num_ids} rows, but {len(ids)} were announced")


# ---------------------------------------------------------------------------------------- reading


def open_features(path: Path) -> FeatureLayout:
    """Check a file of features and return where its parts lie.

    Raises:
        FileNotFoundError: Nothing is there.
        FeatureError: It is no such file, of another version, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no side features at {path}; `stage2-temporal features TABLE {path}` makes them"
        )
    if not h5py.is_hdf5(path):
        raise FeatureError(
            f"{path} is no HDF5 file; `stage2-temporal features {path} OUT.h5` makes one of a "
            "CSV or Parquet table"
        )
    before = signature(path)
    with _damage_named(path), h5py.File(path, "r") as file:
        return _checked(path, file, before)


def read_ids(layout: FeatureLayout) -> Iterator[NDArray[np.str_]]:
    """Yield the ids in pieces (n,), in the order of the rows."""
    with _damage_named(layout.path), h5py.File(layout.path, "r") as file:
        for row in range(0, layout.num_rows, _ID_ROWS):
            yield np.char.decode(file["ids"][row : row + _ID_ROWS], "utf-8")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (FeatureError, FileNotFoundError):
        raise
    # Damage shows as any of these in h5py; broken UTF-8 is a ValueError.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> FeatureError:
    return FeatureError(
        f"{path} cannot be read as side features ({what}): it is cut short, damaged or something "
        "else; import the table again with `stage2-temporal features`"
    )


def _checked(path: Path, file: Any, before: tuple[int, int, int]) -> FeatureLayout:
    attributes = read_attributes(file)
    if attributes.get("format") != FORMAT:
        raise FeatureError(
            f"{path} is an HDF5 file, but holds no side features: its `format` is "
            f"{attributes.get('format')!r}, expected {FORMAT!r}"
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise FeatureError(
            f"{path} has format version {attributes.get('format_version')}, this program reads "
            f"version {FORMAT_VERSION}; import the table again"
        )
    features, columns = file["features"], np.char.decode(file["columns"][:], "utf-8").tolist()
    if features.dtype != np.float32 or features.shape != (len(file["ids"]), len(columns)):
        raise _damaged(path, f"/features is {features.dtype} of shape {features.shape}")
    offset = features.id.get_offset()
    if offset is None or features.chunks is not None:
        raise _damaged(path, "/features is not in one piece")
    if offset + features.size * 4 > before[1]:
        raise _damaged(path, f"it ends at byte {before[1]}, its features later")
    return FeatureLayout(path, attributes, tuple(columns), len(features), offset, before)

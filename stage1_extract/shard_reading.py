"""Reading a shard: opening and checking it, its columns, its frames in file order."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stage1_extract.column_digests import ATTRIBUTE as DIGESTS
from stage1_extract.column_digests import column_digests, digest_of
from stage1_extract.hdf5_attributes import read_attributes
from stage1_extract.provenance import Provenance, StoreError, fingerprint
from stage1_extract.shard_format import (
    BLOCK_BYTES,
    EMBEDDING_DTYPES,
    FACTS,
    FORMAT,
    FORMAT_VERSION,
    FRAME_COLUMNS,
    ID_COLUMNS,
    TOLD,
    damaged,
)

Range = tuple[int, int]
"""First row of /frames, and the row after the last."""


@dataclasses.dataclass(frozen=True)
class SequenceIds:
    """What opening needs to know of S sequences.

    Attributes:
        video_id: (S,) UTF-8 bytes, known to be valid.
        view: (S,) uint16.
        start, length: (S,) int64 rows of /frames.
    """

    video_id: NDArray[np.bytes_]
    view: NDArray[np.uint16]
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: slice) -> "SequenceIds":
        return SequenceIds(*(getattr(self, name)[rows] for name in ID_COLUMNS))

    @classmethod
    def joined(cls, parts: Sequence["SequenceIds"]) -> "SequenceIds":
        """Return the sequences of several shards, one after the other."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ID_COLUMNS))

    def beyond(self, num_frames: "int | NDArray[np.int64]") -> NDArray[np.intp]:
        """Return which sequences claim rows that their shard does not have."""
        start, length = self.start, self.length
        bad: NDArray[np.bool_] = (start < 0) | (length < 1) | (start > num_frames - length)
        return np.flatnonzero(bad)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One checked shard: where its embeddings lie in the file, and how they were made."""

    path: Path
    provenance: Provenance
    created: str
    """When it was written, ISO 8601."""
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    offset_bytes: int
    num_sequences: int
    """Sequences in the file, copies counted."""

    @property
    def created_span(self) -> tuple[str, str]:
        """When the first and the last of its sequences were written, before any compaction."""
        execution = self.provenance.execution
        first, last = execution.get("created_first"), execution.get("created_last")
        return str(first or self.created), str(last or self.created)

    @property
    def row_bytes(self) -> int:
        """Bytes of one embedding."""
        return self.shape[1] * self.dtype.itemsize

    @property
    def end_bytes(self) -> int:
        """Where the embeddings end in the file."""
        return self.offset_bytes + self.shape[0] * self.row_bytes

    def map(self) -> NDArray[Any]:
        """Return the embeddings (F, D) as a read-only view on the file."""
        mapped = np.memmap(
            self.path, dtype=self.dtype, mode="r", offset=self.offset_bytes, shape=self.shape
        )
        return mapped.view(np.ndarray)

    def read_columns(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return columns of /sequences, in the order of the file; texts as valid UTF-8 bytes."""
        with damage_named(self.path), h5py.File(self.path, "r") as file:
            group = file["sequences"]
            missing = [name for name in names if name not in group]
            known = sorted(group) if missing else []
            columns = {} if missing else {name: group[name][:] for name in names}
        if missing:
            raise KeyError(f"{self.path} has no column {missing[0]!r}; it has {known}")
        for values in columns.values():
            if values.dtype.kind == "S":
                check_text(self.path, values)
        return columns

    def text_bytes(self) -> dict[str, int]:
        """Return the width of each column of texts."""
        names = ["video_id", "checksum", *(name for name, kind in FACTS.items() if kind is str)]
        with damage_named(self.path), h5py.File(self.path, "r") as file:
            return {name: int(file["sequences"][name].dtype.itemsize) for name in names}

    def embedding_blocks(self, ranges: Iterable[Range]) -> Iterator[NDArray[Any]]:
        """Yield the embeddings of ranges of rows in pieces (n, D) of a few MiB, read, not mapped.

        For work on whole stores: what is mapped counts as the process' memory.

        Raises:
            StoreError: The file became shorter since it was opened.
        """
        with self.path.open("rb") as file:
            for start, end in pieces(ranges, self.row_bytes):
                file.seek(self.offset_bytes + start * self.row_bytes)
                content = file.read((end - start) * self.row_bytes)
                if len(content) < (end - start) * self.row_bytes:
                    raise damaged(self.path, f"it ends within its rows {start} to {end - 1}")
                yield np.frombuffer(content, self.dtype).reshape(-1, self.shape[1])

    def frame_blocks(self, name: str, ranges: Iterable[Range]) -> Iterator[NDArray[Any]]:
        """Yield `time_seconds` or `source_index` of ranges of rows in pieces of a few MiB."""
        with damage_named(self.path), h5py.File(self.path, "r") as file:
            values = file["frames"][name]
            for start, end in pieces(ranges, values.dtype.itemsize):
                yield values[start:end]

    def frame_values(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return (n,) `time_seconds` or `source_index` of some rows of /frames, in any order."""
        order = np.argsort(rows)
        values, row, done = np.empty(len(rows), FRAME_COLUMNS[name]), 0, 0
        for block in self.frame_blocks(name, [(0, self.shape[0])]):
            end = int(np.searchsorted(rows, row + len(block), sorter=order))
            values[order[done:end]] = block[rows[order[done:end]] - row]
            row, done = row + len(block), end
        return values


class OpenFile:
    """A file that is open for reading as long as somebody holds this."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def read_into(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer of bytes from an offset on; False where the file ends before."""
        while buffer:  # Linux reads 2 GiB at most in one go
            count = os.preadv(self.descriptor, [buffer], offset)
            if not count:
                return False
            buffer, offset = buffer[count:], offset + count
        return True

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def pieces(ranges: Iterable[Range], row_bytes: int) -> Iterator[Range]:
    """Join ranges of rows that follow one another, and cut what exceeds a few MiB."""
    rows = max(1, BLOCK_BYTES // row_bytes)
    first = last = 0
    for start, end in ranges:
        if start != last:
            yield from _cut(first, last, rows)
            first = start
        last = end
        if last - first >= rows:
            whole = first + (last - first) // rows * rows
            yield from _cut(first, whole, rows)
            first = whole
    yield from _cut(first, last, rows)


def _cut(first: int, last: int, rows: int) -> Iterator[Range]:
    for start in range(first, last, rows):
        yield start, min(start + rows, last)


def open_shard(path: Path) -> tuple[Shard, SequenceIds]:
    """Open a shard and check all but its frames.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: No shard, another version, or damaged.
    """
    with damage_named(path), h5py.File(path, "r") as file:
        return _checked_shard(path, file)


@contextmanager
def damage_named(path: Path | str) -> Iterator[None]:
    """Turn what h5py raises of a damaged file into an error that names it."""
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    # Damage shows as any of these in h5py; broken JSON and UTF-8 are ValueErrors.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be read as a shard ({error}): it is cut short, damaged or not a store; "
            "run `stage1-extract verify --repair`, then `stage1-extract run` again"
        ) from error


def read_index(file: Any, name: str) -> None:
    """Read all of a shard but its frames, so that who hands out the bytes knows which these are.

    Args:
        file: The shard, open for reading.
        name: How errors call it.

    Raises:
        StoreError: It is damaged.
    """
    with damage_named(name), h5py.File(file, "r") as shard:
        read_attributes(shard)
        for column in shard["frames"].values():
            column.id.get_offset()
        for column in shard["sequences"].values():
            column[()]


def _checked_shard(path: Path, file: Any) -> tuple[Shard, SequenceIds]:
    attributes = _checked_attributes(path, file)
    frames, sequences = file["frames"], file["sequences"]
    embedding = frames["embedding"]
    columns = {name: sequences[name][:] for name in ID_COLUMNS}
    _check_embedding(path, embedding)
    _check_columns(path, sequences, columns)
    ids = SequenceIds(**columns)
    _check_ranges(path, ids, len(embedding))
    for name, dtype in FRAME_COLUMNS.items():
        values = frames[name]
        if values.shape != (len(embedding),) or values.dtype != dtype:
            raise damaged(path, f"/frames/{name} is {values.dtype} of shape {values.shape}")
    found = {f"sequences/{name}": digest_of(values) for name, values in columns.items()}
    _check_digests(path, attributes, found)
    told = {name: json.loads(attributes[name]) for name in TOLD}
    shard = Shard(
        path=path,
        provenance=Provenance(**told),
        created=attributes["created"],
        dtype=embedding.dtype,
        shape=embedding.shape,
        offset_bytes=embedding.id.get_offset(),
        num_sequences=len(ids),
    )
    return shard, ids


def _checked_attributes(path: Path, file: Any) -> dict[str, Any]:
    attributes = read_attributes(file)
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{path} is an HDF5 file, but no shard: its `format` is {attributes.get('format')!r}, "
            f"expected {FORMAT!r}"
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {attributes.get('format_version')}, this program reads "
            f"version {FORMAT_VERSION}; use the release that wrote it, or extract again"
        )
    settings = json.loads(attributes["settings"])
    if fingerprint(settings) != attributes["fingerprint"]:
        raise damaged(path, "its fingerprint is not that of its settings")
    return attributes


def _check_embedding(path: Path, embedding: Any) -> None:
    if embedding.dtype.name not in EMBEDDING_DTYPES or embedding.ndim != 2:
        raise damaged(path, f"/frames/embedding is {embedding.dtype} with {embedding.ndim} axes")
    if embedding.chunks is not None or embedding.id.get_offset() is None:
        raise damaged(path, "/frames/embedding is not contiguous and cannot be mapped")
    end = embedding.id.get_offset() + embedding.size * embedding.dtype.itemsize
    if end > path.stat().st_size:
        raise damaged(path, f"its embeddings end at byte {end}, the file at {path.stat().st_size}")


def _check_columns(path: Path, group: Any, columns: Mapping[str, NDArray[Any]]) -> None:
    for name, values in columns.items():
        if values.dtype.kind != ID_COLUMNS[name]:
            raise damaged(path, f"/sequences/{name} is {values.dtype}")
    if len({column.shape for column in columns.values()}) != 1 or columns["start"].ndim != 1:
        raise damaged(path, f"its columns have shapes {[c.shape for c in columns.values()]}")
    for name in ("checksum", *FACTS):
        # h5py's plain way, `group[name].shape`, takes four times as long.
        shape = h5py.h5d.open(group.id, name.encode()).shape
        if shape != columns["start"].shape:
            raise damaged(path, f"/sequences/{name} has shape {shape}")
    check_text(path, columns["video_id"])


def check_all_digests(path: Path) -> None:
    """Refuse a shard of which a column is not what was written.

    Raises:
        StoreError: It is not, or it cannot be read.
    """
    with damage_named(path), h5py.File(path, "r") as file:
        _check_digests(path, read_attributes(file), column_digests(file))


def _check_digests(path: Path, attributes: Mapping[str, Any], found: Mapping[str, str]) -> None:
    written = json.loads(attributes.get(DIGESTS, "{}"))
    if changed := [name for name in found if written.get(name, found[name]) != found[name]]:
        raise damaged(path, f"/{changed[0]} is not what was written")


def _check_ranges(path: Path, ids: SequenceIds, num_frames: int) -> None:
    if not len(ids):
        raise damaged(path, "it has no sequences")
    if len(bad := ids.beyond(num_frames)):
        i = int(bad[0])
        raise damaged(
            path,
            f"sequence {i} claims {ids.length[i]} rows from row {ids.start[i]} on, of {num_frames}",
        )


def check_text(path: Path, values: NDArray[np.bytes_]) -> None:
    """Refuse texts that are not UTF-8."""
    try:
        decode(values)
    except UnicodeDecodeError as error:
        raise damaged(path, f"it holds text that is not UTF-8 ({error})") from error


def decode(values: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Return texts of UTF-8 bytes; ASCII, which most are, 50 times as fast as numpy does it."""
    width = values.dtype.itemsize
    codes = np.ascontiguousarray(values).view(np.uint8)
    if not width or codes.max(initial=0) >= 128:
        return np.char.decode(values, "utf-8")
    return codes.astype(np.uint32).view(f"U{width}").reshape(values.shape)

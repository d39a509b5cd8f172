"""Writing a shard so that it appears whole, or not at all."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stage1_extract.column_digests import ATTRIBUTE as DIGESTS
from stage1_extract.column_digests import column_digests
from stage1_extract.hdf5_attributes import write_attributes
from stage1_extract.hdf5_files import new_hdf5_file
from stage1_extract.provenance import Provenance
from stage1_extract.shard_format import (
    FACTS,
    FORMAT,
    FORMAT_VERSION,
    FRAME_COLUMNS,
    ID_COLUMNS,
    PARTIAL_SUFFIX,
    TOLD,
    SequenceRecord,
    sync,
)

_PAGE_BYTES = 4096
_ALIGNMENT = {"alignment_threshold": _PAGE_BYTES, "alignment_interval": _PAGE_BYTES}

Columns = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Frames:
    """All frames of a shard, in pieces that are read one after the other.

    Attributes:
        dtype: float16 or float32.
        dim: D.
        embedding: Arrays (n, D).
        time_seconds: Arrays (n,) of presentation times.
        source_index: Arrays (n,) of frame numbers in the source.
    """

    dtype: str
    dim: int
    embedding: Iterable[NDArray[Any]]
    time_seconds: Iterable[NDArray[np.float64]]
    source_index: Iterable[NDArray[np.int64]]


@dataclasses.dataclass(frozen=True)
class Sequences:
    """All sequences of a shard, in pieces, in the order of their frames.

    Attributes:
        lengths: (S,) frames of each.
        text_bytes: Width of each column of texts.
        blocks: All columns of /sequences but `start` and `length`, (n,) each; texts as bytes.
    """

    lengths: NDArray[np.int64]
    text_bytes: Mapping[str, int]
    blocks: Iterable[Columns]

    @classmethod
    def of(cls, records: Sequence[SequenceRecord]) -> "Sequences":
        """Turn records into columns."""
        columns: dict[str, NDArray[Any]] = {
            "video_id": _texts([record.video_id for record in records]),
            "view": np.array([record.view for record in records], np.uint16),
            "checksum": _texts([record.checksum for record in records]),
        }
        for name, kind in FACTS.items():
            values = [getattr(record.facts, name) for record in records]
            columns[name] = _texts(values) if kind is str else np.array(values, kind)
        lengths = np.array([record.length for record in records], np.int64)
        widths = {name: c.dtype.itemsize for name, c in columns.items() if c.dtype.kind == "S"}
        return cls(lengths, widths, [columns])


def write_shard(
    path: Path,
    provenance: Provenance,
    records: Sequence[SequenceRecord],
    *,
    embedding_blocks: Iterable[NDArray[Any]],
    embedding_dtype: str,
    embedding_dim: int,
    time_seconds: NDArray[np.float64] | Iterable[NDArray[np.float64]],
    source_index: NDArray[np.int64] | Iterable[NDArray[np.int64]],
) -> None:
    """Write one shard so that it appears whole, or not at all.

    Args:
        path: Where the shard will stand; must not exist.
        provenance: Settings, versions and execution facts.
        records: The sequences, in the order of their frames.
        embedding_blocks: Arrays (n, embedding_dim) that together hold all frames in order.
        embedding_dtype: float16 or float32.
        embedding_dim: D.
        time_seconds: (F,) presentation times, or pieces (n,) of them.
        source_index: (F,) frame numbers in the source, or pieces (n,) of them.

    Raises:
        FileExistsError: The path is taken; shards are never changed.
        ValueError: The parts do not fit each other.
        OSError: The disk is full or fails. Nothing is left behind.
    """
    frames = Frames(
        embedding_dtype,
        embedding_dim,
        embedding_blocks,
        [time_seconds] if isinstance(time_seconds, np.ndarray) else time_seconds,
        [source_index] if isinstance(source_index, np.ndarray) else source_index,
    )
    write_shard_pieces(path, provenance, frames, Sequences.of(records))


def write_shard_pieces(
    path: Path, provenance: Provenance, frames: Frames, sequences: Sequences
) -> None:
    """Write one shard a piece at a time: memory holds neither all frames nor all texts.

    Raises:
        FileExistsError: The path is taken; shards are never changed.
        ValueError: The parts do not fit each other.
        OSError: The disk is full or fails. Nothing is left behind.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; shards are never overwritten")
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        num_bytes = _size_bytes(provenance, frames, sequences)
        with new_hdf5_file(partial, num_bytes, **_ALIGNMENT) as file:
            _write_attributes(file, provenance)
            _write_frames(file.create_group("frames"), frames, int(sequences.lengths.sum()))
            _write_sequences(file.create_group("sequences"), sequences)
            write_attributes(file, {DIGESTS: json.dumps(column_digests(file))})
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _size_bytes(provenance: Provenance, frames: Frames, sequences: Sequences) -> int:
    """Return at least what a shard takes on the disk."""
    num_frames, num_sequences = int(sequences.lengths.sum()), len(sequences.lengths)
    frame_bytes = frames.dim * np.dtype(frames.dtype).itemsize + 8 * len(FRAME_COLUMNS)
    row_bytes = sum(sequences.text_bytes.values()) + 8 * (len(FACTS) + len(ID_COLUMNS))
    texts = sum(len(json.dumps(dict(getattr(provenance, name)))) for name in TOLD)
    num_datasets = len(FACTS) + len(ID_COLUMNS) + len(FRAME_COLUMNS) + 2
    around = 2 * texts + _PAGE_BYTES * num_datasets
    return num_frames * frame_bytes + num_sequences * row_bytes + around


def _write_attributes(file: Any, provenance: Provenance) -> None:
    told = {name: dict(getattr(provenance, name)) for name in TOLD}
    values: dict[str, str | int] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": provenance.fingerprint,
        **{name: json.dumps(value, sort_keys=True) for name, value in told.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_attributes(file, values)


def _write_frames(group: Any, frames: Frames, num_frames: int) -> None:
    embedding = group.create_dataset("embedding", (num_frames, frames.dim), frames.dtype)
    _write_blocks(embedding, frames.embedding)
    for name, dtype in FRAME_COLUMNS.items():
        _write_blocks(group.create_dataset(name, (num_frames,), dtype), getattr(frames, name))


def _write_blocks(dataset: Any, blocks: Iterable[NDArray[Any]]) -> None:
    row = 0
    for block in blocks:
        if row + len(block) > len(dataset):
            raise ValueError(
                f"{dataset.name}: {row + len(block)} frames, but the records hold {len(dataset)}"
            )
        dataset[row : row + len(block)] = block
        row += len(block)
    if row != len(dataset):
        raise ValueError(f"{dataset.name}: {row} frames, but the records hold {len(dataset)}")


def _write_sequences(group: Any, sequences: Sequences) -> None:
    lengths = sequences.lengths
    group["start"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    group["length"] = lengths
    kinds: dict[str, Any] = {"video_id": str, "view": np.uint16, "checksum": str, **FACTS}
    # Handles and dtypes once: h5py takes as long to find them as to write a thousand rows.
    found = {
        name: _create_column(group, name, len(lengths), sequences.text_bytes.get(name, kind))
        for name, kind in kinds.items()
    }
    row = 0
    for columns in sequences.blocks:
        count = len(columns["video_id"])
        for name, (column, dtype) in found.items():
            values = columns[name]
            if values.dtype.kind == "S" and values.dtype.itemsize > dtype.itemsize:
                raise ValueError(f"{name} has texts of {values.dtype.itemsize} bytes, not {dtype}")
            column[row : row + count] = values.astype(dtype)
        row += count
    if row != len(lengths):
        raise ValueError(f"{row} rows of facts, but {len(lengths)} sequences")


def _create_column(group: Any, name: str, size: int, kind: Any) -> tuple[Any, np.dtype[Any]]:
    # HDF5 converts no other texts to those that are said to be UTF-8.
    dtype = h5py.string_dtype("utf-8", kind) if isinstance(kind, int) else np.dtype(kind)
    return group.create_dataset(name, (size,), dtype), dtype


def _texts(values: Sequence[str]) -> NDArray[np.bytes_]:
    encoded = [value.encode() for value in values]
    return np.array(encoded, f"S{max(1, *(len(value) for value in encoded))}")

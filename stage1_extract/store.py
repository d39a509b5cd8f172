"""The store's file format (version 1): writing a shard, and reading a folder of shards.

A store is a folder of immutable HDF5 shards, or one shard file. A shard is complete or it does not
exist: it is written under a hidden temporary name, synced to disk, and renamed. The layout is
described in data/README.md. This module needs the standard library, numpy and h5py alone, so that a
store can be read on a machine without a video decoder or Keras.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT = "embed-then-sequence store"
FORMAT_VERSION = 1
SHARD_SUFFIX = ".h5"
PARTIAL_SUFFIX = ".partial"
EMBEDDING_DTYPES = ("float16", "float32")
_PAGE_BYTES = 4096
_STALE_SECONDS = 3600
_ID_COLUMNS = {"video_id": "S", "view": "u", "start": "i", "length": "i"}
"""Columns that opening reads, and numpy's kind of each."""


class StoreError(ValueError):
    """A store cannot be trusted or does not fit: what is wrong, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class SourceFacts:
    """What was found in the source of a sequence; stored beside it, one column a field."""

    source_path: str
    source_size_bytes: int
    source_modified_ns: int
    source_hash: str
    """blake2b-128 of the file's bytes, hexadecimal: equal content under two names is recognised."""
    source_width: int
    source_height: int
    source_fps: float
    source_duration_seconds: float
    source_frame_count: int
    """Frames that were found; the whole file, also where the sequence is a clip of it."""
    source_stated_frame_count: int
    """Frames that the file's header claims; 0 where it claims nothing."""
    clip_start_seconds: float
    """NaN where the sequence starts with the file."""
    clip_end_seconds: float
    """NaN where the sequence ends with the file."""


@dataclasses.dataclass(frozen=True)
class SequenceRecord:
    """One sequence of a shard, without its frames."""

    video_id: str
    view: int
    length: int
    checksum: str
    facts: SourceFacts


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a shard says of its origin.

    `settings` holds everything that changes an embedding and nothing else; the fingerprint is its
    hash. `execution` holds what is worth knowing but changes nothing (batch size, file names).
    """

    settings: Mapping[str, Any]
    software: Mapping[str, str]
    execution: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`."""
        return fingerprint(self.settings)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the hash of all that changes an embedding: sha256 of its canonical JSON, 32 digits."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def embedding_hasher() -> "hashlib.blake2b":
    """Return the hasher of a sequence's checksum, fed with the embedding's bytes as stored."""
    return hashlib.blake2b(digest_size=16)


def new_shard_path(folder: Path) -> Path:
    """Return a shard name that no other run uses; names sort by time."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return folder / f"shard-{moment}-{secrets.token_hex(4)}{SHARD_SUFFIX}"


def shard_paths(path: Path) -> list[Path]:
    """Return the shards of a store, which is a folder or one file, in reading order."""
    if path.is_dir():
        return sorted(p for p in path.glob(f"*{SHARD_SUFFIX}") if not p.name.startswith("."))
    return [path] if path.exists() else []


def remove_stale_partials(folder: Path) -> None:
    """Remove unfinished shards of killed runs; readers never look at them.

    Only those untouched for an hour: another run may be writing a younger one, which takes seconds.
    """
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            partial.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- writing


def write_shard(
    path: Path,
    provenance: Provenance,
    records: Sequence[SequenceRecord],
    *,
    embedding_blocks: Iterable[NDArray[Any]],
    embedding_dtype: str,
    embedding_dim: int,
    time_seconds: NDArray[np.float64],
    source_index: NDArray[np.int64],
) -> None:
    """Write one shard so that it appears whole, or not at all.

    Args:
        path: Where the shard will stand; must not exist.
        provenance: Settings, versions and execution facts.
        records: The sequences, in the order of their frames.
        embedding_blocks: Arrays (n, embedding_dim) that together hold all frames in order.
        embedding_dtype: float16 or float32.
        embedding_dim: D.
        time_seconds: (F,) presentation times.
        source_index: (F,) frame numbers in the source.

    Raises:
        FileExistsError: The path is taken; shards are never changed.
        ValueError: The parts do not fit each other.
        OSError: The disk is full or fails. Nothing is left behind.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; shards are never overwritten")
    num_frames = sum(record.length for record in records)
    if not num_frames == len(time_seconds) == len(source_index):
        raise ValueError(
            f"records hold {num_frames} frames, but {len(time_seconds)} times and "
            f"{len(source_index)} source indices were given"
        )
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        with h5py.File(
            partial, "w", alignment_threshold=_PAGE_BYTES, alignment_interval=_PAGE_BYTES
        ) as file:
            _write_attributes(file, provenance)
            frames = file.create_group("frames")
            embedding = frames.create_dataset(
                "embedding", shape=(num_frames, embedding_dim), dtype=embedding_dtype
            )
            _write_blocks(embedding, embedding_blocks)
            frames["time_seconds"] = np.asarray(time_seconds, np.float64)
            frames["source_index"] = np.asarray(source_index, np.int64)
            _write_sequences(file.create_group("sequences"), records)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _write_attributes(file: Any, provenance: Provenance) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["fingerprint"] = provenance.fingerprint
    for name in ("settings", "software", "execution"):
        file.attrs[name] = json.dumps(dict(getattr(provenance, name)), sort_keys=True)
    file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")


def _write_blocks(dataset: Any, blocks: Iterable[NDArray[Any]]) -> None:
    row = 0
    for block in blocks:
        dataset[row : row + len(block)] = block
        row += len(block)
    if row != len(dataset):
        raise ValueError(f"{row} embedded frames were given, the records hold {len(dataset)}")


def _write_sequences(group: Any, records: Sequence[SequenceRecord]) -> None:
    lengths = np.array([record.length for record in records], np.int64)
    _write_text(group, "video_id", [record.video_id for record in records])
    group["view"] = np.array([record.view for record in records], np.uint16)
    group["start"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    group["length"] = lengths
    _write_text(group, "checksum", [record.checksum for record in records])
    for field in dataclasses.fields(SourceFacts):
        values = [getattr(record.facts, field.name) for record in records]
        if field.type is str:
            _write_text(group, field.name, values)
        else:
            group[field.name] = np.array(values, np.int64 if field.type is int else np.float64)


def _write_text(group: Any, name: str, values: Sequence[str]) -> None:
    encoded = [value.encode() for value in values]
    width = max(1, *(len(value) for value in encoded))
    group[name] = np.array(encoded, dtype=h5py.string_dtype("utf-8", width))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One checked shard: where its embeddings lie in the file, and which sequences it holds."""

    path: Path
    fingerprint: str
    settings: dict[str, Any]
    software: dict[str, str]
    execution: dict[str, Any]
    created: str
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    offset_bytes: int
    columns: dict[str, NDArray[Any]]

    def map(self) -> NDArray[Any]:
        """Return the embeddings (F, D) as a read-only view on the file."""
        mapped = np.memmap(
            self.path, dtype=self.dtype, mode="r", offset=self.offset_bytes, shape=self.shape
        )
        return mapped.view(np.ndarray)


class EmbeddingStore:
    """A store opened for reading: sequences sorted by (video_id, view), whatever the shards.

    Opening reads ids and ranges only; a sequence's frames are mapped from the file when read. The
    object pickles without open handles and is safe to read from several threads.

    Args:
        path: The store's folder, or one shard.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: Not a store, another version, damaged, or shards of different settings.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no store at {self.path}; `stage1-extract run` makes one")
        if self.path.is_file() and not h5py.is_hdf5(self.path):
            raise StoreError(
                f"{self.path} is no HDF5 file; expected a store: a folder of shards, or one shard"
            )
        paths = shard_paths(self.path)
        if not paths:
            raise StoreError(f"{self.path} holds no shards (*{SHARD_SUFFIX}); is it a store?")
        self._shards = [_open_shard(shard) for shard in paths]
        for shard in self._shards[1:]:
            _check_same_settings(self._shards[0], shard)
        self._maps: dict[int, NDArray[Any]] = {}
        self._index_sequences()

    def _index_sequences(self) -> None:
        """Sort all sequences; of copies (two runs at once leave them), keep the first."""
        ids = np.concatenate([_decode(s.path, s.columns["video_id"]) for s in self._shards])
        views = np.concatenate([s.columns["view"] for s in self._shards])
        sizes = [len(s.columns["view"]) for s in self._shards]
        shard = np.repeat(np.arange(len(self._shards)), sizes)
        row = np.concatenate([np.arange(size) for size in sizes])
        order = np.lexsort((shard, views, ids))
        same = (ids[order][1:] == ids[order][:-1]) & (views[order][1:] == views[order][:-1])
        order = order[np.concatenate([[True], ~same])]
        self.num_duplicates = int(same.sum())
        self.video_ids: NDArray[np.str_] = ids[order]
        self.views: NDArray[np.uint16] = views[order]
        self._shard_number = shard[order]
        self._row = row[order]
        self._start = self._gather([s.columns["start"] for s in self._shards])
        self.lengths: NDArray[np.int64] = self._gather([s.columns["length"] for s in self._shards])

    def _gather(self, columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
        first_rows = np.concatenate([[0], np.cumsum([len(column) for column in columns])[:-1]])
        gathered: NDArray[Any] = np.concatenate(columns)[first_rows[self._shard_number] + self._row]
        return gathered

    @property
    def num_sequences(self) -> int:
        """Number of sequences, views counted."""
        return len(self.video_ids)

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return len(self._shards)

    @property
    def embedding_dim(self) -> int:
        """D: values of one embedding."""
        return self._shards[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32."""
        return self._shards[0].dtype

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`: stores with one fingerprint hold comparable embeddings."""
        return self._shards[0].fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes an embedding: backbone, weights' hash, sampling and so on."""
        return dict(self._shards[0].settings)

    @property
    def software(self) -> dict[str, str]:
        """Versions that wrote the first shard."""
        return dict(self._shards[0].software)

    @property
    def execution(self) -> dict[str, Any]:
        """How the first shard was made, as far as it does not change embeddings."""
        return dict(self._shards[0].execution)

    def __len__(self) -> int:
        return self.num_sequences

    def read(self, i: int) -> NDArray[Any]:
        """Return sequence i as (T, D), a read-only view on the mapped file."""
        self._check_position(i)
        number = int(self._shard_number[i])
        mapped = self._maps.get(number)
        if mapped is None:
            mapped = self._maps.setdefault(number, self._shards[number].map())
        start = int(self._start[i])
        return mapped[start : start + int(self.lengths[i])]

    def find(self, video_id: str, view: int = 0) -> int:
        """Return the position of a sequence.

        Raises:
            KeyError: It is not there; the message shows ids that look alike.
        """
        first = int(np.searchsorted(self.video_ids, video_id, side="left"))
        last = int(np.searchsorted(self.video_ids, video_id, side="right"))
        found = np.flatnonzero(self.views[first:last] == view)
        if len(found):
            return first + int(found[0])
        near = difflib.get_close_matches(video_id, self.video_ids[:100_000].tolist(), n=3)
        hint = f"; ids that look alike: {near}" if near else ""
        raise KeyError(f"no sequence {video_id!r} with view {view} in {self.path}{hint}")

    def column(self, name: str) -> NDArray[Any]:
        """Return one /sequences column for all sequences, e.g. `checksum`, `source_hash`."""
        columns = [_read_column(shard.path, name) for shard in self._shards]
        return self._gather(columns)

    def frame_times(self, i: int) -> NDArray[np.float64]:
        """Return the presentation times (T,) in seconds of sequence i."""
        return self._read_frames(i, "time_seconds")

    def frame_indices(self, i: int) -> NDArray[np.int64]:
        """Return the frame numbers (T,) in the source of sequence i."""
        return self._read_frames(i, "source_index")

    def _read_frames(self, i: int, name: str) -> NDArray[Any]:
        self._check_position(i)
        start = int(self._start[i])
        with h5py.File(self._shards[int(self._shard_number[i])].path, "r") as file:
            values: NDArray[Any] = file["frames"][name][start : start + int(self.lengths[i])]
        return values

    def _check_position(self, i: int) -> None:
        if not 0 <= i < self.num_sequences:
            raise IndexError(f"sequence {i} of {self.num_sequences} in {self.path}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __repr__(self) -> str:
        return (
            f"EmbeddingStore({str(self.path)!r}: {self.num_sequences} sequences, "
            f"D={self.embedding_dim}, {self.dtype}, fingerprint {self.fingerprint})"
        )


def _open_shard(path: Path) -> _Shard:
    try:
        with h5py.File(path, "r") as file:
            return _checked_shard(path, file)
    except StoreError:
        raise
    # Damage shows as any of these in h5py; broken JSON and UTF-8 are ValueErrors.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be read as a shard ({error}): it is cut short, damaged or not a store; "
            "move it away and run `stage1-extract run` again to embed its videos anew"
        ) from error


def _checked_shard(path: Path, file: Any) -> _Shard:
    attributes = _checked_attributes(path, file)
    embedding = file["frames"]["embedding"]
    columns = {name: file["sequences"][name][:] for name in _ID_COLUMNS}
    _check_embedding(path, embedding)
    _check_columns(path, file["sequences"], columns)
    _check_ranges(path, columns, len(embedding))
    for name in ("time_seconds", "source_index"):
        if file["frames"][name].shape != (len(embedding),):
            raise _damaged(path, f"/frames/{name} has shape {file['frames'][name].shape}")
    return _Shard(
        path=path,
        fingerprint=attributes["fingerprint"],
        settings=json.loads(attributes["settings"]),
        software=json.loads(attributes["software"]),
        execution=json.loads(attributes["execution"]),
        created=attributes["created"],
        dtype=embedding.dtype,
        shape=embedding.shape,
        offset_bytes=embedding.id.get_offset(),
        columns=columns,
    )


def _checked_attributes(path: Path, file: Any) -> dict[str, Any]:
    attributes = dict(file.attrs)
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
        raise _damaged(path, "its fingerprint is not that of its settings")
    return attributes


def _check_embedding(path: Path, embedding: Any) -> None:
    if embedding.dtype.name not in EMBEDDING_DTYPES or embedding.ndim != 2:
        raise _damaged(path, f"/frames/embedding is {embedding.dtype} with {embedding.ndim} axes")
    if embedding.chunks is not None or embedding.id.get_offset() is None:
        raise _damaged(path, "/frames/embedding is not contiguous and cannot be mapped")
    end = embedding.id.get_offset() + embedding.size * embedding.dtype.itemsize
    if end > path.stat().st_size:
        raise _damaged(path, f"its embeddings end at byte {end}, the file at {path.stat().st_size}")


def _check_columns(path: Path, group: Any, columns: Mapping[str, NDArray[Any]]) -> None:
    for name, values in columns.items():
        if values.dtype.kind != _ID_COLUMNS[name]:
            raise _damaged(path, f"/sequences/{name} is {values.dtype}")
    for name in ("checksum", *(field.name for field in dataclasses.fields(SourceFacts))):
        if group[name].shape != columns["start"].shape:
            raise _damaged(path, f"/sequences/{name} has shape {group[name].shape}")


def _check_ranges(path: Path, columns: Mapping[str, NDArray[Any]], num_frames: int) -> None:
    start, length = columns["start"], columns["length"]
    if len({column.shape for column in columns.values()}) != 1 or start.ndim != 1 or not len(start):
        raise _damaged(path, f"its columns have shapes {[c.shape for c in columns.values()]}")
    bad = (start < 0) | (length < 1) | (start > num_frames - length)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise _damaged(
            path,
            f"sequence {i} claims {length[i]} rows from row {start[i]} on, of {num_frames}",
        )


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {what}; move it away and run `stage1-extract run` again to embed its "
        "videos anew"
    )


def _check_same_settings(first: _Shard, other: _Shard) -> None:
    if first.fingerprint != other.fingerprint:
        raise StoreError(
            f"{first.path} and {other.path} were made with different settings: "
            f"{describe_difference(first.settings, other.settings)}; keep them in separate folders"
        )
    if (first.dtype, first.shape[1]) != (other.dtype, other.shape[1]):
        raise _damaged(
            other.path,
            f"it holds {other.dtype} of dimension {other.shape[1]}, the store {first.dtype} of "
            f"dimension {first.shape[1]}",
        )


def describe_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say in which settings two stores differ, both sides: `sampling: 'all' against 'stride:2'`."""
    missing = "(not set)"
    return ", ".join(
        f"{name}: {ours.get(name, missing)!r} against {theirs.get(name, missing)!r}"
        for name in sorted({*ours, *theirs})
        if ours.get(name, missing) != theirs.get(name, missing)
    )


def _read_column(path: Path, name: str) -> NDArray[Any]:
    with h5py.File(path, "r") as file:
        if name not in file["sequences"]:
            raise KeyError(f"{path} has no column {name!r}; it has {sorted(file['sequences'])}")
        values: NDArray[Any] = file["sequences"][name][:]
    return _decode(path, values) if values.dtype.kind == "S" else values


def _decode(path: Path, values: NDArray[Any]) -> NDArray[np.str_]:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"it holds text that is not UTF-8 ({error})") from error

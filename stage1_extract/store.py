"""The store's file format (version 1): writing a shard, and reading a folder of shards.

A store is a folder of immutable HDF5 shards, or one shard file. A shard is complete or it does not
exist: it is written under a hidden temporary name, synced to disk, and renamed. The layout is
described in data/README.md. Reading needs the standard library, numpy and h5py alone, so that a
store can be read on a machine without a video decoder or Keras.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stage1_extract.hdf5_attributes import read_attributes, write_attributes

FORMAT = "embed-then-sequence store"
FORMAT_VERSION = 1
SHARD_SUFFIX = ".h5"
PARTIAL_SUFFIX = ".partial"
EMBEDDING_DTYPES = ("float16", "float32")
_PAGE_BYTES = 4096
_STALE_SECONDS = 3600
_BLOCK_BYTES = 4 * 2**20
_OPENING_ATTEMPTS = 10
_MAX_OPEN_FILES = 256
_ID_COLUMNS = {"video_id": "S", "view": "u", "start": "i", "length": "i"}
"""Columns that opening reads, and numpy's kind of each."""
_FRAME_COLUMNS = {"time_seconds": np.float64, "source_index": np.int64}


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


_TOLD = ("settings", "software", "execution")
"""Fields of `Provenance`, attributes of a shard, in JSON."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a shard says of its origin.

    `settings` holds everything that changes an embedding and nothing else; the fingerprint is its
    hash. Its `views` are the parameters of stored augmented views, or None where there are none.
    `execution` holds what is worth knowing but changes nothing (batch size, file names).
    """

    settings: Mapping[str, Any]
    software: Mapping[str, str]
    execution: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`."""
        return fingerprint(self.settings)


def merge_software(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return each name's versions in the order of the parts: `{"keras": "3.14.0, 3.15.1"}`."""
    versions: dict[str, dict[str, None]] = {}
    for part in parts:
        for name, version in part.items():
            versions.setdefault(name, {}).update(dict.fromkeys(version.split(", ")))
    return {name: ", ".join(found) for name, found in versions.items()}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the hash of all that changes an embedding: sha256 of its canonical JSON, 32 digits."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def merge_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a store that holds sequences of both.

    All settings must be equal. `views` alone may be None (or not set) on one side: augmented views
    may be added to sequences that were stored without.

    Raises:
        StoreError: They do not belong into one store; both sides of each difference are shown.
    """
    if difference := describe_difference(ours, theirs):
        raise StoreError(difference)
    if ours == theirs:
        return dict(ours)
    return {**ours, "views": _views(ours) or _views(theirs)}


def describe_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say what keeps two settings out of one store: `sampling: 'all' against 'stride:2'`.

    Empty where nothing does; see `merge_settings`.
    """
    return ", ".join(_differences(ours, theirs))


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    missing = "(not set)"
    for name in sorted({*ours, *theirs}):
        our, their = ours.get(name, missing), theirs.get(name, missing)
        if our == their or (name == "views" and None in (_views(ours), _views(theirs))):
            continue
        if isinstance(our, Mapping) and isinstance(their, Mapping):
            yield from (f"{name}.{difference}" for difference in _differences(our, their))
        else:
            yield f"{name}: {our!r} against {their!r}"


def _views(settings: Mapping[str, Any]) -> Any:
    return settings.get("views") or None  # version 0.1 wrote 0


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
    if path.exists():
        raise FileExistsError(f"{path} exists; shards are never overwritten")
    num_frames = sum(record.length for record in records)
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
            for name, values in (("time_seconds", time_seconds), ("source_index", source_index)):
                blocks = [values] if isinstance(values, np.ndarray) else values
                column = frames.create_dataset(name, (num_frames,), _FRAME_COLUMNS[name])
                _write_blocks(column, blocks)
            _write_sequences(file.create_group("sequences"), records)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _write_attributes(file: Any, provenance: Provenance) -> None:
    told = {name: dict(getattr(provenance, name)) for name in _TOLD}
    values: dict[str, str | int] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": provenance.fingerprint,
        **{name: json.dumps(value, sort_keys=True) for name, value in told.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_attributes(file, values)


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


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class Shard:
    """One checked shard: where its embeddings lie in the file, and which sequences it holds."""

    path: Path
    provenance: Provenance
    created: str
    """When it was written, ISO 8601."""
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    offset_bytes: int
    columns: dict[str, NDArray[Any]]

    @property
    def created_span(self) -> tuple[str, str]:
        """When the first and the last of its sequences were written, before any compaction."""
        execution = self.provenance.execution
        first, last = execution.get("created_first"), execution.get("created_last")
        return str(first or self.created), str(last or self.created)

    @property
    def num_sequences(self) -> int:
        """Sequences in the file, copies counted."""
        return len(self.columns["start"])

    @property
    def row_bytes(self) -> int:
        """Bytes of one embedding."""
        return self.shape[1] * self.dtype.itemsize

    def map(self) -> NDArray[Any]:
        """Return the embeddings (F, D) as a read-only view on the file."""
        mapped = np.memmap(
            self.path, dtype=self.dtype, mode="r", offset=self.offset_bytes, shape=self.shape
        )
        return mapped.view(np.ndarray)

    def read_column(self, name: str) -> NDArray[Any]:
        """Return a column of /sequences, in the order of the file."""
        with _damage_named(self.path), h5py.File(self.path, "r") as file:
            names = sorted(file["sequences"])
            values: NDArray[Any] | None = file["sequences"][name][:] if name in names else None
        if values is None:
            raise KeyError(f"{self.path} has no column {name!r}; it has {names}")
        return _decode(self.path, values) if values.dtype.kind == "S" else values


class _OpenFile:
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


class EmbeddingStore:
    """A store opened for reading: sequences sorted by (video_id, view), whatever the shards.

    Opening reads ids and ranges only; a sequence's frames are mapped from the file when read. The
    object pickles without open handles and is safe to read from several threads.

    Args:
        path: The store's folder, or one shard.

    Attributes:
        settings: Everything that changes an embedding: backbone, weights' hash, sampling and so
            on. `views` are those of the shards that hold augmented views.
        video_ids, views, lengths: (N,) of each sequence.
        shards: The shards, in reading order.
        shard_number: (N,) which of them holds the sequence.
        duplicates: (video_id, view) of each stored copy that is not read.

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
        self.shards = _open_shards(self.path)
        self.settings = _common_settings(self.shards)
        self._maps: dict[int, NDArray[Any]] = {}
        self._files: dict[int, _OpenFile] = {}
        self._index_sequences()

    def _index_sequences(self) -> None:
        """Sort all sequences; of copies (two runs at once leave them), keep the first."""
        ids = np.concatenate([_decode(s.path, s.columns["video_id"]) for s in self.shards])
        views = np.concatenate([s.columns["view"] for s in self.shards])
        sizes = [s.num_sequences for s in self.shards]
        shard = np.repeat(np.arange(len(self.shards)), sizes)
        row = np.concatenate([np.arange(size) for size in sizes])
        order = np.lexsort((shard, views, ids))
        same = (ids[order][1:] == ids[order][:-1]) & (views[order][1:] == views[order][:-1])
        copies = order[1:][same]
        order = order[np.concatenate([[True], ~same])]
        self.duplicates = list(zip(ids[copies].tolist(), views[copies].tolist(), strict=True))
        self.video_ids: NDArray[np.str_] = ids[order]
        self.views: NDArray[np.uint16] = views[order]
        self.shard_number: NDArray[np.intp] = shard[order]
        self._row = row[order]
        self._start = self._gather([s.columns["start"] for s in self.shards])
        self.lengths: NDArray[np.int64] = self._gather([s.columns["length"] for s in self.shards])

    def _gather(self, columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
        first_rows = np.concatenate([[0], np.cumsum([len(column) for column in columns])[:-1]])
        gathered: NDArray[Any] = np.concatenate(columns)[first_rows[self.shard_number] + self._row]
        return gathered

    @property
    def num_sequences(self) -> int:
        """Number of sequences, views counted."""
        return len(self.video_ids)

    @property
    def num_duplicates(self) -> int:
        """Number of stored copies that are not read."""
        return len(self.duplicates)

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return len(self.shards)

    @property
    def embedding_dim(self) -> int:
        """D: values of one embedding."""
        return self.shards[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32."""
        return self.shards[0].dtype

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`: stores with one fingerprint hold comparable embeddings."""
        return fingerprint(self.settings)

    @property
    def created(self) -> tuple[str, str]:
        """When its first and its last shard were written, ISO 8601; compaction aside."""
        spans = [shard.created_span for shard in self.shards]
        return min(first for first, _ in spans), max(last for _, last in spans)

    @property
    def software(self) -> dict[str, str]:
        """Versions that wrote the shards, as `merge_software` tells of several."""
        return merge_software(shard.provenance.software for shard in self.shards)

    @property
    def execution(self) -> dict[str, Any]:
        """How the first shard was made, as far as it does not change embeddings."""
        return dict(self.shards[0].provenance.execution)

    def __len__(self) -> int:
        return self.num_sequences

    def read(self, i: int) -> NDArray[Any]:
        """Return sequence i as (T, D), a read-only view on the mapped file."""
        self._check_position(i)
        number = int(self.shard_number[i])
        mapped = self._maps.get(number)
        if mapped is None:
            with self._shard_must_be_there():
                mapped = self._maps.setdefault(number, self.shards[number].map())
        start = int(self._start[i])
        return mapped[start : start + int(self.lengths[i])]

    def read_into(self, i: int, out: NDArray[Any]) -> None:
        """Read sequence i into an array (T, D) of the store's dtype, C-contiguous.

        For training: nothing is mapped, so memory does not grow with what was read.

        Raises:
            ValueError: `out` has another shape or dtype, or is not contiguous.
            StoreError: The file became shorter, or was removed, since the store was opened.
        """
        self._check_position(i)
        number = int(self.shard_number[i])
        shard = self.shards[number]
        shape = (int(self.lengths[i]), shard.shape[1])
        if out.shape != shape or out.dtype != shard.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out is {out.shape} {out.dtype}; expected {shape} {shard.dtype}, C-contiguous"
            )
        offset = shard.offset_bytes + int(self._start[i]) * shard.row_bytes
        file = self._files.get(number)
        if file is None:
            with self._shard_must_be_there():
                file = _OpenFile(shard.path)
            if len(self._files) < _MAX_OPEN_FILES:
                file = self._files.setdefault(number, file)
        if not file.read_into(out.reshape(-1).view(np.uint8).data, offset):
            raise _damaged(shard.path, f"it ends within {self.video_ids[i]}")

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
        with self._shard_must_be_there():
            columns = [shard.read_column(name) for shard in self.shards]
        return self._gather(columns)

    def positions_of(self, shard: int) -> NDArray[np.intp]:
        """Return the positions of the sequences that are read from a shard."""
        return np.flatnonzero(self.shard_number == shard)

    def records_of(self, shard: int) -> list[SequenceRecord]:
        """Return all but the frames of the sequences at `positions_of(shard)`."""
        positions = self.positions_of(shard)
        rows = self._row[positions]
        names = ["checksum", *(field.name for field in dataclasses.fields(SourceFacts))]
        with self._shard_must_be_there():
            columns = [self.shards[shard].read_column(name)[rows].tolist() for name in names]
        identity = (a[positions].tolist() for a in (self.video_ids, self.views, self.lengths))
        return [
            SequenceRecord(video_id, view, length, checksum, SourceFacts(*facts))
            for video_id, view, length, checksum, *facts in zip(*identity, *columns, strict=True)
        ]

    def embedding_blocks(self, i: int) -> Iterator[NDArray[Any]]:
        """Yield sequence i in pieces (n, D) of a few MiB, read and not mapped.

        For work on whole stores: what is mapped counts as the process' memory.

        Raises:
            StoreError: The file became shorter, or was removed, since the store was opened.
        """
        self._check_position(i)
        shard = self.shards[int(self.shard_number[i])]
        rows_left, rows = int(self.lengths[i]), max(1, _BLOCK_BYTES // shard.row_bytes)
        with self._shard_must_be_there(), shard.path.open("rb") as file:
            file.seek(shard.offset_bytes + int(self._start[i]) * shard.row_bytes)
            while rows_left:
                content = file.read(min(rows, rows_left) * shard.row_bytes)
                if not content or len(content) % shard.row_bytes:
                    raise _damaged(shard.path, f"it ends within {self.video_ids[i]}")
                yield np.frombuffer(content, shard.dtype).reshape(-1, shard.shape[1])
                rows_left -= len(content) // shard.row_bytes

    def frame_blocks(
        self, name: str, positions: Iterable[int]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (position, piece) of `time_seconds` or `source_index` of several sequences.

        The pieces (n,) have at most a few MiB; files are opened once where neighbouring positions
        share them.
        """
        rows = _BLOCK_BYTES // 8
        by_shard = itertools.groupby(positions, key=lambda i: int(self.shard_number[i]))
        for number, group in by_shard:
            path = self.shards[number].path
            with self._shard_must_be_there(), _damage_named(path), h5py.File(path, "r") as file:
                values = file["frames"][name]
                for i in group:
                    start, end = int(self._start[i]), int(self._start[i] + self.lengths[i])
                    for row in range(start, end, rows):
                        yield i, values[row : min(row + rows, end)]

    def frame_times(self, i: int) -> NDArray[np.float64]:
        """Return the presentation times (T,) in seconds of sequence i."""
        return self._read_frames(i, "time_seconds")

    def frame_indices(self, i: int) -> NDArray[np.int64]:
        """Return the frame numbers (T,) in the source of sequence i."""
        return self._read_frames(i, "source_index")

    def _read_frames(self, i: int, name: str) -> NDArray[Any]:
        self._check_position(i)
        return np.concatenate([piece for _, piece in self.frame_blocks(name, [i])])

    @contextmanager
    def _shard_must_be_there(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(
                f"a shard of {self.path} is gone ({error}): the store was compacted since it was "
                "opened; open it again"
            ) from error

    def _check_position(self, i: int) -> None:
        if not 0 <= i < self.num_sequences:
            raise IndexError(f"sequence {i} of {self.num_sequences} in {self.path}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}, "_files": {}}

    def __repr__(self) -> str:
        return (
            f"EmbeddingStore({str(self.path)!r}: {self.num_sequences} sequences, "
            f"D={self.embedding_dim}, {self.dtype}, fingerprint {self.fingerprint})"
        )


def _open_shards(path: Path) -> list[Shard]:
    """Open all shards, also while a compaction replaces some by others."""
    missing: FileNotFoundError | None = None
    for _ in range(_OPENING_ATTEMPTS):
        paths = shard_paths(path)
        if not paths:
            raise StoreError(f"{path} holds no shards (*{SHARD_SUFFIX}); is it a store?")
        # A folder that changes while it is listed may show neither the old shard nor the new.
        if shard_paths(path) != paths:
            continue
        try:
            return [_open_shard(shard) for shard in paths]
        except FileNotFoundError as error:
            missing = error
    raise StoreError(
        f"{path} lists shards that cannot be opened: they come and go, or are broken links"
    ) from missing


def _open_shard(path: Path) -> Shard:
    with _damage_named(path), h5py.File(path, "r") as file:
        return _checked_shard(path, file)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
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


def _checked_shard(path: Path, file: Any) -> Shard:
    attributes = _checked_attributes(path, file)
    embedding = file["frames"]["embedding"]
    columns = {name: file["sequences"][name][:] for name in _ID_COLUMNS}
    _check_embedding(path, embedding)
    _check_columns(path, file["sequences"], columns)
    _check_ranges(path, columns, len(embedding))
    for name, dtype in _FRAME_COLUMNS.items():
        values = file["frames"][name]
        if values.shape != (len(embedding),) or values.dtype != dtype:
            raise _damaged(path, f"/frames/{name} is {values.dtype} of shape {values.shape}")
    told = {name: json.loads(attributes[name]) for name in _TOLD}
    return Shard(
        path=path,
        provenance=Provenance(**told),
        created=attributes["created"],
        dtype=embedding.dtype,
        shape=embedding.shape,
        offset_bytes=embedding.id.get_offset(),
        columns=columns,
    )


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
        f"{path} is damaged: {what}; run `stage1-extract verify --repair`, then "
        "`stage1-extract run` again"
    )


def _common_settings(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the settings of all shards together, after checking that they fit."""
    common = dict(shards[0].provenance.settings)
    for number, shard in enumerate(shards):
        try:
            common = merge_settings(common, shard.provenance.settings)
        except StoreError as error:
            before = [other.provenance.settings for other in shards[:number]]
            differing = [bool(describe_difference(b, shard.provenance.settings)) for b in before]
            raise StoreError(
                f"{shards[differing.index(True)].path} and {shard.path} were made with different "
                f"settings: {error}; keep them in separate folders"
            ) from error
        if (shard.dtype, shard.shape[1]) != (shards[0].dtype, shards[0].shape[1]):
            raise _damaged(
                shard.path,
                f"it holds {shard.dtype} of dimension {shard.shape[1]}, the store "
                f"{shards[0].dtype} of dimension {shards[0].shape[1]}",
            )
    return common


def _decode(path: Path, values: NDArray[Any]) -> NDArray[np.str_]:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"it holds text that is not UTF-8 ({error})") from error

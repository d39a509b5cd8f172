"""A store opened for reading; and all names of the file format, which live in the shard modules.

Reading needs the standard library, numpy and h5py alone, so that a store can be read on a machine
without a video decoder or Keras.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stage1_extract.addresses import no_store_at
from stage1_extract.provenance import (
    Provenance,
    StoreError,
    describe_difference,
    fingerprint,
    merge_settings,
    merge_software,
)
from stage1_extract.shard_format import (
    EMBEDDING_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    PARTIAL_SUFFIX,
    SHARD_SUFFIX,
    SequenceRecord,
    SourceFacts,
    damaged,
    embedding_hasher,
    new_shard_path,
    remove_stale_partials,
    shard_paths,
    sync,
)
from stage1_extract.shard_reading import OpenFile, Range, SequenceIds, Shard, decode
from stage1_extract.shard_set import open_shards
from stage1_extract.shard_writing import write_shard

__all__ = [
    "EMBEDDING_DTYPES",
    "FORMAT",
    "FORMAT_VERSION",
    "PARTIAL_SUFFIX",
    "SHARD_SUFFIX",
    "EmbeddingStore",
    "Provenance",
    "SequenceRecord",
    "Shard",
    "SourceFacts",
    "StoreError",
    "describe_difference",
    "embedding_hasher",
    "fingerprint",
    "merge_settings",
    "merge_software",
    "new_shard_path",
    "remove_stale_partials",
    "shard_paths",
    "sync",
    "write_shard",
]

_MAX_OPEN_FILES = 256


class EmbeddingStore:
    """A store opened for reading: sequences sorted by (video_id, view), whatever the shards.

    Opening reads ids and ranges only; a sequence's frames are mapped from the file when read. The
    object pickles without open handles and is safe to read from several threads.

    Args:
        path: The store's folder, or one shard.

    Attributes:
        settings: Everything that changes an embedding: backbone, weights' hash, sampling and so
            on. `views` are those of the shards that hold augmented views.
        views, lengths: (N,) of each sequence.
        shards: The shards, in reading order.
        shard_number: (N,) which of them holds the sequence.
        starts: (N,) its first row among the shard's frames.
        duplicates: (video_id, view) of each stored copy that is not read.
        duplicate_shards: (C, 2) of each of these: the shard that is read instead, and the copy's.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: Not a store, another version, damaged, or shards of different settings.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise no_store_at(self.path)
        if self.path.is_file() and not h5py.is_hdf5(self.path):
            raise StoreError(
                f"{self.path} is no HDF5 file; expected a store: a folder of shards, or one shard"
            )
        self.shards, ids, self.settings = open_shards(self.path)
        self._maps: dict[int, NDArray[Any]] = {}
        self._files: dict[int, OpenFile] = {}
        self._index_sequences(ids)

    def _index_sequences(self, ids: SequenceIds) -> None:
        """Sort all sequences; of copies (two runs at once leave them), keep the first."""
        sizes = [shard.num_sequences for shard in self.shards]
        shard = np.repeat(np.arange(len(self.shards)), sizes)
        # Stable, so that the first shard's copy comes first; UTF-8 sorts as its texts do.
        order = np.lexsort((ids.view, ids.video_id))
        names, views = ids.video_id[order], ids.view[order]
        same = (names[1:] == names[:-1]) & (views[1:] == views[:-1])
        copies = decode(names[1:][same]).tolist()
        self.duplicates = list(zip(copies, views[1:][same].tolist(), strict=True))
        kept = np.concatenate([[True], ~same])
        self._order = order[kept]
        self._names: NDArray[np.bytes_] = names[kept]
        self.views: NDArray[np.uint16] = views[kept]
        self.shard_number: NDArray[np.intp] = shard[self._order]
        read_instead = (np.cumsum(kept) - 1)[~kept]
        self.duplicate_shards: NDArray[np.intp] = np.stack(
            [self.shard_number[read_instead], shard[order[~kept]]], axis=1
        )
        self._first_of_shard = np.concatenate([[0], np.cumsum(sizes)])
        self.starts: NDArray[np.int64] = ids.start[self._order]
        self.lengths: NDArray[np.int64] = ids.length[self._order]

    @cached_property
    def video_ids(self) -> NDArray[np.str_]:
        """(N,) id of each sequence."""
        return decode(self._names)

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
            with self.shards_must_be_there():
                mapped = self._maps.setdefault(number, self.shards[number].map())
        start = int(self.starts[i])
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
        offset = shard.offset_bytes + int(self.starts[i]) * shard.row_bytes
        file = self._files.get(number)
        if file is None:
            with self.shards_must_be_there():
                file = OpenFile(shard.path)
            if len(self._files) < _MAX_OPEN_FILES:
                file = self._files.setdefault(number, file)
        if not file.read_into(out.reshape(-1).view(np.uint8).data, offset):
            raise damaged(shard.path, f"it ends within {self.video_ids[i]}")

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
        return self.columns([name])[name]

    def columns(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return several columns by name; each shard is opened once."""
        with self.shards_must_be_there():
            of_shards = [shard.read_columns(names) for shard in self.shards]
        gathered = {}
        for name in names:
            values = np.concatenate([columns.pop(name) for columns in of_shards])[self._order]
            gathered[name] = decode(values) if values.dtype.kind == "S" else values
        return gathered

    def positions_of(self, shard: int) -> NDArray[np.intp]:
        """Return the positions of the sequences that are read from a shard."""
        return self._by_shard.get(shard, np.empty(0, np.intp))

    def rows_of(self, positions: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return where sequences stand among their shard's, in the file's order."""
        rows: NDArray[np.intp] = (
            self._order[positions] - self._first_of_shard[self.shard_number[positions]]
        )
        return rows

    def ranges_of(self, positions: NDArray[np.intp]) -> list[Range]:
        """Return the rows of the shard's /frames that sequences are, first and end."""
        start = self.starts[positions]
        return list(zip(start.tolist(), (start + self.lengths[positions]).tolist(), strict=True))

    @cached_property
    def _by_shard(self) -> dict[int, NDArray[np.intp]]:
        return dict(_grouped(self.shard_number))

    def frame_blocks(
        self, name: str, positions: Iterable[int]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (position, piece) of `time_seconds` or `source_index` of several sequences.

        The pieces (n,) have at most a few MiB. For many short sequences `Shard.frame_blocks`, which
        joins neighbours, is a hundred times as fast.
        """
        for i in positions:
            shard = self.shards[int(self.shard_number[i])]
            with self.shards_must_be_there():
                for piece in shard.frame_blocks(name, self.ranges_of(np.array([i]))):
                    yield i, piece

    def time_spans(self, positions: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the times (N, 2) of the first and the last frame of sequences, in seconds."""
        spans = np.empty((len(positions), 2))
        for number, chosen in _grouped(self.shard_number[positions]):
            start = self.starts[positions[chosen]]
            rows = np.stack([start, start + self.lengths[positions[chosen]] - 1], axis=1)
            with self.shards_must_be_there():
                values = self.shards[number].frame_values("time_seconds", rows.reshape(-1))
            spans[chosen] = values.reshape(-1, 2)
        return spans

    def frame_times(self, i: int) -> NDArray[np.float64]:
        """Return the presentation times (T,) in seconds of sequence i."""
        return self._read_frames(i, "time_seconds")

    def frame_indices(self, i: int) -> NDArray[np.int64]:
        """Return the frame numbers (T,) in the source of sequence i."""
        return self._read_frames(i, "source_index")

    def _read_frames(self, i: int, name: str) -> NDArray[Any]:
        self._check_position(i)
        shard = self.shards[int(self.shard_number[i])]
        with self.shards_must_be_there():
            return np.concatenate(list(shard.frame_blocks(name, self.ranges_of(np.array([i])))))

    @contextmanager
    def shards_must_be_there(self) -> Iterator[None]:
        """Turn the error of a shard that was compacted away into one that says what to do."""
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
        state = {**self.__dict__, "_maps": {}, "_files": {}}
        for name in ("video_ids", "_by_shard"):  # made again where they are wanted
            state.pop(name, None)
        return state

    def __repr__(self) -> str:
        return (
            f"EmbeddingStore({str(self.path)!r}: {self.num_sequences} sequences, "
            f"D={self.embedding_dim}, {self.dtype}, fingerprint {self.fingerprint})"
        )


def _grouped(numbers: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each number that occurs, and where, in order."""
    order = np.argsort(numbers, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        if len(group):
            yield int(numbers[group[0]]), group

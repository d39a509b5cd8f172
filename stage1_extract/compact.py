"""Merging small shards into large ones, so that nothing can be lost on the way.

The new shard is on the disk before the old ones are removed. A crash in between leaves copies, of
which readers take the first; the next compaction removes them.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.provenance import StoreError, merge_software
from stage1_extract.running_digests import RunningDigests
from stage1_extract.shard_format import (
    FACTS,
    embedding_hasher,
    new_shard_path,
    remove_stale_partials,
    sync,
)
from stage1_extract.shard_reading import Range, Shard, decode
from stage1_extract.shard_writing import Frames, Sequences, write_shard_pieces
from stage1_extract.store import EmbeddingStore

SHARD_BYTES = 1024 * 10**6
"""Default size of the shards that compaction makes, embeddings alone."""


@dataclasses.dataclass(frozen=True)
class CompactResult:
    """What a compaction did.

    Attributes:
        num_shards_before, num_shards_after: Shards that it found, and what became of them.
        num_sequences: Sequences of the store, before as after.
        num_duplicates_removed: Stored copies that no reader used, now gone.
    """

    num_shards_before: int
    num_shards_after: int
    num_sequences: int
    num_duplicates_removed: int


@dataclasses.dataclass(frozen=True)
class Part:
    """Sequences of one shard that are to be copied: positions (n,) in an opened store."""

    opened: EmbeddingStore
    number: int
    positions: NDArray[np.intp]

    @classmethod
    def of(cls, opened: EmbeddingStore, number: int, positions: NDArray[np.intp]) -> "Part":
        """Put the sequences into the file's order, in which they are read fastest."""
        return cls(opened, number, positions[np.argsort(opened.starts[positions])])

    @property
    def shard(self) -> Shard:
        """The shard."""
        return self.opened.shards[self.number]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) frames of each sequence."""
        lengths: NDArray[np.int64] = self.opened.lengths[self.positions]
        return lengths

    @property
    def ranges(self) -> list[Range]:
        """The rows of the shard's frames that are copied."""
        return self.opened.ranges_of(self.positions)

    @property
    def num_copies(self) -> int:
        """Stored copies that no reader uses."""
        return self.shard.num_sequences - len(self.positions)

    def columns(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read columns of /sequences; texts as bytes."""
        rows = self.opened.rows_of(self.positions)
        columns = self.shard.read_columns(names)
        return {name: columns[name][rows] for name in names}


def compact_store(path: Path, *, shard_bytes: int = SHARD_BYTES) -> CompactResult:
    """Merge shards of less than half of `shard_bytes` and remove copies; cheap if there are none.

    Every sequence is compared with its checksum while it is copied, a piece at a time: memory does
    not grow with the frames, and by some 200 bytes with each sequence. Shards that another run adds
    meanwhile stay as they are.

    Args:
        path: The store's folder; a single shard is left as it is.
        shard_bytes: Wanted size of a shard's embeddings. Shards of different settings (with and
            without augmented views) stay apart.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: A sequence is damaged, or the store cannot be trusted. Nothing is lost.
        OSError: The disk is full or fails. Nothing is lost.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; expected 1 or more")
    opened = EmbeddingStore(path)
    num_before = opened.num_shards
    num_after, num_removed = num_before, 0
    if path.is_dir():
        remove_stale_partials(path)
        _check_kept_copies(opened)
        for bin_ in _bins(opened, shard_bytes):
            num_after += _replace_shards(path, bin_)
            num_removed += sum(part.num_copies for part in bin_)
    return CompactResult(num_before, num_after, opened.num_sequences, num_removed)


def write_parts(folder: Path, parts: Sequence[Part]) -> None:
    """Copy sequences of one or several shards of equal settings into a new shard, in this order.

    It has the first shard's provenance and all their versions of software, and says of how many
    shards it was made, and of when. Of the texts and numbers, memory holds one shard's at a time.

    Raises:
        StoreError: A sequence is not what its checksum says; nothing is written.
    """
    shards = [part.shard for part in parts]
    provenance = dataclasses.replace(
        shards[0].provenance,
        software=merge_software(shard.provenance.software for shard in shards),
        execution=_execution(shards),
    )
    frames = Frames(
        shards[0].dtype.name,
        shards[0].shape[1],
        embedding=_checked_blocks(parts),
        time_seconds=_frame_blocks(parts, "time_seconds"),
        source_index=_frame_blocks(parts, "source_index"),
    )
    lengths = np.concatenate([part.lengths for part in parts])
    columns = (part.columns(("video_id", "view", "checksum", *FACTS)) for part in parts)
    with parts[0].opened.shards_must_be_there():
        sequences = Sequences(lengths, _text_bytes(shards), columns)
        write_shard_pieces(new_shard_path(folder), provenance, frames, sequences)


def _text_bytes(shards: Sequence[Shard]) -> dict[str, int]:
    widths: Counter[str] = Counter()
    for shard in shards:
        widths |= Counter(shard.text_bytes())
    return dict(widths)


def is_unchanged(opened: EmbeddingStore, i: int, checksum: str) -> bool:
    """Return whether sequence i still has the bytes that were written."""
    hasher = embedding_hasher()
    for block in opened.embedding_blocks(i):
        hasher.update(block.tobytes())
    return hasher.hexdigest() == checksum


def _bins(opened: EmbeddingStore, shard_bytes: int) -> Iterator[list[Part]]:
    """Yield the shards that become one: small ones of equal settings, and those with copies."""
    open_bins: dict[str, list[Part]] = {}
    filled: Counter[str] = Counter()
    for number in range(opened.num_shards):
        part = Part.of(opened, number, opened.positions_of(number))
        num_bytes = int(part.lengths.sum()) * part.shard.row_bytes
        if num_bytes >= shard_bytes / 2:
            if part.num_copies:
                yield [part]
            continue
        name = part.shard.provenance.fingerprint
        of_settings = open_bins.setdefault(name, [])
        if filled[name] + num_bytes > shard_bytes:
            yield list(of_settings)
            of_settings.clear()
            filled[name] = 0
        of_settings.append(part)
        filled[name] += num_bytes
    for parts in open_bins.values():
        if len(parts) > 1 or parts[0].num_copies:
            yield parts


def _replace_shards(folder: Path, parts: Sequence[Part]) -> int:
    """Write one shard for several and remove them; returns by how many there are more now."""
    filled = [part for part in parts if len(part.positions)]
    if filled:
        write_parts(folder, filled)
    for part in parts:
        part.shard.path.unlink(missing_ok=True)
    sync(folder)
    return bool(filled) - len(parts)


def _execution(shards: Sequence[Shard]) -> dict[str, Any]:
    spans = [shard.created_span for shard in shards]
    executions = [shard.provenance.execution for shard in shards]
    return {
        **executions[0],
        "compacted_from": sum(int(execution.get("compacted_from", 1)) for execution in executions),
        "created_first": min(first for first, _ in spans),
        "created_last": max(last for _, last in spans),
    }


def _check_kept_copies(opened: EmbeddingStore) -> None:
    """Refuse to remove a copy while the one that stays is damaged."""
    if not opened.duplicates:
        return
    checksums = opened.column("checksum")
    for video_id, view in opened.duplicates:
        i = opened.find(video_id, view)
        if not is_unchanged(opened, i, checksums[i]):
            raise _damaged(opened, i)


def _checked_blocks(parts: Sequence[Part]) -> Iterator[NDArray[Any]]:
    for part in parts:
        checksums = decode(part.columns(["checksum"])["checksum"]).tolist()
        expected = zip(part.positions.tolist(), checksums, strict=True)
        digests = RunningDigests(part.lengths.tolist())
        for block in part.shard.embedding_blocks(part.ranges):
            for digest in digests.add(block):
                position, checksum = next(expected)
                if digest != checksum:
                    raise _damaged(part.opened, position)
            yield block


def _damaged(opened: EmbeddingStore, i: int) -> StoreError:
    shard = opened.shards[int(opened.shard_number[i])].path
    return StoreError(
        f"{opened.video_ids[i]} (view {opened.views[i]}) in {shard} is not what its checksum says; "
        f"no shard with damage was removed. Run `stage1-extract verify {opened.path} --repair`"
    )


def _frame_blocks(parts: Sequence[Part], name: str) -> Iterator[NDArray[Any]]:
    for part in parts:
        yield from part.shard.frame_blocks(name, part.ranges)

"""Merging small shards into large ones, so that nothing can be lost on the way.

The new shard is on the disk before the old ones are removed. A crash in between leaves copies, of
which readers take the first; the next compaction removes them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract import store
from stage1_extract.store import EmbeddingStore, Provenance, SequenceRecord, StoreError

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
    shard: int
    positions: NDArray[np.intp]

    @property
    def provenance(self) -> Provenance:
        """What the shard says of its origin."""
        return self.opened.shards[self.shard].provenance

    @property
    def num_bytes(self) -> int:
        """Size of the embeddings."""
        lengths = self.opened.lengths[self.positions]
        return int(lengths.sum()) * self.opened.shards[self.shard].row_bytes

    def records(self) -> list[SequenceRecord]:
        """Return all but the frames."""
        of_shard = self.opened.positions_of(self.shard)
        wanted = np.isin(of_shard, self.positions).tolist()
        records = self.opened.records_of(self.shard)
        return [record for record, take in zip(records, wanted, strict=True) if take]


def compact_store(path: Path, *, shard_bytes: int = SHARD_BYTES) -> CompactResult:
    """Merge shards of less than half of `shard_bytes` and remove copies; cheap if there are none.

    Every sequence is compared with its checksum while it is copied, a piece at a time: memory does
    not grow with the frames. Shards that another run adds meanwhile stay as they are.

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
        store.remove_stale_partials(path)
        _check_kept_copies(opened)
        for bin_ in _bins(opened, shard_bytes):
            num_after += _replace_shards(path, bin_)
            num_removed += sum(_num_copies(part) for part in bin_)
    return CompactResult(num_before, num_after, opened.num_sequences, num_removed)


def write_parts(folder: Path, parts: Sequence[Part]) -> None:
    """Copy sequences of one or several shards of equal settings into a new shard, in this order.

    It has the first shard's provenance and all their versions of software, and says of how many
    shards it was made, and of when.

    Raises:
        StoreError: A sequence is not what its checksum says; nothing is written.
    """
    first = parts[0]
    records = [part.records() for part in parts]
    store.write_shard(
        store.new_shard_path(folder),
        dataclasses.replace(
            first.provenance,
            software=store.merge_software(part.provenance.software for part in parts),
            execution=_execution(parts),
        ),
        [record for part in records for record in part],
        embedding_blocks=_checked_blocks(parts, records),
        embedding_dtype=first.opened.dtype.name,
        embedding_dim=first.opened.embedding_dim,
        time_seconds=_frame_blocks(parts, "time_seconds"),
        source_index=_frame_blocks(parts, "source_index"),
    )


def is_unchanged(opened: EmbeddingStore, i: int, checksum: str) -> bool:
    """Return whether sequence i still has the bytes that were written."""
    hasher = store.embedding_hasher()
    for block in opened.embedding_blocks(i):
        hasher.update(block.tobytes())
    return hasher.hexdigest() == checksum


def _bins(opened: EmbeddingStore, shard_bytes: int) -> Iterator[list[Part]]:
    """Yield the shards that become one: small ones of equal settings, and those with copies."""
    open_bins: dict[str, list[Part]] = {}
    for number in range(opened.num_shards):
        part = Part(opened, number, opened.positions_of(number))
        if part.num_bytes >= shard_bytes / 2:
            if _num_copies(part):
                yield [part]
            continue
        of_settings = open_bins.setdefault(part.provenance.fingerprint, [])
        if sum(p.num_bytes for p in of_settings) + part.num_bytes > shard_bytes:
            yield list(of_settings)
            of_settings.clear()
        of_settings.append(part)
    for parts in open_bins.values():
        if len(parts) > 1 or _num_copies(parts[0]):
            yield parts


def _num_copies(part: Part) -> int:
    return part.opened.shards[part.shard].num_sequences - len(part.positions)


def _replace_shards(folder: Path, parts: Sequence[Part]) -> int:
    """Write one shard for several and remove them; returns by how many there are more now."""
    filled = [part for part in parts if len(part.positions)]
    if filled:
        write_parts(folder, filled)
    for part in parts:
        part.opened.shards[part.shard].path.unlink(missing_ok=True)
    store.sync(folder)
    return bool(filled) - len(parts)


def _execution(parts: Sequence[Part]) -> dict[str, Any]:
    spans = [part.opened.shards[part.shard].created_span for part in parts]
    return {
        **parts[0].provenance.execution,
        "compacted_from": sum(int(p.provenance.execution.get("compacted_from", 1)) for p in parts),
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


def _checked_blocks(
    parts: Sequence[Part], records: Sequence[Sequence[SequenceRecord]]
) -> Iterator[NDArray[Any]]:
    for part, records_of_part in zip(parts, records, strict=True):
        for i, record in zip(part.positions.tolist(), records_of_part, strict=True):
            hasher = store.embedding_hasher()
            for block in part.opened.embedding_blocks(i):
                hasher.update(block.tobytes())
                yield block
            if hasher.hexdigest() != record.checksum:
                raise _damaged(part.opened, i)


def _damaged(opened: EmbeddingStore, i: int) -> StoreError:
    shard = opened.shards[int(opened.shard_number[i])].path
    return StoreError(
        f"{opened.video_ids[i]} (view {opened.views[i]}) in {shard} is not what its checksum says; "
        f"no shard with damage was removed. Run `stage1-extract verify {opened.path} --repair`"
    )


def _frame_blocks(parts: Sequence[Part], name: str) -> Iterator[NDArray[Any]]:
    for part in parts:
        for _, piece in part.opened.frame_blocks(name, part.positions.tolist()):
            yield piece

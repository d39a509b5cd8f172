"""Merging small shards into large ones, so that nothing can be lost on the way.

**A shard is removed only after the same compaction has written anew every sequence in it**, copies
of what stands elsewhere too. So shards that share sequences are replaced together. A crash in
between leaves copies, of which readers take the first; the next compaction removes them.

That is all that several compactions of one store need, on any machines and in any interleaving:
no lock, whose holder a file system across machines cannot tell for certain. For let s be a sequence
in a shard that is removed. Who removed it had written s into a shard before, which is younger, as
it was written after the old one was opened. If that one was removed too, s stands in one younger
still, and so on; shards are finitely many, so the last one of these stands. To drop a copy because
an older shard holds it as well would break this: two could each drop the one that the other keeps.

A compaction that fails, or meets the work of another one, takes back the shards that it wrote for
those it has not begun to remove. Nobody's reason to remove anything was such a shard.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.provenance import StoreError, merge_software
from stage1_extract.running_digests import RunningDigests
from stage1_extract.shard_format import (
    FACTS,
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
    def num_bytes(self) -> int:
        """Size of the embeddings that are copied."""
        return int(self.lengths.sum()) * self.shard.row_bytes

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
    meanwhile stay as they are. Shards that share sequences need room once more while they are
    rewritten, all together.

    Args:
        path: The store's folder; a single shard is left as it is.
        shard_bytes: Wanted size of a shard's embeddings. Shards of different settings (with and
            without augmented views) stay apart.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: A sequence is damaged, the store cannot be trusted, or another compaction is at
            work. Nothing is lost.
        OSError: The disk is full or fails. Nothing is lost.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; expected 1 or more")
    opened = EmbeddingStore(path)
    num_before = opened.num_shards
    num_after, num_removed = num_before, 0
    if path.is_dir():
        remove_stale_partials(path)
        for bin_ in _bins(opened, shard_bytes):
            num_after += _replace_shards(path, bin_, shard_bytes)
            num_removed += sum(part.num_copies for part in bin_)
    return CompactResult(num_before, num_after, opened.num_sequences, num_removed)


def write_parts(folder: Path, parts: Sequence[Part]) -> Path:
    """Copy sequences of one or several shards of equal settings into a new shard, in this order.

    It has the first shard's provenance and all their versions of software, and says of how many
    shards it was made, and of when. Of the texts and numbers, memory holds one shard's at a time.

    Raises:
        StoreError: A sequence is not what its checksum says; nothing is written.
        FileNotFoundError: A shard is gone; nothing is written.
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
    sequences, path = Sequences(lengths, _text_bytes(shards), columns), new_shard_path(folder)
    write_shard_pieces(path, provenance, frames, sequences)
    return path


def _text_bytes(shards: Sequence[Shard]) -> dict[str, int]:
    widths: Counter[str] = Counter()
    for shard in shards:
        widths |= Counter(shard.text_bytes())
    return dict(widths)


def _bins(opened: EmbeddingStore, shard_bytes: int) -> Iterator[list[Part]]:
    """Yield shards that are replaced together: those with copies, and small ones as well."""
    small = []
    for parts in _groups(opened):
        if sum(part.num_bytes for part in parts) < shard_bytes / 2:
            small.append(parts)
        elif _has_copies(parts):
            yield parts
    for parts in _packed(small, shard_bytes):
        if len(parts) > 1 or _has_copies(parts):
            yield parts


def _groups(opened: EmbeddingStore) -> list[list[Part]]:
    """Return all shards; those that share a sequence, directly or by others, are in one group."""
    group = np.arange(opened.num_shards)
    for pair in np.unique(opened.duplicate_shards, axis=0):
        first, second = sorted(group[pair].tolist())
        group[group == second] = first
    groups: dict[int, list[Part]] = {}
    for number, first in enumerate(group.tolist()):
        part = Part.of(opened, number, opened.positions_of(number))
        groups.setdefault(first, []).append(part)
    return list(groups.values())


def _has_copies(parts: Iterable[Part]) -> bool:
    return any(part.num_copies for part in parts)


def _packed(groups: Iterable[list[Part]], shard_bytes: int) -> Iterator[list[Part]]:
    """Join groups of equal settings as long as they do not become larger than wanted."""
    packs: dict[frozenset[str], list[Part]] = {}
    filled: Counter[frozenset[str]] = Counter()
    for parts in groups:
        settings = frozenset(part.shard.provenance.fingerprint for part in parts)
        num_bytes = sum(part.num_bytes for part in parts)
        if settings in packs and filled[settings] + num_bytes > shard_bytes:
            yield packs.pop(settings)
            filled[settings] = 0
        packs.setdefault(settings, []).extend(parts)
        filled[settings] += num_bytes
    yield from packs.values()


def _replace_shards(folder: Path, parts: Sequence[Part], shard_bytes: int) -> int:
    """Write new shards for all of these and remove them; returns by how many there are more."""
    change = -len(parts)
    with _alone(folder), ExitStack() as undo:
        for pack in _packed(([part] for part in parts if len(part.positions)), shard_bytes):
            undo.callback(write_parts(folder, pack).unlink, missing_ok=True)
            change += 1
        for part in parts:
            part.shard.path.stat()  # else another one wrote the same, and all would stand twice
        undo.pop_all()
    for part in parts:
        part.shard.path.unlink(missing_ok=True)
    sync(folder)
    return change


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Turn the error of a shard that is gone into one that says who is at work."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"another compaction or repair of {folder} is at work, for a shard is gone ({error}); "
            f"nothing is lost. Once it has ended, `stage1-extract compact {folder}` does the rest"
        ) from error


def _execution(shards: Sequence[Shard]) -> dict[str, Any]:
    spans = [shard.created_span for shard in shards]
    executions = [shard.provenance.execution for shard in shards]
    return {
        **executions[0],
        "compacted_from": sum(int(execution.get("compacted_from", 1)) for execution in executions),
        "created_first": min(first for first, _ in spans),
        "created_last": max(last for _, last in spans),
    }


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

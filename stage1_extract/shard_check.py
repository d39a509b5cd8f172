"""Reading all of a shard and comparing it with its checksums."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.provenance import StoreError
from stage1_extract.running_digests import RunningDigests
from stage1_extract.shard_format import FACTS
from stage1_extract.shard_index import ShardState
from stage1_extract.shard_reading import (
    Range,
    SequenceIds,
    Shard,
    check_all_digests,
    decode,
    open_shard,
)

Beat = Callable[[int], None]
"""Told of the bytes that were read since it was called last."""
_KEPT_FACTS = ("source_hash", "clip_start_seconds", "clip_end_seconds")
_EXPONENT = {"float16": (np.uint16, 0x7C00), "float32": (np.uint32, 0x7F800000)}
"""Bits that are all set in NaN and infinity alone; ten times as fast as `numpy.isfinite`."""


@dataclasses.dataclass(frozen=True)
class ShardContent:
    """What verifying a store needs to know of a sound or damaged shard.

    Attributes:
        shard: The shard.
        ids: Its sequences, in the order of the file.
        sources: (S,) their `source_hash` (bytes), `clip_start_seconds` and `clip_end_seconds`.
    """

    shard: Shard
    ids: SequenceIds
    sources: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> "ShardContent":
        """Read all but the frames.

        Raises:
            StoreError: It is damaged.
        """
        shard, ids = open_shard(path)
        columns = shard.read_columns(("checksum", *FACTS))
        return cls(shard, ids, {name: columns[name] for name in _KEPT_FACTS})


@dataclasses.dataclass(frozen=True)
class ShardCheck:
    """A shard after reading all of it.

    Attributes:
        path: Where it is.
        state: Of the file, before.
        unreadable: Why it cannot be read at all.
        content: What it holds, if it can be read.
        problems: What is wrong with sequences, by their row in the file.
    """

    path: Path
    state: ShardState
    unreadable: str = ""
    content: ShardContent | None = None
    problems: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def bad(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.unreadable or self.problems)


def check_shard(path: Path, state: ShardState, beat: Beat = lambda _: None) -> ShardCheck:
    """Read all of a shard.

    Args:
        path: Where it is.
        state: Of its file, asked for before.
        beat: Told of the bytes that were read, now and then.

    Raises:
        StoreError: It is gone.
    """
    try:
        content = ShardContent.read(path)
        problems = _problems(content, beat)
        if not problems:  # which say more
            check_all_digests(path)
        return ShardCheck(path, state, content=content, problems=problems)
    except (StoreError, OSError) as error:
        if not path.exists():
            raise StoreError(
                f"{path} is gone since it was listed; verify the store again"
            ) from error
        return ShardCheck(path, state, unreadable=str(error))


def _problems(content: ShardContent, beat: Beat) -> dict[int, str]:
    """Return what is wrong with each row; of several problems the worst."""
    shard, ids = content.shard, content.ids
    order = np.argsort(ids.start, kind="stable")
    start, length = ids.start[order], ids.length[order]
    ranges = list(zip(start.tolist(), (start + length).tolist(), strict=True))
    ends = np.cumsum(length)
    problems = {}
    for name, is_bad, what in (
        ("source_index", lambda indices: indices < 0, "it has negative frame numbers"),
        ("time_seconds", np.isinf, "it has infinite frame times"),
    ):
        blocks = _beating(shard.frame_blocks(name, ranges), beat)
        for number in _counted(((is_bad(block), len(block)) for block in blocks), ends):
            problems[int(order[number])] = what
    checksums = decode(shard.read_columns(["checksum"])["checksum"])[order].tolist()
    try:
        found = _embedding_problems(shard, ranges, checksums, beat)
    except OSError:  # which sequences does the disk refuse?
        found = _unreadable_problems(shard, ranges, checksums)
    return problems | {int(order[number]): what for number, what in found.items()}


def _embedding_problems(
    shard: Shard, ranges: list[Range], checksums: list[str], beat: Beat
) -> dict[int, str]:
    """Return what is wrong with the embeddings of ranges, by their number."""
    lengths = [end - start for start, end in ranges]
    digests, changed = RunningDigests(lengths), dict[int, str]()
    number = 0

    def masks() -> Iterator[tuple[NDArray[np.bool_], int]]:
        nonlocal number
        for block in _beating(shard.embedding_blocks(ranges), beat):
            for digest in digests.add(block):
                if digest != checksums[number]:
                    changed[number] = "its embeddings changed: they are not what its checksum says"
                number += 1
            yield _not_finite(block), len(block)

    counts = _counted(masks(), np.cumsum(lengths))
    return {
        number: f"{count} of its frames have NaN or infinite embeddings"
        for number, count in counts.items()
    } | changed


def _unreadable_problems(shard: Shard, ranges: list[Range], checksums: list[str]) -> dict[int, str]:
    """Do the same one by one; a sequence that cannot be read is a problem of its own."""
    found = {}
    for number, (range_, checksum) in enumerate(zip(ranges, checksums, strict=True)):
        try:
            for what in _embedding_problems(shard, [range_], [checksum], lambda _: None).values():
                found[number] = what
        except OSError as error:
            found[number] = f"it cannot be read ({error})"
    return found


def _not_finite(block: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (n,) which rows of embeddings hold NaN or infinity."""
    integer, exponent = _EXPONENT[block.dtype.name]
    bits = block.view(integer) & integer(exponent)
    if bits.max() < exponent:
        return np.zeros(len(block), bool)
    bad: NDArray[np.bool_] = (bits == exponent).any(axis=1)
    return bad


def _counted(
    masks: Iterable[tuple[NDArray[np.bool_], int]], ends: NDArray[np.int64]
) -> Counter[int]:
    """Count the rows that are bad by the number of their sequence, given where these end."""
    counts, row = Counter[int](), 0
    for mask, size in masks:
        bad = row + np.flatnonzero(mask)
        if len(bad):
            counts.update(np.searchsorted(ends, bad, side="right").tolist())
        row += size
    return counts


def _beating(blocks: Iterable[NDArray[Any]], beat: Beat) -> Iterator[NDArray[Any]]:
    for block in blocks:
        yield block
        beat(block.nbytes)

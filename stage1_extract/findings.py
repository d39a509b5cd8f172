"""What the checks of all shards say of a store."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.equal_content import SOURCE_COLUMNS, equal_sources
from stage1_extract.shard_check import ShardCheck
from stage1_extract.shard_reading import SequenceIds, decode

_NOTHING = SequenceIds(
    np.empty(0, "S1"), np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.int64)
)


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What `verify` found, and what repairing did.

    Attributes:
        num_sequences: Sequences that were read.
        bad_shards: Shards that cannot be read at all, and why.
        bad_sequences: Sequences whose content is wrong, and how.
        duplicates: Sequences that are stored more than once; one copy is read. No damage.
        equal_sources: video_ids whose sources have equal content, group by group. No damage.
        extract_again: Videos that are lost; those of unreadable shards are not known by name.
        quarantined: Where repairing moved damaged shards.
        num_rescued: Sound sequences of damaged shards that repairing copied into new shards.
        num_continued: Shards that were not read now: an earlier verification, which was broken off
            or found damage elsewhere, had found them sound, and they did not change since.
        continued_since: When the first of these was read, ISO 8601; blank for none.
    """

    num_sequences: int
    bad_shards: tuple[str, ...]
    bad_sequences: tuple[str, ...]
    duplicates: tuple[str, ...]
    equal_sources: tuple[tuple[str, ...], ...]
    extract_again: tuple[str, ...]
    quarantined: tuple[str, ...]
    num_rescued: int
    num_continued: int = 0
    continued_since: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing was damaged."""
        return not self.bad_shards and not self.bad_sequences


class Findings:
    """The sequences of all readable shards, N rows, one shard after the other.

    Args:
        checks: The checks of the shards, in the order in which readers open them.

    Attributes:
        checks: The same.
        rows: The rows of each readable shard, by its number among the checks.
    """

    def __init__(self, checks: Sequence[ShardCheck]) -> None:
        self.checks = checks
        self.rows: dict[int, slice] = {}
        self._contents, end = [], 0
        for number, check in enumerate(checks):
            if check.content is not None:
                self._contents.append(check.content)
                self.rows[number] = slice(end, end + len(check.content.ids))
                end += len(check.content.ids)
        self._ids = SequenceIds.joined([_NOTHING, *(content.ids for content in self._contents)])
        self._order = np.lexsort((self._ids.view, self._ids.video_id))

    @cached_property
    def _is_first(self) -> NDArray[np.bool_]:
        """(N,) in sorted order, whether a row is the first of its (video_id, view)."""
        names, views = self._ids.video_id[self._order], self._ids.view[self._order]
        first = np.ones(len(names), bool)
        first[1:] = (names[1:] != names[:-1]) | (views[1:] != views[:-1])
        return first

    @cached_property
    def key(self) -> NDArray[np.intp]:
        """(N,) number of each row's (video_id, view), of which there may be copies."""
        numbers = np.empty(len(self._order), np.intp)
        numbers[self._order] = np.cumsum(self._is_first) - 1
        return numbers

    @cached_property
    def is_read(self) -> NDArray[np.bool_]:
        """(N,) whether readers of its shard see a row: of copies within a shard the first."""
        shard = np.empty(len(self._order), np.intp)
        for number, rows in self.rows.items():
            shard[rows] = number
        shard = shard[self._order]
        read = np.ones(len(self._order), bool)
        read[self._order[1:]] = self._is_first[1:] | (shard[1:] != shard[:-1])
        return read

    @cached_property
    def is_sound(self) -> NDArray[np.bool_]:
        """(N,) whether readers see a row, and nothing is wrong with it."""
        sound = self.is_read.copy()
        for number, rows in self.rows.items():
            sound[[rows.start + row for row in self.checks[number].problems]] = False
        return sound

    def result(self) -> VerifyResult:
        """Return what was found, before any repair."""
        counts = np.bincount(self.key)
        num_sound = np.bincount(self.key, self.is_sound, minlength=len(counts))
        first = self._order[self._is_first]
        lost = np.unique(self._ids.video_id[first[num_sound == 0]])
        return VerifyResult(
            num_sequences=int(self.is_read.sum()),
            bad_shards=tuple(check.unreadable for check in self.checks if check.unreadable),
            bad_sequences=tuple(self._problem_texts()),
            duplicates=tuple(self._text(row) for row in first[counts > 1].tolist()),
            equal_sources=self._equal_sources(),
            extract_again=tuple(decode(lost).tolist()),
            quarantined=(),
            num_rescued=0,
        )

    def _equal_sources(self) -> tuple[tuple[str, ...], ...]:
        if not self._contents:
            return ()
        columns: list[NDArray[Any]] = [
            np.concatenate([content.sources[name] for content in self._contents])
            for name in SOURCE_COLUMNS
        ]
        groups = equal_sources(self._ids.video_id, *columns)
        return tuple(tuple(decode(np.array(ids, "S")).tolist()) for ids in groups)

    def _problem_texts(self) -> Iterator[str]:
        for number, rows in self.rows.items():
            check = self.checks[number]
            for row in sorted(check.problems):
                yield f"{self._text(rows.start + row)} in {check.path}: {check.problems[row]}"

    def _text(self, row: int) -> str:
        return f"{self._ids.video_id[row].decode()} (view {self._ids.view[row]})"

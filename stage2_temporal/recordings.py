"""Parts of one recording on two sides: a leak where they overlap in time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.equal_content import SOURCE_COLUMNS
from stage1_extract.store import EmbeddingStore
from stage2_temporal.leakage import LeakageError
from stage2_temporal.splits import Split
from stage2_temporal.targets import LabelledClips


@dataclass(frozen=True, eq=False)
class Recordings:
    """Which part of which file each of N clips shows.

    Attributes:
        sources: (N,) hash of the file.
        start: (N,) seconds; -inf for the file's start.
        end: (N,) seconds; inf for its end.
        by_start: (N,) the clips in the order of their starts.
        number: (N,) number of the file.
    """

    sources: NDArray[np.str_]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    by_start: NDArray[np.intp]
    number: NDArray[np.intp]

    @classmethod
    def of(cls, clips: LabelledClips, store: EmbeddingStore) -> "Recordings":
        """Read the parts from the store."""
        columns = store.columns(SOURCE_COLUMNS)
        sources, start, end = (columns[name][clips.positions] for name in SOURCE_COLUMNS)
        start, end = np.nan_to_num(start, nan=-np.inf), np.nan_to_num(end, nan=np.inf)
        number = pd.factorize(sources)[0].astype(np.intp)
        return cls(sources, start, end, np.argsort(start, kind="stable"), number)

    def check(
        self, splits: Iterable[tuple[str, Split]], clip_ids: Sequence[str] | NDArray[Any]
    ) -> list[str]:
        """Refuse parts of one file that overlap in time on two sides; report those that do not.

        Only a column of sides or folds can bring that about, and a split within a recording may be
        meant.

        Args:
            splits: Splits of the clips, each with a name to show.
            clip_ids: (N,) names to show.

        Raises:
            LeakageError: Clips on two sides show the same part of a file.
        """
        shared: set[int] = set()
        for name, split in splits:
            side = split.name_of_clip
            torn = self._torn(side)
            shared.update(torn)
            for number in torn:
                self._check_overlap(name, number, side, clip_ids)
        if not shared:
            return []
        return [f"{len(shared)} source files have clips on two sides or folds: scores may leak"]

    @cached_property
    def _by_file(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The clips file by file, by their starts, and where those of each file begin."""
        order = self.by_start[np.argsort(self.number[self.by_start], kind="stable")]
        count = self.number.max(initial=-1) + 2
        return order, np.searchsorted(self.number[order], np.arange(count))

    def _torn(self, side: NDArray[np.str_]) -> list[int]:
        """Return the files with clips on two sides."""
        on_side = np.zeros((self.number.max(initial=-1) + 1, len(Split.names)), dtype=bool)
        for column, name in enumerate(Split.names):
            on_side[self.number[side == name], column] = True
        return [int(number) for number in np.flatnonzero(on_side.sum(axis=1) > 1)]

    def _check_overlap(self, name: str, number: int, side: NDArray[np.str_], clip_ids: Any) -> None:
        last: dict[str, int] = {}  # of each side, the part so far that ends last
        order, first = self._by_file
        for clip in order[first[number] : first[number + 1]].tolist():
            for other, before in last.items():
                if other != side[clip] and self.start[clip] < self.end[before]:
                    raise LeakageError(
                        f"{name}: {clip_ids[before]} ({other}) and {clip_ids[clip]} "
                        f"({side[clip]}) show the same part of one recording; correct the column "
                        "that names the sides"
                    )
            if side[clip] not in last or self.end[clip] > self.end[last[side[clip]]]:
                last[side[clip]] = clip

"""Splits of clips into train, validation and test: grouped, stratified, checked, hashed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.cuts import Cut, GroupTable, good_cuts, shorten
from stage2_temporal.strata import Indices, Strata

_ALIASES = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    "test": "test",
}
_NUM_EXAMPLES = 5
_REMEDY = (
    "Merge or drop the class, group by something finer (so that there are more groups), or name "
    "the sides yourself in a split column."
)


@dataclass(frozen=True, eq=False)
class Split:
    """The clips of each side: sorted indices that hold every clip 0..N-1 exactly once."""

    train: Indices
    validation: Indices
    test: Indices
    names: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def __post_init__(self) -> None:
        clips = np.concatenate([indices for _, indices in self.items()])
        if not np.array_equal(np.sort(clips), np.arange(len(clips))):
            numbers, counts = np.unique(clips, return_counts=True)
            raise ValueError(
                f"split holds {len(clips)} clips, {numbers[counts > 1][:5].tolist()} more than "
                "once: expected every clip 0..N-1 on exactly one side"
            )
        for name, indices in self.items():
            if (np.diff(indices) < 0).any():
                raise ValueError(f"{name} is not sorted: {indices[:10].tolist()}; use np.sort")

    @classmethod
    def of(cls, name_of_clip: NDArray[Any]) -> "Split":
        """Make a split from the (N,) side of each clip, the inverse of `name_of_clip`."""
        return cls(*(np.flatnonzero(name_of_clip == name) for name in cls.names))

    @property
    def name_of_clip(self) -> NDArray[np.str_]:
        """(N,) "train", "validation" or "test"."""
        out = np.empty(sum(len(indices) for _, indices in self.items()), dtype="<U10")
        for name, indices in self.items():
            out[indices] = name
        return out

    def items(self) -> Iterator[tuple[str, Indices]]:
        """Yield each side's name and clips."""
        return ((name, getattr(self, name)) for name in self.names)


def split_holdout(
    strata: Strata,
    groups: NDArray[Any],
    *,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.2,
    seed: int,
) -> Split:
    """Split clips three ways: groups whole, sizes and stratum shares near what is asked.

    The test side is cut first, so another `validation_fraction` leaves it as it is (unless no
    validation side can be cut from the rest); the validation side is then cut from the rest. Each
    side holds everything that is needed: every class, or a value.

    Args:
        strata: See `stratify`.
        groups: (N,) group numbers, see `merge_groups`; all distinct for independent clips.
        validation_fraction: wanted share of all clips.
        test_fraction: wanted share of all clips.
        seed: fixes the split.

    Raises:
        ValueError: impossible fractions, fewer than 3 groups (in all, or of a class), or no split
            found that has every class on every side.
    """
    _check_fractions(validation_fraction, test_fraction)
    check_same_length(len(strata.numbers), {"groups": groups})
    table = GroupTable.of(strata, groups)
    _check_three_groups(table, strata.needed.names)
    clips, required = table.clips, table.serving
    for test in good_cuts(Cut(clips, required, test_fraction, outside=2), seed=[seed, 0]):
        rest = np.flatnonzero(~test)
        relative = validation_fraction / (1 - test_fraction)
        cut = Cut(clips[rest], required[rest], relative, outside=1)
        for validation in good_cuts(cut, seed=[seed, 1]):
            side = np.where(test, "test", "train").astype("<U10")
            side[rest[validation]] = "validation"
            return Split.of(side[table.group])
    raise ValueError(
        "no split found with every class in train, validation and test. "
        f"{table.overview}. Groups that hold several classes leave too little choice. {_REMEDY}"
    )


def cut_validation(
    strata: Strata,
    groups: NDArray[Any],
    fraction: float,
    *,
    seed: Sequence[int],
    is_quick: bool = False,
) -> NDArray[np.bool_]:
    """Return which of (N,) clips validate: whole groups, stratified, near a fraction of the clips.

    Whatever is needed stays in training. The validation side holds it too where two groups or more
    have it; where groups of several classes make that impossible, it goes without.

    Args:
        strata: Of the clips that are not tested.
        groups: (N,) their group numbers.
        fraction: Wanted share of these clips.
        seed: Fixes the cut.
        is_quick: Search less, where many cuts are to be made.

    Raises:
        ValueError: Any validation side would take all clips of a class.
    """
    table = GroupTable.of(strata, groups)
    required = np.column_stack([table.serving, table.serving.any(axis=1)])  # and any label at all
    in_several_groups = (required.sum(axis=0) >= 2).astype(np.intp)
    any_label = np.zeros_like(in_several_groups)
    any_label[-1] = 1
    for inside in (in_several_groups, any_label):
        cut = Cut(table.clips, required, fraction, outside=1, inside=inside)
        found = good_cuts(cut, seed=seed, is_quick=is_quick) if len(table.clips) > 1 else []
        if found:
            return np.asarray(found[0][table.group])
    raise ValueError(
        f"no validation side can be cut from {len(table.clips)} groups that leaves every class in "
        f"training. {table.overview}. {_REMEDY}"
    )


def split_from_column(values: NDArray[Any]) -> Split:
    """Read a split from a column of names: train, val/valid/validation/dev and test, in any case.

    Args:
        values: (N,) the side of each clip.

    Raises:
        ValueError: a value is blank or unknown, or one of the three sides has no clip.
    """
    texts = ["" if pd.isna(value) else str(value).strip().lower() for value in values]
    side = np.array([_ALIASES.get(text, "") for text in texts])
    wrong = np.flatnonzero(side == "")
    if len(wrong):
        examples = ", ".join(f"row {row}: {values[row]!r}" for row in wrong[:_NUM_EXAMPLES])
        raise ValueError(
            f"{len(wrong)} of {len(side)} values of the split column are blank or unknown "
            f"({examples}; rows count from 0): expected one of {', '.join(_ALIASES)}"
        )
    counts = {name: int((side == name).sum()) for name in Split.names}
    if not all(counts.values()):
        raise ValueError(
            f"the split column gives {counts}: expected clips on all three sides; add the missing "
            "one, or leave the split column out to have the split made for you"
        )
    return Split.of(side)


def split_sha256(clip_ids: Sequence[str] | NDArray[Any], split: Split) -> str:
    """Return the hash (64 hex digits) of which clip is on which side, whatever the row order.

    Raises:
        ValueError: `clip_ids` repeat, or are not one a clip.
    """
    side = split.name_of_clip
    check_same_length(len(side), {"clip_ids": clip_ids})
    pairs = sorted((str(clip), str(name)) for clip, name in zip(clip_ids, side, strict=True))
    repeated = [a[0] for a, b in pairwise(pairs) if a[0] == b[0]]
    if repeated:
        raise ValueError(f"clip ids repeat: {repeated[:_NUM_EXAMPLES]}; give each clip its own id")
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _check_three_groups(table: GroupTable, names: Sequence[str]) -> None:
    num_groups = len(table.clips)
    if num_groups < 3:
        raise ValueError(
            f"{num_groups} groups cannot fill train, validation and test: expected 3 or more; "
            "group by something finer, or name the sides in a split column. "
            f"{table.overview}."
        )
    few = table.serving.sum(axis=0) < 3
    if few.any():
        scarce = shorten([name for name, is_few in zip(names, few, strict=True) if is_few])
        raise ValueError(
            f"fewer than 3 groups have {scarce}, which therefore cannot be in train, validation "
            f"and test: expected 3 groups or more of each class. {table.overview}. {_REMEDY}"
        )


def _check_fractions(validation: float, test: float) -> None:
    for name, value in (("validation_fraction", validation), ("test_fraction", test)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}: expected between 0 and 1, such as 0.2")
    if validation + test >= 1:
        raise ValueError(
            f"validation_fraction {validation} + test_fraction {test} leave nothing to train on: "
            "expected a sum below 1"
        )


def check_same_length(num_clips: int, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    """Raise ValueError unless every column has one value a clip."""
    for name, column in columns.items():
        if len(column) != num_clips:
            raise ValueError(f"{name} has {len(column)} values: expected one a clip, {num_clips}")

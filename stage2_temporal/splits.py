"""Leak-free splits of clips into train, validation and test: grouped, stratified, checked, hashed.

A cut into two starts from scikit-learn's stratified folds of several seeded shuffles. Few large
groups leave such folds far from the wanted size, so each is improved by moving one group at a time.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from stage2_temporal.metrics import check_task

Indices = NDArray[np.intp]

_ALIASES = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    "test": "test",
}
_MAX_FOLDS = 20
_MAX_SHUFFLES = 5
_SHUFFLE_BUDGET = 15_000  # groups x folds over all shuffles: under half a second a cut
_WORTHWHILE = 1e-4  # a smaller gain in fit is not worth a move; it also ends the search
_SHORT = 10.0  # misfit of one missing class, above any misfit of sizes
_NUM_EXAMPLES = 5
_NUM_SHOWN = 12


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


def strata(target: NDArray[Any], task: str, num_bins: int = 5) -> Indices:
    """Return what a split keeps in proportion: class numbers, or quantile bins for regression.

    Args:
        target: (N,) class numbers or finite floats.
        task: one of `stage2_temporal.metrics.TASKS`.
        num_bins: bins for regression; fewer where values repeat or a bin would have under 3 clips.

    Returns:
        (N,) stratum numbers; bins are numbered from 0 in the order of their values.

    Raises:
        ValueError: unknown task, `num_bins` below 1, or a target that is not finite or whole.
    """
    check_task(task)
    target = np.asarray(target, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(target))
    if bad.size:
        raise ValueError(
            f"target is not finite for {bad.size} of {len(target)} clips, the first is "
            f"target[{bad[0]}] = {target[bad[0]]}: leave clips without a target out"
        )
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: expected 1 or more")
    if task != "regression":
        wrong = np.unique(target[(target != np.floor(target)) | (target < 0)])
        if wrong.size:
            raise ValueError(
                f"{task} target contains {wrong[:5].tolist()}: expected class numbers 0, 1, ..., "
                "or task 'regression'"
            )
        return target.astype(np.intp)
    num_bins = max(1, min(num_bins, len(target) // 3))
    edges = np.quantile(target, np.arange(1, num_bins) / num_bins)
    return np.unique(np.searchsorted(np.unique(edges), target), return_inverse=True)[1]


def split_holdout(
    strata: NDArray[Any],
    groups: NDArray[Any],
    *,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.2,
    seed: int,
    require_all_strata: bool = True,
    stratum_names: Sequence[str] | None = None,
) -> Split:
    """Split clips three ways: groups whole, sizes and stratum shares near what is asked.

    The test side is cut first, so another `validation_fraction` leaves it as it is (unless no
    validation side can be cut from the rest); the validation side is then cut from the rest.

    Args:
        strata: (N,) stratum numbers, see `strata`.
        groups: (N,) group numbers, see `merge_groups`; all distinct for independent clips.
        validation_fraction: wanted share of all clips.
        test_fraction: wanted share of all clips.
        seed: fixes the split.
        require_all_strata: whether each side must hold every stratum (classification).
        stratum_names: the name of each stratum number, for messages.

    Raises:
        ValueError: impossible fractions, fewer than 3 groups (in all, or of a required stratum), or
            no split found that has every required stratum on every side.
    """
    _check_fractions(validation_fraction, test_fraction)
    check_same_length(len(strata), {"groups": groups})
    numbers, stratum = np.unique(strata, return_inverse=True)
    group_names, group = np.unique(groups, return_inverse=True)
    table = np.zeros((len(group_names), len(numbers)), dtype=np.intp)
    np.add.at(table, (group, stratum), 1)
    required = table > 0 if require_all_strata else np.ones((len(table), 1), dtype=bool)
    names = [_stratum_name(n, stratum_names) for n in numbers]
    overview = _overview(table, names)
    if len(table) < 3 or required.sum(axis=0).min() < 3:
        raise ValueError(_too_few_groups(overview, len(table), names, required))
    for test in _cuts(_Cut(table, required, test_fraction, keep=2), seed=[seed, 0]):
        rest = np.flatnonzero(~test)
        relative = validation_fraction / (1 - test_fraction)
        cut = _Cut(table[rest], required[rest], relative, keep=1)
        for validation in _cuts(cut, seed=[seed, 1]):
            side = np.where(test, "test", "train").astype("<U10")
            side[rest[validation]] = "validation"
            return Split.of(side[group])
    raise ValueError(
        f"no split found with every class in train, validation and test. {overview} Groups that "
        f"hold several classes leave too little choice. {_REMEDY}"
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


@dataclass(frozen=True, eq=False)
class _Cut:
    """A cut of groups into two, to be judged.

    `table` is (G, C) clips of each group and stratum; `required` (G, R) bool says which groups
    serve a requirement: one inside, and `keep` outside, must serve each.
    """

    table: NDArray[np.intp]
    required: NDArray[np.bool_]
    fraction: float
    keep: int

    def misfit(self, clips: NDArray[Any], serving: NDArray[Any]) -> NDArray[np.float64]:
        """How far from the wish a side with (..., C) clips and (..., R) serving groups is."""
        whole = self.table.sum(axis=0)
        size = np.abs(clips.sum(axis=-1) / whole.sum() - self.fraction)
        shares = np.abs(clips / np.maximum(whole, 1) - self.fraction).mean(axis=-1)
        outside = self.required.sum(axis=0) - serving
        short = (serving < 1).sum(axis=-1) + np.maximum(self.keep - outside, 0).sum(axis=-1)
        return np.asarray(size + shares + _SHORT * short)

    def of(self, inside: NDArray[np.bool_]) -> float:
        """The misfit of the (G,) groups `inside`."""
        return float(self.misfit(self.table[inside].sum(axis=0), self.required[inside].sum(axis=0)))


def _cuts(cut: _Cut, *, seed: Sequence[int]) -> list[NDArray[np.bool_]]:
    """Return the groups inside, (G,) bool each, of the good cuts found, best first."""
    rng = np.random.default_rng(seed)
    num_folds = _num_folds(cut)
    wanted = int(np.clip(round(cut.fraction * num_folds), 1, num_folds - 1))
    num_shuffles = _SHUFFLE_BUDGET // (len(cut.table) * num_folds)
    found = []
    for _ in range(int(np.clip(num_shuffles, 1, _MAX_SHUFFLES))):
        fold = _fold_of_group(cut.table, num_folds, int(rng.integers(2**31)))
        starts = [(fold - first) % num_folds < wanted for first in range(num_folds)]
        found.append(_improved(cut, min(starts, key=cut.of)))
    return sorted((inside for inside in found if cut.of(inside) < _SHORT), key=cut.of)


def _num_folds(cut: _Cut) -> int:
    """How many folds: the fraction's denominator, as far as the data have groups and clips."""
    denominator = Fraction(cut.fraction).limit_denominator(_MAX_FOLDS).denominator
    largest = int(cut.table.sum(axis=0).max())
    wanted = denominator if denominator > 1 else _MAX_FOLDS
    return max(2, min(wanted, len(cut.table), largest))


def _fold_of_group(table: NDArray[np.intp], num_folds: int, seed: int) -> Indices:
    """Return the (G,) fold of each group of one seeded shuffle, from scikit-learn."""
    of_group, of_stratum = np.nonzero(table)
    repeats = table[of_group, of_stratum]
    group, stratum = np.repeat(of_group, repeats), np.repeat(of_stratum, repeats)
    if np.bincount(stratum).max() < num_folds:  # scikit-learn refuses: no shares to keep
        stratum = np.zeros_like(stratum)
    ungrouped = len(group) == len(table)
    kind = StratifiedKFold if ungrouped else StratifiedGroupKFold
    folds = kind(n_splits=num_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(table), dtype=np.intp)
    with warnings.catch_warnings():
        # A rare stratum is missing from some folds: `_improved` sees to it, or `_cuts` rejects.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = folds.split(stratum, stratum, None if ungrouped else group)
        for number, (_, clips) in enumerate(parts):
            fold[group[clips]] = number
    return fold


def _improved(cut: _Cut, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Move the group that helps most from side to side until none helps (steepest descent)."""
    inside, current = inside.copy(), cut.of(inside)
    while True:
        sign = np.where(inside, -1, 1)[:, None]
        clips = cut.table[inside].sum(axis=0) + sign * cut.table
        misfits = cut.misfit(clips, cut.required[inside].sum(axis=0) + sign * cut.required)
        best = int(misfits.argmin())
        if misfits[best] > current - _WORTHWHILE:
            return inside
        inside[best], current = ~inside[best], float(misfits[best])


_REMEDY = (
    "Merge or drop the class, group by something finer (so that there are more groups), or name "
    "the sides yourself in a split column."
)


def _stratum_name(number: int, names: Sequence[str] | None) -> str:
    if names is None:
        return f"class {number}"
    if not 0 <= number < len(names):
        raise ValueError(f"stratum {number} has no name: stratum_names has {len(names)}")
    return f"{names[number]} (class {number})"


def _overview(table: NDArray[np.intp], names: Sequence[str]) -> str:
    rows = zip(names, table.sum(axis=0), (table > 0).sum(axis=0), strict=True)
    return _some([f"{name}: {clips} clips in {groups} groups" for name, clips, groups in rows])


def _some(texts: Sequence[str]) -> str:
    rest = len(texts) - _NUM_SHOWN
    return "; ".join(texts[:_NUM_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _too_few_groups(
    overview: str, num_groups: int, names: Sequence[str], required: NDArray[np.bool_]
) -> str:
    if num_groups < 3:
        return (
            f"{num_groups} groups cannot fill train, validation and test: expected 3 or more; "
            f"group by something finer, or name the sides in a split column. {overview}."
        )
    scarce = [name for name, few in zip(names, required.sum(axis=0) < 3, strict=True) if few]
    return (
        f"fewer than 3 groups have {_some(scarce)}, which therefore cannot be in train, validation "
        f"and test: expected 3 groups or more of each class. {overview}. {_REMEDY}"
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

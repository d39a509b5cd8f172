"""Cuts of groups into two sides, near a wanted size and the shares of all strata.

A cut starts from scikit-learn's stratified folds of several seeded shuffles. Few large groups leave
such folds far from the wanted size, so each is improved by moving one group at a time.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from stage2_temporal.strata import Indices, Strata

_MAX_FOLDS = 20
_QUICK_MAX_FOLDS = 7
_MAX_SHUFFLES = 5
_SHUFFLE_BUDGET = 15_000  # groups x folds over all shuffles: under half a second a cut
_WORTHWHILE = 1e-4  # a smaller gain in fit is not worth a move; it also ends the search
_SHORT = 10.0  # misfit of one missing class, above any misfit of sizes
_NUM_SHOWN = 12


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Clips counted by group.

    Attributes:
        clips: (G, C) clips of each group and stratum.
        serving: (G, R) whether a group has a clip that serves a need.
        group: (N,) row of each clip's group.
        overview: Clips and groups of each need, for messages.
    """

    clips: NDArray[np.intp]
    serving: NDArray[np.bool_]
    group: Indices
    overview: str

    @classmethod
    def of(cls, strata: Strata, groups: NDArray[Any]) -> "GroupTable":
        """Count the clips of each of (N,) groups."""
        names, group = np.unique(groups, return_inverse=True)
        strata_found, stratum = np.unique(strata.numbers, return_inverse=True)
        clips = np.zeros((len(names), len(strata_found)), dtype=np.intp)
        np.add.at(clips, (group, stratum), 1)
        needs = strata.needed.serving.tocoo()
        serving = np.zeros((len(names), needs.shape[1]), dtype=bool)
        serving[group[needs.row], needs.col] = True
        columns = (strata.needed.names, needs.sum(axis=0), serving.sum(axis=0))
        counts = [f"{name}: {n} clips in {g} groups" for name, n, g in zip(*columns, strict=True)]
        return cls(clips, serving, group, shorten(counts))


def shorten(texts: Sequence[str]) -> str:
    """Join texts, and say how many more there are than are shown."""
    rest = len(texts) - _NUM_SHOWN
    return "; ".join(texts[:_NUM_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut of groups into two, to be judged.

    `table` is (G, C) clips of each group and stratum; `required` (G, R) bool says which groups
    serve a requirement: `inside` of them (one number, or one a requirement) must be inside, and
    `outside` of them outside.
    """

    table: NDArray[np.intp]
    required: NDArray[np.bool_]
    fraction: float
    outside: int
    inside: int | NDArray[np.intp] = 1

    def misfit(self, clips: NDArray[Any], serving: NDArray[Any]) -> NDArray[np.float64]:
        """How far from the wish a side with (..., C) clips and (..., R) serving groups is."""
        whole = self.table.sum(axis=0)
        size = np.abs(clips.sum(axis=-1) / whole.sum() - self.fraction)
        shares = np.abs(clips / np.maximum(whole, 1) - self.fraction).mean(axis=-1)
        outside = self.required.sum(axis=0) - serving
        short = (serving < self.inside).sum(axis=-1)
        short = short + np.maximum(self.outside - outside, 0).sum(axis=-1)
        return np.asarray(size + shares + _SHORT * short)

    def of(self, inside: NDArray[np.bool_]) -> float:
        """The misfit of the (G,) groups `inside`."""
        return float(self.misfit(self.table[inside].sum(axis=0), self.required[inside].sum(axis=0)))


def good_cuts(cut: Cut, *, seed: Sequence[int], is_quick: bool = False) -> list[NDArray[np.bool_]]:
    """Return the groups inside, (G,) bool each, of the good cuts found, best first.

    Args:
        cut: What is wanted.
        seed: Fixes the shuffles.
        is_quick: Improve one shuffle of few folds only, where many cuts are to be made.
    """
    rng = np.random.default_rng(seed)
    num_folds = _num_folds(cut, _QUICK_MAX_FOLDS if is_quick else _MAX_FOLDS)
    wanted = int(np.clip(round(cut.fraction * num_folds), 1, num_folds - 1))
    num_shuffles = 1 if is_quick else _SHUFFLE_BUDGET // (len(cut.table) * num_folds)
    found = []
    for _ in range(int(np.clip(num_shuffles, 1, _MAX_SHUFFLES))):
        fold = fold_of_group(cut.table, num_folds, int(rng.integers(2**31)))
        starts = [(fold - first) % num_folds < wanted for first in range(num_folds)]
        found.append(_improved(cut, min(starts, key=cut.of)))
    return sorted((inside for inside in found if cut.of(inside) < _SHORT), key=cut.of)


def fold_of_group(table: NDArray[np.intp], num_folds: int, seed: int) -> Indices:
    """Return the (G,) fold of each group of one seeded shuffle, from scikit-learn.

    Args:
        table: (G, C) clips of each group and stratum.
        num_folds: At most the number of groups.
        seed: The shuffle's random state.
    """
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
        # A rare stratum is missing from some folds: the callers see to it, or tell.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = folds.split(stratum, stratum, None if ungrouped else group)
        for number, (_, clips) in enumerate(parts):
            fold[group[clips]] = number
    return fold


def _num_folds(cut: Cut, max_folds: int) -> int:
    """How many folds: the fraction's denominator, as far as the data have groups and clips."""
    denominator = Fraction(cut.fraction).limit_denominator(max_folds).denominator
    largest = int(cut.table.sum(axis=0).max())
    wanted = denominator if denominator > 1 else max_folds
    return max(2, min(wanted, len(cut.table), largest))


def _improved(cut: Cut, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
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

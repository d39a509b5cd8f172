"""Folds of a validation scheme: which clips each tests, and how the rest trains and validates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.config import TrainSettings
from stage2_temporal.cuts import GroupTable, fold_of_group
from stage2_temporal.splits import Split, check_same_length, cut_validation, split_holdout
from stage2_temporal.strata import Indices, Needs, Strata
from stage2_temporal.tested import Tested, column_sides, kfold_sides, leave_one_group_out

_NUM_EXAMPLES = 5
_MANY_FOLDS = 20


@dataclass(frozen=True, eq=False)
class Fold:
    """Clips that are tested together, and what trains for them.

    Attributes:
        name: Unlike that of any other fold.
        repetition: From 0; every clip is tested once a repetition (in a holdout, some are).
        splits: One for each model: all test the same clips, the others train and validate.
    """

    name: str
    repetition: int
    splits: tuple[Split, ...]

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(f"{self.name} has no split; expected one or more")
        if not all(np.array_equal(split.test, self.test) for split in self.splits):
            raise ValueError(f"the splits of {self.name} test other clips; expected the same")

    @property
    def test(self) -> Indices:
        """The clips that are tested."""
        return self.splits[0].test

    def named_splits(self) -> Iterator[tuple[str, Split]]:
        """Yield each split with a name for messages."""
        for number, split in enumerate(self.splits):
            yield f"{self.name}, model {number}" if len(self.splits) > 1 else self.name, split


def plan_folds(
    strata: Strata,
    groups: NDArray[Any],
    settings: TrainSettings,
    *,
    split: Split | None = None,
    fold_column: NDArray[Any] | None = None,
    group_labels: Sequence[str] | None = None,
) -> tuple[Fold, ...]:
    """Return the folds of a validation scheme: grouped, stratified, tests kept apart.

    With `inner_folds` 1 the validation side of each fold is cut from the clips that it does not
    test, with the wanted share of all clips; with more, these clips are divided into so many parts,
    and each model validates on another one.

    Args:
        strata: Of N clips, see `stratify`.
        groups: (N,) group numbers, see `merge_groups`; all distinct for independent clips.
        settings: validation, folds, fold_repeats, inner_folds, fractions and seed are used.
        split: holdout: The split, where a column names it; otherwise it is made.
        fold_column: kfold: (N,) names of the clips' test folds; otherwise folds are made.
        group_labels: leave-one-group-out: A name for each group, in the order of the numbers.

    Raises:
        ValueError: Fewer groups than folds, an empty fold, or a training side without a class.
    """
    check_same_length(len(strata.numbers), {"groups": groups})
    if settings.validation == "holdout":
        return (_holdout(strata, groups, settings, split),)
    if settings.validation == "leave-one-group-out":
        sides = list(leave_one_group_out(strata, groups, settings, group_labels))
    elif fold_column is not None:
        sides = list(column_sides(fold_column, settings))
    else:
        sides = list(kfold_sides(strata, groups, settings))
    is_quick = len(sides) > _MANY_FOLDS
    return tuple(make_fold(side, strata, groups, settings, is_quick=is_quick) for side in sides)


def _holdout(
    strata: Strata, groups: NDArray[Any], settings: TrainSettings, split: Split | None
) -> Fold:
    if split is None:
        split = split_holdout(
            strata,
            groups,
            validation_fraction=settings.validation_fraction,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
        )
    if settings.inner_folds > 1:
        side = Tested("holdout", 0, (settings.seed, 0), split.test)
        return make_fold(side, strata, groups, settings)
    fold = Fold("holdout", 0, (split,))
    check_training((fold,), strata.needed)
    return fold


def make_fold(
    side: Tested,
    strata: Strata,
    groups: NDArray[Any],
    settings: TrainSettings,
    *,
    is_quick: bool = False,
) -> Fold:
    """Cut the clips that are not tested into training and validation, in one way or several.

    Args:
        side: The clips that are tested.
        strata: Of all N clips.
        groups: (N,) group numbers.
        settings: inner_folds and validation_fraction are used.
        is_quick: Search less, where many cuts are to be made.

    Raises:
        ValueError: No validation side can be cut, or a training side lacks a class.
    """
    untested = np.ones(len(groups), dtype=bool)
    untested[side.clips] = False
    rest = np.flatnonzero(untested)
    _check_present(side.name, strata.needed, rest)
    inside = strata.at(rest), groups[rest]
    try:
        if settings.inner_folds > 1:
            validation = _inner_parts(*inside, settings.inner_folds, side.seed)
        else:
            fraction = _fraction_of_rest(settings.validation_fraction, len(groups), len(rest))
            validation = [cut_validation(*inside, fraction, seed=side.seed, is_quick=is_quick)]
    except ValueError as error:
        raise ValueError(f"{side.name}: {error}") from None
    splits = tuple(
        Split(train=rest[~part], validation=rest[part], test=side.clips) for part in validation
    )
    fold = Fold(side.name, side.repetition, splits)
    check_training((fold,), strata.needed)
    return fold


def _fraction_of_rest(fraction: float, num_clips: int, num_rest: int) -> float:
    relative = fraction * num_clips / num_rest
    if not 0 < relative < 1:
        raise ValueError(
            f"validation_fraction {fraction} of all clips is {relative:.2f} of the {num_rest} that "
            "are not tested: expected between 0 and 1 of them"
        )
    return relative


def _inner_parts(
    strata: Strata, groups: NDArray[Any], num_parts: int, seed: tuple[int, ...]
) -> list[NDArray[np.bool_]]:
    """Divide clips into grouped stratified parts: (N,) bool each, the part of one model."""
    table = GroupTable.of(strata, groups)
    if len(table.clips) < num_parts:
        raise ValueError(
            f"{num_parts} inner folds need as many groups that are not tested: there are "
            f"{len(table.clips)}; use fewer --inner-folds"
        )
    state = int(np.random.default_rng(seed).integers(2**31))
    fold = fold_of_group(table.clips, num_parts, state)[table.group]
    parts = [fold == number for number in range(num_parts)]
    if not all(part.any() for part in parts):
        raise ValueError(
            f"an inner fold is empty: {len(table.clips)} groups of uneven size do not fill "
            f"{num_parts}; use fewer --inner-folds, or another --seed"
        )
    return parts


def check_training(folds: Iterable[Fold], needed: Needs) -> None:
    """Raise ValueError if the training side of a split of any fold lacks what is needed.

    Args:
        folds: Folds of N clips.
        needed: See `stratify`; also of a target by which the folds were not stratified.
    """
    for fold in folds:
        for name, split in fold.named_splits():
            _check_present(name, needed, split.train)


def _check_present(name: str, needed: Needs, train: Indices) -> None:
    missing = needed.missing(train)
    if missing:
        clips = needed.serving.sum(axis=0)
        texts = [f"{needed.names[n]} ({clips[n]} clips, all elsewhere)" for n in missing]
        raise ValueError(
            f"{name}: no training clip has {', '.join(texts[:_NUM_EXAMPLES])}, so it cannot be "
            "learned. Merge the class with another, leave its clips out, group by something finer, "
            "use fewer folds, or correct the column that names the sides"
        )


def gap_notices(
    folds: Sequence[Fold],
    wanted: Needs,
    *,
    sides: Sequence[str] = ("test", "validation"),
    called: Mapping[str, str] | None = None,
) -> list[str]:
    """Name the classes, labels or bins that the test or validation sides of folds go without.

    Args:
        folds: Folds of N clips.
        wanted: See `stratify`.
        sides: Which sides to look at.
        called: Other words for sides.
    """
    names = {side: side for side in sides} | dict(called or {})
    return [notice for side in sides for notice in _gaps(folds, wanted, side, names[side])]


def _gaps(folds: Sequence[Fold], wanted: Needs, side: str, called: str) -> Iterator[str]:
    without: dict[int, list[str]] = {}
    for fold in folds:
        for name, split in list(fold.named_splits())[: 1 if side == "test" else None]:
            for number in wanted.missing(getattr(split, side)):
                without.setdefault(number, []).append(fold.name if side == "test" else name)
    for number, names in sorted(without.items()):
        shown = "; ".join(names[:_NUM_EXAMPLES])
        shown += f"; and {len(names) - _NUM_EXAMPLES} more" if len(names) > _NUM_EXAMPLES else ""
        yield f"no {called} clip has {wanted.names[number]} in {len(names)} of the splits: {shown}"


def sides_of_clips(folds: Sequence[Fold]) -> NDArray[np.str_]:
    """Return (N, S) what separates clips: their sides in a holdout, else their test folds.

    One column for each split of a holdout, or for each repetition.
    """
    if len(folds) == 1:
        return np.column_stack([split.name_of_clip for split in folds[0].splits])
    num_clips = len(folds[0].splits[0].name_of_clip)
    width = max(len(fold.name) for fold in folds)
    out = np.empty((num_clips, 1 + max(fold.repetition for fold in folds)), dtype=f"<U{width}")
    for fold in folds:
        out[fold.test, fold.repetition] = fold.name
    return out

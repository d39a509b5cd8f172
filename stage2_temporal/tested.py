"""Which clips each fold tests: made folds, groups one by one, or a column's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneGroupOut

from stage1_extract.manifest import is_missing
from stage2_temporal.config import TrainSettings
from stage2_temporal.cuts import GroupTable, fold_of_group
from stage2_temporal.strata import Indices, Strata

_NUM_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Tested:
    """The clips that a fold tests.

    Attributes:
        name: Of the fold, unlike any other's.
        repetition: From 0.
        seed: Fixes how the other clips are divided.
        clips: Indices, sorted.
    """

    name: str
    repetition: int
    seed: tuple[int, ...]
    clips: Indices


def kfold_sides(strata: Strata, groups: NDArray[Any], settings: TrainSettings) -> Iterator[Tested]:
    """Yield the test sides of scikit-learn's stratified group folds, each repetition anew.

    Raises:
        ValueError: Fewer groups than folds, or a fold is empty.
    """
    table = GroupTable.of(strata, groups)
    if len(table.clips) < settings.num_folds:
        raise ValueError(
            f"{settings.num_folds} folds need as many groups: there are {len(table.clips)}. "
            f"{table.overview}. Use --folds {max(2, len(table.clips))} or fewer, or group by "
            "something finer"
        )
    for repetition in range(settings.fold_repeats):
        seed = (settings.seed, repetition)
        state = int(np.random.default_rng(seed).integers(2**31))
        fold = fold_of_group(table.clips, settings.num_folds, state)[table.group]
        for number in range(settings.num_folds):
            clips = np.flatnonzero(fold == number)
            name = f"fold {number}"
            if settings.fold_repeats > 1:
                name = f"repetition {repetition}, {name}"
            if not len(clips):
                raise ValueError(
                    f"{name} is empty: {len(table.clips)} groups of uneven size do not fill "
                    f"{settings.num_folds} folds. {table.overview}. Use fewer --folds, or another "
                    "--seed"
                )
            yield Tested(name, repetition, (*seed, number + 1), clips)


def leave_one_group_out(
    strata: Strata, groups: NDArray[Any], settings: TrainSettings, labels: Sequence[str] | None
) -> Iterator[Tested]:
    """Yield each group as a test side.

    Raises:
        ValueError: There are fewer than 3 groups.
    """
    numbers = np.unique(groups)
    if len(numbers) < 3:
        raise ValueError(
            f"leave-one-group-out needs 3 groups or more, to test, validate and train: there are "
            f"{len(numbers)}. {GroupTable.of(strata, groups).overview}. Group by something finer"
        )
    labels = labels or [f"group {number}" for number in numbers]
    parts = LeaveOneGroupOut().split(groups, groups=groups)
    for number, (label, (_, clips)) in enumerate(zip(labels, parts, strict=True)):
        yield Tested(label, 0, (settings.seed, 0, number + 1), np.asarray(clips, np.intp))


def column_sides(values: NDArray[Any], settings: TrainSettings) -> Iterator[Tested]:
    """Yield the test sides that (N,) values of a column name; see `folds_from_column`."""
    numbers, labels = folds_from_column(values)
    for number, label in enumerate(labels):
        clips = np.flatnonzero(numbers == number)
        yield Tested(f"fold {label}", 0, (settings.seed, 0, number + 1), clips)


def folds_from_column(values: NDArray[Any]) -> tuple[Indices, tuple[str, ...]]:
    """Read test folds from a column: numbers or names, in their order.

    Args:
        values: (N,) the test fold of each clip; 1, 1.0 and 01 are one fold.

    Returns:
        (N,) fold numbers from 0, and the folds' names.

    Raises:
        ValueError: A value is blank, there is one fold only, or two differ only in case.
    """
    column = pd.Series(values, dtype=object)
    blank = np.flatnonzero(is_missing(column))
    if len(blank):
        raise ValueError(
            f"{len(blank)} of {len(values)} values of the fold column are blank, the first in row "
            f"{blank[0]} (rows count from 0); name the fold in which each clip is tested"
        )
    texts = column.astype(str).str.strip()
    as_numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    if np.isfinite(as_numbers).all():
        found, numbers = np.unique(as_numbers, return_inverse=True)
        labels = tuple(str(int(v)) if v.is_integer() else str(v) for v in found.tolist())
    else:
        names, numbers = np.unique(texts.to_numpy(str), return_inverse=True)
        labels = tuple(names.tolist())
    if len({label.casefold() for label in labels}) < len(labels) or len(labels) < 2:
        raise ValueError(
            f"the fold column has {list(labels[:_NUM_SHOWN])}; expected two folds or more, "
            "each written one way"
        )
    return numbers.astype(np.intp), labels

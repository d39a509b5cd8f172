"""The folds of a sweep: how the clips outside the test side are divided for its trials."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold, check_training, gap_notices, make_fold, plan_folds
from stage2_temporal.leakage import check_no_leakage
from stage2_temporal.recordings import Recordings
from stage2_temporal.strata import Strata, stratify
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.targets import LabelledClips, Target
from stage2_temporal.tested import Tested

_CALLED = {"test": "scored", "validation": "early-stopping"}


def trial_folds(
    target: Target,
    groups: NDArray[np.intp],
    settings: SweepSettings,
    *,
    validation: NDArray[np.intp],
) -> tuple[Fold, ...]:
    """Divide development clips into folds: what a fold tests is what its models are scored on.

    Args:
        target: (N,) the first target, whose classes or values are kept in proportion.
        groups: (N,) group numbers.
        settings: validation_folds, and of the base settings the seed, validation_fraction and
            inner_folds.
        validation: The validation side of the base settings' split; a single fold scores it.

    Raises:
        ValueError: There are fewer groups than folds, or a training side lacks a class.
    """
    num_folds, num_groups = settings.validation_folds, len(np.unique(groups))
    if num_groups < num_folds:
        raise ValueError(
            f"{num_folds} validation folds need as many groups outside the test side: there are "
            f"{num_groups}; use fewer --validation-folds, or group by something finer"
        )
    try:
        return _divided(stratify(target), groups, settings, validation)
    except ValueError as error:
        raise ValueError(
            f"the clips outside the test side cannot be divided into --validation-folds "
            f"{num_folds}: {error}"
        ) from error


def _divided(
    strata: Strata,
    groups: NDArray[np.intp],
    settings: SweepSettings,
    validation: NDArray[np.intp],
) -> tuple[Fold, ...]:
    base = settings.base
    if settings.validation_folds == 1:
        side = Tested("validation", 0, (base.seed, 0, 1), validation)
        return (make_fold(side, strata, groups, base),)
    kfold = dataclasses.replace(
        base, validation="kfold", folds=settings.validation_folds, split_column=None
    )
    return plan_folds(strata, groups, kfold)


def check_trial_folds(
    folds: Sequence[Fold],
    clips: LabelledClips,
    store: EmbeddingStore,
    group_names: NDArray[np.str_],
    base: TrainSettings,
) -> list[str]:
    """Prove that nothing leaks within the folds, and return remarks on what they go without.

    Raises:
        ValueError: A training side lacks a class, no scored clip has the first target, or clips on
            two sides show the same part of one recording.
        LeakageError: A group, or equal content, is on two sides.
    """
    splits = [named for fold in folds for named in fold.named_splits()]
    keys = {"content": store.column("checksum")[clips.positions]}
    if base.group:
        keys[f"group {base.group}"] = group_names
    check_no_leakage(splits, keys, clips.video_ids)
    notices = Recordings.of(clips, store).check(splits, clips.video_ids)
    for target in clips.targets:
        strata = stratify(target)
        check_training(folds, strata.needed)
        notices += gap_notices(folds, strata.wanted, called=_CALLED)
    _check_scored(folds, clips.targets[0])
    return notices


def _check_scored(folds: Sequence[Fold], target: Target) -> None:
    scored = np.concatenate([fold.test for fold in folds])
    if not target.present[scored].any():
        raise ValueError(
            f"none of {len(scored)} scored clips has a {target.name!r}, by which trials are "
            "compared; use more --validation-folds, or another --seed"
        )

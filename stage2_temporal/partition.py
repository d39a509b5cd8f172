"""Which labelled clips train, validate and test in each fold, and which belong together."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold, check_training, gap_notices, plan_folds
from stage2_temporal.groups import group_labels, read_group_names
from stage2_temporal.leakage import check_no_leakage, merge_groups
from stage2_temporal.recordings import Recordings
from stage2_temporal.splits import Split, split_from_column
from stage2_temporal.strata import stratify
from stage2_temporal.targets import LabelledClips, Target, join_targets
from stage2_temporal.tested import folds_from_column

_MAX_CLASS_LIKE = 50
FEW_TEST_GROUPS = 20


@dataclasses.dataclass(frozen=True)
class Partition:
    """Checked folds.

    Attributes:
        folds: Clips (indices 0..N-1) of each side, in each split of each fold.
        group_names: (N,) value of the group column as text; blank without one.
        groups: (N,) numbers of what belongs together: clips that share a group, a source file or
            their content.
        notices: Remarks for the report.
    """

    folds: tuple[Fold, ...]
    group_names: NDArray[np.str_]
    groups: NDArray[np.intp]
    notices: tuple[str, ...]


def partition_clips(
    clips: LabelledClips, manifest: Manifest, store: EmbeddingStore, settings: TrainSettings
) -> Partition:
    """Divide the clips by column or by groups and strata, and prove that nothing leaks.

    Clips of one group stay on one side, and so do clips cut from one source file, or of equal
    content, whatever their names: hashes of files and embeddings tell. The first target's classes
    or values are kept in proportion; training clips hold every class of every target. Every split
    of every fold is checked.

    Raises:
        ValueError: No such column, too few groups, or a class that a training side lacks.
        LeakageError: A column of sides or folds puts a group, or equal content, on two sides.
    """
    group_names, notices = read_group_names(clips, manifest, settings)
    recordings = Recordings.of(clips, store)
    content = store.column("checksum")[clips.positions]
    groups = merge_groups(group_names, recordings.sources, content)
    keys = {"content": content}
    if settings.group:
        keys[f"group {settings.group}"] = group_names
    column = _column(clips, manifest, settings)
    check_no_leakage(_named_sides(column, settings), keys, clips.video_ids)
    folds = _plan(clips, groups, group_names, column, settings)
    splits = [named for fold in folds for named in fold.named_splits()]
    check_no_leakage(splits, keys, clips.video_ids)
    notices += recordings.check(splits, clips.video_ids)
    notices += _target_notices(clips, folds, settings)
    notices += _task_notices(clips, settings)
    notices += few_groups_notice(groups[np.concatenate([fold.test for fold in folds])])
    if settings.split_column is not None and settings.inner_folds > 1:
        notices.append(
            f"training and validation clips of {settings.split_column} were put together and "
            f"divided into {settings.inner_folds} parts, each of which validates one model"
        )
    notices += _copies_notice(clips, content)
    return Partition(folds, group_names, groups, tuple(notices))


def _target_notices(
    clips: LabelledClips, folds: tuple[Fold, ...], settings: TrainSettings
) -> list[str]:
    """Refuse training sides without a class of any target; name what other sides lack.

    A group that is tested alone is not expected to hold every class.
    """
    single = settings.validation == "leave-one-group-out"
    sides = ("validation",) if single else ("test", "validation")
    notices = []
    for target in clips.targets:
        strata = stratify(target)
        check_training(folds, strata.needed)
        _check_tested(folds, target)
        notices += gap_notices(folds, strata.wanted, sides=sides)
    return notices


def _check_tested(folds: tuple[Fold, ...], target: Target) -> None:
    """Refuse folds whose test sides together have no clip with the target: nothing to score."""
    tested = np.concatenate([fold.test for fold in folds])
    if not target.present[tested].any():
        raise ValueError(
            f"none of {len(tested)} test clips has a {target.name!r}, so it could not be scored; "
            "choose another seed or split, or leave this target out"
        )


def _column(
    clips: LabelledClips, manifest: Manifest, settings: TrainSettings
) -> NDArray[np.object_] | None:
    """Return the column that names sides or folds, if there is one."""
    name = settings.split_column or settings.fold_column
    return manifest.column(name).iloc[clips.rows].to_numpy(object) if name else None


def _named_sides(
    column: NDArray[np.object_] | None, settings: TrainSettings
) -> list[tuple[str, Split]]:
    """Return the sides that a column names, before they are divided any further."""
    if column is None:
        return []
    if settings.split_column is not None:
        return [("split column", split_from_column(column))]
    numbers, labels = folds_from_column(column)
    sides = [np.where(numbers == number, "test", "train") for number in range(len(labels))]
    return [(f"fold {label}", Split.of(side)) for label, side in zip(labels, sides, strict=True)]


def _plan(
    clips: LabelledClips,
    groups: NDArray[np.intp],
    group_names: NDArray[np.str_],
    column: NDArray[np.object_] | None,
    settings: TrainSettings,
) -> tuple[Fold, ...]:
    is_split = settings.split_column is not None
    return plan_folds(
        stratify(clips.targets[0]),
        groups,
        settings,
        split=split_from_column(column) if is_split and column is not None else None,
        fold_column=None if is_split else column,
        group_labels=group_labels(groups, group_names, clips.video_ids, settings.group or "group"),
    )


def count_sides(split: Split, groups: NDArray[np.intp]) -> dict[str, dict[str, int]]:
    """Return clips and groups of each side of a split, for the report."""
    return {
        name: {"clips": len(side), "groups": len(np.unique(groups[side]))}
        for name, side in split.items()
    }


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Everything that is known before training."""

    store: EmbeddingStore
    manifest: Manifest
    clips: LabelledClips
    partition: Partition


def load_data(
    store: EmbeddingStore | Path | str, manifest: Manifest | Path | str, settings: TrainSettings
) -> TrainingData:
    """Read store and manifest, join and divide them.

    Raises:
        ValueError: They cannot be read, do not match, or cannot be divided without a leak.
    """
    store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), files_must_exist=False)
    clips = join_targets(store, manifest, settings)
    return TrainingData(store, manifest, clips, partition_clips(clips, manifest, store, settings))


def _task_notices(clips: LabelledClips, settings: TrainSettings) -> list[str]:
    return [
        notice
        for number, target in enumerate(clips.targets)
        if settings.task_of(number) == "auto"
        for notice in _class_like(target)
    ]


def _class_like(target: Target) -> list[str]:
    """Say when whole numbers were taken for values: they may be class numbers."""
    values = np.unique(target.numbers[target.present])
    whole = target.task == "regression" and bool((values == np.floor(values)).all())
    if not whole or len(values) > _MAX_CLASS_LIKE:
        return []
    return [
        f"the {len(values)} whole numbers of {target.name} were taken for values (regression); if "
        "they are classes, give --task multiclass"
    ]


def few_groups_notice(groups: NDArray[np.intp]) -> list[str]:
    """Warn of percentile intervals from few groups: they come out too narrow.

    Args:
        groups: Of the tested clips.
    """
    count = len(np.unique(groups))
    if count >= FEW_TEST_GROUPS:
        return []
    return [
        f"the tested clips are of {count} independent groups only: intervals are rough and rather "
        "too narrow, and one patient more could change the scores"
    ]


def _copies_notice(clips: LabelledClips, content: NDArray[np.str_]) -> list[str]:
    """Name clips with the very same content, mostly a slip in the data; they stay together."""
    _, number, counts = np.unique(content, return_inverse=True, return_counts=True)
    copies = clips.video_ids[counts[number] > 1].tolist()
    return [f"{len(copies)} clips are copies of each other, e.g. {copies[:4]}"] if copies else []

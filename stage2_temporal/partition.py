"""Which labelled clips train, validate and test, and which belong together."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.leakage import LeakageError, check_no_leakage, merge_groups
from stage2_temporal.splits import (
    Split,
    split_from_column,
    split_holdout,
    strata,
)
from stage2_temporal.targets import LabelledClips, Target, join_targets

_MAX_CLASS_LIKE = 50
_FEW_TEST_GROUPS = 20


@dataclasses.dataclass(frozen=True)
class Partition:
    """A checked split.

    Attributes:
        split: Clips (indices 0..N-1) of each side.
        group_names: (N,) value of the group column as text; blank without one.
        groups: (N,) numbers of what belongs together: clips that share a group, a source file or
            their content.
        notices: Remarks for the report.
    """

    split: Split
    group_names: NDArray[np.str_]
    groups: NDArray[np.intp]
    notices: tuple[str, ...]


def partition_clips(
    clips: LabelledClips, manifest: Manifest, store: EmbeddingStore, settings: TrainSettings
) -> Partition:
    """Split the clips by column or by groups and strata, and prove that nothing leaks.

    Clips of one group stay on one side, and so do clips cut from one source file, or of equal
    content, whatever their names: hashes of files and embeddings tell.

    Raises:
        ValueError: No such column, or no split has all classes on all sides.
        LeakageError: The split column puts a group, or equal content, on two sides.
    """
    group_names, notices = _group_names(clips, manifest, settings)
    sources = store.column("source_hash")[clips.positions]
    content = store.column("checksum")[clips.positions]
    groups = merge_groups(group_names, sources, content)
    split = _split(clips, manifest, groups, settings)
    _check_train_has_classes(clips.target, split, settings)
    keys = {"content": content}
    if settings.group:
        keys[f"group {settings.group}"] = group_names
    check_no_leakage(split, keys, clips.video_ids)
    notices += _check_shared_recordings(clips, split, store, sources)
    notices += _task_notice(clips.target, settings)
    notices += _few_groups_notice(split, groups)
    notices += _copies_notice(clips, content)
    return Partition(split, group_names, groups, tuple(notices))


def _group_names(
    clips: LabelledClips, manifest: Manifest, settings: TrainSettings
) -> tuple[NDArray[np.str_], list[str]]:
    group = settings.group
    if group is None:
        notice = (
            "no --group was given: clips of one patient or recording session may be on several "
            "sides, and intervals take all clips for independent"
        )
        return np.full(len(clips.rows), ""), [notice]
    column = manifest.column(group).iloc[clips.rows]
    blank = is_missing(column).to_numpy()
    if blank.any() and settings.blank_group == "error":
        raise ValueError(
            f"{blank.sum()} clips have no {group!r}, e.g. {clips.video_ids[blank][:5].tolist()}; "
            "fill the column in, or take each for a group of its own with --blank-group own"
        )
    names = np.where(blank, "", column.astype("string").str.strip().fillna("").to_numpy(str))
    _check_same_case(group, names)
    notice = f"{blank.sum()} clips have no {group}; each was taken for a group of its own"
    return names.astype(np.str_), [notice] if blank.any() else []


def _check_same_case(group: str, names: NDArray[np.str_]) -> None:
    """Refuse groups such as P01 and p01: they would count as two patients."""
    spellings: dict[str, set[str]] = {}
    for name in names.tolist():
        spellings.setdefault(name.casefold(), set()).add(name)
    doubled = [sorted(found) for found in spellings.values() if len(found) > 1]
    if doubled:
        raise ValueError(
            f"column {group!r} has groups that differ only in case: {doubled[:5]}; write each "
            "group one way"
        )


def _split(
    clips: LabelledClips, manifest: Manifest, groups: NDArray[np.intp], settings: TrainSettings
) -> Split:
    if settings.split_column is not None:
        column = manifest.column(settings.split_column).iloc[clips.rows]
        return split_from_column(column.to_numpy(object))
    target = clips.target
    return split_holdout(
        strata(target.numbers, target.task),
        groups,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        require_all_strata=target.task != "regression",
        stratum_names=target.classes or None,
    )


def _check_train_has_classes(target: Target, split: Split, settings: TrainSettings) -> None:
    """Refuse a split column that leaves a class to validation and test alone."""
    present = set(target.numbers[split.train].tolist())
    absent = [name for number, name in enumerate(target.classes) if number not in present]
    if absent:
        raise ValueError(
            f"no training clip has {target.name!r} {absent}, so it cannot be learned; correct the "
            f"split column {settings.split_column!r}, or leave these clips out"
        )


def _check_shared_recordings(
    clips: LabelledClips, split: Split, store: EmbeddingStore, sources: NDArray[np.str_]
) -> list[str]:
    """Refuse parts of one file that overlap in time on two sides; report those that do not.

    Only a split column can bring that about, and a split within a recording may be meant.
    """
    start = np.nan_to_num(store.column("clip_start_seconds")[clips.positions], nan=-np.inf)
    end = np.nan_to_num(store.column("clip_end_seconds")[clips.positions], nan=np.inf)
    side = split.name_of_clip
    parts_of: dict[str, list[int]] = {}
    for clip in np.argsort(start, kind="stable").tolist():
        parts_of.setdefault(sources[clip], []).append(clip)
    shared = 0
    for parts in parts_of.values():
        last: dict[str, int] = {}  # of each side, the part so far that ends last
        for clip in parts:
            for other, before in last.items():
                if other != side[clip] and start[clip] < end[before]:
                    raise LeakageError(
                        f"{clips.video_ids[before]} ({other}) and {clips.video_ids[clip]} "
                        f"({side[clip]}) show the same part of one recording; correct the split "
                        "column"
                    )
            if side[clip] not in last or end[clip] > end[last[side[clip]]]:
                last[side[clip]] = clip
        shared += len(last) > 1
    if not shared:
        return []
    return [f"{shared} source files have clips on two sides of the split column: scores may leak"]


def count_sides(partition: Partition) -> dict[str, dict[str, int]]:
    """Return clips and groups of each side, for the report."""
    return {
        name: {"clips": len(side), "groups": len(np.unique(partition.groups[side]))}
        for name, side in partition.split.items()
    }


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Everything that is known before training."""

    store: EmbeddingStore
    manifest: Manifest
    clips: LabelledClips
    partition: Partition

    @property
    def target(self) -> Target:
        """What is to be predicted."""
        return self.clips.target


def load_data(
    store: EmbeddingStore | Path | str, manifest: Manifest | Path | str, settings: TrainSettings
) -> TrainingData:
    """Read store and manifest, join and split them.

    Raises:
        ValueError: They cannot be read, do not match, or cannot be split without a leak.
    """
    store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), files_must_exist=False)
    clips = join_targets(
        store,
        manifest,
        settings.target,
        task=settings.task,
        positive=settings.positive,
        unmatched=settings.unmatched,
        blank_target=settings.blank_target,
    )
    return TrainingData(store, manifest, clips, partition_clips(clips, manifest, store, settings))


def _task_notice(target: Target, settings: TrainSettings) -> list[str]:
    """Say when whole numbers were taken for values: they may be class numbers."""
    numbers = target.numbers
    whole = target.task == "regression" and bool((numbers == np.floor(numbers)).all())
    if settings.task != "auto" or not whole or len(np.unique(numbers)) > _MAX_CLASS_LIKE:
        return []
    return [
        f"the {len(np.unique(numbers))} whole numbers of {target.name} were taken for values "
        "(regression); if they are classes, give --task multiclass"
    ]


def _few_groups_notice(split: Split, groups: NDArray[np.intp]) -> list[str]:
    """Warn of percentile intervals from few groups: they come out too narrow."""
    count = len(np.unique(groups[split.test]))
    if count >= _FEW_TEST_GROUPS:
        return []
    return [
        f"the test side has {count} independent groups only: its intervals are rough and rather "
        "too narrow, and one patient more could change the scores"
    ]


def _copies_notice(clips: LabelledClips, content: NDArray[np.str_]) -> list[str]:
    """Name clips with the very same content, mostly a slip in the data; they stay together."""
    _, number, counts = np.unique(content, return_inverse=True, return_counts=True)
    copies = clips.video_ids[counts[number] > 1].tolist()
    return [f"{len(copies)} clips are copies of each other, e.g. {copies[:4]}"] if copies else []

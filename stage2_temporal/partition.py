"""Which labelled clips train, validate and test, and which belong together."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.leakage import check_no_leakage, merge_groups
from stage2_temporal.splits import (
    Split,
    split_from_column,
    split_holdout,
    strata,
)
from stage2_temporal.targets import LabelledClips, Target, join_targets


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
    group_names, notices = _group_names(clips, manifest, settings.group)
    sources = store.column("source_hash")[clips.positions]
    content = store.column("checksum")[clips.positions]
    groups = merge_groups(group_names, sources, content)
    split = _split(clips, manifest, groups, settings)
    _check_train_has_classes(clips.target, split, settings)
    keys = {"content": content}
    if settings.group:
        keys[f"group {settings.group}"] = group_names
    check_no_leakage(split, keys, clips.video_ids)
    notices += _shared_sources(split, sources)
    return Partition(split, group_names, groups, tuple(notices))


def _group_names(
    clips: LabelledClips, manifest: Manifest, group: str | None
) -> tuple[NDArray[np.str_], list[str]]:
    if group is None:
        return np.full(len(clips.rows), ""), []
    column = manifest.column(group).iloc[clips.rows]
    blank = is_missing(column).to_numpy()
    names = np.where(blank, "", column.astype("string").str.strip().fillna("").to_numpy(str))
    notice = f"{blank.sum()} clips have no {group}; each was taken for a group of its own"
    return names.astype(np.str_), [notice] if blank.any() else []


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


def _shared_sources(split: Split, sources: NDArray[np.str_]) -> list[str]:
    """Report recordings with clips on several sides; a split column may want that."""
    sides: dict[str, set[str]] = {}
    for source, side in zip(sources.tolist(), split.name_of_clip.tolist(), strict=True):
        sides.setdefault(source, set()).add(side)
    shared = sum(len(names) > 1 for names in sides.values())
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

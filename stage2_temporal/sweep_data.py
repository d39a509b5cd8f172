"""What the trials of a sweep learn from: development clips in folds, without the test clips."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal import metrics
from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold
from stage2_temporal.leakage import merge_groups
from stage2_temporal.partition import Partition, TrainingData, partition_clips
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.targets import LabelledClips, Target, join_targets
from stage2_temporal.trial_folds import check_trial_folds, trial_folds

_NUM_EXAMPLES = 5
_EXAMPLES = {  # of each task: a target, and a prediction to score
    "binary": ([0, 1], [0.0, 1.0]),
    "multiclass": ([0, 1], [[1.0, 0.0], [0.0, 1.0]]),
    "multilabel": ([[0], [1]], [[0.0], [1.0]]),
    "regression": ([0.0, 1.0], [0.0, 1.0]),
}


@dataclasses.dataclass(frozen=True)
class SweepData:
    """What the trials of a sweep learn from.

    Attributes:
        stores: Names of the stores, as they were given; the first is the sweep's own.
        development: By name of the store, all clips but those of the test side, in folds: the test
            side of each is what a trial is scored on. No test clip is in them.
        split: video_id, group, side (test or development) and fold (in which a development clip is
            scored; blank for none) of every clip.
        metric: The score of the first target that is optimised.
        higher_is_better: Whether more of it is better.
        num_rungs: How often the trainings of a fold are looked at; see `num_rungs`.
        notices: Remarks worth reading.
    """

    stores: tuple[str, ...]
    development: Mapping[str, TrainingData]
    split: pd.DataFrame
    metric: str
    higher_is_better: bool
    num_rungs: int
    notices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """One of the competing stores, with the clips that it shares with the others."""

    name: str
    store: EmbeddingStore
    clips: LabelledClips


def load_sweep_data(
    store: EmbeddingStore | Path | str, manifest: Manifest | Path | str, settings: SweepSettings
) -> SweepData:
    """Join stores and manifest, cut the test side off as `train` does, and divide the rest.

    Groups hold what belongs together in any of the stores, so the folds are the same in all.

    Raises:
        ValueError: They cannot be read, do not match, or cannot be divided without a leak; the
            metric is unknown; or a store lacks clips.
    """
    base = dataclasses.replace(settings.base, inner_folds=1)  # which leaves the test side as it is
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), files_must_exist=False)
    stored = _joined([store, *settings.other_store], manifest, base)
    metric = _metric(stored[0].clips.targets[0], settings.metric)
    partitions = [_partition(one, manifest, base, several=len(stored) > 1) for one in stored]
    rest = _without_test(stored, partitions)
    clips = {one.name: _development_clips(one.clips, rest) for one in stored}
    partition = _development_partition(stored, clips, partitions, rest, settings)
    part = _development_manifest(manifest, stored[0].clips.rows[rest])
    group_names = partitions[0].group_names
    return SweepData(
        stores=tuple(clips),
        development={
            one.name: TrainingData(one.store, part, clips[one.name], partition) for one in stored
        },
        split=_split_table(stored[0].clips, group_names, rest, partition.folds),
        metric=metric,
        higher_is_better=metrics.higher_is_better(metric),
        num_rungs=num_rungs(settings.base),
        notices=partition.notices,
    )


def num_rungs(base: TrainSettings) -> int:
    """Return how often a fold's training is looked at: at epochs 1, 2, 4, ..., and at its end.

    It follows from the epochs that the sweep's own settings allow, so that it is the same for
    trials of more or fewer.
    """
    return base.epochs.bit_length() + 1


def _joined(
    stores: Sequence[EmbeddingStore | Path | str], manifest: Manifest, base: TrainSettings
) -> list[_Stored]:
    """Open the stores and join them with the manifest; all must hold the same clips."""
    opened = [s if isinstance(s, EmbeddingStore) else EmbeddingStore(s) for s in stores]
    places = [store.path.resolve() for store in opened]
    doubled = [
        str(s.path) for s, place in zip(opened, places, strict=True) if places.count(place) > 1
    ]
    if doubled:
        raise ValueError(f"stores {doubled} are one and the same; name each competing store once")
    joined = [_Stored(str(s.path), s, join_targets(s, manifest, base)) for s in opened]
    held = {one.name: set(one.clips.video_ids.tolist()) for one in joined}
    every = set().union(*held.values())
    for name, ids in held.items():
        if ids != every:
            raise ValueError(
                f"{name} lacks {len(every - ids)} clips that another of {list(held)} has, e.g. "
                f"{sorted(every - ids)[:_NUM_EXAMPLES]}; stores can only compete on the same "
                "clips: run `stage1-extract run` for those, or remove them from the manifest"
            )
    return joined


def _partition(
    stored: _Stored, manifest: Manifest, base: TrainSettings, *, several: bool
) -> Partition:
    try:
        return partition_clips(stored.clips, manifest, stored.store, base)
    except ValueError as error:
        if not several:
            raise
        raise ValueError(f"{stored.name}: {error}") from error


def _without_test(stored: Sequence[_Stored], partitions: Sequence[Partition]) -> NDArray[np.intp]:
    """Return the clips that are not on the test side.

    Raises:
        ValueError: The contents of two stores group the clips in different ways, and so hold out
            different ones. The winner is trained and tested by itself, on its store alone: its
            test clips must not be clips of the development side.
    """
    first, test = stored[0], partitions[0].folds[0].test
    for other, partition in zip(stored[1:], partitions[1:], strict=True):
        apart = first.clips.video_ids[np.setxor1d(test, partition.folds[0].test)].tolist()
        if apart:
            raise ValueError(
                f"{first.name} and {other.name} lead to different test sides: they disagree on "
                f"{len(apart)} clips, e.g. {apart[:_NUM_EXAMPLES]}, because clips of one file or "
                "of equal embeddings stay together, and these differ. Remove copies from the "
                "manifest, extract both stores from the same files, or name the sides yourself "
                "(--split-column)"
            )
    return np.setdiff1d(np.arange(len(first.clips.rows)), test)


def _development_partition(
    stored: Sequence[_Stored],
    clips: Mapping[str, LabelledClips],
    partitions: Sequence[Partition],
    rest: NDArray[np.intp],
    settings: SweepSettings,
) -> Partition:
    """Divide the development clips into folds, and check them in every store."""
    groups = merge_groups(*(partition.groups for partition in partitions))
    groups = merge_groups(groups[rest])  # numbered anew, by first appearance
    names = partitions[0].group_names[rest]
    scored = np.flatnonzero(np.isin(rest, partitions[0].folds[0].splits[0].validation))
    target = clips[stored[0].name].targets[0]
    folds = trial_folds(target, groups, settings, validation=scored)
    notices = [notice for partition in partitions for notice in partition.notices]
    for one in stored:
        notices += check_trial_folds(folds, clips[one.name], one.store, names, settings.base)
    return Partition(folds, names, groups, tuple(dict.fromkeys(notices)))


def _development_clips(clips: LabelledClips, rest: NDArray[np.intp]) -> LabelledClips:
    """Return some of the clips, as rows of a manifest that holds them alone."""
    return dataclasses.replace(
        clips,
        rows=np.arange(len(rest)),
        positions=clips.positions[rest],
        video_ids=clips.video_ids[rest],
        targets=tuple(target.at(rest) for target in clips.targets),
    )


def _development_manifest(manifest: Manifest, rows: NDArray[np.intp]) -> Manifest:
    table = manifest.table.iloc[rows].reset_index(drop=True)
    return dataclasses.replace(
        manifest, table=table, clips=tuple(manifest.clips[row] for row in rows.tolist())
    )


def _split_table(
    clips: LabelledClips,
    group_names: NDArray[np.str_],
    rest: NDArray[np.intp],
    folds: Sequence[Fold],
) -> pd.DataFrame:
    number = pd.array([pd.NA] * len(clips.rows), dtype="Int64")
    for place, fold in enumerate(folds):
        number[rest[fold.test]] = place
    side = np.full(len(clips.rows), "test", dtype="<U11")
    side[rest] = "development"
    columns = {"video_id": clips.video_ids, "group": group_names, "side": side, "fold": number}
    return pd.DataFrame(columns)


def _metric(target: Target, wanted: str | None) -> str:
    """Return the score that is optimised.

    Raises:
        ValueError: The target's task has no such score.
    """
    if wanted is None:
        return metrics.PRIMARY[target.task]
    truth, prediction = (np.array(values) for values in _EXAMPLES[target.task])
    known = list(metrics.scores(target.task, truth, prediction))
    if wanted not in known:
        raise ValueError(
            f"metric {wanted!r} is no score of {target.name!r} ({target.task}); expected one of "
            f"{', '.join(known)}"
        )
    return wanted

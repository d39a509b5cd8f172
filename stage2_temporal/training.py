"""One training run, from store and manifest to a run folder with models, scores and report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.manifest import Manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.balancing import BalancePlan, plan_balance
from stage2_temporal.config import TrainSettings
from stage2_temporal.documents import Findings, write_documents
from stage2_temporal.folds import sides_of_clips
from stage2_temporal.inputs import ClipInputs, clip_inputs
from stage2_temporal.leakage import near_duplicates
from stage2_temporal.partition import TrainingData, count_sides, load_data
from stage2_temporal.report import write_report
from stage2_temporal.request import request_of
from stage2_temporal.run_folder import check_free, new_run_folder
from stage2_temporal.scoring import Scores, merge_folds, score_run
from stage2_temporal.units import UnitResult


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run found.

    Attributes:
        folder: The run folder.
        targets: The scores of each target: by side (validation, test), model (recurrent,
            mean_pool, with side features also features; and `difference`, the recurrent
            model's minus mean_pool's) and name of the score.
        tasks: The task of each target.
        sides: Clips and groups of train, validation and test; of the first fold.
        num_folds: How many folds were tested.
        group: The group column.
        left_out: How many clips were dropped, by reason.
        balance: What was done to the distribution of training clips; blank for nothing.
        notices: Remarks worth reading.
    """

    folder: Path
    targets: dict[str, dict[str, Scores]]
    tasks: dict[str, str]
    sides: dict[str, dict[str, int]]
    num_folds: int
    group: str | None
    left_out: dict[str, int]
    balance: str
    notices: tuple[str, ...]

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores of the first target."""
        return next(iter(self.targets.values()))


def train(
    store: EmbeddingStore | Path | str,
    manifest: Manifest | Path | str,
    run: Path | str,
    settings: TrainSettings,
    *,
    notices: Sequence[str] = (),
    show_progress: bool = False,
) -> TrainResult:
    """Train recurrent models and baselines, score them on test clips, write the run folder.

    A run that was stopped (killed, Ctrl-C) goes on where it was when it is asked for again with
    the same data and settings, and ends as it would have without the stop.

    Args:
        store: A store or its path.
        manifest: A manifest or its path.
        run: The run folder to make.
        settings: What to learn, and how.
        notices: Remarks of the caller's, for the report.
        show_progress: Whether to show a progress bar.

    Raises:
        FileExistsError: The run folder exists.
        ValueError: Data or settings are wrong; the message says what to do. No folder is left, but
            where trainings had ended already.
    """
    folder = Path(run)
    check_free(folder, overwrite=settings.overwrite)
    data = load_data(store, manifest, settings)
    load_keras(settings.backend)
    inputs = clip_inputs(data.store, data.clips, settings)
    request = request_of(data, inputs, settings)
    with new_run_folder(folder, overwrite=settings.overwrite, request=request) as partial:
        return _train_into(
            partial, folder, data, inputs, settings, notices=notices, show_progress=show_progress
        )


def _train_into(
    partial: Path,
    folder: Path,
    data: TrainingData,
    inputs: ClipInputs,
    settings: TrainSettings,
    *,
    notices: Sequence[str],
    show_progress: bool,
) -> TrainResult:
    # It builds on Keras when it is imported, so the backend is chosen first.
    from stage2_temporal.clip_strips import write_strips
    from stage2_temporal.runner import Runner

    targets, partition = data.clips.targets, data.partition
    balance = plan_balance(targets, partition.folds[0].splits[0].train, settings)
    runner = Runner(partial, inputs, targets, partition.groups, settings)
    units = runner.run([fold.splits for fold in partition.folds], show_progress=show_progress)
    found = _findings(data, settings, units, balance, runner.mean_embeddings())
    found = dataclasses.replace(found, notices=(*notices, *found.notices))
    write_documents(partial, folder, found)
    write_strips(partial, found, inputs)
    write_report(partial)
    return TrainResult(
        folder=folder,
        targets={
            name: {"validation": scores.validation, "test": scores.test}
            for name, scores in found.scores.items()
        },
        tasks={target.name: target.task for target in targets},
        sides=count_sides(partition.folds[0].splits[0], partition.groups),
        num_folds=len(partition.folds),
        group=settings.group,
        left_out=data.clips.left_out,
        balance=balance.description,
        notices=found.notices,
    )


def _findings(
    data: TrainingData,
    settings: TrainSettings,
    units: Sequence[UnitResult],
    balance: BalancePlan,
    mean_embeddings: NDArray[np.float32],
) -> Findings:
    """Score what was trained, and collect what there is to say."""
    partition = data.partition
    results = merge_folds(partition.folds, units, settings.repeats)
    near = near_duplicates(
        mean_embeddings,
        partition.groups,
        sides_of_clips(partition.folds),
        data.clips.video_ids,
        threshold=settings.duplicate_cosine,
        seed=settings.seed,
    )
    remarks = [notice for result in units for notice in result.notices]
    remarks += _kept_baselines(units, settings)
    return Findings(
        data=data,
        settings=settings,
        units=units,
        folds=results,
        scores=score_run(data.clips.targets, partition.folds, results, partition.groups, settings),
        balance=balance,
        near_duplicates=near.pairs,
        mean_embeddings=mean_embeddings,
        notices=tuple(dict.fromkeys([*partition.notices, *near.notices, *remarks])),
    )


def _kept_baselines(units: Sequence[UnitResult], settings: TrainSettings) -> list[str]:
    """Say how many models are the mean-pool baseline, because validation did not show a gain."""
    kept = sum(result.best_epoch == 0 for result in units)
    if not settings.skip or not kept:
        return []
    why = "no epoch had a lower validation loss"
    if settings.gain_confidence:
        why = (
            f"validation did not show, with a confidence of {settings.gain_confidence:g}, that the "
            "order of frames improves on it (--gain-confidence)"
        )
    return [f"{kept} of {len(units)} trained models are the mean-pool baseline itself: {why}"]

"""One trial of a sweep: its settings trained on the folds of the development clips, and scored."""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stage1_extract.keras_setup import load_keras
from stage2_temporal.config import TrainSettings
from stage2_temporal.inputs import ClipInputs, clip_inputs
from stage2_temporal.partition import TrainingData
from stage2_temporal.request import request_of
from stage2_temporal.run_folder import PROGRESS
from stage2_temporal.scoring import RECURRENT, mean_scores, merge_folds, pool_test
from stage2_temporal.sweep_data import SweepData, num_rungs
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.trial_memory import Growth
from stage2_temporal.trial_reuse import Reuse
from stage2_temporal.trial_watch import Report, TrialWatch, fold_score
from stage2_temporal.units import UnitResult

_BASELINE = "mean_pool"
_REQUEST, _REPORTED = "request.txt", "reported.json"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """How good the settings of a trial are, on development clips that its models did not see.

    Attributes:
        value: The metric of the first target, of the recurrent model, all folds pooled.
        scores: By model and name of the score, of the first target, all folds pooled.
        by_fold: The metric in each fold; NaN where it is undefined.
        baseline: The metric of the mean-pool baseline, all folds pooled.
        epochs: The epoch whose weights each training kept; 0 is the model before training.
        kept_baseline: How many trainings kept the baseline that they started from.
        num_trainings: How many there were.
        seconds: How long this call took.
    """

    value: float
    scores: dict[str, dict[str, float]]
    by_fold: list[float]
    baseline: float
    epochs: list[int]
    kept_baseline: int
    num_trainings: int
    seconds: float


def num_steps(settings: SweepSettings) -> int:
    """Return at how many steps a trial reports: the same for all trials."""
    return settings.validation_folds * num_rungs(settings.base)


class TrialRunner:
    """Runs trials one after the other; what does not depend on their settings is done once.

    A trial's result is the same whatever trials ran before it.

    Args:
        data: What they learn from.
        cache: Folder for what the trials of all processes share.
    """

    def __init__(self, data: SweepData, cache: Path) -> None:
        self._data = data
        self._cache = cache
        self._reuse: dict[bool, Reuse] = {}
        self._growth = Growth()

    @property
    def should_be_replaced(self) -> bool:
        """Whether memory grew so much that the next trial should have a fresh process."""
        return self._growth.is_large

    def run(self, settings: TrainSettings, store: str, folder: Path, report: Report) -> TrialResult:
        """Train and score one trial. No model is kept.

        A trial that was stopped goes on in its folder, and ends as it would have without the stop.
        Work of other settings or data in the folder is removed.

        Args:
            settings: The sweep's base settings with the trial's own.
            store: Name of the store.
            folder: For what is needed to go on.
            report: Called with steps and values, see `TrialWatch`; again with those before, where
                the trial goes on. It may raise: that ends the trial, and the next one is none the
                worse for it.

        Raises:
            ValueError: The settings do not suit the data, or a loss became NaN or infinite.
        """
        began = time.monotonic()
        settings = dataclasses.replace(settings, tensorboard=False)
        load_keras(settings.backend)
        # It builds on Keras when it is imported, so the backend is chosen first.
        from stage2_temporal.runner import Runner

        data = self._data.development[store]
        inputs = clip_inputs(data.store, data.clips, settings)
        _prepare(folder, data, inputs, settings)
        runner = Runner(
            folder,
            inputs,
            data.clips.targets,
            data.partition.groups,
            settings,
            keeps_models=False,
            means=self._means_file(data),
            reuse=self._reuse_of(settings),
            data_name=store,
        )
        folds = data.partition.folds
        watch = self._watch(folder, data, settings, report)
        watch.begin()
        try:
            units = runner.run([fold.splits for fold in folds], show_progress=False, watch=watch)
        finally:
            self._growth.note()
        return self._result(data, settings, units, time.monotonic() - began)

    def _reuse_of(self, settings: TrainSettings) -> Reuse:
        return self._reuse.setdefault(
            settings.resident, Reuse.of_trials(resident=settings.resident)
        )

    def _means_file(self, data: TrainingData) -> Path:
        """Return the file of a store's mean embeddings; other contents have another one."""
        self._cache.mkdir(parents=True, exist_ok=True)
        content = data.store.column("checksum")[data.clips.positions]
        found = hashlib.sha256(data.store.fingerprint.encode())
        for text in (*data.clips.video_ids.tolist(), *content.tolist()):
            found.update(text.encode() + b"\0")
        return self._cache / f"mean_embeddings-{found.hexdigest()[:16]}.npy"

    def _watch(
        self, folder: Path, data: TrainingData, settings: TrainSettings, report: Report
    ) -> TrialWatch:
        return TrialWatch(
            folder / _REPORTED,
            data.clips.targets[0],
            data.partition.folds,
            settings,
            metric=self._data.metric,
            num_rungs=self._data.num_rungs,
            report=report,
        )

    def _result(
        self,
        data: TrainingData,
        settings: TrainSettings,
        units: Sequence[UnitResult],
        seconds: float,
    ) -> TrialResult:
        target, folds, metric = data.clips.targets[0], data.partition.folds, self._data.metric
        merged = merge_folds(folds, units, settings.repeats)
        scores = mean_scores(pool_test(target, 0, merged, settings))
        epochs = [result.best_epoch for result in units]
        return TrialResult(
            value=scores[RECURRENT][metric],
            scores=scores,
            by_fold=[
                fold_score(target, number, fold, _of_fold(units, number), settings, metric)
                for number, fold in enumerate(folds)
            ],
            baseline=scores[_BASELINE][metric],
            epochs=epochs,
            kept_baseline=epochs.count(0) if settings.skip else 0,
            num_trainings=len(units),
            seconds=seconds,
        )


def _of_fold(units: Sequence[UnitResult], number: int) -> list[UnitResult]:
    return [result for result in units if result.unit.fold == number]


def _prepare(folder: Path, data: TrainingData, inputs: ClipInputs, settings: TrainSettings) -> None:
    """Make the trial's folder, and remove from it what does not belong to this trial."""
    wanted = _digest(data, inputs, settings)
    request, progress, reported = folder / _REQUEST, folder / PROGRESS, folder / _REPORTED
    if not request.exists() or request.read_text("utf-8") != wanted:
        shutil.rmtree(progress, ignore_errors=True)
        reported.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        request.write_text(wanted, "utf-8")
    progress.mkdir(exist_ok=True)


def _digest(data: TrainingData, inputs: ClipInputs, settings: TrainSettings) -> str:
    """Return a hash of everything that a trial's result follows from."""
    found = hashlib.sha256()
    request: dict[str, Any] = request_of(data, inputs, settings)
    found.update(json.dumps(request, sort_keys=True, default=str).encode())
    for fold in data.partition.folds:
        for _, split in fold.named_splits():
            for _, clips in split.items():
                found.update(np.asarray(clips, np.int64).tobytes() + b"\0")
    return found.hexdigest()

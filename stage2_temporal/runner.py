"""The trainings of a run, one after the other: every fold, every member, every repeat."""

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stage1_extract.interrupt import deferred_interrupt
from stage2_temporal.baseline import mean_embeddings
from stage2_temporal.checkpoint import FitState
from stage2_temporal.config import TrainSettings
from stage2_temporal.fitting import FitResult, Pauses, Trainer
from stage2_temporal.inputs import ClipInputs
from stage2_temporal.prediction import predict_frames
from stage2_temporal.resident import ResidentFrames
from stage2_temporal.run_folder import PROGRESS, write_json
from stage2_temporal.scoring import RECURRENT
from stage2_temporal.splits import Split
from stage2_temporal.targets import Target
from stage2_temporal.training_batches import TrainingBatches
from stage2_temporal.training_progress import TrainingProgress
from stage2_temporal.trial_baselines import Baseline
from stage2_temporal.trial_reuse import Reuse
from stage2_temporal.units import Indices, Predictions, Unit, UnitResult

_BLOCK = 4096


class Watch(Protocol):
    """Looks at a run's trainings; what it raises ends the run, which can go on later.

    Attributes:
        epochs: After which epochs a training is looked at.
    """

    epochs: Sequence[int]

    def look(self, unit: Unit, epoch: int, predictions: list[NDArray[np.float64]]) -> None:
        """See each target's predictions (n, k) for validation clips, by the best weights so far."""

    def finish(self, result: UnitResult) -> None:
        """See a training that ended, or had ended before."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Trains the units of a run; finished ones are read from the run's folder.

    Attributes:
        folder: The unfinished run folder.
        inputs: What a model reads of N clips.
        targets: (N,) each.
        groups: (N,) numbers of what belongs together.
        settings: How.
        keeps_models: Whether to save the trained models.
        means: File of the clips' mean embeddings; None for one that goes with the run.
        reuse: What was worked out before, of the same splits.
        data_name: Tells these clips in this store from others that share `reuse`.
    """

    folder: Path
    inputs: ClipInputs
    targets: Sequence[Target]
    groups: Indices
    settings: TrainSettings
    keeps_models: bool = True
    means: Path | None = None
    reuse: Reuse = dataclasses.field(default_factory=Reuse.within_run)
    data_name: str = ""

    def run(
        self,
        folds: Sequence[Sequence[Split]],
        *,
        show_progress: bool,
        watch: Watch | None = None,
    ) -> list[UnitResult]:
        """Train, or read, every unit; in order of fold, member and repeat.

        Args:
            folds: The members' splits of each fold.
            show_progress: Whether to show a progress bar.
            watch: Looks at the trainings.

        Raises:
            TrainingError: A loss became NaN or infinite.
        """
        units = list(units_of(folds, self.settings.repeats))
        shared = _Shared(
            Trainer(self.settings, self.reuse),
            self.mean_embeddings(),
            self._resident_frames(),
            watch,
            several=len(units) > 1,
        )
        results = []
        with TrainingProgress(len(units), self.settings.epochs, show=show_progress) as progress:
            for unit in units:
                done = UnitResult.load(self.progress, unit)
                if done is None:
                    split = folds[unit.fold][unit.member]
                    done = self._train(unit, split, shared, progress.finish_epoch)
                results.append(done)
                if watch is not None:
                    watch.finish(done)
                progress.finish_training()
        return results

    @property
    def progress(self) -> Path:
        """Folder for what is needed to go on."""
        return self.folder / PROGRESS

    def mean_embeddings(self) -> NDArray[np.float32]:
        """Return the mean embedding (N, D) of each clip, on disk and mapped: N may be millions."""
        path = self.means or self.progress / "mean_embeddings.npy"
        positions = self.inputs.positions
        if not path.exists():
            # Another process may be at the same.
            unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            shape = (len(positions), self.inputs.store.embedding_dim)
            means = np.lib.format.open_memmap(unfinished, "w+", np.float32, shape)
            for start in range(0, len(positions), _BLOCK):
                rows = slice(start, start + _BLOCK)
                means[rows] = mean_embeddings(self.inputs.store, positions[rows])
            means.flush()
            unfinished.replace(path)
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return mapped

    def _resident_frames(self) -> ResidentFrames | None:
        if not self.settings.resident:
            return None
        inputs = self.inputs
        used = inputs.positions if inputs.views is None else inputs.views
        key = (self.data_name, inputs.views is None)
        return self.reuse.frames.get(key, lambda: ResidentFrames.load(inputs.store, used))

    def _train(
        self, unit: Unit, split: Split, shared: "_Shared", on_epoch: Callable[[FitState], None]
    ) -> UnitResult:
        settings = self.settings
        batches = TrainingBatches.prepare(
            self.inputs, self.targets, self.groups, split, settings, resident=shared.resident
        )
        baselines = self._baselines(unit, batches, shared.means)
        fit = shared.trainer.fit(
            batches,
            start=baselines["mean_pool"].skip_start(batches),
            seed=unit.seed(settings.seed),
            checkpoint=self.progress / f"{unit.name}.checkpoint.npz",
            on_epoch=on_epoch,
            logs=self.folder / "tensorboard" / unit.name if settings.tensorboard else None,
            pauses=_pauses(unit, shared.watch),
        )
        result = UnitResult(
            unit=unit,
            validation=_predictions(fit, baselines, split.validation),
            test=_predictions(fit, baselines, split.test),
            history=fit.history,
            best_epoch=fit.best_epoch,
            gain_confidence=fit.gain_confidence,
            notices=(
                *fit.built.notices,
                *batches.notices,
                *(notice for baseline in baselines.values() for notice in baseline.notices),
            ),
        )
        with deferred_interrupt():
            if self.keeps_models:
                self._save_model(unit, fit, f"-{unit.name}" if shared.several else "")
            result.save(self.progress)
        return result

    def _baselines(
        self, unit: Unit, batches: TrainingBatches, means: NDArray[np.float32]
    ) -> dict[str, Baseline]:
        """Fit linear models to mean embeddings, and to side features if there are any."""
        place = (self.data_name, unit.fold, unit.member)
        found = {"mean_pool": Baseline.fit(means, batches, self.reuse, ("mean_pool", *place))}
        if batches.features is not None:
            side = batches.features.side
            key = ("features", *place, repr(side.table.identity), side.columns)
            found["features"] = Baseline.fit(batches.features, batches, self.reuse, key)
        return found

    def _save_model(self, unit: Unit, fit: FitResult, suffix: str) -> None:
        """Save the model, and what belongs to it."""
        fit.save(self.folder / f"model{suffix}.keras")
        if fit.batches.features is not None:
            scaler = fit.batches.features.scaler.to_dict()
            write_json(self.folder / f"features{suffix}.json", scaler)
        shown = fit.built.attention is not None and unit.member == unit.repeat == 0
        if shown and (fit.best_epoch or not self.settings.skip):  # or it is not trained
            self._save_attention(unit, fit, fit.batches.split.test)

    def _save_attention(self, unit: Unit, fit: FitResult, clips: Indices) -> None:
        weights = predict_frames(fit.built.attention, fit.batches.evaluation(clips))
        np.savez(
            self.folder / f"attention-fold{unit.fold}.npz",
            video_id=self.inputs.store.video_ids[self.inputs.positions[clips]],
            length=np.array([len(row) for row in weights]),
            weight=np.concatenate(weights).astype(np.float32),
        )


def _pauses(unit: Unit, watch: Watch | None) -> Pauses | None:
    return None if watch is None else Pauses(watch.epochs, partial(watch.look, unit))


def units_of(folds: Sequence[Sequence[Split]], repeats: int) -> Iterator[Unit]:
    """Yield every training of a run."""
    for fold, members in enumerate(folds):
        for member in range(len(members)):
            for repeat in range(repeats):
                yield Unit(fold, member, repeat)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What all trainings of a run use: compiled models, mean embeddings (N, D), resident frames."""

    trainer: Trainer
    means: NDArray[np.float32]
    resident: ResidentFrames | None
    watch: Watch | None
    several: bool


def _predictions(fit: FitResult, baselines: dict[str, Baseline], clips: Indices) -> Predictions:
    found = {RECURRENT: fit.predict(clips)}
    return found | {name: baseline.predictions(clips) for name, baseline in baselines.items()}

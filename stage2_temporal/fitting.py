"""Fitting a recurrent model: early stopping, resuming, and the best weights' predictions."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.baseline import LinearModel
from stage2_temporal.checkpoint import FitState, load_checkpoint
from stage2_temporal.config import TrainSettings
from stage2_temporal.epochs import EpochKeeper, Validation, all_variables
from stage2_temporal.gain import gain_confidence
from stage2_temporal.models import (
    BuiltModel,
    Output,
    build_model,
    in_standard_units,
    in_target_units,
    losses,
)
from stage2_temporal.nan_cause import nan_cause
from stage2_temporal.prediction import predict_batches
from stage2_temporal.target_scale import TrainingError, clip_losses, weighted_losses
from stage2_temporal.training_batches import TrainingBatches, output_key

keras = load_keras()
Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class SkipStart:
    """Where a skip path starts.

    Attributes:
        models: The fitted mean-pool baseline of each target.
        offsets: (n,) its predictions of the training clips, made without knowing them, by input
            of the trainee: logits, or standardised values.
    """

    models: Sequence[LinearModel]
    offsets: Mapping[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A trained model; it is the trainer's own, so the next training changes it.

    Attributes:
        built: The model with the weights of the best epoch, and its attention.
        batches: What it was trained on.
        history: One row an epoch: epoch, loss, val_loss, learning_rate. Epoch 0 is the model
            before training; its loss is blank.
        best_epoch: The epoch whose weights the model has.
        gain_confidence: How sure validation is that the best epoch is better than epoch 0.
    """

    built: BuiltModel
    batches: TrainingBatches
    history: pd.DataFrame
    best_epoch: int
    gain_confidence: float

    def predict(self, clips: Indices) -> list[NDArray[np.float64]]:
        """Return each target's predictions (n, k): probabilities, or values in its units."""
        found = predict_batches(self.built.model, self.batches.evaluation(clips))
        return [
            found[output_key(i)] * scale.deviation + scale.mean
            for i, scale in enumerate(self.batches.scales)
        ]

    def save(self, path: Path) -> None:
        """Save the model, its continuous outputs in their targets' units."""
        scales = {
            output_key(i): (scale.mean, scale.deviation)
            for i, (target, scale) in enumerate(
                zip(self.batches.targets, self.batches.scales, strict=True)
            )
            if target.task == "regression"
        }
        in_target_units(self.built.model, scales).save(path)


class Trainer:
    """Trains models of one architecture, compiled once: compiling takes longer than most trainings.

    Every training begins with fresh weights, random states and optimizer, made from its own seed.

    Args:
        settings: Head, optimizer, epochs.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._compiled: dict[int, tuple[BuiltModel, list[NDArray[Any]]]] = {}

    def fit(
        self,
        batches: TrainingBatches,
        *,
        start: SkipStart,
        seed: int,
        checkpoint: Path | None = None,
        on_epoch: Callable[[FitState], None] | None = None,
        logs: Path | None = None,
    ) -> FitResult:
        """Train a model with fresh weights; validation decides when to stop.

        With a skip path, epoch 0 is the mean-pool baseline. It is kept unless the validation clips
        show, group by group, that the best epoch is better: few clips flatter the best of many.

        Args:
            batches: What it reads. The test side is not touched.
            start: The fitted mean-pool baseline of each target, for a skip path.
            seed: Of the initial weights and of everything random in training.
            checkpoint: File to save the state in after each epoch, and to go on from.
            on_epoch: Called with the state after each epoch.
            logs: Folder for TensorBoard; None for no logs.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        built = self.fresh_model(batches, linear=start.models, seed=seed)
        keeper = EpochKeeper(
            built,
            self._settings,
            _validation(built.model, batches),
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            logs=logs,
        )
        first_weights = built.model.get_weights()
        with contextlib.closing(keeper):
            if checkpoint is not None and checkpoint.exists():
                keeper.resume(*load_checkpoint(checkpoint))
            else:
                keeper.start()
                _check_start(keeper.state.first_losses, batches)
            if not keeper.finished:
                _fit(built.trainee, batches, start.offsets, keeper, seed)
        state = keeper.state
        groups = batches.groups[batches.split.validation]
        confidence = gain_confidence(state.first_losses, state.best_losses, groups)
        keeps_first = self._settings.skip and confidence < self._settings.gain_confidence
        built.model.set_weights(first_weights if keeps_first else state.best_weights)
        return FitResult(
            built=built,
            batches=batches,
            history=pd.DataFrame(state.history),
            best_epoch=0 if keeps_first else state.best_epoch,
            gain_confidence=confidence,
        )

    def fresh_model(
        self, batches: TrainingBatches, *, linear: Sequence[LinearModel] | None, seed: int
    ) -> BuiltModel:
        """Return the compiled model with fresh weights, random states and optimizer.

        Args:
            batches: For sizes, statistics and scales.
            linear: Where a skip path starts from; None for zero.
            seed: Of everything random.
        """
        keras.utils.set_random_seed(seed)
        fresh = _build(batches, linear, self._settings)
        num_features = batches.features.shape[1] if batches.features else 0
        if num_features not in self._compiled:
            if batches.resident is not None:
                trainee = batches.resident.trainee(fresh.trainee)
                fresh = dataclasses.replace(fresh, trainee=trainee)
            compile_model(fresh.trainee, outputs_of(batches), self._settings)
            optimizer = [np.array(v) for v in map(_to_numpy, fresh.trainee.optimizer.variables)]
            self._compiled[num_features] = (fresh, optimizer)
            return fresh
        built, optimizer = self._compiled[num_features]
        values = [*map(_to_numpy, fresh.model.variables), *optimizer]
        for variable, value in zip(all_variables(built), values, strict=True):
            variable.assign(value)
        return built


def _to_numpy(variable: Any) -> NDArray[Any]:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _check_start(losses: NDArray[np.float64], batches: TrainingBatches) -> None:
    wrong = np.flatnonzero(~np.isfinite(losses))
    if not len(wrong):
        return
    clips = batches.split.validation
    batch = int(wrong[0]) // batches.settings.batch_size
    cause = nan_cause(batches.evaluation(clips), batch, batches.statistics, batches.settings)
    raise TrainingError(
        f"before training, the loss of {len(wrong)} of {len(clips)} validation clips is no number: "
        f"{cause}"
    )


def _fit(
    trainee: Any,
    batches: TrainingBatches,
    offsets: Mapping[str, NDArray[Any]],
    keeper: EpochKeeper,
    seed: int,
) -> None:
    training = batches.training(seed, offsets)
    training.start_epoch(keeper.state.epoch)
    trainee.fit(
        training,
        initial_epoch=keeper.state.epoch,
        epochs=batches.settings.epochs,
        callbacks=[keeper],
        shuffle=False,
        verbose=0,
    )
    if keeper.failed_batch is not None:
        cause = nan_cause(training, keeper.failed_batch, batches.statistics, batches.settings)
        raise TrainingError(
            f"the loss was no number any more in epoch {keeper.state.epoch + 1}, batch "
            f"{keeper.failed_batch + 1}: {cause}"
        )


def outputs_of(batches: TrainingBatches) -> list[Output]:
    """Return what a model predicts: one output a target."""
    return [
        Output(output_key(i), target.task, target.num_outputs)
        for i, target in enumerate(batches.targets)
    ]


def _build(
    batches: TrainingBatches, linear: Sequence[LinearModel] | None, settings: TrainSettings
) -> BuiltModel:
    starts = [
        in_standard_units(model, scale.mean, scale.deviation)
        for scale, model in zip(batches.scales, linear or [], strict=linear is not None)
    ]
    return build_model(
        settings,
        batches.statistics,
        outputs_of(batches),
        dtype=str(batches.inputs.store.dtype),
        num_features=batches.features.shape[1] if batches.features else 0,
        linear=starts,
    )


def compile_model(model: Any, outputs: Sequence[Output], settings: TrainSettings) -> None:
    """Compile a model with the optimizer of the settings, whose variables are made at once."""
    loss, weights = losses(outputs, settings.loss_weight)
    model.compile(
        keras.optimizers.AdamW(
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            global_clipnorm=settings.clip_norm or None,
        ),
        loss,
        loss_weights=weights,
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)


def _validation(model: Any, batches: TrainingBatches) -> Callable[[], Validation]:
    clips = batches.split.validation
    sequence = batches.evaluation(clips)
    targets = [target.at(clips) for target in batches.targets]
    importances = [batches.importance.get(target.name) for target in targets]

    def validate() -> Validation:
        found = predict_batches(model, sequence)
        predictions = [found[output_key(i)] for i in range(len(targets))]
        losses = [
            loss * importance[clips] if importance is not None else loss
            for loss, importance in zip(
                clip_losses(targets, predictions, batches.scales), importances, strict=True
            )
        ]
        means = {
            target.name: float(np.nanmean(of_target)) if target.present.any() else np.nan
            for target, of_target in zip(targets, losses, strict=True)
        }
        return Validation(
            losses=weighted_losses(losses, batches.settings.loss_weight),
            of_targets=means if len(targets) > 1 else {},
        )

    return validate

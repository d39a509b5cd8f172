"""Fitting a recurrent model: early stopping, resuming, and the best weights' predictions."""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras
from stage2_temporal.baseline import LinearModel
from stage2_temporal.checkpoint import FitState, load_checkpoint
from stage2_temporal.config import TrainSettings
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.devices import Devices, devices_of
from stage2_temporal.epoch_loop import train_epochs
from stage2_temporal.epochs import EpochKeeper, Validation
from stage2_temporal.gain import gain_confidence
from stage2_temporal.model_inputs import output_key
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
from stage2_temporal.training_batches import TrainingBatches
from stage2_temporal.trial_models import CompiledModel, graph_key, shared_model, start_key
from stage2_temporal.trial_reuse import Reuse

keras = load_keras()
Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class Pauses:
    """When a training is looked at, between two calls of Keras' fit.

    What `look` raises ends the training without disturbing Keras, whose models are used again.

    Attributes:
        epochs: After which, ascending.
        look: Called with the epoch, and the validation clips' predictions (n, k) of each target by
            the best weights so far, in the targets' units.
    """

    epochs: Sequence[int]
    look: Callable[[int, list[NDArray[np.float64]]], None]


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
        return _in_units([found[output_key(i)] for i in range(len(found))], self.batches)

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
        reuse: Compiled models and initial weights of trainings before, of other settings too.

    Raises:
        ValueError: There are not the devices that the settings ask for.
    """

    def __init__(self, settings: TrainSettings, reuse: Reuse | None = None) -> None:
        self._settings = settings
        self._reuse = Reuse.within_run() if reuse is None else reuse
        self._devices = devices_of(settings.devices)

    @deferred_interrupt()
    def fit(
        self,
        batches: TrainingBatches,
        *,
        start: SkipStart,
        seed: int,
        checkpoint: Path | None = None,
        on_epoch: Callable[[FitState], None] | None = None,
        logs: Path | None = None,
        pauses: Pauses | None = None,
    ) -> FitResult:
        """Train a model with fresh weights; validation decides when to stop.

        With a skip path, epoch 0 is the mean-pool baseline. It is kept unless the validation clips
        show, group by group, that the best epoch is better: few clips flatter the best of many.
        Ctrl-C waits for the end of a batch.

        Args:
            batches: What it reads. The test side is not touched.
            start: The fitted mean-pool baseline of each target, for a skip path.
            seed: Of the initial weights and of everything random in training.
            checkpoint: File to save the state in after each epoch, and to go on from.
            on_epoch: Called with the state after each epoch.
            logs: Folder for TensorBoard; None for no logs.
            pauses: When to look at the training.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        built = self.fresh_model(batches, linear=start.models, seed=seed)
        keeper = EpochKeeper(
            built,
            self._settings,
            _validation(built.model, batches, keeps_predictions=pauses is not None),
            seed=seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            logs=logs,
        )
        first_weights = built.model.get_weights()
        with contextlib.closing(keeper), self._devices.training():
            if checkpoint is not None and checkpoint.exists():
                keeper.resume(*load_checkpoint(checkpoint))
            else:
                keeper.start()
                _check_start(keeper.state.first_losses, batches)
            training = batches.training(seed, start.offsets)
            for last in _stretches(self._settings, pauses):
                _fit(built.trainee, training, batches, keeper, last)
                if pauses and last == keeper.state.epoch and last in pauses.epochs:
                    pauses.look(last, _in_units(keeper.state.best_predictions, batches))
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

    @deferred_interrupt()
    def fresh_model(
        self, batches: TrainingBatches, *, linear: Sequence[LinearModel] | None, seed: int
    ) -> BuiltModel:
        """Return the compiled model with fresh weights, random states and optimizer.

        Args:
            batches: For sizes, statistics and scales.
            linear: Where a skip path starts from; None for zero.
            seed: Of everything random.
        """
        _seed(seed)
        return shared_model(
            self._reuse,
            graph_key(self._settings, batches, outputs_of(batches)),
            start_key(seed, batches, linear),
            build=lambda: self._built(batches, linear),
            compiled=lambda built: _compiled(built, batches, self._settings, self._devices),
        )

    def _built(self, batches: TrainingBatches, linear: Sequence[LinearModel] | None) -> BuiltModel:
        with self._devices.building():
            return _build(batches, linear, self._settings)


def _seed(seed: int) -> None:
    """Make what a new model draws follow from a seed.

    `keras.utils.set_random_seed` also seeds TensorFlow's own generators, for which TensorFlow drops
    every compiled graph: a third of a second a model. Keras on TensorFlow does not use them; its
    layers take their seeds from Python's generator.
    """
    if keras.backend.backend() == "tensorflow":
        random.seed(seed)
    else:
        keras.utils.set_random_seed(seed)


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


def _stretches(settings: TrainSettings, pauses: Pauses | None) -> list[int]:
    """Return the epochs after which Keras' fit returns."""
    epochs = pauses.epochs if pauses else ()
    return [*(epoch for epoch in epochs if epoch < settings.epochs), settings.epochs]


def _fit(
    trainee: Any,
    training: EmbeddingSequence,
    batches: TrainingBatches,
    keeper: EpochKeeper,
    last: int,
) -> None:
    """Train up to an epoch, unless the training has ended, or is that far."""
    if keeper.finished or keeper.state.epoch >= last:
        return
    train_epochs(trainee, training, keeper, first=keeper.state.epoch, last=last)
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


def _compiled(
    built: BuiltModel, batches: TrainingBatches, settings: TrainSettings, devices: Devices
) -> CompiledModel:
    with devices.building():
        trainee = built.trainee
        if batches.resident is not None:
            trainee = batches.resident.trainee(trainee)
        trainee = devices.trainee(trainee)
        compile_model(trainee, outputs_of(batches), settings)
    built = devices.predicting(dataclasses.replace(built, trainee=trainee))
    return CompiledModel.of(built, batches.resident)


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


def _in_units(
    found: Sequence[NDArray[np.float64]], batches: TrainingBatches
) -> list[NDArray[np.float64]]:
    return [
        values * scale.deviation + scale.mean
        for values, scale in zip(found, batches.scales, strict=True)
    ]


def _validation(
    model: Any, batches: TrainingBatches, *, keeps_predictions: bool
) -> Callable[[], Validation]:
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
            predictions=predictions if keeps_predictions else [],
        )

    return validate

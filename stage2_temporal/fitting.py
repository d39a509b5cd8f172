"""Fitting a recurrent model: batches, early stopping, and the best weights' predictions."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.balance import Draw, oversample, uniformize
from stage2_temporal.config import TrainSettings
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.models import build_model, feature_statistics, in_target_units
from stage2_temporal.splits import Split
from stage2_temporal.targets import Target

keras = load_keras()
_Callback: Any = keras.callbacks.Callback


class TrainingError(ValueError):
    """Training went wrong: the loss is no number any more."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A trained model.

    Attributes:
        model: Keras model; probabilities, or values in the target's units.
        history: One row an epoch: epoch (from 1), loss, val_loss, ...
        best_epoch: The epoch (from 1) whose weights the model has.
    """

    model: Any
    history: pd.DataFrame
    best_epoch: int


def training_draw(target: Target, train: NDArray[np.intp], settings: TrainSettings) -> Draw | None:
    """Return what draws an epoch's clips among the training clips; None for each clip once.

    Raises:
        ValueError: The balancing does not suit the task.
    """
    if settings.balance == "none":
        return None
    if (settings.balance == "uniformize") != (target.task == "regression"):
        suits = "uniformize" if target.task == "regression" else "oversample"
        raise ValueError(
            f"balance {settings.balance} does not suit the {target.task} target {target.name!r}; "
            f"use {suits} or none"
        )
    values = target.numbers[train]
    if settings.balance == "oversample":
        return partial(oversample, values)
    return partial(uniformize, values, num_bins=settings.bins, max_repeats=settings.max_repeats)


def fit_recurrent(
    store: EmbeddingStore,
    positions: NDArray[np.intp],
    target: Target,
    split: Split,
    settings: TrainSettings,
    *,
    show_progress: bool = False,
) -> FitResult:
    """Train a model with fresh weights on the training clips; validation decides when to stop.

    Args:
        store: Embeddings.
        positions: (N,) sequence of each clip.
        target: (N,) targets.
        split: Sides; the test side is not touched.
        settings: Everything else.
        show_progress: Whether to show a progress bar.

    Raises:
        TrainingError: The loss became NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)
    mean, deviation = _target_scale(target, split.train)
    model = build_model(
        settings,
        feature_statistics(store, positions[split.train]),
        dtype=str(store.dtype),
        task=target.task,
        num_outputs=target.num_outputs,
    )
    scaled = _training_targets(target, mean, deviation)
    batches = partial(
        EmbeddingSequence, store, batch_size=settings.batch_size, workers=settings.workers
    )
    progress = _Progress(settings.epochs, show=show_progress)
    history = model.fit(
        batches(
            positions[split.train],
            scaled[split.train],
            seed=settings.seed,
            draw=training_draw(target, split.train, settings),
        ),
        validation_data=batches(positions[split.validation], scaled[split.validation]),
        epochs=settings.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=settings.patience, restore_best_weights=True),
            keras.callbacks.TerminateOnNaN(),
            progress,
        ],
        shuffle=False,
        verbose=0,
    ).history
    table = pd.DataFrame({"epoch": np.arange(1, len(history["loss"]) + 1), **history})
    _check_finite(table)
    if target.task == "regression":
        model = in_target_units(model, mean, deviation)
    return FitResult(model, table, int(table["epoch"].iloc[table["val_loss"].argmin()]))


def predict_sequences(
    model: Any,
    store: EmbeddingStore,
    positions: NDArray[np.intp],
    task: str,
    *,
    batch_size: int = 32,
) -> NDArray[np.float64]:
    """Return predictions in the order of `positions`.

    Returns:
        (N,) probability of class 1 or value, or (N, C) probabilities.
    """
    batches = EmbeddingSequence(store, positions, np.zeros(len(positions)), batch_size=batch_size)
    outputs = np.asarray(model.predict(batches, verbose=0), np.float64)
    return outputs if task == "multiclass" else outputs[:, 0]


def _target_scale(target: Target, train: NDArray[np.intp]) -> tuple[float, float]:
    """Return mean and deviation of a continuous target, from training clips alone."""
    if target.task != "regression":
        return 0.0, 1.0
    values = target.numbers[train]
    deviation = float(values.std())
    if deviation == 0:
        raise TrainingError(
            f"{target.name!r} is {values[0]:g} in every training clip; use another split or seed"
        )
    return float(values.mean()), deviation


def _training_targets(target: Target, mean: float, deviation: float) -> NDArray[Any]:
    if target.task == "regression":
        return ((target.numbers - mean) / deviation).astype(np.float32)[:, None]
    dtype = np.float32 if target.task == "binary" else np.int32
    return target.numbers.astype(dtype)[:, None]


def _check_finite(history: pd.DataFrame) -> None:
    if not np.isfinite(history[["loss", "val_loss"]].to_numpy()).all():
        raise TrainingError(
            f"the loss was no number any more in epoch {len(history)}; lower --learning-rate "
            "(and look at the target for extreme values)"
        )


class _Progress(_Callback):  # type: ignore[misc]
    """A bar over the epochs with the validation loss."""

    def __init__(self, epochs: int, *, show: bool) -> None:
        super().__init__()
        self._bar = tqdm(total=epochs, unit="epoch", desc="train", disable=None if show else True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Move on by an epoch."""
        del epoch
        self._bar.set_postfix(val_loss=f"{(logs or {}).get('val_loss', np.nan):.4f}", refresh=False)
        self._bar.update()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Leave the bar where training stopped."""
        del logs
        self._bar.close()

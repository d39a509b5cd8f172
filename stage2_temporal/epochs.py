"""What happens around each epoch: learning rate, validation, the best weights, the checkpoint."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.checkpoint import Arrays, FitState, save_checkpoint
from stage2_temporal.config import TrainSettings
from stage2_temporal.models import BuiltModel
from stage2_temporal.schedules import PLATEAU_EPOCHS, epoch_learning_rate

keras = load_keras()
_Callback: Any = keras.callbacks.Callback

_SECONDS_BETWEEN_CHECKPOINTS = 2.0


@dataclasses.dataclass(frozen=True)
class Validation:
    """How good a model is on the validation clips.

    Attributes:
        losses: (n,) one a clip.
        of_targets: The mean loss of each target, by name, where there are several.
        predictions: (n, k) of each target, if they are to be kept.
    """

    losses: NDArray[np.float64]
    of_targets: dict[str, float]
    predictions: Arrays = dataclasses.field(default_factory=list)


class EpochKeeper(_Callback):  # type: ignore[misc]
    """Keeps the state of a training: validates after each epoch, and stops when it gets no better.

    The model before training counts as epoch 0. With a skip path it is the mean-pool baseline, and
    a training that only makes it worse keeps it. Without one it knows nothing and is never kept:
    its guess of 1/2 for everything has a lower loss than a model that ranks well but is too sure.

    Args:
        built: The model, and what is trained.
        settings: Epochs, patience, learning rate.
        validate: Validates the model as it is.
        seed: Of the training.
        checkpoint: File to save the state in; None for none.
        on_epoch: Called with the state after each epoch.
        logs: Folder for TensorBoard; None for no logs.
    """

    def __init__(
        self,
        built: BuiltModel,
        settings: TrainSettings,
        validate: Callable[[], Validation],
        *,
        seed: int = 0,
        checkpoint: Path | None = None,
        on_epoch: Callable[[FitState], None] | None = None,
        logs: Path | None = None,
    ) -> None:
        super().__init__()
        self.state = FitState()
        self.failed_batch: int | None = None
        self._built = built
        self._settings = settings
        self._validate = validate
        self._seed = seed
        self._checkpoint = checkpoint
        self._on_epoch = on_epoch
        self._logs = None if logs is None else open_logs(logs)
        self._saved = time.monotonic()

    def start(self) -> None:
        """Note how good the model is before training."""
        validation = self._validate()
        self.state.first_losses = validation.losses
        self._note(0, np.nan, validation)

    def resume(self, state: FitState, variables: Arrays) -> None:
        """Go on from a checkpoint."""
        self.state = state
        for variable, value in zip(all_variables(self._built), variables, strict=True):
            variable.assign(value)

    def close(self) -> None:
        """Close the logs."""
        if self._logs is not None:
            self._logs.close()

    @property
    def finished(self) -> bool:
        """Whether no further epoch is due."""
        waited = self.state.epoch - self.state.best_epoch
        return waited >= self._settings.patience or self.state.epoch >= self._settings.epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the epoch's learning rate (Keras counts epochs from 0).

        Keras on PyTorch draws dropout from the global generator, which no checkpoint holds: there
        it begins anew with each epoch.
        """
        del logs
        if keras.backend.backend() == "torch":
            state = np.random.SeedSequence([self._seed, epoch]).generate_state(1)
            keras.utils.set_random_seed(int(state[0] % 2**31))
        rate = epoch_learning_rate(self._settings, epoch + 1, self.state.num_plateaus)
        self.model.optimizer.learning_rate = rate

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop where the loss is no number any more."""
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            self.failed_batch = batch
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Validate, keep the best weights, save, and stop if it gets no better."""
        if self.failed_batch is not None:
            return
        self._note(epoch + 1, float((logs or {})["loss"]), self._validate())
        self.model.stop_training = self.finished
        now = time.monotonic()
        if self._checkpoint and (now - self._saved > _SECONDS_BETWEEN_CHECKPOINTS or self.finished):
            variables = [keras.ops.convert_to_numpy(v) for v in all_variables(self._built)]
            save_checkpoint(self._checkpoint, self.state, variables)
            self._saved = now
        if self._on_epoch:
            self._on_epoch(self.state)

    def _note(self, epoch: int, loss: float, validation: Validation) -> None:
        state = self.state
        rate = epoch_learning_rate(self._settings, epoch, state.num_plateaus) if epoch else np.nan
        row = {"epoch": epoch, "loss": loss, "val_loss": float(validation.losses.mean())}
        row |= {f"val_loss {name}": value for name, value in validation.of_targets.items()}
        row |= {"learning_rate": rate}
        state.history.append(row)
        if self._logs is not None:
            for name in row.keys() - {"epoch"}:
                if not np.isnan(row[name]):
                    self._logs.add_scalar(name, row[name], epoch)
            self._logs.flush()
        if row["val_loss"] < state.best_loss or not epoch:
            state.best_loss, state.best_epoch = row["val_loss"], epoch
            state.best_losses = validation.losses
            state.best_predictions = validation.predictions
            state.best_weights = self._built.model.get_weights()
            state.plateau_start = epoch
            if not epoch and not self._settings.skip:
                state.best_loss = np.inf  # so that the first trained epoch takes its place
        elif epoch - state.plateau_start >= PLATEAU_EPOCHS:
            state.num_plateaus += 1
            state.plateau_start = epoch


def open_logs(folder: Path) -> Any:
    """Return a writer of TensorBoard's files.

    Raises:
        ValueError: The extra is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError(
            "--tensorboard needs tensorboardX: pip install 'embed-then-sequence[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))


def all_variables(built: BuiltModel) -> list[Any]:
    """Return what a training changes: weights, random states and the optimizer's variables."""
    return [*built.model.variables, *built.trainee.optimizer.variables]

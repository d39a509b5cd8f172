"""What happens around epochs: the best weights, patience, learning rates, checkpoints, logs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal import epochs
from stage2_temporal.checkpoint import FitState, load_checkpoint
from stage2_temporal.epochs import EpochKeeper, Validation, all_variables, open_logs
from stage2_temporal.models import BuiltModel
from tests.stage2_temporal.synthetic import quick

keras = load_keras()


def a_model() -> BuiltModel:
    """One weight, compiled; it stands for the weights of a model."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return BuiltModel(model, model, None, ())


class Driver:
    """Plays Keras: sets the weight to the number of the epoch, and calls the keeper.

    Args:
        losses: The validation loss of epoch 0, 1, ...
    """

    def __init__(self, losses: Sequence[float], keeper: Any = None, **options: Any) -> None:
        self.built = a_model()
        self.losses: Iterator[float] = iter(losses)
        settings = {"epochs": 100, "patience": 100} | options.pop("settings", {})
        self.keeper = EpochKeeper(self.built, quick(**settings), self.validate, **options)
        self.keeper.set_model(self.built.trainee)
        self.rates: list[float] = []
        self.set_weight(0)

    def validate(self) -> Validation:
        loss = next(self.losses)
        return Validation(np.array([loss - 0.5, loss + 0.5]), {})

    def set_weight(self, value: float) -> None:
        self.built.model.set_weights([np.full((1, 1), value)])

    def run(self) -> FitState:
        """Train until the keeper or the list of losses ends."""
        model, start = self.built.trainee, self.keeper.state.epoch
        model.stop_training = False
        for epoch in range(start, 100):
            self.keeper.on_epoch_begin(epoch)
            self.rates.append(float(model.optimizer.learning_rate))
            self.set_weight(epoch + 1)
            try:
                self.keeper.on_epoch_end(epoch, {"loss": 10.0 - epoch})
            except StopIteration:
                break
            if model.stop_training:
                break
        return self.keeper.state


def trained(losses: Sequence[float], **options: Any) -> Driver:
    driver = Driver(losses, **options)
    driver.keeper.start()
    driver.run()
    return driver


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3, 2, 1, 2, 2], 2),
        ([1, 2, 3, 4, 5], 0),  # training made it only worse
        ([3, 1, 1, 1], 1),  # the first of equals
        ([3, np.nan, 2, np.inf], 2),
        ([5, 4, 3, 2], 3),
    ],
)
def test_weights_of_the_least_loss_are_kept(losses: list[float], best: int) -> None:
    state = trained(losses).keeper.state
    assert state.best_epoch == best
    assert state.best_weights[0].item() == best
    assert state.best_loss == losses[best]
    np.testing.assert_allclose(state.best_losses, [losses[best] - 0.5, losses[best] + 0.5])
    np.testing.assert_allclose(state.first_losses, [losses[0] - 0.5, losses[0] + 0.5])


def test_without_a_skip_path_a_model_that_was_never_trained_is_not_kept() -> None:
    """It knows nothing: half for everything, whose loss an overconfident model easily exceeds."""
    driver = trained([1, 3, 2, 4, 5], settings={"skip": False, "patience": 2})
    assert driver.keeper.state.best_epoch == 2
    assert driver.keeper.state.best_loss == 2
    assert driver.keeper.state.epoch == 4
    assert [row["val_loss"] for row in driver.keeper.state.history] == [1, 3, 2, 4, 5]


def test_history_has_a_row_an_epoch_and_no_loss_before_training() -> None:
    history = trained([3, 2.5, 2]).keeper.state.history
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["val_loss"] for row in history] == [3, 2.5, 2]
    np.testing.assert_array_equal([row["loss"] for row in history], [np.nan, 10, 9])
    rates = [row["learning_rate"] for row in history]
    np.testing.assert_array_equal(rates, [np.nan, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("losses", "patience", "last"),
    [([1, 2, 2, 2, 2, 2], 2, 2), ([3, 2, 1, 4, 4, 4, 4], 2, 4), ([4, 5, 3, 5, 2, 5, 5], 2, 6)],
)
def test_it_stops_after_the_patience(losses: list[float], patience: int, last: int) -> None:
    driver = trained(losses, settings={"patience": patience})
    assert driver.keeper.state.epoch == last
    assert driver.keeper.finished


def test_it_stops_after_the_epochs() -> None:
    driver = trained([5, 4, 3, 2, 1], settings={"epochs": 3})
    assert driver.keeper.state.epoch == 3
    assert driver.keeper.finished


def test_optimizer_gets_the_rates_of_the_history() -> None:
    driver = trained([3, 2, 1, 1, 1], settings={"warmup_epochs": 3, "learning_rate": 0.4})
    np.testing.assert_allclose(driver.rates[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    history = driver.keeper.state.history
    np.testing.assert_allclose([row["learning_rate"] for row in history[1:]], driver.rates[:4])


def test_a_plateau_halves_the_rate_after_five_epochs_and_again() -> None:
    settings = {"schedule": "plateau", "learning_rate": 0.8}
    driver = trained([3, 2, *[2] * 5, 1, *[2] * 11], settings=settings)
    # Epoch 1 is the best until 6, epoch 7 until 12 and 17.
    expected = [0.8] * 6 + [0.4] * 6 + [0.2] * 5 + [0.1]
    np.testing.assert_allclose(driver.rates[:18], expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_training(loss: float) -> None:
    driver = Driver([3, 2, 1])
    driver.keeper.start()
    driver.built.trainee.stop_training = False
    driver.keeper.on_train_batch_end(0, {"loss": 1.0})
    assert not driver.built.trainee.stop_training
    driver.keeper.on_train_batch_end(1, {"loss": loss})
    driver.keeper.on_epoch_end(0, {"loss": loss})
    assert driver.built.trainee.stop_training
    assert driver.keeper.failed_batch == 1
    assert driver.keeper.state.epoch == 0


# checkpoints


def test_going_on_from_a_checkpoint_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience, plateaus, best weights and history go on where they were."""
    monkeypatch.setattr(epochs, "_SECONDS_BETWEEN_CHECKPOINTS", -1)
    losses = [3, 2, *[2.5] * 8, 1.9, *[2] * 20]
    settings = {"schedule": "plateau", "patience": 9}
    whole = trained(losses, settings=settings)
    trained(losses[:8], settings=settings, checkpoint=tmp_path / "c.npz")
    again = Driver(losses[8:], settings=settings)
    again.keeper.resume(*load_checkpoint(tmp_path / "c.npz"))
    assert again.built.model.get_weights()[0].item() == 7
    again.run()
    np.testing.assert_equal(again.keeper.state.history, whole.keeper.state.history)
    assert again.rates == whole.rates[7:]
    assert again.keeper.state.best_epoch == whole.keeper.state.best_epoch == 10
    assert again.keeper.state.best_weights[0].item() == 10
    np.testing.assert_array_equal(again.keeper.state.first_losses, [2.5, 3.5])


def test_checkpoints_are_some_seconds_apart_and_one_is_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = [0.0], []

    def save(path: Path, state: FitState, variables: list[NDArray[Any]]) -> None:
        saved.append((state.epoch, [variable.tolist() for variable in variables]))

    def tick(state: FitState) -> None:
        now[0] += 0.9

    monkeypatch.setattr("stage2_temporal.epochs.time.monotonic", lambda: now[0])
    monkeypatch.setattr(epochs, "save_checkpoint", save)
    options = {"checkpoint": tmp_path / "c", "on_epoch": tick, "settings": {"epochs": 9}}
    driver = trained(range(20, 0, -1), **options)
    assert [epoch for epoch, _ in saved] == [4, 7, 9]
    assert [variables[0] for _, variables in saved] == [[[4.0]], [[7.0]], [[9.0]]]
    assert len(saved[0][1]) == len(all_variables(driver.built))


def test_each_epoch_is_told() -> None:
    told: list[int] = []
    trained([3, 2, 1, 1], on_epoch=lambda state: told.append(state.epoch))
    assert told == [1, 2, 3]


# logs


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained([3, 2.5, 2], logs=tmp_path / "logs").keeper.close()
    events = accumulators.EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "val_loss", "learning_rate"}
    found = [(event.step, event.value) for event in events.Scalars("val_loss")]
    assert found == [(0, 3.0), (1, 2.5), (2, 2.0)]
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_logs_without_the_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install 'embed-then-sequence\[tensorboard\]'"):
        open_logs(Path("anywhere"))

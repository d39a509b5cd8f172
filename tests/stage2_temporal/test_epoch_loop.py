"""Training batch by batch: it does what Keras' own `fit` does, to the last digits."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal import epoch_loop
from stage2_temporal.dataset import Batch, EmbeddingSequence
from stage2_temporal.epoch_loop import train_epochs
from stage2_temporal.epochs import EpochKeeper, Validation
from stage2_temporal.models import BuiltModel
from tests.stage2_temporal.synthetic import ordered, quick, write_store

keras = load_keras()

NUM_CLIPS = 22


class Unchanging(EmbeddingSequence):
    """The same batches every epoch: Keras' `fit` plans one more than it trains."""

    def start_epoch(self, epoch: int) -> None:
        """Leave the plan as it is."""


class Failing(Unchanging):
    """Its second batch has targets that are no numbers."""

    def __getitem__(self, index: int) -> Batch:
        inputs, targets, weights = super().__getitem__(index)
        bad: dict[str, NDArray[Any]] = {"label": np.full_like(targets["label"], np.nan)}
        return inputs, bad if index == 1 else targets, weights


def batches_of(kind: type[EmbeddingSequence], folder: Path) -> EmbeddingSequence:
    """Batches of different lengths, the last one smaller, weighted."""
    sequences, labels = ordered(NUM_CLIPS)
    names = list(sequences)
    cut = {name: sequences[name][: 3 + 4 * (i % 3)] for i, name in enumerate(names)}
    rng = np.random.default_rng(0)
    return kind(
        write_store(folder / "s", cut),
        np.arange(NUM_CLIPS),
        {"label": labels[:, None].astype(np.float32)},
        weights={"label": rng.uniform(0.5, 2, NUM_CLIPS).astype(np.float32)},
        batch_size=4,
        seed=3,
    )


def a_model(dim: int) -> Any:
    """A recurrent model with dropout, compiled."""
    keras.utils.set_random_seed(1)
    embedding = keras.Input((None, dim), name="embedding")
    mask = keras.Input((None,), dtype="bool", name="mask")
    state = keras.layers.GRU(8)(embedding, mask=mask)
    state = keras.layers.Dropout(0.5)(state)
    label = keras.layers.Dense(1, activation="sigmoid", name="label")(state)
    model = keras.Model({"embedding": embedding, "mask": mask}, {"label": label})
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.AdamW(0.01), {"label": loss}, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


class Losses:
    """Keeps a training that only gets better, and notes its losses."""

    def __init__(self, model: Any, *, epochs: int) -> None:
        self._better = iter(range(100, 0, -1))
        settings = quick(epochs=epochs, patience=100, learning_rate=0.01)
        self.keeper = EpochKeeper(BuiltModel(model, model, None, ()), settings, self._validate)
        self.keeper.start()

    def _validate(self) -> Validation:
        return Validation(np.full(2, float(next(self._better))), {})

    @property
    def found(self) -> list[float]:
        return [row["loss"] for row in self.keeper.state.history[1:]]


@pytest.fixture(params=["tensorflow", "jax"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it trains on each backend; `fit` serves any."""
    backend = SimpleNamespace(backend=lambda: request.param)
    patched = SimpleNamespace(backend=backend, callbacks=keras.callbacks)
    monkeypatch.setattr(epoch_loop, "keras", patched)


@pytest.mark.usefixtures("way")
def test_it_trains_as_fit_does(tmp_path: Path) -> None:
    batches = batches_of(Unchanging, tmp_path)
    dim = batches.store.embedding_dim
    own, of_keras = a_model(dim), a_model(dim)
    keeper, other = Losses(own, epochs=3), Losses(of_keras, epochs=3)
    train_epochs(own, batches, keeper.keeper, first=0, last=3)
    of_keras.fit(batches, epochs=3, callbacks=[other.keeper], shuffle=False, verbose=0)
    np.testing.assert_allclose(keeper.found, other.found, rtol=1e-5)
    assert len(set(keeper.found)) == 3
    for mine, theirs in zip(own.get_weights(), of_keras.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_trained_in_parts_it_is_the_same(tmp_path: Path) -> None:
    batches = batches_of(Unchanging, tmp_path)
    dim = batches.store.embedding_dim
    whole, parts = a_model(dim), a_model(dim)
    keeper, other = Losses(whole, epochs=4), Losses(parts, epochs=4)
    train_epochs(whole, batches, keeper.keeper, first=0, last=4)
    for first, last in ((0, 1), (1, 4)):
        train_epochs(parts, batches, other.keeper, first=first, last=last)
    assert keeper.found == other.found
    for mine, theirs in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.usefixtures("way", "ctrl_c_raises")
def test_ctrl_c_ends_it_between_two_batches(tmp_path: Path) -> None:
    batches = batches_of(Unchanging, tmp_path)
    model = a_model(batches.store.embedding_dim)
    keeper = Losses(model, epochs=3).keeper
    ended = []

    def press(batch: int, logs: dict[str, float] | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.append(batch)

    keeper.on_train_batch_end = press  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train_epochs(model, batches, keeper, first=0, last=3)
    assert ended == [0]
    assert model.optimizer.iterations == 1


@pytest.mark.usefixtures("way")
def test_a_loss_that_is_no_number_ends_it_at_once(tmp_path: Path) -> None:
    batches = batches_of(Failing, tmp_path)
    model = a_model(batches.store.embedding_dim)
    losses = Losses(model, epochs=3)
    train_epochs(model, batches, losses.keeper, first=0, last=3)
    assert losses.keeper.failed_batch == 1
    assert losses.keeper.state.epoch == 0
    assert model.optimizer.iterations == 2

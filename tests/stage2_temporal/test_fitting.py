"""Fitting: order is learned, the best epoch is kept, and one seed gives one result."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stage1_extract.store import EmbeddingStore
from stage2_temporal.baseline import mean_embeddings, mean_pool_predictions
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.fitting import (
    FitResult,
    TrainingError,
    fit_recurrent,
    predict_sequences,
    training_draw,
)
from stage2_temporal.splits import Split
from stage2_temporal.targets import Target, encode_target
from tests.stage2_temporal.synthetic import ordered, quick, write_store

_Batches: Any = EmbeddingSequence


def sides(num_clips: int) -> Split:
    """Half of the clips train, a quarter each validates and tests; labels alternate."""
    return Split.of(np.resize(["train"] * 4 + ["validation"] * 2 + ["test"] * 2, num_clips))


def encode(values: NDArray[Any], **options: Any) -> Target:
    return encode_target(pd.Series(values.astype(str), name="label"), **options)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingStore, NDArray[np.int64]]:
    sequences, classes = ordered(32)
    return write_store(tmp_path_factory.mktemp("small"), sequences), classes


def fit(store: EmbeddingStore, target: Target, **settings: Any) -> FitResult:
    number = np.arange(store.num_sequences)
    return fit_recurrent(store, number, target, sides(len(number)), quick(**settings))


def predict(result: FitResult, store: EmbeddingStore, task: str) -> NDArray[np.float64]:
    return predict_sequences(result.model, store, np.arange(store.num_sequences), task)


@pytest.mark.parametrize("head", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_order_is_learned_where_the_average_tells_nothing(tmp_path: Path, head: str) -> None:
    sequences, classes = ordered(160)
    store = write_store(tmp_path / "s", sequences)
    split, number = sides(160), np.arange(160)
    result = fit(
        store, encode(classes), head=head, units=8, epochs=25, learning_rate=0.03, dropout=0.1
    )
    recurrent = predict(result, store, "binary")
    baseline = mean_pool_predictions(
        mean_embeddings(store, number),
        classes,
        "binary",
        train=split.train,
        validation=split.validation,
    )
    assert roc_auc_score(classes[split.test], recurrent[split.test]) > 0.95
    assert 0.2 < roc_auc_score(classes[split.test], baseline[split.test]) < 0.8


@pytest.mark.parametrize("classes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_weights_of_the_best_epoch_are_kept(tmp_path: Path, classes: int) -> None:
    """Labels of chance are learned by heart, which makes the validation loss rise again."""
    sequences, _ = ordered(48)
    store = write_store(tmp_path / "s", sequences)
    labels = np.random.default_rng(1).permutation(np.arange(48) % classes)
    target = encode(labels)
    result = fit(store, target, units=8, epochs=8, learning_rate=0.1, dropout=0.0)
    history = result.history
    validation = sides(48).validation
    found = predict(result, store, target.task)[validation]
    if classes == 2:
        found = np.stack([1 - found, found], axis=1)
    loss = -np.log(found[np.arange(len(found)), labels[validation]]).mean()
    assert history["val_loss"].iloc[-1] > 1.1 * history["val_loss"].min()
    assert loss == pytest.approx(history["val_loss"].min(), rel=1e-4)
    best = history.loc[history["epoch"] == result.best_epoch, "val_loss"].item()
    assert best == history["val_loss"].min()


def test_training_stops_after_the_patience(
    small: tuple[EmbeddingStore, NDArray[np.int64]],
) -> None:
    store, classes = small
    labels = np.random.default_rng(0).permutation(classes)
    result = fit(store, encode(labels), epochs=50, patience=2, learning_rate=0.2)
    assert len(result.history) == result.best_epoch + 2 < 50
    assert result.history["epoch"].tolist() == list(range(1, len(result.history) + 1))


@pytest.mark.slow
def test_regression_is_in_the_units_of_the_target(tmp_path: Path) -> None:
    sequences, classes = ordered(96)
    store = write_store(tmp_path / "s", sequences)
    values = 55.5 + 12.25 * classes + np.random.default_rng(0).normal(0, 0.5, 96)
    target = encode(values, task="regression")
    result = fit(store, target, units=8, epochs=25, learning_rate=0.03, dropout=0.0)
    test = sides(96).test
    found = predict(result, store, "regression")
    assert found.shape == (96,)
    assert np.abs(found - values)[test].mean() < 3  # 6 for the mean of all
    assert abs(found[test].mean() - values[test].mean()) < 2


def test_regression_keeps_the_best_epoch(
    small: tuple[EmbeddingStore, NDArray[np.int64]],
) -> None:
    store, _ = small
    values = np.random.default_rng(3).normal(1000, 50, 32)
    split = sides(32)
    result = fit(store, encode(values), epochs=6, learning_rate=0.2, dropout=0.0)
    error = (predict(result, store, "regression") - values)[split.validation]
    scaled = (error / values[split.train].std()) ** 2
    assert scaled.mean() == pytest.approx(result.history["val_loss"].min(), rel=1e-3)


@pytest.mark.parametrize("task", ["multiclass", pytest.param("regression", marks=pytest.mark.slow)])
def test_workers_and_global_generators_change_nothing(
    small: tuple[EmbeddingStore, NDArray[np.int64]], task: str
) -> None:
    store, _ = small
    target = encode(np.arange(32) % 4, task=task)
    found = []
    for workers in (1, 4):
        random.seed(workers)
        result = fit(store, target, workers=workers, batch_size=2)
        found.append((result.history.to_dict(), predict(result, store, task).tolist()))
    assert found[0] == found[1]


def test_each_epoch_trains_on_the_planned_batches(
    small: tuple[EmbeddingStore, NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras shuffles batches by itself, unless it is told not to."""
    asked: list[tuple[int, int]] = []

    class Recorder(_Batches):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            if self.seed is not None:
                asked.append((self.epoch, index))
            return super().__getitem__(index)

    monkeypatch.setattr("stage2_temporal.fitting.EmbeddingSequence", Recorder)
    store, classes = small
    fit(store, encode(classes), batch_size=2, epochs=2)
    assert [index for _, index in asked[-16:]] == [*range(8), *range(8)]
    assert len({epoch for epoch, _ in asked[-16:]}) == 2


@pytest.mark.slow
def test_seed_changes_the_model(small: tuple[EmbeddingStore, NDArray[np.int64]]) -> None:
    store, classes = small
    found = [
        predict(fit(store, encode(classes), seed=seed, epochs=1), store, "binary")
        for seed in (0, 1)
    ]
    assert (found[0] != found[1]).all()


def test_test_clips_are_not_read(
    small: tuple[EmbeddingStore, NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, classes = small
    read: set[int] = set()
    original = EmbeddingStore.read

    def noted(store: EmbeddingStore, i: int) -> NDArray[Any]:
        read.add(i)
        return original(store, i)

    monkeypatch.setattr(EmbeddingStore, "read", noted)
    fit(store, encode(classes), epochs=1)
    split = sides(32)
    assert read == {*split.train.tolist(), *split.validation.tolist()}


@pytest.mark.parametrize("task", ["binary", pytest.param("multiclass", marks=pytest.mark.slow)])
def test_loss_that_is_no_number_is_an_error(
    small: tuple[EmbeddingStore, NDArray[np.int64]], task: str
) -> None:
    store, _ = small
    target = encode(np.arange(32) % (2 if task == "binary" else 3))
    with pytest.raises(TrainingError, match=r"no number any more in epoch \d+; lower --learning"):
        fit(store, target, learning_rate=1e30, epochs=4)


def test_infinite_regression_loss_is_an_error(
    small: tuple[EmbeddingStore, NDArray[np.int64]],
) -> None:
    store, _ = small
    with pytest.raises(TrainingError, match="no number any more"):
        fit(store, encode(np.linspace(0, 1, 32)), learning_rate=1e30, epochs=4)


def test_constant_training_target_is_an_error(
    small: tuple[EmbeddingStore, NDArray[np.int64]],
) -> None:
    store, _ = small
    values = np.full(32, 2.5)
    values[sides(32).test] = np.linspace(0, 1, len(sides(32).test))
    with pytest.raises(TrainingError, match=r"'label' is 2\.5 in every training clip"):
        fit(store, encode(values, task="regression"))


def test_predictions_are_in_the_order_asked_for(
    small: tuple[EmbeddingStore, NDArray[np.int64]],
) -> None:
    store, classes = small
    result = fit(store, encode(classes), epochs=1)
    order = np.random.default_rng(0).permutation(32)
    shuffled = predict_sequences(result.model, store, order, "binary", batch_size=5)
    expected = predict(result, store, "binary")[order]
    np.testing.assert_allclose(shuffled, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "balance", "message"),
    [
        (np.arange(32) % 2, "uniformize", "uniformize does not suit the binary target 'label'"),
        (np.arange(32) % 3, "uniformize", "uniformize does not suit the multiclass .*oversample"),
        (np.linspace(0, 1, 32), "oversample", "does not suit the regression .*use uniformize"),
    ],
)
def test_balance_must_suit_the_task(values: Any, balance: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_draw(encode(values), np.arange(16), quick(balance=balance))


def test_no_balance_draws_nothing() -> None:
    assert training_draw(encode(np.arange(32) % 2), np.arange(16), quick()) is None


def test_oversampling_draws_training_clips_alone() -> None:
    labels = np.array([0] * 12 + [1] * 4 + [1] * 16)  # 12 to 4 in training
    draw = training_draw(encode(labels), np.arange(16), quick(balance="oversample"))
    assert draw is not None
    drawn = draw(np.random.default_rng(0))
    assert np.bincount(labels[:16][drawn]).tolist() == [12, 12]
    assert set(drawn) == set(range(16))


def test_uniformizing_obeys_bins_and_repeats() -> None:
    values = np.array([0.0] * 9 + [1.0] * 2 + [50.0] * 5)
    draw = training_draw(
        encode(values, task="regression"),
        np.arange(11),
        quick(balance="uniformize", bins=2, max_repeats=3),
    )
    assert draw is not None
    assert np.bincount(draw(np.random.default_rng(0)) >= 9).tolist() == [9, 6]

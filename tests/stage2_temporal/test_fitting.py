"""Fitting: it starts from the baseline, learns order, forgets nothing and remembers nothing."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal import epochs
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.baseline import mean_embeddings
from stage2_temporal.checkpoint import FitState
from stage2_temporal.feature_import import import_features
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.fitting import FitResult, SkipStart, Trainer, compile_model
from stage2_temporal.inputs import open_features
from stage2_temporal.models import Output
from stage2_temporal.prediction import predict_batches
from stage2_temporal.target_scale import TrainingError
from stage2_temporal.training_batches import TrainingBatches
from tests.marks import slow
from tests.stage2_temporal.synthetic import ordered, write_store
from tests.stage2_temporal.trainings import (
    a_target,
    baselines,
    four_targets,
    prepare,
    settings_of,
    sides,
    start_of,
    train,
    trainer_of,
)

keras = load_keras()

NUM_CLIPS = 32
EVERYTHING = np.arange(NUM_CLIPS)
ONE_GROUP = np.zeros(NUM_CLIPS, np.intp)
FOUR = settings_of("a", "b", "c", "d", learning_rate=0.02)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("fit") / "s", ordered(NUM_CLIPS)[0])


@dataclasses.dataclass(frozen=True)
class Four:
    """Targets of every task, by chance, and the fitted baseline."""

    batches: TrainingBatches
    start: SkipStart

    def fit(self, *, seed: int = 0, **changes: Any) -> FitResult:
        changed = dataclasses.replace(self.batches, **changes)
        return trainer_of(FOUR).fit(changed, start=self.start, seed=seed)


@pytest.fixture(scope="module")
def four(store: EmbeddingStore) -> Four:
    batches = prepare(store, four_targets(NUM_CLIPS), FOUR)
    return Four(batches, start_of(batches))


@dataclasses.dataclass(frozen=True)
class Told:
    """What a training found, before the next one changes its model."""

    history: pd.DataFrame
    predictions: list[NDArray[np.float64]]
    best_epoch: int

    @classmethod
    def of(cls, result: FitResult) -> "Told":
        return cls(result.history, result.predict(EVERYTHING), result.best_epoch)

    def assert_is(self, other: "Told") -> None:
        pd.testing.assert_frame_equal(self.history, other.history, check_exact=True)
        assert self.best_epoch == other.best_epoch
        for ours, theirs in zip(self.predictions, other.predictions, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# what it learns


@pytest.mark.parametrize("head", ["tcn", *slow("gru", "lstm", "transformer")])
def test_order_is_learned_where_the_average_tells_nothing(tmp_path: Path, head: str) -> None:
    sequences, classes = ordered(160)
    store = write_store(tmp_path / "s", sequences)
    settings = settings_of(head=head, units=8, epochs=15, learning_rate=0.03, batch_size=20)
    batches = prepare(store, [a_target("binary", classes)], settings)
    test = batches.split.test
    result = train(batches)
    means, (baseline,) = baselines(batches)
    assert roc_auc_score(classes[test], result.predict(test)[0]) > 0.95
    assert 0.2 < roc_auc_score(classes[test], baseline.predict(means[test])) < 0.8
    assert result.best_epoch > 0
    assert result.gain_confidence > 0.975


def test_side_features_are_learned(tmp_path: Path) -> None:
    """The class is in the feature alone."""
    rng = np.random.default_rng(0)
    ids = [f"clip{i:03d}" for i in range(80)]
    store = write_store(tmp_path / "s", {i: rng.normal(size=(6, 3)) for i in ids})
    classes = rng.permutation(np.arange(80) % 2)
    rows = pd.DataFrame({"video_id": ids, "age": 50 + 10 * classes + rng.normal(0, 2, 80)})
    rows.to_csv(tmp_path / "t.csv", index=False)
    import_features(tmp_path / "t.csv", tmp_path / "t.h5", FeatureImportSettings())
    settings = settings_of(feature_table=tmp_path / "t.h5", epochs=12, learning_rate=0.03, units=8)
    features = open_features(settings, np.array(ids))
    batches = prepare(store, [a_target("binary", classes)], settings, features=features)
    result = train(batches)
    test = batches.split.test
    means, (baseline,) = baselines(batches)
    assert roc_auc_score(classes[test], result.predict(test)[0]) > 0.95
    assert roc_auc_score(classes[test], baseline.predict(means[test])) < 0.8


# where it starts


def test_epoch_0_is_the_baseline_and_is_kept_if_nothing_is_gained(
    four: Four, tmp_path: Path
) -> None:
    """Targets of every task at once; one validation group can show nothing."""
    batches, result = four.batches, four.fit(groups=ONE_GROUP)
    assert (result.best_epoch, result.gain_confidence) == (0, 0.0)
    assert result.history["epoch"].tolist() == [0, 1, 2]
    assert result.history["loss"].isna().tolist() == [True, False, False]
    means = mean_embeddings(batches.inputs.store, EVERYTHING)
    found = result.predict(EVERYTHING)
    for target, model, values in zip(batches.targets, four.start.models, found, strict=True):
        expected = model.predict(means).reshape(NUM_CLIPS, target.num_outputs)
        tolerance = 50e-4 if target.task == "regression" else 1e-4
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)

    # Any user of Keras reads the same from the file, the fourth target in its own units.
    result.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    by_key = predict_batches(loaded, batches.evaluation(EVERYTHING))
    for number, values in enumerate(found):
        np.testing.assert_allclose(by_key[f"target_{number}"], values, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, *slow(1)])
def test_a_useless_sequence_leaves_the_baseline_bit_for_bit(four: Four, seed: int) -> None:
    """Here every clip is a group; labels are chance, and what is learned does not last."""
    batches = four.batches
    linear = four.start.models
    untrained = trainer_of(FOUR).fresh_model(batches, linear=linear, seed=seed).model
    expected = predict_batches(untrained, batches.evaluation(EVERYTHING))
    weights = untrained.get_weights()
    result = four.fit(seed=seed)
    assert result.best_epoch == 0
    assert result.gain_confidence < 0.975
    assert len(result.history) == 3
    assert result.history["learning_rate"].tolist()[1:] == [0.02, 0.02]
    found = predict_batches(result.built.model, batches.evaluation(EVERYTHING))
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values)
    for ours, theirs in zip(result.built.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_first_training_loss_is_that_of_the_given_offsets(store: EmbeddingStore) -> None:
    """Weighted by balance and by target; a head that starts at zero adds nothing to them."""
    labels = (EVERYTHING % 8 == 0).astype(int)
    values = np.random.default_rng(0).normal(40, 5, NUM_CLIPS)
    targets = [a_target("binary", labels, name="a"), a_target("regression", values, name="b")]
    settings = settings_of("a", "b", balance="weights", loss_weight=[1.0, 3.0], epochs=1)
    batches = prepare(store, targets, settings)
    start = start_of(batches)
    history = trainer_of(settings).fit(batches, start=start, seed=0).history
    side = batches.split.train
    share = labels[side].mean()
    weights = np.where(labels[side] == 1, 0.5 / share, 0.5 / (1 - share))
    cross = log_loss(
        labels[side], expit(start.offsets["offset_target_0"][:, 0]), sample_weight=weights
    )
    standard = (values[side] - values[side].mean()) / values[side].std()
    squares = mean_squared_error(standard, start.offsets["offset_target_1"])
    assert history["loss"][1] == pytest.approx(cross + 3 * squares, rel=1e-4)
    validation = batches.split.validation
    predicted = start.models[1].predict(mean_embeddings(store, EVERYTHING))
    error = (predicted - values)[validation] / values[side].std()
    assert history["val_loss b"][0] == pytest.approx((error**2).mean(), rel=1e-3)


# which epoch


def test_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    """Labels of chance are learned by heart, which makes the validation loss rise again."""
    store = write_store(tmp_path / "s", ordered(48)[0])
    labels = np.random.default_rng(1).permutation(np.arange(48) % 2)
    settings = settings_of(
        units=8, epochs=8, learning_rate=0.1, dropout=0.0, input_dropout=0.0, skip=False
    )
    batches = prepare(store, [a_target("binary", labels)], settings)
    result = train(batches)
    history, validation = result.history, batches.split.validation
    loss = log_loss(labels[validation], result.predict(validation)[0])
    least = history["val_loss"][1:].min()
    assert history["val_loss"].iloc[-1] > 1.1 * least
    assert loss == pytest.approx(least, rel=1e-4)
    assert history["val_loss"][result.best_epoch] == least


@pytest.mark.slow
def test_without_asking_for_confidence_the_best_epoch_is_taken(store: EmbeddingStore) -> None:
    _, classes = ordered(NUM_CLIPS)
    targets = [a_target("binary", classes)]
    settings = settings_of(gain_confidence=0.0, epochs=4, learning_rate=0.05)
    result = train(prepare(store, targets, settings, groups=ONE_GROUP))
    assert result.gain_confidence == 0
    assert result.best_epoch == result.history["val_loss"].argmin() > 0


# one seed, one result


@pytest.mark.parametrize("precision", ["float32", *slow("mixed_float16")])
def test_nothing_of_a_training_reaches_the_next(store: EmbeddingStore, precision: str) -> None:
    """Other data, another seed and a failure in between leave no trace; nor does a new trainer."""
    settings = settings_of(
        precision=precision, gain_confidence=0.0, learning_rate=0.02, batch_size=8
    )
    targets = four_targets(NUM_CLIPS)[:1]
    batches = prepare(store, targets, settings)
    other = prepare(store, targets, settings, split=sides(NUM_CLIPS, shift=3))
    trainer, start = trainer_of(settings), start_of(batches)
    first = Told.of(trainer.fit(batches, start=start, seed=5))
    trainer.fit(other, start=start, seed=6)
    wrong = {name: np.full_like(values, np.nan) for name, values in start.offsets.items()}
    with pytest.raises(TrainingError):
        trainer.fit(batches, start=dataclasses.replace(start, offsets=wrong), seed=7)
    random.seed(8)
    np.random.seed(8)  # noqa: NPY002
    Told.of(trainer.fit(batches, start=start, seed=5)).assert_is(first)
    Told.of(Trainer(settings).fit(batches, start=start, seed=5)).assert_is(first)
    another_seed = trainer.fit(batches, start=start, seed=6)
    assert another_seed.history["loss"][2] != first.history["loss"][2]


RICH: list[dict[str, Any]] = [
    {
        "schedule": "cosine",
        "balance": "oversample",
        "warmup_epochs": 2,
        "augmentation": AugmentSettings(mixup=0.5, noise=0.1, crop=0.7),
    },
    {"schedule": "plateau", "clip_norm": 0.5, "skip": False, "workers": 2},
]


class Stop(Exception):  # noqa: N818
    """Somebody pressed Ctrl-C."""


@pytest.mark.parametrize(
    ("changes", "last"),
    [(RICH[0], 1), *slow((RICH[0], 7), (RICH[1], 2))],
)
def test_a_stopped_training_ends_as_it_would_have(
    store: EmbeddingStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    last: int,
) -> None:
    monkeypatch.setattr(epochs, "_SECONDS_BETWEEN_CHECKPOINTS", -1)
    labels = (np.arange(NUM_CLIPS) % 5 == 0).astype(int)
    settings = settings_of(epochs=8, learning_rate=0.05, gain_confidence=0.0, **changes)
    batches = prepare(store, [a_target("binary", labels)], settings)
    whole = Told.of(train(batches, seed=3))
    checkpoint = tmp_path / "c.npz"

    def stop(state: FitState) -> None:
        if state.epoch == last:
            raise Stop

    with pytest.raises(Stop):
        train(batches, seed=3, checkpoint=checkpoint, on_epoch=stop)
    train(batches, seed=4)
    told: list[int] = []
    resumed = train(
        batches, seed=3, checkpoint=checkpoint, on_epoch=lambda state: told.append(state.epoch)
    )
    Told.of(resumed).assert_is(whole)
    assert told == list(range(last + 1, 9))
    # What has ended does not train again.
    Told.of(train(batches, seed=3, checkpoint=checkpoint, on_epoch=stop)).assert_is(whole)


def test_labels_that_are_missing_do_not_influence_the_fit(four: Four) -> None:
    """Whatever stands in their place, on all sides."""
    told = []
    for hidden in (0, 1):
        targets = []
        for number, target in enumerate(four.batches.targets):
            present = np.random.default_rng(number).random(NUM_CLIPS) > 0.3
            numbers = target.numbers.copy()
            numbers[~present] = hidden
            targets.append(dataclasses.replace(target, numbers=numbers, present=present))
        batches = prepare(four.batches.inputs.store, targets, FOUR)
        told.append(Told.of(four.fit(targets=targets, scales=batches.scales)))
    told[0].assert_is(told[1])
    assert np.isfinite(told[0].history["val_loss"]).all()


@pytest.mark.slow
def test_workers_and_global_generators_change_nothing(four: Four) -> None:
    told = []
    for workers in (1, 4):
        random.seed(workers)
        told.append(Told.of(four.fit(settings=dataclasses.replace(FOUR, workers=workers))))
    told[0].assert_is(told[1])


def test_test_clips_are_not_read(four: Four, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    original = EmbeddingStore.read_into

    def noted(store: EmbeddingStore, i: int, out: Any) -> None:
        read.add(i)
        original(store, i, out)

    monkeypatch.setattr(EmbeddingStore, "read_into", noted)
    four.fit()
    split = four.batches.split
    assert read == {*split.train.tolist(), *split.validation.tolist()}


# what goes wrong


def test_an_absurd_learning_rate_is_named(store: EmbeddingStore) -> None:
    settings = settings_of(learning_rate=1e30, epochs=4)
    values = np.random.default_rng(0).normal(size=NUM_CLIPS)
    batches = prepare(store, [a_target("regression", values)], settings)
    with pytest.raises(
        TrainingError,
        match=r"no number any more in epoch \d, batch \d: .*sound.*lower --learning-rate 1e\+30",
    ):
        train(batches)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_training_clip_is_named(tmp_path: Path, value: float) -> None:
    sequences, classes = ordered(NUM_CLIPS)
    sequences["clip009"][4, 1] = value
    store = write_store(tmp_path / "s", sequences)
    with pytest.raises(TrainingError, match=r"'clip009' hold NaN or infinity.*stage1-extract ver"):
        prepare(store, [a_target("binary", classes)], settings_of())


def test_a_damaged_validation_clip_is_named(four: Four, tmp_path: Path) -> None:
    sequences, _ = ordered(NUM_CLIPS)
    sequences["clip012"][4, 1] = np.nan
    inputs = dataclasses.replace(four.batches.inputs, store=write_store(tmp_path / "s", sequences))
    message = "before training, the loss of 1 of 8 validation clips .* 'clip012' hold NaN"
    with pytest.raises(TrainingError, match=message):
        four.fit(inputs=inputs)


def test_a_constant_training_target_is_an_error(store: EmbeddingStore) -> None:
    values = np.full(NUM_CLIPS, 2.5)
    values[sides(NUM_CLIPS).test] = np.linspace(0, 1, NUM_CLIPS // 4)
    with pytest.raises(TrainingError, match=r"'label' is 2\.5 in every training clip"):
        prepare(store, [a_target("regression", values)], settings_of())


# optimizer and logs


@pytest.mark.parametrize(("clip_norm", "moves"), [(0.0, True), (100.0, True), (1e-12, False)])
def test_gradients_are_clipped(clip_norm: float, moves: bool) -> None:
    """AdamW divides by the size of gradients plus 1e-7: those far below hardly move a weight."""
    output = Output("target_0", "regression", 1)
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(1, kernel_initializer="zeros", name="target_0")
    model = keras.Model(inputs, {"target_0": layer(inputs)})
    settings = settings_of(clip_norm=clip_norm, weight_decay=0.0, learning_rate=0.1)
    compile_model(model, [output], settings)
    model.train_on_batch(np.ones((4, 2)), {"target_0": np.ones((4, 1))})
    step = np.abs(model.get_weights()[0]).max()
    assert step == pytest.approx(0.1 if moves else 0, abs=1e-4)


@pytest.mark.slow
def test_tensorboard_reads_the_history(four: Four, tmp_path: Path) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer, logs = trainer_of(FOUR), tmp_path / "logs"
    history = trainer.fit(four.batches, start=four.start, seed=0, logs=logs).history
    events = module.EventAccumulator(str(logs))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("val_loss")}
    assert found == pytest.approx(dict(zip(history["epoch"], history["val_loss"], strict=True)))
    assert [event.step for event in events.Scalars("val_loss_d")] == [0, 1, 2]

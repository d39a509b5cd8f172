"""What a training reads: each clip with its own labels, weights, features and offsets."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage1_extract.store import EmbeddingStore
from stage2_temporal.feature_import import import_features
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.inputs import open_features
from stage2_temporal.training_batches import TrainingBatches
from tests.stage2_temporal.synthetic import planted, write_store
from tests.stage2_temporal.trainings import a_target, prepare, settings_of

NUM_CLIPS = 24
LABELS = (np.arange(NUM_CLIPS) % 6 == 0).astype(int)
VALUES = np.random.default_rng(0).normal(2000, 5, NUM_CLIPS)
PRESENT = np.arange(NUM_CLIPS) % 5 > 0
TARGETS = [
    a_target("binary", LABELS, name="a"),
    a_target("regression", np.where(PRESENT, VALUES, 0), name="b", present=PRESENT),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """The first feature of a clip is its number."""
    lengths = [1 + i % 11 for i in range(NUM_CLIPS)]
    return write_store(tmp_path_factory.mktemp("batches") / "s", planted(lengths))


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory, store: EmbeddingStore) -> Path:
    folder = tmp_path_factory.mktemp("ages")
    rows = pd.DataFrame({"video_id": store.video_ids, "age": 100.0 + np.arange(NUM_CLIPS)})
    rows.iloc[::-1].to_csv(folder / "t.csv", index=False)
    import_features(folder / "t.csv", folder / "t.h5", FeatureImportSettings())
    return folder / "t.h5"


def prepared(store: EmbeddingStore, **changes: Any) -> TrainingBatches:
    settings = settings_of("a", "b", **({"batch_size": 8} | changes))
    features = open_features(settings, store.video_ids)
    return prepare(store, TARGETS, settings, features=features)


def test_all_that_belongs_to_a_clip_comes_with_it(store: EmbeddingStore, ages: Path) -> None:
    batches = prepared(store, balance="weights", feature_table=ages)
    train = batches.split.train
    extras = {"offset_target_0": (train[:, None] / 7).astype(np.float32)}
    training = batches.training(3, extras)
    age, known = 100.0 + train, PRESENT[train]
    share = LABELS[train].mean()
    seen = []
    for index in range(len(training)):
        inputs, targets, weights = training[index]
        for row in np.flatnonzero(inputs["mask"].any(axis=1)):
            clip = int(inputs["embedding"][row, 0, 0])
            seen.append(clip)
            assert inputs["offset_target_0"][row] == pytest.approx(clip / 7)
            scaled = (100 + clip - age.mean()) / age.std()
            assert inputs["features"][row] == pytest.approx(scaled, rel=1e-5)
            assert targets["target_0"][row] == LABELS[clip]
            even = 0.5 / share if LABELS[clip] else 0.5 / (1 - share)
            assert weights["target_0"][row] == pytest.approx(even)
            assert weights["target_1"][row] == PRESENT[clip]
            if PRESENT[clip]:
                values = VALUES[train[known]]
                standard = (VALUES[clip] - values.mean()) / values.std()
                assert targets["target_1"][row] == pytest.approx(standard, abs=1e-5)
    assert sorted(seen) == train.tolist()


def test_rows_that_fill_up_a_batch_count_nothing(store: EmbeddingStore) -> None:
    training = prepared(store, batch_size=7).training(0)
    empty = 0
    for index in range(len(training)):
        inputs, _, weights = training[index]
        none = ~inputs["mask"].any(axis=1)
        assert len(none) == 7
        assert all((values[none] == 0).all() for values in weights.values())
        empty += int(none.sum())
    assert empty == 2  # 12 training clips in 2 batches of 7


def test_statistics_and_scales_are_those_of_training_clips(store: EmbeddingStore) -> None:
    batches = prepared(store)
    train = batches.split.train
    frames = np.concatenate([store.read(int(i)) for i in train]).astype(np.float64)
    np.testing.assert_allclose(batches.statistics.mean, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(batches.statistics.variance, frames.var(axis=0), rtol=1e-6)
    values = VALUES[train[PRESENT[train]]]
    found = [(scale.mean, scale.deviation) for scale in batches.scales]
    assert found == [(0.0, 1.0), pytest.approx((values.mean(), values.std()))]


def test_evaluation_keeps_the_order_and_tells_no_target(store: EmbeddingStore, ages: Path) -> None:
    batches = prepared(store, feature_table=ages)
    clips = np.array([20, 3, 11, 3])
    (inputs,) = batches.evaluation(clips)[0]
    assert inputs["embedding"][:4, 0, 0].tolist() == clips.tolist()
    assert (np.argsort(inputs["features"][:4, 0]) == np.argsort(clips)).all()
    assert set(inputs) == {"embedding", "mask", "features"}


@pytest.mark.parametrize("seed", [0, 1])
def test_seed_fixes_the_batches(store: EmbeddingStore, seed: int) -> None:
    batches = prepared(store, balance="oversample")
    first, second, other = (batches.training(number) for number in (seed, seed, seed + 1))
    order = [np.concatenate(training.plan).tolist() for training in (first, second, other)]
    assert order[0] == order[1] != order[2]


def test_notices_tell_of_balancing_and_features(store: EmbeddingStore, ages: Path) -> None:
    plain = prepared(store, balance="oversample", max_repeats=1)
    assert plain.notices == plain.balance.notices != ()
    assert prepared(store, feature_table=ages).features is not None

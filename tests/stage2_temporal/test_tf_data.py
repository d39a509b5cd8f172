"""Batches as a `tf.data.Dataset`: the very same ones, epoch by epoch."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.dataset import EmbeddingSequence
from tests.stage2_temporal.synthetic import planted, write_store

keras = load_keras()
_Model: Any = keras.Model
LENGTHS = [1, 3, 8, 9, 16, 17, 40, 2, 5, 100, 7]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted(LENGTHS), dtype="float16")


def dataset(store: EmbeddingStore, **options: Any) -> EmbeddingSequence:
    number = np.arange(store.num_sequences)
    return EmbeddingSequence(
        store,
        number,
        {"a": number[:, None].astype(np.float32), "b": np.eye(len(number), dtype=np.float32)},
        weights={name: np.ones(len(number), np.float32) for name in "ab"},
        features=lambda clips: np.stack([clips, -clips], axis=1).astype(np.float32),
        **{"batch_size": 3, "seed": 5, **options},
    )


def assert_same(arrived: Any, expected: Any) -> None:
    keras.tree.assert_same_structure(arrived, expected)
    for ours, theirs in zip(keras.tree.flatten(arrived), keras.tree.flatten(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("augmentation", [AugmentSettings(), AugmentSettings(crop=0.5, mixup=0.3)])
@pytest.mark.parametrize("prefetch", [1, 20])
def test_passes_are_the_epochs_of_the_sequence(
    store: EmbeddingStore, augmentation: AugmentSettings, prefetch: int
) -> None:
    expected = dataset(store, augmentation=augmentation)
    data = dataset(store, augmentation=augmentation)
    passes = data.as_tf_dataset(prefetch=prefetch)
    for _ in range(3):
        arrived = list(passes.as_numpy_iterator())
        assert len(arrived) == len(expected)
        for number, batch in enumerate(arrived):
            assert_same(batch, expected[number])
        expected.on_epoch_end()
    assert data.epoch == 3
    assert passes.cardinality() == len(data)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float64])
def test_plain_arrays_and_nothing_are_targets_too(store: EmbeddingStore, dtype: Any) -> None:
    positions = np.array([4, 1, 6])
    for targets in (None, (positions > 3).astype(dtype)):
        data = EmbeddingSequence(store, positions, targets, batch_size=2)
        for number, batch in enumerate(data.as_tf_dataset().as_numpy_iterator()):
            assert_same(batch, data[number])


def test_a_pass_that_is_broken_off_disturbs_no_other(store: EmbeddingStore) -> None:
    """Two passes at once: each holds every clip of its epoch once."""
    passes = dataset(store).as_tf_dataset(prefetch=1)
    broken = iter(passes.as_numpy_iterator())
    next(broken)
    whole = iter(passes.as_numpy_iterator())
    seen = [next(whole)]
    list(broken)
    seen += whole
    numbers = [int(n) for _, targets, _ in seen for n in targets["a"][:, 0]]
    assert sorted(numbers) == list(range(len(LENGTHS)))


class Arrived(_Model):  # type: ignore[misc]
    """Records the clips of each training step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[int]] = []
        self.weight = self.add_weight(shape=())

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.steps.append(np.asarray(inputs["features"])[:, 0].astype(int).tolist())
        first = inputs["features"][:, :1] + 0 * self.weight
        return {"a": first, "b": keras.ops.repeat(first, len(LENGTHS), axis=1)}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="records eagerly")
def test_keras_trains_on_whole_epochs_every_time_the_same(store: EmbeddingStore) -> None:
    def steps() -> list[list[int]]:
        model = Arrived()
        model.compile("sgd", {"a": "mse", "b": "mse"}, run_eagerly=True)
        model.fit(dataset(store).as_tf_dataset(), epochs=3, shuffle=False, verbose=0)
        return model.steps

    first = steps()
    for epoch in range(3):
        seen = [clip for step in first[4 * epoch : 4 * epoch + 4] for clip in step]
        assert sorted(seen) == list(range(len(LENGTHS)))
    assert steps() == first


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    store = write_store(tmp_path / "s", planted([2000, 2000]))
    data = EmbeddingSequence(store, np.array([0, 1]), batch_size=1)
    passes = data.as_tf_dataset()
    with store.shards[0].path.open("r+b") as file:
        file.truncate(store.shards[0].offset_bytes)
    with pytest.raises(tf.errors.OpError, match=r"a\.h5 is damaged"):
        list(passes)


def test_without_tensorflow_the_error_says_what_to_do(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"pip install tensorflow; .* iterate"):
        dataset(store).as_tf_dataset()

"""Batches: right-padded, masked, aligned with their targets, and a function of seed and epoch."""

import pickle
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.balance import oversample
from stage2_temporal.dataset import EmbeddingSequence, batches_of_like_length, pad_sequences
from tests.stage2_temporal.synthetic import planted, write_store

keras = load_keras()
_Model: Any = keras.Model

LENGTHS = [1, 3, 8, 9, 16, 17, 40, 2, 5, 100, 7, 33, 8]
Batch = tuple[dict[str, NDArray[Any]], NDArray[Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted(LENGTHS))


def dataset(store: EmbeddingStore, **options: Any) -> EmbeddingSequence:
    """All clips; the target is the number that is planted in the first feature."""
    number = np.arange(store.num_sequences)
    return EmbeddingSequence(store, number, number, **{"batch_size": 4, **options})


def batches(data: EmbeddingSequence) -> list[Batch]:
    return [data[i] for i in range(len(data))]


def planted_numbers(inputs: dict[str, NDArray[Any]]) -> list[int]:
    """The number on every valid frame of each sequence, proven to be one."""
    out = []
    for embedding, mask in zip(inputs["embedding"], inputs["mask"], strict=True):
        numbers = set(embedding[np.asarray(mask), 0].tolist())
        assert len(numbers) == 1
        out.append(int(numbers.pop()))
    return out


# one batch


def test_mask_is_true_for_frames_alone(store: EmbeddingStore) -> None:
    inputs, _ = dataset(store, batch_size=20)[0]
    assert inputs["mask"].dtype == np.bool_
    assert inputs["mask"].sum(axis=1).tolist() == LENGTHS
    assert (np.diff(inputs["mask"].astype(int), axis=1) <= 0).all()  # padded on the right


def test_padding_is_zero_and_frames_are_as_stored(store: EmbeddingStore) -> None:
    inputs, _ = dataset(store, batch_size=20)[0]
    assert (inputs["embedding"][~inputs["mask"]] == 0).all()
    for i, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(inputs["embedding"][i, :length], store.read(i))


@pytest.mark.parametrize(("longest", "steps"), [(1, 8), (8, 8), (9, 16), (100, 104)])
def test_length_is_rounded_up_to_eight(tmp_path: Path, longest: int, steps: int) -> None:
    store = write_store(tmp_path / "s", planted([1, longest]))
    inputs, _ = dataset(store)[0]
    assert inputs["embedding"].shape == (2, steps, 3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_of_the_store_is_kept(tmp_path: Path, dtype: str) -> None:
    store = write_store(tmp_path / "s", planted([2, 3]), dtype=dtype)
    assert dataset(store)[0][0]["embedding"].dtype == dtype


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 9))
def test_padding_keeps_every_value(lengths: list[int], more: int) -> None:
    sequences = [np.full((n, 2), i + 1, np.float16) for i, n in enumerate(lengths)]
    padded = pad_sequences(sequences, max(lengths) + more)
    np.testing.assert_array_equal(
        padded["embedding"].sum(axis=(1, 2)), [2 * n * (i + 1) for i, n in enumerate(lengths)]
    )
    np.testing.assert_array_equal(padded["mask"].sum(axis=1), lengths)


@pytest.mark.parametrize(("positions", "targets"), [([], []), ([0, 1], [0])])
def test_unequal_or_no_clips_are_an_error(
    store: EmbeddingStore, positions: list[int], targets: list[int]
) -> None:
    with pytest.raises(ValueError, match=f"{len(positions)} positions and {len(targets)} targets"):
        EmbeddingSequence(store, np.array(positions, np.intp), np.array(targets))


# an epoch


def test_without_seed_the_order_is_that_of_the_positions(store: EmbeddingStore) -> None:
    positions = np.array([5, 2, 9, 0, 7])
    data = EmbeddingSequence(store, positions, positions * 10, batch_size=2)
    for _ in range(2):
        arrived = batches(data)
        assert [n for inputs, _ in arrived for n in planted_numbers(inputs)] == positions.tolist()
        assert np.concatenate([t for _, t in arrived]).tolist() == [50, 20, 90, 0, 70]
        data.on_epoch_end()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 13, 50])
def test_targets_follow_their_sequences_over_epochs(store: EmbeddingStore, batch_size: int) -> None:
    data = dataset(store, seed=3, batch_size=batch_size)
    for _ in range(4):
        seen = []
        for inputs, targets in batches(data):
            assert planted_numbers(inputs) == targets.tolist()
            seen += targets.tolist()
        assert sorted(seen) == list(range(len(LENGTHS)))  # each clip exactly once
        data.on_epoch_end()


def test_last_batch_holds_what_is_left(store: EmbeddingStore) -> None:
    sizes = [len(targets) for _, targets in batches(dataset(store, seed=0, batch_size=5))]
    assert sorted(sizes) == [3, 5, 5]


def epochs(data: EmbeddingSequence, num_epochs: int) -> list[list[list[int]]]:
    out = []
    for _ in range(num_epochs):
        out.append([targets.tolist() for _, targets in batches(data)])
        data.on_epoch_end()
    return out


def test_order_is_a_function_of_seed_and_epoch(store: EmbeddingStore) -> None:
    first = epochs(dataset(store, seed=1), 3)
    unread = dataset(store, seed=1)
    unread.on_epoch_end()
    unread.on_epoch_end()
    assert epochs(unread, 1)[0] == first[2]
    assert epochs(dataset(store, seed=1), 3) == first
    assert epochs(dataset(store, seed=2), 3) != first
    assert len({str(epoch) for epoch in first}) == 3


def test_draw_is_respected_and_new_each_epoch(store: EmbeddingStore) -> None:
    labels = (np.arange(len(LENGTHS)) >= 3).astype(np.int64)  # 3 clips against 10
    data = dataset(store, seed=0, draw=partial(oversample, labels))
    counts = [Counter(n for batch in epoch for n in batch) for epoch in epochs(data, 8)]
    for count in counts:
        assert set(count) == set(range(len(LENGTHS)))
        assert sum(count[i] for i in range(3)) == sum(count[i] for i in range(3, 13)) == 10
        assert {count[i] for i in range(3)} == {3, 4}
    assert len({tuple(sorted(count.items())) for count in counts}) > 1


def test_a_draw_may_repeat_and_leave_out(store: EmbeddingStore) -> None:
    data = dataset(store, seed=0, draw=lambda _: np.array([4, 4, 9]))
    inputs, targets = data[0]
    assert sorted(targets.tolist()) == [4, 4, 9] == sorted(planted_numbers(inputs))


@pytest.mark.parametrize("seed", [None, 5])
def test_pickled_dataset_gives_the_same_batches(store: EmbeddingStore, seed: int | None) -> None:
    data = dataset(store, seed=seed, draw=partial(oversample, np.arange(13) % 2))
    data.on_epoch_end()
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - made one line above
    assert epochs(copy, 2) == epochs(data, 2)


def test_batches_need_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 320)
    rng = np.random.default_rng(1)
    found = batches_of_like_length(rng.permutation(320), lengths, 8, rng)
    padded = sum(lengths[batch].max() * len(batch) for batch in found)
    assert sorted(np.concatenate(found)) == list(range(320))
    assert padded < 1.1 * lengths.sum()  # about 1.75 times for batches at random
    assert [lengths[batch].max() for batch in found] != sorted(lengths[b].max() for b in found)


# under Keras


class Arrived(_Model):  # type: ignore[misc]
    """Records every batch that reaches the model in training; predicts the planted number."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.weight = self.add_weight(shape=())

    def call(self, inputs: Any, training: bool = False) -> Any:
        embedding, mask = (np.asarray(inputs[name]) for name in ("embedding", "mask"))
        if training:
            self.batches.append(planted_numbers({"embedding": embedding, "mask": mask}))
        return inputs["embedding"][:, :1, 0] + 0 * self.weight


def recorded(data: EmbeddingSequence, num_epochs: int) -> tuple[list[list[int]], list[float]]:
    """Return the batches as the model got them, and the loss of each epoch."""
    model = Arrived()
    model.compile("sgd", "mean_squared_error", run_eagerly=True)
    history = model.fit(data, epochs=num_epochs, shuffle=False, verbose=0).history
    return model.batches, history["loss"]


@pytest.mark.parametrize("workers", [1, 4])
def test_keras_gets_the_planned_batches_whatever_the_workers(
    store: EmbeddingStore, workers: int
) -> None:
    first, second, third, fourth = epochs(dataset(store, seed=7), 4)
    arrived, loss = recorded(dataset(store, seed=7, workers=workers), 3)
    # Keras ends an epoch, without a step, when it has built the model.
    assert arrived in ([*first, *second, *third], [*second, *third, *fourth])
    assert loss == [0, 0, 0]  # each target met the sequence with its number


def alike_first(num_alike: int, other: int) -> list[int]:
    return [8] * num_alike + [other]


def tiny_model(dim: int = 3) -> Any:
    embedding = keras.Input((None, dim), name="embedding")
    mask = keras.Input((None,), dtype="bool", name="mask")
    output = keras.layers.Dense(1)(keras.layers.GRU(2)(embedding, mask=mask))
    model = keras.Model({"embedding": embedding, "mask": mask}, output)
    model.compile("sgd", "mean_squared_error")
    return model


@pytest.mark.parametrize("lengths", [alike_first(5, 100), [100, 1, 100, 1, 1, 1, 1], [8, 9, 16, 8]])
@pytest.mark.parametrize("workers", [1, 2])
def test_any_lengths_evaluate_and_predict(
    tmp_path: Path, lengths: Sequence[int], workers: int
) -> None:
    """Keras takes the shape of all batches from the first two, which may be alike."""
    store = write_store(tmp_path / "s", planted(lengths))
    model = tiny_model()
    data = dataset(store, batch_size=2, workers=workers)
    outputs = model.predict(data, verbose=0)
    alone = [
        model.predict_on_batch(pad_sequences([store.read(i)], 104))[0] for i in range(len(lengths))
    ]
    np.testing.assert_allclose(outputs, alone, atol=1e-6)
    assert np.isfinite(model.evaluate(data, verbose=0))


def test_a_length_that_first_comes_in_a_later_epoch_trains(tmp_path: Path) -> None:
    """Two short clips share a batch in some epochs only; all batches of the first may be alike."""
    lengths = [8, 8] + [16] * 62
    store = write_store(tmp_path / "s", planted(lengths))

    def steps(data: EmbeddingSequence) -> set[int]:
        return {max(lengths[i] for i in batch) for batch in data.plan}

    def later(seed: int) -> bool:
        data = dataset(store, seed=seed, batch_size=2)
        alike = steps(data) == {16}
        data.on_epoch_end()
        return alike and steps(data) == {8, 16}

    seed = next(seed for seed in range(100) if later(seed))
    loss = tiny_model().fit(dataset(store, seed=seed, batch_size=2), epochs=2, verbose=0).history
    assert len(loss["loss"]) == 2


def test_lengths_from_1_to_100_train(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 101, 60).tolist()
    store = write_store(tmp_path / "s", planted([*lengths, 1, 100]), dtype="float16")
    model = tiny_model()
    history = model.fit(
        dataset(store, seed=0), validation_data=dataset(store), epochs=2, verbose=0
    ).history
    assert len(history["val_loss"]) == 2


def test_clips_of_one_length_all_have_one_shape(tmp_path: Path) -> None:
    """So that a compiling backend compiles once."""
    store = write_store(tmp_path / "s", planted([13] * 9))
    shapes = {inputs["mask"].shape[1] for inputs, _ in batches(dataset(store, batch_size=3))}
    assert shapes == {16}

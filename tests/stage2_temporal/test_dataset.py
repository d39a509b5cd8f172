"""Batches: right-padded, masked, aligned with their targets, and a function of seed and epoch."""

import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore, StoreError
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.balance import oversample
from stage2_temporal.dataset import EmbeddingSequence, batches_of_like_length
from stage2_temporal.inputs import stored_views
from stage2_temporal.model_inputs import pad_sequences
from stage2_temporal.prediction import prefetched
from tests.stage2_temporal.synthetic import planted, write_store, write_views

keras = load_keras()
_Model: Any = keras.Model

LENGTHS = [1, 3, 8, 9, 16, 17, 40, 2, 5, 100, 7, 33, 8]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted(LENGTHS))


def dataset(store: EmbeddingStore, **options: Any) -> EmbeddingSequence:
    """All clips; the target is the number that is planted in the first feature."""
    number = np.arange(store.num_sequences)
    return EmbeddingSequence(store, number, number, **{"batch_size": 4, **options})


def batches(data: EmbeddingSequence) -> list[Any]:
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
    with pytest.raises(ValueError, match=f"{len(positions)} positions"):
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


# labels, weights and side features


def test_without_targets_a_batch_holds_inputs_alone(store: EmbeddingStore) -> None:
    (inputs,) = EmbeddingSequence(store, np.array([3, 1]))[0]
    assert planted_numbers(inputs) == [3, 1]
    assert set(inputs) == {"embedding", "mask"}


@pytest.mark.parametrize("balanced", [False, True])
def test_everything_follows_its_clip(store: EmbeddingStore, balanced: bool) -> None:
    """Positions, side features, targets and weights are in different orders, on purpose."""
    positions = np.array([7, 2, 11, 0, 5, 9, 4])
    missing = positions == 5
    data = EmbeddingSequence(
        store,
        positions,
        {"a": positions[:, None] * 10.0, "b": np.where(missing, 0, -positions)[:, None]},
        weights={"a": np.ones(7, np.float32), "b": np.where(missing, 0, positions / 8)},
        features=lambda clips: np.stack([positions[clips], clips], axis=1).astype(np.float32),
        batch_size=3,
        seed=4,
        draw=partial(oversample, np.array([0, 0, 0, 0, 0, 1, 1])) if balanced else None,
    )
    seen: Counter[int] = Counter()
    for _ in range(5):
        for inputs, targets, weights in batches(data):
            numbers = np.array(planted_numbers(inputs))
            known = numbers != 5
            np.testing.assert_array_equal(inputs["features"][:, 0], numbers)
            np.testing.assert_array_equal(positions[inputs["features"][:, 1].astype(int)], numbers)
            np.testing.assert_array_equal(targets["a"], numbers[:, None] * 10)
            np.testing.assert_array_equal(targets["b"][:, 0], np.where(known, -numbers, 0))
            np.testing.assert_array_equal(weights["b"], np.where(known, numbers / 8, 0))
            assert inputs["features"].dtype == weights["a"].dtype == np.float32
            seen.update(numbers.tolist())
        data.on_epoch_end()
    assert set(seen) == set(positions.tolist())
    assert sum(seen.values()) == (50 if balanced else 35)


@pytest.mark.parametrize("augmentation", [AugmentSettings(), AugmentSettings(crop=0.5, mixup=1)])
def test_full_batches_end_with_rows_that_count_nothing(
    store: EmbeddingStore, augmentation: AugmentSettings
) -> None:
    number = np.arange(13)
    targets, weights = {"a": number[:, None] + 1.0}, {"a": np.ones(13, np.float32)}
    options: dict[str, Any] = {"batch_size": 5, "seed": 0, "augmentation": augmentation}
    plain, full = (
        EmbeddingSequence(store, number, targets, weights=weights, full_batches=fill, **options)
        for fill in (False, True)
    )
    for (inputs, labels, counts), (padded, more, filled) in zip(
        batches(plain), batches(full), strict=True
    ):
        size = len(counts["a"])
        assert len(filled["a"]) == len(padded["mask"]) == 5
        for short, long in ((inputs["embedding"], padded["embedding"]), (labels["a"], more["a"])):
            np.testing.assert_array_equal(long[:size], short)
            assert not long[size:].any()
        assert not padded["mask"][size:].any()
        assert filled["a"].tolist() == [1] * size + [0] * (5 - size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": None, "weights": np.ones(13)}, "weights were given without targets"),
        ({"weights": np.ones(4)}, "13 positions and 4 weights"),
        ({"full_batches": True}, "full_batches needs weights"),
        ({"augmentation": AugmentSettings(mixup=0.2), "seed": 0}, "mixup needs targets and weig"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    store: EmbeddingStore, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingSequence(store, np.arange(13), **{"targets": np.arange(13), **options})


# stored views


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Clips v000 to v003 with view 0, some with views 2 and 5, which the second feature tells."""
    lengths, of_view = [4, 6, 5, 90], {0: [0, 1, 2, 3], 2: [0, 2], 5: [2]}
    views = {}
    for view, numbers in of_view.items():
        clips = planted(lengths)
        for frames in clips.values():
            frames[:, 1] = view
        views[view] = {f"v{i:03d}": clips[f"v{i:03d}"] for i in numbers}
    return write_views(tmp_path_factory.mktemp("views"), views)


def test_stored_views_are_found_whatever_the_order(viewed: EmbeddingStore) -> None:
    def at(number: int, *views: int) -> list[int]:
        return [viewed.find(f"v{number:03d}", view) if view >= 0 else -1 for view in views]

    positions = np.array([viewed.find(f"v{number:03d}") for number in (2, 1, 0)])
    assert stored_views(viewed, positions).tolist() == [
        at(2, 0, 2, 5),
        at(1, 0, -1, -1),
        at(0, 0, 2, -1),
    ]


def views_seen(viewed: EmbeddingStore, seed: int | None, num_epochs: int) -> Counter[Any]:
    """How often each (clip, view) came; its label is proven to be the clip's."""
    clips = [0, 1, 2]
    positions = stored_views(viewed, np.array([viewed.find(f"v{i:03d}") for i in clips]))
    data = EmbeddingSequence(viewed, positions, np.array(clips), batch_size=2, seed=seed)
    seen: Counter[Any] = Counter()
    for _ in range(num_epochs):
        for inputs, targets in batches(data):
            assert planted_numbers(inputs) == targets.tolist()
            seen.update(zip(targets.tolist(), inputs["embedding"][:, 0, 1].tolist(), strict=True))
        data.on_epoch_end()
    return seen


def test_training_draws_every_view_evenly(viewed: EmbeddingStore) -> None:
    seen = views_seen(viewed, 0, 300)
    expected = {(0, 0): 150, (0, 2): 150, (1, 0): 300, (2, 0): 100, (2, 2): 100, (2, 5): 100}
    assert set(seen) == set(expected)
    for which, count in expected.items():
        assert seen[which] == pytest.approx(count, abs=45)  # more than five deviations


def test_evaluation_sees_clips_themselves(viewed: EmbeddingStore) -> None:
    assert views_seen(viewed, None, 3) == {(0, 0): 3, (1, 0): 3, (2, 0): 3}


def test_a_missing_view_lengthens_no_batch(viewed: EmbeddingStore) -> None:
    """-1 is also the store's last sequence, which is long."""
    positions = stored_views(viewed, np.array([viewed.find("v000"), viewed.find("v001")]))
    (inputs,) = EmbeddingSequence(viewed, positions, seed=0)[0]
    assert inputs["mask"].shape == (2, 8)


# augmentation


STRONG = AugmentSettings(
    crop=0.4, speed=2, jitter=0.3, frame_dropout=0.2, noise=0.1, feature_mask=0.4, time_mask=0.3
)
MIXED = AugmentSettings(crop=0.5, mixup=0.5)


def augmented(store: EmbeddingStore, augmentation: AugmentSettings, **options: Any) -> Any:
    number = np.arange(store.num_sequences)
    return EmbeddingSequence(
        store,
        number,
        {"a": number[:, None].astype(np.float32)},
        weights={"a": np.ones(len(number), np.float32)},
        **{"batch_size": 4, "seed": 1, "spread": np.ones(3), **options},
        augmentation=augmentation,
    )


def content(arrived: Iterable[Any]) -> list[bytes]:
    return [array.tobytes() for array in keras.tree.flatten(list(arrived))]


@pytest.mark.parametrize("augmentation", [STRONG, MIXED])
def test_augmentation_is_a_function_of_seed_and_epoch(
    store: EmbeddingStore, augmentation: AugmentSettings
) -> None:
    data = augmented(store, augmentation)
    by_epoch = []
    for _ in range(3):
        by_epoch.append(content(prefetched(data)))
        data.on_epoch_end()
    resumed = augmented(store, augmentation, workers=4)
    resumed.start_epoch(2)
    assert content(prefetched(resumed)) == by_epoch[2]
    backwards = [resumed[i] for i in reversed(range(len(resumed)))]
    assert content(backwards[::-1]) == by_epoch[2]
    assert len({tuple(sorted(epoch)) for epoch in by_epoch}) == 3
    assert content(prefetched(augmented(store, augmentation, seed=2))) != by_epoch[0]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_augmented_sequences_fit_their_batch(tmp_path: Path, dtype: str) -> None:
    store = write_store(tmp_path / "s", planted(LENGTHS), dtype=dtype)
    for inputs, _, _ in batches(augmented(store, STRONG)):
        assert inputs["embedding"].dtype == dtype
        assert inputs["mask"].any(axis=1).all()
        assert (np.diff(inputs["mask"].astype(int), axis=1) <= 0).all()
        assert not inputs["embedding"][~inputs["mask"]].any()


@pytest.mark.parametrize("augmentation", [STRONG, MIXED])
def test_evaluation_is_not_augmented(store: EmbeddingStore, augmentation: AugmentSettings) -> None:
    plain = augmented(store, AugmentSettings(), seed=None)
    assert content(batches(augmented(store, augmentation, seed=None))) == content(batches(plain))


# at the edges


@pytest.mark.parametrize("augmentation", [AugmentSettings(), STRONG, MIXED])
def test_one_frame_and_100000_frames_share_a_batch(
    tmp_path: Path, augmentation: AugmentSettings
) -> None:
    store = write_store(tmp_path / "s", planted([1, 100_000]), dtype="float16")
    inputs, _, _ = augmented(store, augmentation)[0]
    assert inputs["embedding"].shape == (2, 100_000, 3)
    assert np.isfinite(inputs["embedding"]).all()
    assert inputs["mask"].any(axis=1).all()


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_store_cut_short_while_it_is_read_is_an_error(tmp_path: Path, share: float) -> None:
    """Of a mapped file, this would be a crash of the process."""
    store = write_store(tmp_path / "s", planted([4000, 4000]))
    data = EmbeddingSequence(store, np.array([0, 1]))
    assert planted_numbers(data[0][0]) == [0, 1]
    shard = store.shards[0]
    with shard.path.open("r+b") as file:
        file.truncate(shard.offset_bytes + int(share * 8000) * shard.row_bytes)
    with pytest.raises(
        StoreError, match=rf"a\.h5 is damaged: it ends within v00{int(share > 0.5)}"
    ):
        data[0]


def test_threads_get_what_one_thread_gets(store: EmbeddingStore) -> None:
    data = augmented(store, STRONG, batch_size=1)
    expected = content(batches(data))
    with ThreadPoolExecutor(8) as pool:
        arrived = list(pool.map(data.__getitem__, list(range(len(data))) * 5))
    assert content(arrived) == expected * 5


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


# several processes


def parts(store: EmbeddingStore, number: int, **options: Any) -> list[EmbeddingSequence]:
    """What each of several processes reads."""
    weights = np.ones(store.num_sequences, np.float32)
    return [
        dataset(store, weights=weights, process_index=i, num_processes=number, **options)
        for i in range(number)
    ]


def labels_of(data: EmbeddingSequence) -> list[tuple[int, float]]:
    """(target, weight) of every row, the target proven to be that of the row's frames."""
    found = []
    for inputs, targets, weights in batches(data):
        assert planted_numbers(inputs) == targets.tolist()
        found += list(zip(targets.tolist(), weights.tolist(), strict=True))
    return found


@hypothesis_settings(deadline=None)
@given(
    num_processes=st.integers(1, 17),
    batch_size=st.integers(1, 6),
    num_clips=st.integers(1, len(LENGTHS)),
    seed=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_processes_share_each_epoch_evenly_and_completely(
    store: EmbeddingStore,
    num_processes: int,
    batch_size: int,
    num_clips: int,
    seed: int | None,
    epoch: int,
) -> None:
    clips = np.arange(num_clips)
    weights = np.ones(num_clips, np.float32)
    sequences = [
        EmbeddingSequence(
            store,
            clips,
            clips,
            weights=weights,
            batch_size=batch_size,
            seed=seed,
            process_index=index,
            num_processes=num_processes,
        )
        for index in range(num_processes)
    ]
    for sequence in sequences:
        sequence.start_epoch(epoch)
    found = [labels_of(sequence) for sequence in sequences]
    counted = [target for part in found for target, weight in part if weight]
    assert sorted(counted) == clips.tolist()
    assert sum(not weight for part in found for _, weight in part) < num_processes
    assert len({len(part) for part in found}) == 1
    shapes = [[inputs["embedding"].shape for inputs, *_ in batches(data)] for data in sequences]
    assert all(shape == shapes[0] for shape in shapes)
    assert max(shape[0] for shape in shapes[0]) <= batch_size
    for sequence, part in zip(sequences, found, strict=True):
        told = np.concatenate(sequence.plan), np.concatenate(sequence.counted)
        assert [(int(clip), float(counts)) for clip, counts in zip(*told, strict=True)] == part


def test_one_process_reads_as_if_it_were_not_told(store: EmbeddingStore) -> None:
    (alone,) = parts(store, 1, seed=3)
    assert [clip for clip, _ in labels_of(alone)] == [
        int(number) for batch in batches(dataset(store, seed=3)) for number in batch[1]
    ]


def test_processes_draw_the_same_clips_and_other_noise(store: EmbeddingStore) -> None:
    """Oversampled: what is drawn twice is read twice, by whichever process."""
    drawn = np.array([0, 0, 0, 5, 7, 7, 2])
    noise = AugmentSettings(noise=0.5)
    options: dict[str, Any] = {"seed": 1, "draw": lambda _: drawn, "batch_size": 2}
    found = [labels_of(data) for data in parts(store, 3, **options)]
    counted = Counter(target for part in found for target, weight in part if weight)
    assert counted == Counter(drawn.tolist())
    same = {"seed": 1, "draw": lambda _: np.zeros(4, np.intp), "batch_size": 2}
    spread = np.ones(store.embedding_dim)
    pair = [data[0][0] for data in parts(store, 2, augmentation=noise, spread=spread, **same)]
    assert (pair[0]["embedding"] != pair[1]["embedding"]).any()


def test_full_batches_of_processes_have_one_size(store: EmbeddingStore) -> None:
    for data in parts(store, 4, batch_size=3, full_batches=True, seed=0):
        assert {len(targets) for _, targets, _ in batches(data)} == {3}


@pytest.mark.parametrize(("index", "number"), [(-1, 2), (2, 2), (0, 0)])
def test_impossible_processes_are_refused(store: EmbeddingStore, index: int, number: int) -> None:
    with pytest.raises(ValueError, match=f"process_index is {index} of {number} processes"):
        dataset(store, process_index=index, num_processes=number)


def test_processes_need_weights_beside_targets(store: EmbeddingStore) -> None:
    with pytest.raises(ValueError, match="num_processes needs weights"):
        dataset(store, num_processes=2)

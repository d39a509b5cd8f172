"""Models: standardised by training frames alone, blind to padding, whole when saved."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.dataset import pad_sequences
from stage2_temporal.models import (
    FeatureStatistics,
    build_model,
    feature_statistics,
    in_target_units,
)
from tests.stage2_temporal.synthetic import quick, write_store

keras = load_keras()

DIM = 3
STATISTICS = FeatureStatistics(np.array([1.0, 0.0, -5.0]), np.array([4.0, 1.0, 0.25]))
OUTPUTS = {"binary": 1, "multiclass": 4, "regression": 1}


def frames(*lengths: int, dtype: str = "float32", seed: int = 0) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, DIM)).astype(dtype) for length in lengths]


def model(task: str = "binary", dtype: str = "float32", **settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    return build_model(
        quick(**settings), STATISTICS, dtype=dtype, task=task, num_outputs=OUTPUTS[task]
    )


def outputs(model: Any, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(model(inputs, training=False))


ALL_HEADS = list(itertools.product(["gru", "lstm"], [False, True], [1, 2]))


# statistics


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_statistics_are_those_of_the_chosen_frames(tmp_path: Path, dtype: str) -> None:
    sequences = dict(zip("abcd", frames(1, 30, 7, 5, dtype=dtype), strict=True))
    store = write_store(tmp_path / "s", sequences, dtype=dtype)
    found = feature_statistics(store, np.array([0, 1, 3]))
    chosen = np.concatenate([sequences[i] for i in "abd"]).astype(np.float64)
    np.testing.assert_allclose(found.mean, chosen.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.variance, chosen.var(axis=0), rtol=1e-9)


def test_other_clips_do_not_enter_the_statistics(tmp_path: Path) -> None:
    a, b = frames(4, 4)
    first = feature_statistics(write_store(tmp_path / "1", {"a": a, "b": b}), np.array([0]))
    other = feature_statistics(write_store(tmp_path / "2", {"a": a, "b": 1000 * b}), np.array([0]))
    assert first.mean.tolist() == other.mean.tolist()
    assert first.variance.tolist() == other.variance.tolist()


@pytest.mark.parametrize("constant", [0.0, 1e-3, 0.1, -7.5, 1e6])
def test_a_constant_feature_gets_variance_one(tmp_path: Path, constant: float) -> None:
    sequences = {str(i): np.full((n, 1), constant) for i, n in enumerate((3, 1, 50))}
    found = feature_statistics(write_store(tmp_path / "s", sequences), np.arange(3))
    assert found.variance.tolist() == [1.0]
    assert found.mean[0] == pytest.approx(np.float32(constant))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e4])
def test_small_and_large_features_are_standardised(tmp_path: Path, scale: float) -> None:
    """A randomly initialised MobileNetV2 has embeddings near 1e-12."""
    sequence = frames(200)[0] * scale
    store = write_store(tmp_path / "s", {"a": sequence})
    statistics = feature_statistics(store, np.array([0]))
    built = build_model(quick(), statistics, dtype="float32", task="binary", num_outputs=1)
    scaled = np.asarray(built.get_layer("standardise")(store.read(0)))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_standardisation_is_the_z_score(dtype: str) -> None:
    sequence = frames(6, dtype=dtype)[0]
    scaled = np.asarray(model(dtype=dtype).get_layer("standardise")(sequence[None]))[0]
    expected = (sequence.astype(np.float64) - [1, 0, -5]) / [2, 1, 0.5]
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


# what every model must do


@pytest.mark.parametrize("dtype", ["float16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("head", "bidirectional", "layers"), ALL_HEADS)
def test_padding_does_not_matter(head: str, bidirectional: bool, layers: int, dtype: str) -> None:
    """Neither its amount nor what stands in it; one frame is enough."""
    built = model(dtype=dtype, head=head, bidirectional=bidirectional, layers=layers)
    sequences = frames(1, 5, 8, dtype=dtype)
    short = pad_sequences(sequences, 8)
    long = pad_sequences(sequences, 24)
    dirty = {**long, "embedding": np.where(long["mask"][..., None], long["embedding"], 9.0)}
    dirty["embedding"] = dirty["embedding"].astype(dtype)
    expected = outputs(built, short)
    assert expected.shape == (3, 1)
    assert ((expected > 0) & (expected < 1)).all()  # false for NaN, too
    np.testing.assert_allclose(outputs(built, long), expected, atol=1e-6)
    np.testing.assert_allclose(outputs(built, dirty), expected, atol=1e-6)
    for row, sequence in enumerate(sequences):
        alone = outputs(built, pad_sequences([sequence], len(sequence)))
        np.testing.assert_allclose(alone[0], expected[row], atol=1e-6)


@pytest.mark.parametrize("head", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_order_of_frames_matters(head: str, bidirectional: bool) -> None:
    sequence = frames(6)[0]
    built = model(head=head, bidirectional=bidirectional)
    forward, backward = outputs(built, pad_sequences([sequence, sequence[::-1]], 8))
    assert abs(forward - backward) > 1e-4


@pytest.mark.parametrize("task", list(OUTPUTS))
def test_output_suits_the_task(task: str) -> None:
    found = outputs(model(task), pad_sequences(frames(3, 20, 1), 24))
    assert found.shape == (3, OUTPUTS[task])
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    if task == "multiclass":
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "float32"])
@pytest.mark.parametrize(("head", "bidirectional", "layers"), ALL_HEADS)
def test_saved_model_loads_safely_and_predicts_the_same(
    tmp_path: Path, head: str, bidirectional: bool, layers: int, dtype: str
) -> None:
    built = model("regression", dtype, head=head, bidirectional=bidirectional, layers=layers)
    built = in_target_units(built, 40.0, 12.5)
    built.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    inputs = pad_sequences(frames(1, 9, 16, dtype=dtype), 16)
    np.testing.assert_array_equal(outputs(loaded, inputs), outputs(built, inputs))


def test_loaded_model_trains_on(tmp_path: Path) -> None:
    built, inputs, target = model(), pad_sequences(frames(3, 4), 8), np.array([[0.0], [1.0]])
    built.train_on_batch(inputs, target)
    built.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    before = outputs(loaded, inputs)
    loaded.train_on_batch(inputs, target)
    assert loaded.optimizer.iterations == 2
    assert (outputs(loaded, inputs) != before).all()


def test_target_units_are_mean_and_deviation() -> None:
    inner = model("regression")
    inputs = pad_sequences(frames(3, 4, 5), 8)
    np.testing.assert_allclose(
        outputs(in_target_units(inner, 40.0, 12.5), inputs),
        outputs(inner, inputs) * 12.5 + 40,
        rtol=1e-6,
    )


def test_dropout_acts_in_training_alone() -> None:
    built = model(dropout=0.5, units=16)
    inputs = pad_sequences(frames(8), 8)
    trained = {float(built(inputs, training=True)[0, 0]) for _ in range(4)}
    assert len(trained) > 1
    assert float(outputs(built, inputs)[0, 0]) == float(outputs(built, inputs)[0, 0])


def test_settings_reach_the_model() -> None:
    built = model(head="lstm", units=6, layers=2, bidirectional=True, learning_rate=0.25)
    layers = [layer for layer in built.layers if isinstance(layer, keras.layers.Bidirectional)]
    assert [type(layer.forward_layer) for layer in layers] == [keras.layers.LSTM] * 2
    assert [layer.forward_layer.units for layer in layers] == [6, 6]
    assert float(built.optimizer.learning_rate) == 0.25


def test_weights_are_fresh_each_time() -> None:
    kernels = [
        build_model(quick(), STATISTICS, dtype="float32", task="binary", num_outputs=1)
        .get_layer("output")
        .kernel.numpy()
        for _ in range(2)
    ]
    assert (kernels[0] != kernels[1]).any()

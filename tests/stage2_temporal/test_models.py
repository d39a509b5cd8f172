"""Models: standardised by training frames alone, start from the baseline, whole when saved."""

import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal import heads
from stage2_temporal.config import HEADS, POOLINGS
from stage2_temporal.model_inputs import pad_sequences
from stage2_temporal.models import (
    BuiltModel,
    LinearStart,
    Output,
    build_model,
    in_standard_units,
    in_target_units,
    losses,
    offset_key,
)
from stage2_temporal.statistics import FeatureStatistics, feature_statistics
from tests.marks import slow, xslow
from tests.stage2_temporal.synthetic import quick, write_store

keras = load_keras()

DIM = 3
STATISTICS = FeatureStatistics(np.array([1.0, 0.0, -5.0]), np.array([4.0, 1.0, 0.25]))
OUTPUTS = {
    task: Output(f"target_{number}", task, count)
    for number, (task, count) in enumerate(
        [("binary", 1), ("multiclass", 4), ("multilabel", 2), ("regression", 1)]
    )
}
ALL = tuple(OUTPUTS.values())
EAGER = keras.backend.backend() != "jax"
FAST = [("gru", "last"), ("transformer", "attention")]
Predictions = dict[str, NDArray[Any]]


def frames(*lengths: int, dtype: str = "float32", seed: int = 0) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, DIM)).astype(dtype) for length in lengths]


def build(
    *tasks: str,
    dtype: str = "float32",
    num_features: int = 0,
    linear: tuple[LinearStart | None, ...] = (),
    **settings: Any,
) -> BuiltModel:
    keras.utils.set_random_seed(0)
    return build_model(
        quick(**settings),
        STATISTICS,
        [OUTPUTS[task] for task in tasks or ("binary",)],
        dtype=dtype,
        num_features=num_features,
        linear=linear,
    )


def compiled(model: Any) -> Any:
    """Compile a model of a binary target."""
    by_key, weights = losses([OUTPUTS["binary"]])
    optimizer = keras.optimizers.AdamW(0.1)
    model.compile(optimizer, by_key, loss_weights=weights, run_eagerly=EAGER)
    return model


def offset(*logits: float) -> dict[str, NDArray[np.float32]]:
    """The trainee's input that stands for the skip path of a binary target."""
    return {"offset_target_0": np.array(logits, np.float32)[:, None]}


def predict(model: Any, inputs: dict[str, NDArray[Any]], **options: Any) -> Predictions:
    found = model(inputs, training=False, **options)
    return {key: np.asarray(keras.ops.convert_to_numpy(value)) for key, value in found.items()}


def a_linear(num_outputs: int) -> LinearStart:
    rng = np.random.default_rng(7)
    return LinearStart(rng.normal(size=(DIM, num_outputs)), rng.normal(size=num_outputs))


def targets(num_rows: int, *tasks: str) -> Predictions:
    """Plausible encoded targets: all ones for one output, the first class for several."""
    return {
        OUTPUTS[task].key: np.eye(OUTPUTS[task].num_outputs, dtype=np.float32)[[0] * num_rows]
        for task in tasks
    }


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


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e4])
def test_small_and_large_features_are_standardised(
    tmp_path: Path, scale: float, precision: str
) -> None:
    """A randomly initialised MobileNetV2 has embeddings near 1e-12."""
    store = write_store(tmp_path / "s", {"a": frames(200)[0] * scale})
    statistics = feature_statistics(store, np.array([0]))
    built = build_model(quick(precision=precision), statistics, ALL, dtype="float32")
    layer = built.model.get_layer("standardise")
    scaled = keras.ops.convert_to_numpy(layer(store.read(0)[None]))[0]
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_standardisation_is_the_z_score(dtype: str) -> None:
    sequence = frames(6, dtype=dtype)[0]
    layer = build(dtype=dtype).model.get_layer("standardise")
    scaled = keras.ops.convert_to_numpy(layer(sequence[None]))[0]
    expected = (sequence.astype(np.float64) - [1, 0, -5]) / [2, 1, 0.5]
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


# outputs


@pytest.mark.parametrize("precision", ["mixed_bfloat16", *slow("float32", "mixed_float16")])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_suit_their_tasks_at_every_precision(head: str, precision: str) -> None:
    if (head, precision, keras.backend.backend()) == ("transformer", "mixed_float16", "jax"):
        pytest.skip("JAX has no float16 attention on CPUs: the next test")
    built = build(*OUTPUTS, head=head, precision=precision, dtype="float16", skip=False)
    inputs = pad_sequences(frames(3, 20, 1, dtype="float16"), 24)
    found = predict(built.model, inputs)
    assert {key: value.shape for key, value in found.items()} == {
        output.key: (3, output.num_outputs) for output in ALL
    }
    for value in found.values():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
    np.testing.assert_allclose(found["target_1"].sum(axis=1), 1, atol=1e-6)
    bounded = np.concatenate([found["target_0"], found["target_2"]], axis=1)
    assert ((bounded > 0) & (bounded < 1)).all()


def test_what_jax_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(heads, "num_gpus", lambda: 0)
    with pytest.raises(ValueError, match="no transformer in mixed_float16 on a CPU; use"):
        build(head="transformer", precision="mixed_float16")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_padding_does_not_matter(dtype: str) -> None:
    built = build(dtype=dtype, projection=4)
    built.model.get_layer("head_target_0").set_weights([np.ones((4, 1)), np.zeros(1)])
    sequences = frames(1, 5, 8, dtype=dtype)
    long = pad_sequences(sequences, 24)
    dirty = np.where(long["mask"][..., None], long["embedding"], 9.0).astype(dtype)
    expected = predict(built.model, pad_sequences(sequences, 8))["target_0"]
    for inputs in (long, {**long, "embedding": dirty}):
        np.testing.assert_allclose(predict(built.model, inputs)["target_0"], expected, atol=1e-5)


def test_target_units_are_mean_and_deviation() -> None:
    inner = build("binary", "regression", skip=False).model
    inputs = pad_sequences(frames(3, 4, 5), 8)
    before = predict(inner, inputs)
    after = predict(in_target_units(inner, {"target_3": (40.0, 12.5)}), inputs)
    np.testing.assert_allclose(after["target_3"], before["target_3"] * 12.5 + 40, rtol=1e-6)
    np.testing.assert_array_equal(after["target_0"], before["target_0"])


def test_side_features_enter() -> None:
    built = build(num_features=2, skip=False)
    inputs = pad_sequences(frames(3, 4), 8)
    features = np.zeros((2, 2), np.float32)
    zero = predict(built.model, {**inputs, "features": features})["target_0"]
    other = predict(built.model, {**inputs, "features": features + 3})["target_0"]
    assert (zero != other).all()


# start


def mean_frames(sequences: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.stack([sequence.mean(axis=0, dtype=np.float64) for sequence in sequences])


@pytest.mark.parametrize("head", ["gru", *slow("lstm", "tcn", "transformer")])
def test_an_untrained_model_predicts_what_the_linear_model_does(head: str) -> None:
    linear = tuple(a_linear(output.num_outputs) for output in ALL)
    built = build(*OUTPUTS, head=head, pooling="attention", linear=linear, num_features=2)
    sequences = frames(1, 5, 8)
    inputs = {**pad_sequences(sequences, 8), "features": np.ones((3, 2), np.float32)}
    found = predict(built.model, inputs)
    means = mean_frames(sequences)
    logits = [means @ start.coefficients + start.intercept for start in linear]
    odds = np.exp(logits[1])
    expected = [
        1 / (1 + np.exp(-logits[0])),
        odds / odds.sum(axis=1, keepdims=True),
        1 / (1 + np.exp(-logits[2])),
        logits[3],
    ]
    for output, values in zip(ALL, expected, strict=True):
        np.testing.assert_allclose(found[output.key], values, atol=1e-4)


def test_a_model_without_baseline_starts_undecided() -> None:
    found = predict(build("binary", "regression").model, pad_sequences(frames(3, 4), 8))
    np.testing.assert_allclose(found["target_0"], 0.5)
    np.testing.assert_allclose(found["target_3"], 0.0)


@pytest.mark.parametrize("trained", ["trainee", "model"])
def test_head_learns_and_what_it_starts_from_stays(trained: str) -> None:
    """Statistics and baseline are no weights to train, whichever of the two models is."""
    built = build(linear=(a_linear(1),))
    fixed = [built.model.get_layer(name) for name in ("standardise", "skip_target_0")]
    before = [weight for layer in fixed for weight in layer.get_weights()]
    model = compiled(getattr(built, trained))
    inputs = pad_sequences(frames(3, 4), 8)
    for _ in range(2):
        extra = offset(0.5, -0.5) if trained == "trainee" else {}
        model.train_on_batch(inputs | extra, targets(2, "binary"))
    after = [weight for layer in fixed for weight in layer.get_weights()]
    assert all(
        (weight != 0).any() for weight in built.model.get_layer("head_target_0").get_weights()
    )
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trainee_adds_the_head_to_the_logits_that_it_is_given() -> None:
    """Given those of the skip layer, it predicts what the model does; they share the head."""
    linear = tuple(a_linear(output.num_outputs) for output in ALL)
    built = build(*OUTPUTS, linear=linear)
    for output in ALL:
        head = built.model.get_layer(f"head_{output.key}")
        head.set_weights([np.full(weight.shape, 0.7) for weight in head.get_weights()])
    sequences = frames(1, 5, 8)
    inputs, means = pad_sequences(sequences, 8), mean_frames(sequences)
    given = {
        offset_key(output.key): (means @ start.coefficients + start.intercept).astype(np.float32)
        for output, start in zip(ALL, linear, strict=True)
    }
    expected, found = predict(built.model, inputs), predict(built.trainee, inputs | given)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-5)
    zeros = {name: np.zeros_like(values) for name, values in given.items()}
    assert (predict(built.trainee, inputs | zeros)["target_3"] != found["target_3"]).all()


def test_without_a_skip_path_the_model_itself_is_trained() -> None:
    built = build(skip=False)
    assert built.trainee is built.model
    assert set(built.model.input) == {"embedding", "mask"}


def test_a_linear_model_of_other_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_0 has coefficients \(3, 2\).*expected \(3, 1\)"):
        build(linear=(a_linear(2),))


def test_standard_units_are_those_of_the_target() -> None:
    linear, means = a_linear(1), mean_frames(frames(3, 4))
    inner = in_standard_units(linear, 40.0, 12.5)
    expected = (means @ linear.coefficients + linear.intercept - 40) / 12.5
    np.testing.assert_allclose(means @ inner.coefficients + inner.intercept, expected)


# losses


def test_losses_by_hand() -> None:
    """Of two clips the second lacks its first label; the mean is over those that have it."""
    built = build(*OUTPUTS, skip=False, dropout=0.0, input_dropout=0.0)
    by_key, weights = losses(ALL, [1.0, 2.0, 3.0, 4.0])
    built.model.compile("sgd", by_key, loss_weights=weights)
    inputs, truth = pad_sequences(frames(3, 4), 8), targets(2, *OUTPUTS)
    sample_weight = {output.key: np.ones(2, np.float32) for output in ALL}
    sample_weight["target_0"] = np.array([3.0, 0.0], np.float32)
    found = predict(built.model, inputs)
    cross = -np.log(found["target_1"][:, 0]).mean()
    hits = np.where(truth["target_2"] == 1, found["target_2"], 1 - found["target_2"])
    squares = ((found["target_3"] - 1) ** 2).mean()
    expected = -np.log(found["target_0"][0, 0]) + 2 * cross - 3 * np.log(hits).mean() + 4 * squares
    result = built.model.test_on_batch(inputs, truth, sample_weight, return_dict=True)
    assert result["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_no_loss() -> None:
    model = compiled(build().trainee)
    inputs = pad_sequences(frames(3, 4), 8) | offset(1.0, -1.0)
    weights = {"target_0": np.zeros(2, np.float32)}
    result = model.train_on_batch(inputs, targets(2, "binary"), weights, return_dict=True)
    assert result["loss"] == 0
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# training


@pytest.mark.parametrize("head", ["gru", "transformer", *slow("lstm", "tcn")])
def test_rows_without_frames_do_not_spoil_training_in_half_precision(head: str) -> None:
    precision = "mixed_bfloat16" if keras.backend.backend() == "jax" else "mixed_float16"
    built = build(head=head, pooling="attention", precision=precision)
    model, inputs = compiled(built.trainee), pad_sequences(frames(1, 5, 4), 8)
    inputs["mask"][2] = False
    for _ in range(2):
        model.train_on_batch(inputs | offset(0, 0, 0), targets(3, "binary"))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.isfinite(predict(built.model, inputs)["target_0"]).all()


@pytest.mark.parametrize("skip", [False, True])
def test_float16_training_scales_its_loss(skip: bool) -> None:
    model = compiled(build(precision="mixed_float16", skip=skip).trainee)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_dropout_acts_in_training_alone() -> None:
    model = build(dropout=0.5, units=16, skip=False).model
    inputs = pad_sequences(frames(8), 8)
    passes = [model(inputs, training=True)["target_0"] for _ in range(4)]
    assert len({float(keras.ops.convert_to_numpy(output)[0, 0]) for output in passes}) > 1
    assert predict(model, inputs) == predict(model, inputs)


def test_weights_are_fresh_each_time() -> None:
    kernels = [
        build_model(quick(), STATISTICS, ALL, dtype="float32").model.get_layer("forward_1").cell
        for _ in range(2)
    ]
    first, second = (keras.ops.convert_to_numpy(cell.kernel) for cell in kernels)
    assert (first != second).any()


def test_settings_reach_the_model() -> None:
    model = build(head="lstm", units=6, layers=2, bidirectional=True, projection=5).model
    found = [layer.units for layer in model.layers if isinstance(layer, keras.layers.LSTM)]
    assert found == [6] * 4
    assert model.get_layer("projection").units == 5


# attention


def test_attention_shows_what_the_model_looks_at() -> None:
    built = build("binary", pooling="attention", num_features=2)
    inputs = {**pad_sequences(frames(3, 8), 8), "features": np.zeros((2, 2), np.float32)}
    weights = keras.ops.convert_to_numpy(built.attention(inputs))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights[0, 3:] == 0).all()
    model = compiled(built.trainee)
    for _ in range(3):
        model.train_on_batch(inputs | offset(0, 0), targets(2, "binary"))
    assert (keras.ops.convert_to_numpy(built.attention(inputs))[1] != weights[1]).any()


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_other_poolings_have_no_attention(pooling: str) -> None:
    assert build(pooling=pooling).attention is None


# saving


@pytest.mark.parametrize(
    ("head", "pooling"),
    [*FAST, *xslow(*sorted({*itertools.product(HEADS, POOLINGS)} - {*FAST}))],
)
def test_saved_model_predicts_the_same_and_needs_keras_alone(
    tmp_path: Path, head: str, pooling: str
) -> None:
    settings: dict[str, Any] = {
        "head": head,
        "pooling": pooling,
        "bidirectional": head != "transformer",
    }
    built = build(*OUTPUTS, projection=4, num_features=2, **settings)
    model = in_target_units(built.model, {"target_3": (40.0, 12.5)})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    inputs = pad_sequences(frames(1, 9, 16), 16)
    inputs["features"] = np.ones((3, 2), np.float32)
    expected = predict(model, inputs)
    for key, value in predict(loaded, inputs).items():
        np.testing.assert_array_equal(value, expected[key])
    config = zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    modules = {part.split('"')[0] for part in config.split('"module": "')[1:]}
    assert {module.split(".")[0] for module in modules} == {"keras"}


def test_loaded_model_trains_on(tmp_path: Path) -> None:
    model, inputs = compiled(build().model), pad_sequences(frames(3, 4), 8)
    model.train_on_batch(inputs, targets(2, "binary"))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    before = predict(loaded, inputs)["target_0"]
    loaded.train_on_batch(inputs, targets(2, "binary"))
    assert int(loaded.optimizer.iterations) == 2
    assert (predict(loaded, inputs)["target_0"] != before).all()

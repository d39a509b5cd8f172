"""Heads: blind to padding, never NaN, pooled as by hand."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.config import HEADS, POOLINGS
from stage2_temporal.heads import (
    Encoded,
    encode,
    head_notices,
    mean_weights,
    pool,
    receptive_field,
    sinusoidal_positions,
    weighted_sum,
)
from tests.marks import slow
from tests.stage2_temporal.synthetic import quick

keras = load_keras()

DIM = 3
WAYS = [*itertools.product(HEADS[:3], [False, True]), ("transformer", False)]
FAST = list(zip(HEADS, POOLINGS, strict=True))
EVERY = [*FAST, *slow(*sorted({*itertools.product(HEADS, POOLINGS)} - {*FAST}))]


def masks(*lengths: int, num_steps: int) -> NDArray[np.bool_]:
    return np.arange(num_steps) < np.array(lengths)[:, None]


def frames(num_rows: int, num_steps: int, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(num_rows, num_steps, dim)).astype(np.float32)


def head_model(head: str, pooling: str = "last", **settings: Any) -> Any:
    """A model of frames and mask that gives the pooled state."""
    keras.utils.set_random_seed(0)
    chosen = quick(head=head, pooling=pooling, **settings)
    sequence = keras.Input((None, DIM), name="sequence")
    mask = keras.Input((None,), dtype="bool", name="mask")
    pooled = pool(encode(sequence, mask, chosen), mask, chosen)
    return keras.Model({"sequence": sequence, "mask": mask}, pooled.state)


def run(model: Any, sequence: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    found = model({"sequence": sequence, "mask": mask}, training=False)
    return np.asarray(keras.ops.convert_to_numpy(found))


def pooled(pooling: str, states: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """What pooling makes of given states."""
    given = keras.Input(states.shape[1:], name="states")
    valid = keras.Input(mask.shape[1:], dtype="bool", name="mask")
    found = pool(Encoded(given, given[:, 0]), valid, quick(pooling=pooling))
    model = keras.Model({"states": given, "mask": valid}, found.state)
    return np.asarray(keras.ops.convert_to_numpy(model({"states": states, "mask": mask})))


# padding


@pytest.mark.parametrize("layers", [2, *slow(1)])
@pytest.mark.parametrize(("head", "bidirectional"), WAYS)
def test_padding_does_not_matter(head: str, bidirectional: bool, layers: int) -> None:
    """Neither its amount nor what stands in it; one frame is enough."""
    model = head_model(head, bidirectional=bidirectional, layers=layers)
    lengths = (1, 3, 5)
    short = frames(3, 5)
    long = np.full((3, 9, DIM), 9.0, np.float32)
    long[:, :5] = np.where(masks(*lengths, num_steps=5)[..., None], short, -7.0)
    expected = run(model, short, masks(*lengths, num_steps=5))
    np.testing.assert_allclose(run(model, long, masks(*lengths, num_steps=9)), expected, atol=1e-5)
    for row, length in enumerate(lengths[:2]):
        alone = run(model, short[row : row + 1, :length], masks(length, num_steps=length))
        np.testing.assert_allclose(alone[0], expected[row], atol=1e-5)


@pytest.mark.parametrize(("head", "pooling"), EVERY)
def test_every_pooling_is_blind_to_padding(head: str, pooling: str) -> None:
    model = head_model(head, pooling)
    sequence = frames(2, 6)
    padded = np.concatenate([sequence, np.full((2, 5, DIM), 9.0, np.float32)], axis=1)
    expected = run(model, sequence, masks(6, 2, num_steps=6))
    np.testing.assert_allclose(run(model, padded, masks(6, 2, num_steps=11)), expected, atol=1e-5)


@pytest.mark.parametrize(("head", "bidirectional"), WAYS)
def test_order_of_frames_matters(head: str, bidirectional: bool) -> None:
    model = head_model(head, bidirectional=bidirectional)
    sequence = frames(1, 6)
    forward, backward = run(
        model, np.concatenate([sequence, sequence[:, ::-1]]), np.ones((2, 6), np.bool_)
    )
    assert np.abs(forward - backward).max() > 1e-3


@pytest.mark.parametrize("head", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_heads_agree_with_keras_own_masking(head: str, bidirectional: bool) -> None:
    """The layers run without a mask; Keras' masked layers with the same weights are the measure."""
    model = head_model(head, bidirectional=bidirectional, units=5)
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[head](5)
    layer = keras.layers.Bidirectional(layer) if bidirectional else layer
    sequence, mask = frames(3, 7), masks(1, 4, 7, num_steps=7)
    layer.build(sequence.shape)
    ways = ["forward_1", "backward_1"][: 1 + bidirectional]
    layer.set_weights([weight for way in ways for weight in model.get_layer(way).get_weights()])
    expected = keras.ops.convert_to_numpy(layer(sequence, mask=keras.ops.convert_to_tensor(mask)))
    np.testing.assert_allclose(run(model, sequence, mask), expected, atol=1e-5)


# nothing to see


@pytest.mark.parametrize(("head", "pooling"), EVERY)
def test_sequences_without_frames_give_zeros_and_finite_gradients(head: str, pooling: str) -> None:
    model = head_model(head, pooling, bidirectional=head != "transformer")
    sequence, mask = frames(3, 4), masks(0, 1, 4, num_steps=4)
    state = run(model, sequence, mask)
    assert (state[0] == 0).all()
    assert np.isfinite(state).all()
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() != "jax")
    model.train_on_batch({"sequence": sequence, "mask": mask}, np.ones_like(state))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# what a head sees


@pytest.mark.parametrize("layers", [1, 2])
def test_receptive_field_of_the_convolution(layers: int) -> None:
    """By trial: the farthest frame whose change reaches the last state."""
    model = head_model("tcn", layers=layers, units=16)
    sequence, mask = frames(1, 16), np.ones((1, 16), np.bool_)
    plain = run(model, sequence, mask)
    seen = []
    for age in range(16):
        changed = sequence.copy()
        changed[0, 15 - age] += 100
        seen.append(bool((run(model, changed, mask) != plain).any()))
    assert seen.index(False) == receptive_field(layers)


def test_positions_are_sines_and_cosines() -> None:
    mask = keras.Input((None,), dtype="bool")
    model = keras.Model(mask, sinusoidal_positions(mask, 4))
    found = keras.ops.convert_to_numpy(model(np.ones((2, 3), np.bool_)))
    angles = np.arange(3)[:, None] * [1, 1 / 100]
    by_hand = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(found, by_hand[None], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ()),
        ({"head": "lstm", "bidirectional": True}, ()),
        ({"head": "tcn", "layers": 2}, ("13 frames",)),
    ],
)
def test_notices(settings: dict[str, Any], said: tuple[str, ...]) -> None:
    notices = head_notices(quick(**settings))
    assert len(notices) == len(said)
    assert all(part in notice for part, notice in zip(said, notices, strict=True))


# pooling, by hand


STATES = np.array([[[1, 10], [3, -30], [7, 70]], [[5, 0], [6, 6], [7, 7]]], np.float32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[2, -10], [5, 0], [0, 0]]), ("max", [[3, 10], [5, 0], [0, 0]])],
)
def test_mean_and_max_by_hand(pooling: str, expected: list[list[float]]) -> None:
    states = np.concatenate([STATES, STATES[:1]])
    found = pooled(pooling, states, masks(2, 1, 0, num_steps=3))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_mean_weights_by_hand() -> None:
    mask = keras.Input((4,), dtype="bool")
    model = keras.Model(mask, mean_weights(mask))
    found = keras.ops.convert_to_numpy(model(masks(4, 2, 0, num_steps=4)))
    np.testing.assert_allclose(found, [[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0] * 4])


def test_attention_by_hand() -> None:
    """Gated attention: softmax over valid frames of w . (tanh(Vh) * sigmoid(Uh))."""
    states = keras.Input((None, 2), name="states")
    mask = keras.Input((None,), dtype="bool", name="mask")
    found = pool(Encoded(states, None), mask, quick(pooling="attention", units=3))
    model = keras.Model({"states": states, "mask": mask}, [found.state, found.attention])
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    kernels = {layer.activation.__name__: layer.get_weights()[0] for layer in dense}
    valid = masks(2, 3, 0, num_steps=3)
    rows = np.concatenate([STATES, STATES[:1]]) / 10
    scores = np.tanh(rows @ kernels["tanh"]) / (1 + np.exp(-rows @ kernels["sigmoid"]))
    mass = np.exp(scores @ kernels["linear"])[..., 0] * valid
    expected = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-9)
    state, weights = map(keras.ops.convert_to_numpy, model({"states": rows, "mask": valid}))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(state, (expected[..., None] * rows).sum(axis=1), atol=1e-6)


def test_weighted_sum_by_hand() -> None:
    weights = np.array([[0.5, 0.5, 0], [0, 0, 2]], np.float32)
    found = weighted_sum(keras.ops.convert_to_tensor(weights), keras.ops.convert_to_tensor(STATES))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), [[2, -10], [14, 14]])


# other backends

ELSEWHERE = {
    "heads": ["every_pooling_is_blind_to_padding", "recurrent_heads_agree_with_keras_own_masking"],
    "models": [
        "rows_without_frames_do_not_spoil_training_in_half_precision",
        "trainee_adds_the_head_to_the_logits_that_it_is_given",
    ],
    "fitting": ["nothing_of_a_training_reaches_the_next", "a_stopped_training_ends_as_it"],
}
"""The fast tests, by module, that are made on other backends, too."""


@pytest.mark.xslow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_models_work_on_every_backend(backend: str, tmp_path: Path) -> None:
    """Some fast tests of heads, models and trainings, in a process on that backend."""
    if backend == keras.backend.backend():
        pytest.skip(f"{backend} is what these tests run on already")
    if find_spec(backend) is None:
        pytest.skip(f"the backend {backend} is not installed")
    names = [__file__.replace("test_heads", f"test_{module}") for module in ELSEWHERE]
    chosen = ["-m", "not slow", "-k", " or ".join(itertools.chain(*ELSEWHERE.values()))]
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_command, *chosen, "--basetemp", str(tmp_path / "other"), *names],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

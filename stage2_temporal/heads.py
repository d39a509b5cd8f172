"""Heads: a padded batch of frames in, one state a sequence out, blind to padding.

All is put together from Keras' own layers and operations, so that a saved model loads without this
package. Padding is on the right, always; no layer is told of the mask that does not need it.
A recurrent state cannot know what comes after it, so the recurrent layers run without a mask:
with one, Keras uses cuDNN neither on JAX nor on PyTorch, and stops on TensorFlow where all frames
of a sequence are masked. What padding leaves behind is dropped when the states are pooled.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from stage1_extract.keras_setup import load_keras, num_gpus
from stage2_temporal.config import TrainSettings

keras = load_keras()

_RECURRENT = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
_KERNEL_SIZE = 3
_MOST_ATTENTION_HEADS = 4
_LONGEST_WAVE = 10_000.0
_LOWEST = -1e30


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a head makes of a batch.

    Attributes:
        states: (B, T, U), one a frame; without meaning where there is no frame.
        last: (B, U) state that has seen most: of the last valid frame, or of both ends.
    """

    states: Any
    last: Any


@dataclasses.dataclass(frozen=True)
class Pooled:
    """One state a sequence (B, U) float32, zeros for a sequence without frames.

    Attributes:
        state: (B, U) float32.
        attention: (B, T) float32 weights of the frames, sum 1; None if pooled otherwise.
    """

    state: Any
    attention: Any


def encode(sequence: Any, mask: Any, settings: TrainSettings) -> Encoded:
    """Read frames (B, T, D) with the head that was chosen.

    Args:
        sequence: (B, T, D) Keras tensor.
        mask: (B, T) bool, True for frames, which come first.
        settings: head, units, layers, bidirectional, precision.
    """
    heads = {"gru": _recurrent, "lstm": _recurrent, "tcn": _tcn, "transformer": _transformer}
    return heads[settings.head](sequence, mask, settings)


def pool(encoded: Encoded, mask: Any, settings: TrainSettings) -> Pooled:
    """Make one state of all: that at the end, the mean, the greatest, or an attentive mean."""
    if settings.pooling == "last":
        return Pooled(encoded.last, None)
    if settings.pooling == "mean":
        return Pooled(weighted_sum(mean_weights(mask), encoded.states), None)
    if settings.pooling == "max":
        return Pooled(_masked_max(encoded.states, mask), None)
    weights = _attention_weights(encoded.states, mask, settings)
    return Pooled(weighted_sum(weights, encoded.states), weights)


def mean_weights(mask: Any) -> Any:
    """Return (B, T) float32: 1 / number of frames at each frame, 0 elsewhere."""
    frames = keras.ops.cast(mask, "float32")
    return frames / keras.ops.maximum(keras.ops.sum(frames, axis=1, keepdims=True), 1.0)


def weighted_sum(weights: Any, states: Any) -> Any:
    """Return (B, U) float32: weights (B, T) times states (B, T, U), added up over the frames."""
    return keras.ops.einsum("bt,btu->bu", weights, keras.ops.cast(states, "float32"))


def head_notices(settings: TrainSettings) -> tuple[str, ...]:
    """Return what the user should know of the head that was chosen."""
    notices = []
    if settings.head == "tcn":
        notices.append(
            f"tcn of {settings.layers} layers: a state sees {receptive_field(settings.layers)} "
            "frames; each layer more doubles them"
        )
    if settings.head == "gru" and keras.backend.backend() == "jax" and num_gpus():
        notices.append("JAX has a cuDNN kernel for lstm alone: gru runs as a compiled loop")
    return tuple(notices)


def check_precision(settings: TrainSettings) -> None:
    """Refuse what JAX cannot compute.

    Raises:
        ValueError: The backend has no such kernel.
    """
    without = settings.head == "transformer" and settings.precision == "mixed_float16"
    if without and keras.backend.backend() == "jax" and not num_gpus():
        raise ValueError(
            "JAX trains no transformer in mixed_float16 on a CPU; use --precision float32 or "
            "mixed_bfloat16, another backend, or a GPU"
        )


def receptive_field(num_layers: int) -> int:
    """Return how many frames a state of the temporal convolution sees."""
    return 1 + 2 * (_KERNEL_SIZE - 1) * ((1 << num_layers) - 1)


def _recurrent(sequence: Any, mask: Any, settings: TrainSettings) -> Encoded:
    """Stack GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997) layers."""
    for number in range(1, settings.layers + 1):
        forward = _recurrent_layer(settings, f"forward_{number}")(sequence)
        if not settings.bidirectional:
            sequence = forward
            continue
        backward = _recurrent_layer(settings, f"backward_{number}")(_reverse(sequence, mask))
        backward = _reverse(backward, mask)
        sequence = keras.ops.concatenate([forward, backward], axis=-1)
    last = weighted_sum(_last_weights(mask), forward)
    if settings.bidirectional:
        first = weighted_sum(_first_weights(mask), backward)
        last = keras.ops.concatenate([last, first], axis=-1)
    return Encoded(sequence, last)


def _recurrent_layer(settings: TrainSettings, name: str) -> Any:
    return _RECURRENT[settings.head](
        settings.units, return_sequences=True, dtype=settings.precision, name=name
    )


def _tcn(sequence: Any, mask: Any, settings: TrainSettings) -> Encoded:
    """Stack residual blocks of dilated convolutions (Bai, Kolter & Koltun 2018).

    A frame sees those before it alone, or, if bidirectional, those after it as well. Weights are
    not normalised.
    """
    for number in range(settings.layers):
        sequence = _tcn_block(sequence, mask, settings, dilation=2**number)
    return Encoded(sequence, weighted_sum(_last_weights(mask), sequence))


def _tcn_block(sequence: Any, mask: Any, settings: TrainSettings, *, dilation: int) -> Any:
    layers = keras.layers
    inner = sequence
    for _ in range(2):
        if settings.bidirectional:
            inner = inner * keras.ops.cast(mask, inner.dtype)[..., None]
        inner = layers.Conv1D(
            settings.units,
            _KERNEL_SIZE,
            padding="same" if settings.bidirectional else "causal",
            dilation_rate=dilation,
            activation="relu",
            kernel_initializer="he_normal",
            dtype=settings.precision,
        )(inner)
    residual = _to_width(sequence, settings)
    return layers.ReLU(dtype=settings.precision)(
        layers.Add(dtype=settings.precision)([inner, residual])
    )


def _transformer(sequence: Any, mask: Any, settings: TrainSettings) -> Encoded:
    """Stack encoder layers (Vaswani et al. 2017) that normalise first (Xiong et al. 2020)."""
    policy = settings.precision
    sequence = _to_width(sequence, settings)
    positions = sinusoidal_positions(mask, settings.units)
    sequence = keras.layers.Add(dtype=policy)([sequence, positions])
    # The first frame can always be seen: a softmax over nothing is NaN.
    visible = keras.ops.logical_or(mask, keras.ops.equal(_frame_numbers(mask), 0))[:, None, :]
    for _ in range(settings.layers):
        sequence = _transformer_layer(sequence, visible, settings)
    sequence = keras.layers.LayerNormalization(dtype=policy)(sequence)
    return Encoded(sequence, weighted_sum(_last_weights(mask), sequence))


def _transformer_layer(sequence: Any, visible: Any, settings: TrainSettings) -> Any:
    layers, policy = keras.layers, settings.precision
    num_heads = math.gcd(settings.units, _MOST_ATTENTION_HEADS)
    normal = layers.LayerNormalization(dtype=policy)(sequence)
    seen = layers.MultiHeadAttention(num_heads, settings.units // num_heads, dtype=policy)(
        normal, normal, attention_mask=visible
    )
    sequence = layers.Add(dtype=policy)([sequence, seen])
    wide = layers.LayerNormalization(dtype=policy)(sequence)
    wide = layers.Dense(4 * settings.units, "gelu", dtype=policy)(wide)
    narrow = layers.Dense(settings.units, dtype=policy)(wide)
    return layers.Add(dtype=policy)([sequence, narrow])


def sinusoidal_positions(mask: Any, width: int) -> Any:
    """Return (1, T, width) float32 sines, then cosines, of the frame number (Vaswani et al. 2017).

    Wavelengths go from 2 pi to 10,000 times 2 pi frames.
    """
    waves = np.arange((width + 1) // 2, dtype=np.float32) * 2 / width
    frequencies = np.float32(_LONGEST_WAVE) ** -waves
    numbers = keras.ops.cast(_frame_numbers(mask)[:1, :, None], "float32")
    angles = keras.ops.multiply(numbers, frequencies)
    both = keras.ops.concatenate([keras.ops.sin(angles), keras.ops.cos(angles)], axis=-1)
    return both[..., :width]


def _attention_weights(states: Any, mask: Any, settings: TrainSettings) -> Any:
    """Return (B, T) float32 weights by gated attention (Ilse, Tomczak & Welling 2018)."""
    layers, policy = keras.layers, settings.precision
    what = layers.Dense(settings.units, "tanh", dtype=policy)(states)
    gate = layers.Dense(settings.units, "sigmoid", dtype=policy)(states)
    scores = layers.Dense(1, use_bias=False, dtype=policy)(what * gate)
    weights = layers.Softmax(axis=1, dtype="float32")(scores[..., 0], mask=mask)
    return weights * keras.ops.cast(mask, "float32")


def _masked_max(states: Any, mask: Any) -> Any:
    frames = keras.ops.cast(mask, "float32")[..., None]
    states = keras.ops.cast(states, "float32") * frames + (1.0 - frames) * _LOWEST
    return keras.ops.max(states, axis=1) * keras.ops.max(frames, axis=1)


def _to_width(sequence: Any, settings: TrainSettings) -> Any:
    if sequence.shape[-1] == settings.units:
        return sequence
    return keras.layers.Dense(settings.units, dtype=settings.precision)(sequence)


def _last_weights(mask: Any) -> Any:
    last = keras.ops.sum(keras.ops.cast(mask, "int32"), axis=1, keepdims=True) - 1
    return keras.ops.cast(keras.ops.equal(_frame_numbers(mask), last), "float32")


def _first_weights(mask: Any) -> Any:
    first = keras.ops.equal(_frame_numbers(mask), 0)
    return keras.ops.cast(keras.ops.logical_and(mask, first), "float32")


def _frame_numbers(mask: Any) -> Any:
    """Return (B, T) int32: 0, 1, ... in each row."""
    return keras.ops.cumsum(_ones(mask), axis=1) - 1


def _ones(mask: Any) -> Any:
    return keras.ops.ones_like(mask, dtype="int32")


def _reverse(sequence: Any, mask: Any) -> Any:
    """Reverse the valid frames of each sequence (B, T, U), and leave padding where it is."""
    ops = keras.ops
    number = _frame_numbers(mask)
    length = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)
    source = ops.where(mask, length - 1 - number, number)
    row = ops.cumsum(_ones(mask), axis=0) - 1
    num_steps = ops.sum(_ones(mask), axis=1, keepdims=True)
    frames = ops.reshape(sequence, (-1, sequence.shape[-1]))
    return ops.take(frames, row * num_steps + source, axis=0)

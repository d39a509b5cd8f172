"""Models of stage two: a padded batch of embeddings in, a prediction for each target out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.config import TrainSettings
from stage2_temporal.heads import (
    check_precision,
    encode,
    head_notices,
    mean_weights,
    pool,
    weighted_sum,
)
from stage2_temporal.statistics import FeatureStatistics

keras = load_keras()

_ACTIVATIONS = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multilabel": "sigmoid",
    "regression": "linear",
}
_LOSSES = {
    "binary": keras.losses.BinaryCrossentropy,
    "multiclass": keras.losses.CategoricalCrossentropy,
    "multilabel": keras.losses.BinaryCrossentropy,
    "regression": keras.losses.MeanSquaredError,
}


@dataclasses.dataclass(frozen=True)
class Output:
    """What a model predicts of one target.

    Attributes:
        key: Name of the output, e.g. "target_0".
        task: binary, multiclass, multilabel or regression.
        num_outputs: 1, or the number of classes or labels.
    """

    key: str
    task: str
    num_outputs: int


class LinearLike(Protocol):
    """A linear model of mean embeddings x (N, D).

    Its logits, or values, are x @ coefficients + intercept, in raw embedding units.
    """

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Slopes (D, k)."""

    @property
    def intercept(self) -> NDArray[np.float64]:
        """Value (k,) at x = 0."""


@dataclasses.dataclass(frozen=True)
class LinearStart:
    """A linear model to start from, and nothing else."""

    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class BuiltModel:
    """A model with fresh weights, not compiled.

    Attributes:
        model: {"embedding", "mask"[, "features"]} -> {key: (B, k) float32}.
        trainee: What is compiled and trained. With settings.skip its skip path is an input instead,
            `offset_<key>` (B, k); otherwise it is the model.
        attention: The same inputs -> (B, T) float32 weights of the frames; it shares the model's
            layers, so it is trained with it. None unless pooling is attention.
        notices: What the user should know.
    """

    model: Any
    trainee: Any
    attention: Any
    notices: tuple[str, ...]


def build_model(
    settings: TrainSettings,
    statistics: FeatureStatistics,
    outputs: Sequence[Output],
    *,
    dtype: str,
    num_features: int = 0,
    linear: Sequence[LinearLike | None] = (),
) -> BuiltModel:
    """Build a model with fresh weights.

    Its inputs are `embedding` (B, T, D) in the store's dtype, `mask` (B, T) bool, True for frames,
    which come first, and `features` (B, F) float32 if there are side features. Outputs are
    probabilities or standardised values, float32 whatever the precision.

    With settings.skip an output is skip(mean embedding) + head(state) before its activation. The
    head's last layer starts at zero, so that an untrained model predicts what `linear` does; and
    the skip layer is not trained: in training it is replaced by predictions that were made of each
    clip without knowing it.

    Args:
        settings: Head, sizes, dropout, precision.
        statistics: For the standardisation, which is part of the model.
        outputs: One a target.
        dtype: The store's dtype.
        num_features: F.
        linear: For each output the linear model that its skip layer (`skip_<key>`) starts from;
            None starts it at zero, and so does () for all. For regression it must give
            standardised values: see `in_standard_units`.

    Raises:
        ValueError: A linear model does not fit its output, or the backend cannot compute the head
            at the precision.
    """
    check_precision(settings)
    embedding = keras.Input((None, len(statistics.mean)), dtype=dtype, name="embedding")
    mask = keras.Input((None,), dtype="bool", name="mask")
    inputs = {"embedding": embedding, "mask": mask}
    standard = _standardise(embedding, statistics)
    pooled = pool(encode(_project(standard, settings), mask, settings), mask, settings)
    state = _normalise(pooled.state) if settings.layer_norm else pooled.state
    state = keras.layers.Dropout(settings.dropout, dtype="float32")(state)
    if num_features:
        inputs["features"] = keras.Input((num_features,), dtype="float32", name="features")
        state = keras.ops.concatenate([state, _side_branch(inputs["features"], settings)], axis=-1)
    logits = {output.key: _head(state, output, settings) for output in outputs}
    if settings.skip:
        mean = weighted_sum(mean_weights(mask), standard)
        skips = {output.key: _skip(mean, output) for output in outputs}
        offsets = {offset_key(output.key): _offset(output) for output in outputs}
        model = keras.Model(inputs, _activated(outputs, logits, skips))
        of_keys = dict(zip(skips, offsets.values(), strict=True))
        trainee = keras.Model(inputs | offsets, _activated(outputs, logits, of_keys))
        _start_from(model, outputs, linear or [None] * len(outputs), statistics)
    else:
        model = trainee = keras.Model(inputs, _activated(outputs, logits, {}))
    # Keras scales the loss of float16 by the model's policy, not by its layers'.
    trainee.dtype_policy = keras.dtype_policies.get(settings.precision)
    attention = None if pooled.attention is None else keras.Model(inputs, pooled.attention)
    return BuiltModel(model, trainee, attention, head_notices(settings))


def offset_key(key: str) -> str:
    """Return the trainee's input that stands for the skip path of an output."""
    return f"offset_{key}"


def losses(
    outputs: Sequence[Output], loss_weights: Sequence[float] = ()
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the loss and the weight of each output, by key, for `compile`.

    A loss is the mean over the clips that have the label, weighted: sum(w loss) / sum(w). Targets
    are encoded as (B, k) float32, classes as one-hot, soft ones too.

    Args:
        outputs: What is predicted.
        loss_weights: One an output; () for 1 each.
    """
    weights = loss_weights or [1.0] * len(outputs)
    by_key = {
        output.key: _LOSSES[output.task](reduction="mean_with_sample_weight") for output in outputs
    }
    return by_key, {
        output.key: float(weight) for output, weight in zip(outputs, weights, strict=True)
    }


def in_target_units(model: Any, scales: Mapping[str, tuple[float, float]]) -> Any:
    """Return a model whose regression outputs are in the targets' own units.

    Args:
        model: Its outputs are a dict.
        scales: By key of the outputs that are to change: mean and deviation of the target.
    """
    outputs = dict(model.output)
    for key, (mean, deviation) in scales.items():
        units = keras.layers.Rescaling(deviation, mean, dtype="float32", name=f"{key}_units")
        outputs[key] = units(outputs[key])
    return keras.Model(model.input, outputs)


def in_standard_units(linear: LinearLike, mean: float, deviation: float) -> LinearStart:
    """Return a linear model of (target - mean) / deviation, from one of the target."""
    return LinearStart(linear.coefficients / deviation, (linear.intercept - mean) / deviation)


def _standardise(embedding: Any, statistics: FeatureStatistics) -> Any:
    """Subtract the mean and divide by the deviation, which are weights that are not trained.

    The deviation is in the layer's factor, and its variance is 1: embeddings of untrained backbones
    are as small as 1e-20, whose square float32 takes for 0.
    """
    layer = keras.layers.BatchNormalization(
        center=False, epsilon=0.0, dtype="float32", name="standardise", trainable=False
    )
    standard = layer(embedding)
    deviation = np.sqrt(statistics.variance)
    layer.set_weights([1 / deviation, statistics.mean, np.ones_like(deviation)])
    return standard


def _project(standard: Any, settings: TrainSettings) -> Any:
    """Drop features, each for a whole sequence, and reduce the rest.

    Frames resemble their neighbours: what is dropped from one alone stands in the next (Gal &
    Ghahramani 2016). It also takes T times fewer random numbers.
    """
    policy = settings.precision
    sequence = keras.layers.SpatialDropout1D(settings.input_dropout, dtype=policy)(standard)
    if not settings.projection:
        return sequence
    sequence = keras.layers.Dense(settings.projection, dtype=policy, name="projection")(sequence)
    return _normalise(sequence, policy) if settings.layer_norm else sequence


def _normalise(state: Any, policy: str = "float32") -> Any:
    return keras.layers.LayerNormalization(dtype=policy)(state)


def _side_branch(features: Any, settings: TrainSettings) -> Any:
    hidden = keras.layers.Dense(settings.units, "relu", dtype="float32", name="side")(features)
    return keras.layers.Dropout(settings.dropout, dtype="float32")(hidden)


def _head(state: Any, output: Output, settings: TrainSettings) -> Any:
    return keras.layers.Dense(
        output.num_outputs,
        kernel_initializer="zeros" if settings.skip else "glorot_uniform",
        dtype="float32",
        name=f"head_{output.key}",
    )(state)


def _skip(mean: Any, output: Output) -> Any:
    return keras.layers.Dense(
        output.num_outputs,
        kernel_initializer="zeros",
        dtype="float32",
        trainable=False,
        name=f"skip_{output.key}",
    )(mean)


def _offset(output: Output) -> Any:
    return keras.Input((output.num_outputs,), dtype="float32", name=offset_key(output.key))


def _activated(
    outputs: Sequence[Output], logits: Mapping[str, Any], others: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the outputs' activations of logits, to which others are added where there are any."""
    found = {}
    for output in outputs:
        both = [part[output.key] for part in (logits, others) if output.key in part]
        total = keras.layers.Add(dtype="float32")(both) if len(both) > 1 else both[0]
        activation = keras.layers.Activation(
            _ACTIVATIONS[output.task], dtype="float32", name=output.key
        )
        found[output.key] = activation(total)
    return found


def _start_from(
    model: Any,
    outputs: Sequence[Output],
    linear: Sequence[LinearLike | None],
    statistics: FeatureStatistics,
) -> None:
    """Set the skip layers' weights: x = mean + deviation * s, so a slope is deviation times it."""
    for output, start in zip(outputs, linear, strict=True):
        if start is None:
            continue
        expected = (len(statistics.mean), output.num_outputs)
        if start.coefficients.shape != expected or start.intercept.shape != expected[1:]:
            raise ValueError(
                f"the linear model of {output.key} has coefficients {start.coefficients.shape} and "
                f"intercept {start.intercept.shape}; expected {expected} and {expected[1:]}"
            )
        kernel = np.sqrt(statistics.variance)[:, None] * start.coefficients
        bias = start.intercept + statistics.mean @ start.coefficients
        model.get_layer(f"skip_{output.key}").set_weights([kernel, bias])

"""The models of a run as one function, as it is exported: raw inputs in, mean and spread out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stage1_extract.keras_setup import load_keras
from stage2_temporal.features import FeatureScaler

keras = load_keras()
ops = keras.ops


@dataclasses.dataclass(frozen=True)
class JoinedOutput:
    """What the function returns of one target.

    Attributes:
        key: Output of the models, e.g. "target_0".
        mean: Name of the models' mean (B, k).
        spread: Name of their standard deviation (n - 1) (B, k); None where there is one model.
    """

    key: str
    mean: str
    spread: str | None


@dataclasses.dataclass(frozen=True)
class JoinedModel:
    """Preprocessing, all models and their mean, as a function of Keras tensors.

    Padding never matters, whatever stands there: embeddings of frames outside the mask become 0, as
    training had them.

    Attributes:
        models: Inference copies of the run's models; empty for the backbone alone.
        scalers: The scaler of each model's side features, or None.
        outputs: One a target.
        embedding_dim: D.
        dtype: The store's dtype, to which embeddings are rounded first: float16 or float32.
        backbone: (N, S, S, 3) uint8 -> (N, D) float32; None where embeddings are the input.
    """

    models: Sequence[Any]
    scalers: Sequence[FeatureScaler | None]
    outputs: Sequence[JoinedOutput]
    embedding_dim: int
    dtype: str
    backbone: Any = None

    @property
    def inputs(self) -> dict[str, Any]:
        """Return a `keras.InputSpec` for each input, by name; None stands for any length."""
        found = {}
        clip = (None, None) if self.models else (None,)
        if self.backbone is None:
            found["embedding"] = _spec("embedding", (*clip, self.embedding_dim), "float32")
        else:
            frame = tuple(self.backbone.input_shape[1:])
            found["frames"] = _spec("frames", (*clip, *frame), "uint8")
        if self.models:
            found["mask"] = _spec("mask", clip, "bool")
        if self.feature_columns:
            shape = (None, len(self.feature_columns))
            found["features"] = _spec("features", shape, "float32")
        return found

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names of the side features that all models take; empty for none."""
        first = self.scalers[0] if self.scalers else None
        return () if first is None else first.columns

    @property
    def output_names(self) -> list[str]:
        """Names of what a call returns, in order."""
        if not self.models:
            return ["embedding"]
        both = [(output.mean, output.spread) for output in self.outputs]
        return [name for names in both for name in names if name is not None]

    @property
    def parts(self) -> list[Any]:
        """All Keras models in it."""
        return [*self.models, *([] if self.backbone is None else [self.backbone])]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name.

        Args:
            inputs: Tensors as `inputs` describes them; blank side features are NaN.

        Returns:
            For each target the mean (B, k) float32, and the spread where there are several models;
            of the backbone alone `embedding` (N, D) float32.
        """
        if not self.models:
            return {"embedding": self._rounded(self.backbone(inputs["frames"], training=False))}
        mask = inputs["mask"]
        embedding = inputs["embedding"] if self.backbone is None else self._embed(inputs["frames"])
        known = ops.where(mask[..., None], self._rounded(embedding), 0.0)
        clips = {"embedding": known, "mask": mask}
        predictions = [
            model(clips | _side_features(inputs, scaler), training=False)
            for model, scaler in zip(self.models, self.scalers, strict=True)
        ]
        found: dict[str, Any] = {}
        for output in self.outputs:
            found |= _mean_and_spread(
                output, [prediction[output.key] for prediction in predictions]
            )
        return found

    def _embed(self, frames: Any) -> Any:
        """Return the embeddings (B, T, D) of frames (B, T, S, S, 3)."""
        shape = ops.shape(frames)
        embedding = self.backbone(ops.reshape(frames, (-1, *shape[2:])), training=False)
        return ops.reshape(embedding, (-1, shape[1], self.embedding_dim))

    def _rounded(self, embedding: Any) -> Any:
        """Return float32 with the digits that the store keeps.

        The minimum changes nothing, but stands between the casts: tf2onnx takes two in a row for
        one, as if the first did not round.
        """
        if self.dtype == "float32":
            return embedding
        few = ops.minimum(ops.cast(embedding, self.dtype), np.array(np.inf, self.dtype))
        return ops.cast(few, "float32")


def inference_copy(model: Any) -> Any:
    """Return a copy that reads and computes float32, without cuDNN, which GPUs alone have.

    Args:
        model: Functional Keras model of any precision, whose inputs are a dict.
    """
    inputs = {name: _plain_input(name, tensor) for name, tensor in model.input.items()}
    copy = keras.models.clone_model(model, inputs, clone_function=_plain_copy)
    copy.set_weights(model.get_weights())
    return copy


def computes_in(models: Sequence[Any]) -> set[str]:
    """Return the precisions that layers of models compute in."""
    return {
        layer.compute_dtype
        for model in models
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }


def _plain_input(name: str, tensor: Any) -> Any:
    dtype = "float32" if "float" in tensor.dtype else tensor.dtype
    return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=name)


def _plain_copy(operation: Any) -> Any:
    if not isinstance(operation, keras.layers.Layer):
        return operation
    copy = type(operation).from_config(operation.get_config() | {"dtype": "float32"})
    if hasattr(copy, "use_cudnn"):
        copy.use_cudnn = False
    return copy


def _spec(name: str, shape: tuple[int | None, ...], dtype: str) -> Any:
    return keras.InputSpec(shape=shape, dtype=dtype, name=name)


def _side_features(inputs: Mapping[str, Any], scaler: FeatureScaler | None) -> dict[str, Any]:
    """Return side features (B, F) as `FeatureScaler.transform` makes them, by their input's name.

    In float64, as there: values around 2000 that differ by 1 would lose digits in float32.
    """
    if scaler is None:
        return {}
    used, marked = np.flatnonzero(scaler.deviation > 0), np.flatnonzero(scaler.indicators)
    parts = []
    if len(used):
        values = ops.cast(ops.take(inputs["features"], used, axis=1), "float64")
        standard = (values - scaler.mean[used]) / scaler.deviation[used]
        standard = ops.cast(standard, "float32")
        parts.append(ops.where(ops.isnan(standard), 0.0, standard))
    if len(marked):
        blank = ops.isnan(ops.take(inputs["features"], marked, axis=1))
        parts.append(ops.cast(blank, "float32"))
    return {"features": ops.concatenate(parts, axis=1)}


def _mean_and_spread(output: JoinedOutput, predictions: Sequence[Any]) -> dict[str, Any]:
    if output.spread is None:
        return {output.mean: predictions[0]}
    stacked = ops.stack(predictions)
    mean = ops.mean(stacked, axis=0)
    variance = ops.sum(ops.square(stacked - mean), axis=0) / (len(predictions) - 1)
    return {output.mean: mean, output.spread: ops.sqrt(variance)}

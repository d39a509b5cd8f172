"""How far an exported model is from Keras: both compute clips made by chance, and must agree."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.backbones import Embedder
from stage2_temporal.bundle import Bundle, Prediction
from stage2_temporal.features import FeatureScaler
from stage2_temporal.joined_model import JoinedModel

Inputs = dict[str, NDArray[Any]]
Function = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]

HEAD_TOLERANCE = 1e-4
"""Greatest difference of a probability, and of a value in deviations of the target, from the same
embeddings."""
FRAMES_TOLERANCE = 1e-3
"""The same from frames. A convolution's last digit may decide how an embedding is rounded to
float16, which changes it by up to 1e-3 of its size."""
EMBEDDING_TOLERANCE = 2e-3
"""Greatest difference of the backbone's values, in parts of the greatest of them."""
_ROUNDING = 1e-6
"""Of a value's own size: what float32 cannot hold."""
_CLIPS = ((1,), (40,), (12, 5, 0), (70, 64, 33, 7))
_FRAME_CLIPS = ((1,), (3, 1), (5, 5))
"""Lengths of the clips of each batch."""
_BLANK_SHARE = 0.2
_PATCHES = 4


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an output is from Keras' at worst, and how far it may be; in the output's units."""

    found: float
    allowed: float


class ExportError(ValueError):
    """What was exported does not compute what Keras does."""


def compare(
    function: Function, joined: JoinedModel, bundle: Bundle, embedder: Embedder | None
) -> dict[str, Difference]:
    """Compare an exported model with Keras in batches of several sizes, lengths and paddings.

    Args:
        function: The exported model, loaded.
        joined: What was exported.
        bundle: The models, as Keras predicts with them.
        embedder: The backbone, as stage one embeds with it; None where embeddings are the input.

    Returns:
        By output the greatest absolute difference; infinite where one is no number.
    """
    differences: dict[str, Difference] = {}
    for inputs in _examples(joined, bundle):
        given = dict(inputs)
        if embedder is not None:
            given["embedding"] = _embed(embedder, given.pop("frames"), joined.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using a softmax over axis", UserWarning)
            expected = _expected(joined, bundle, given)  # of clips of one frame, too
        got = function(inputs)
        for name, (values, allowed) in expected.items():
            found = float(np.abs(got[name] - values).max())
            before = differences.get(name, Difference(0.0, 0.0))
            worst = max(before.found, np.inf if np.isnan(found) else found)
            differences[name] = Difference(worst, max(before.allowed, allowed))
    return differences


def check_close(differences: Mapping[str, Difference], what: str) -> None:
    """Refuse an export that differs by more than is allowed.

    Raises:
        ExportError: So it does.
    """
    for name, difference in differences.items():
        if not difference.found <= difference.allowed:
            raise ExportError(
                f"{what} computes {name!r} otherwise than Keras, by up to {difference.found:.2g} "
                f"(allowed: {difference.allowed:.2g}), so it was not kept. Try the other --format, "
                "or other versions of onnxruntime, tf2onnx and tensorflow"
            )


def _examples(joined: JoinedModel, bundle: Bundle) -> Iterator[Inputs]:
    """Yield batches of clips by chance, of the size that the models know."""
    rng = np.random.default_rng(0)
    for lengths in _CLIPS if joined.backbone is None else _FRAME_CLIPS:
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        inputs: Inputs = {"mask": mask} if joined.models else {}
        if joined.backbone is None:
            inputs["embedding"] = _embeddings(rng, mask, bundle)
        else:
            shape = mask.shape if joined.models else (mask.size,)
            inputs["frames"] = _frames(rng, shape, joined.backbone.input_shape[1])
        scaler = bundle.members[0].scaler
        if scaler is not None and joined.models:
            inputs["features"] = _features(rng, len(mask), scaler)
        yield inputs


def _embeddings(
    rng: np.random.Generator, mask: NDArray[np.bool_], bundle: Bundle
) -> NDArray[np.float32]:
    """Return embeddings (B, T, D) float32, with the training clips' mean and deviation."""
    factor, mean, *_ = bundle.models[0].get_layer("standardise").get_weights()
    values = mean + rng.normal(size=(*mask.shape, len(mean))) / factor
    return np.where(mask[..., None], values, 0).astype(np.float32)


def _frames(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """Return frames (..., S, S, 3) of large patches: noise in every pixel is nothing's picture."""
    patches = rng.integers(0, 256, (*shape, _PATCHES, _PATCHES, 3), np.uint8)
    number = np.arange(size) * _PATCHES // size
    return patches[..., number[:, None], number, :]


def _features(
    rng: np.random.Generator, num_clips: int, scaler: FeatureScaler
) -> NDArray[np.float32]:
    """Return side features (B, F) as a table has them, some of them blank."""
    values = scaler.mean + scaler.deviation * rng.normal(size=(num_clips, len(scaler.columns)))
    values[rng.random(values.shape) < _BLANK_SHARE] = np.nan
    return values.astype(np.float32)


def _embed(embedder: Embedder, frames: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Return embeddings (..., D) as the store has them."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    embedding = embedder.embed_all(flat).astype(dtype)
    return embedding.reshape(*frames.shape[:-3], embedder.embedding_dim)


def _expected(
    joined: JoinedModel, bundle: Bundle, given: Inputs
) -> dict[str, tuple[NDArray[Any], float]]:
    """Return by output what Keras computes, and how far from it an export may be."""
    if not joined.models:
        embedding = given["embedding"].astype(np.float64)
        return {"embedding": (embedding, EMBEDDING_TOLERANCE * float(np.abs(embedding).max()))}
    given["embedding"] = given["embedding"].astype(joined.dtype)
    tolerance = HEAD_TOLERANCE if joined.backbone is None else FRAMES_TOLERANCE
    found = {}
    for output, prediction in zip(joined.outputs, bundle.predict(given), strict=True):
        allowed = tolerance * _deviation(bundle, output.key) + _ROUNDING * _size(prediction)
        found[output.mean] = prediction.mean, allowed
        if output.spread is not None:
            found[output.spread] = prediction.spread, allowed
    return found


def _size(prediction: Prediction) -> float:
    return float(np.abs(prediction.mean).max())


def _deviation(bundle: Bundle, key: str) -> float:
    """Return the deviation of a continuous target in training, or 1 for probabilities."""
    name = f"{key}_units"
    layers = [layer for model in bundle.models for layer in model.layers if layer.name == name]
    return max((float(layer.scale) for layer in layers), default=1.0)

"""Recurrent heads: a padded batch of embeddings in, a probability or a value out."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings

keras = load_keras()

_LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
_LOSSES = {
    "binary": "binary_crossentropy",
    "multiclass": "sparse_categorical_crossentropy",
    "regression": "mean_squared_error",
}
_ACTIVATIONS = {"binary": "sigmoid", "multiclass": "softmax", "regression": "linear"}
_LEAST_VARIANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Mean and variance (D,) of embeddings, over the valid frames of the training clips alone."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def feature_statistics(store: EmbeddingStore, positions: NDArray[np.intp]) -> FeatureStatistics:
    """Compute mean and variance over all frames of some sequences, one sequence at a time.

    The parts are merged as by Chan, Golub & LeVeque (1979). A feature that does not vary gets
    variance 1, so that standardising it cannot blow up noise.
    """
    count = 0
    mean = np.zeros(store.embedding_dim)
    squares = np.zeros(store.embedding_dim)
    for position in positions.tolist():
        frames = store.read(position).astype(np.float64)
        part_mean = frames.mean(axis=0)
        total = count + len(frames)
        squares += ((frames - part_mean) ** 2).sum(axis=0)
        squares += (part_mean - mean) ** 2 * (count * len(frames) / total)
        mean += (part_mean - mean) * (len(frames) / total)
        count = total
    variance = squares / max(count, 1)
    varies = variance > _LEAST_VARIANCE * np.maximum(mean**2, np.finfo(np.float64).tiny)
    return FeatureStatistics(mean, np.where(varies, variance, 1.0))


def build_model(
    settings: TrainSettings,
    statistics: FeatureStatistics,
    *,
    dtype: str,
    task: str,
    num_outputs: int,
) -> Any:
    """Build and compile a recurrent model with fresh weights.

    Its inputs are `embedding` (B, T, D) in the store's dtype and `mask` (B, T) bool, True for
    frames; its output is (B, 1) or (B, num_outputs): probabilities, or a standardised value.

    Args:
        settings: Head, sizes, dropout, optimiser.
        statistics: For the standardisation, which is part of the model.
        dtype: The store's dtype.
        task: binary, multiclass or regression.
        num_outputs: 1, or the number of classes.
    """
    layers = keras.layers
    embedding = keras.Input((None, len(statistics.mean)), dtype=dtype, name="embedding")
    mask = keras.Input((None,), dtype="bool", name="mask")
    # Standardised as x * scale + offset: one fused operation, and no epsilon for small variances.
    scale = 1 / np.sqrt(statistics.variance)
    offset = -statistics.mean * scale
    state = layers.Rescaling(scale.tolist(), offset.tolist(), name="standardise")(embedding)
    state = layers.Dropout(settings.dropout)(state)
    for number in range(settings.layers):
        recurrent = _LAYERS[settings.head](
            settings.units, return_sequences=number < settings.layers - 1
        )
        if settings.bidirectional:
            recurrent = layers.Bidirectional(recurrent)
        state = recurrent(state, mask=mask)
    state = layers.Dropout(settings.dropout)(state)
    output = layers.Dense(num_outputs, _ACTIVATIONS[task], dtype="float32", name="output")(state)
    model = keras.Model({"embedding": embedding, "mask": mask}, output)
    model.compile(
        keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay),
        _LOSSES[task],
        metrics=[] if task == "regression" else ["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    return model


def in_target_units(model: Any, mean: float, deviation: float) -> Any:
    """Return a regression model whose output is in the target's own units."""
    output = keras.layers.Rescaling(deviation, mean, dtype="float32", name="target_units")
    return keras.Model(model.input, output(model.output))

"""Whole sequences through the models of a run, in batches whose shape follows from the length.

The shape of a batch depends on a clip's own length alone, so what is predicted of a clip does not
depend on which others are predicted with it, or in which order they come.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.bundle import Bundle, Prediction
from stage2_temporal.model_inputs import pad_sequences, padded_length

_ROWS = 8  # on CPUs nearly as fast a clip as 32, and 3 times faster for one
_BATCH_VALUES = 2**25
_WAITING_VALUES = 2**26


@dataclasses.dataclass(frozen=True, eq=False)
class ClipSequence:
    """The embeddings of a clip.

    Attributes:
        video_id: Its id.
        embedding: (T, D) in the store's dtype.
        time_seconds: (T,) presentation times.
        source_index: (T,) frame numbers in the source.
        features: (F,) side features as the table has them; empty without any.
    """

    video_id: str
    embedding: NDArray[Any]
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class PredictedClip:
    """A clip, and (1, k) what is predicted of each target."""

    sequence: ClipSequence
    predictions: list[Prediction]


class HeadBatches:
    """Collects sequences until a batch of their length is full, and predicts it.

    Args:
        bundle: The models.

    Attributes:
        waiting_since: When the sequence that waits longest came (monotonic seconds); None if none
            waits.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.waiting_since: float | None = None
        self._bundle = bundle
        self._waiting: dict[int, list[ClipSequence]] = {}
        self._num_values = 0

    def add(self, sequence: ClipSequence) -> list[PredictedClip]:
        """Take a sequence; return the clips that are predicted now."""
        num_steps = padded_length(len(sequence.embedding))
        group = self._waiting.setdefault(num_steps, [])
        group.append(sequence)
        self._num_values += sequence.embedding.size
        self.waiting_since = self.waiting_since or time.monotonic()
        if self._num_values > _WAITING_VALUES:
            return self.flush()
        if len(group) < rows_of_batch(num_steps, sequence.embedding.shape[1]):
            return []
        return self._predict(num_steps)

    def flush(self) -> list[PredictedClip]:
        """Predict all that waits."""
        return [clip for num_steps in list(self._waiting) for clip in self._predict(num_steps)]

    def _predict(self, num_steps: int) -> list[PredictedClip]:
        group = self._waiting.pop(num_steps)
        self._num_values -= sum(sequence.embedding.size for sequence in group)
        if not self._waiting:
            self.waiting_since = None
        embeddings = [sequence.embedding for sequence in group]
        features = np.stack([sequence.features for sequence in group])
        found = predict_padded(self._bundle, embeddings, features, num_steps)
        return [
            PredictedClip(sequence, [_row(prediction, i) for prediction in found])
            for i, sequence in enumerate(group)
        ]


def predict_padded(
    bundle: Bundle,
    embeddings: Sequence[NDArray[Any]],
    features: NDArray[np.float32],
    num_steps: int,
) -> list[Prediction]:
    """Predict B sequences, padded to one length; empty rows fill the batch up.

    Args:
        bundle: The models.
        embeddings: B arrays (T_i, D), of which none is longer than `num_steps`.
        features: (B, F) side features.
        num_steps: Length to pad to.

    Returns:
        (B, k) of each target.
    """
    dim = embeddings[0].shape[1]
    rows = rows_of_batch(num_steps, dim)
    parts = []
    for start in range(0, len(embeddings), rows):
        block = embeddings[start : start + rows]
        inputs = pad_sequences(block, num_steps, num_rows=rows)
        inputs["features"] = np.zeros((rows, features.shape[1]), np.float32)
        inputs["features"][: len(block)] = features[start : start + rows]
        parts.append([_rows(p, len(block)) for p in bundle.predict(inputs)])
    return [_joined(of_target) for of_target in zip(*parts, strict=True)]


def rows_of_batch(num_steps: int, dim: int) -> int:
    """Return how many sequences of a length are predicted at once: 8, or fewer long ones."""
    rows = _ROWS
    while rows > 1 and rows * num_steps * dim > _BATCH_VALUES:
        rows //= 2
    return rows


def _row(prediction: Prediction, row: int) -> Prediction:
    rows = slice(row, row + 1)
    return Prediction(prediction.mean[rows], prediction.spread[rows])


def _rows(prediction: Prediction, count: int) -> Prediction:
    return Prediction(prediction.mean[:count], prediction.spread[:count])


def _joined(parts: Sequence[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.spread for part in parts]),
    )

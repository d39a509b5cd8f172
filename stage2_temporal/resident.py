"""Embeddings that stay on the device: a batch carries row numbers, the device gathers the rows."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.dataset import Arrays, EmbeddingSequence, Indices

keras = load_keras()


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentFrames:
    """The frames of some sequences in one array.

    Attributes:
        frames: (F, D) in the store's dtype.
        first_row: (S,) the first row of each sequence of the store; -1 for those not held.
    """

    frames: NDArray[Any]
    first_row: NDArray[np.int64]

    @classmethod
    def load(cls, store: EmbeddingStore, positions: Indices) -> "ResidentFrames":
        """Read sequences; positions below 0 stand for none."""
        used = np.unique(positions[positions >= 0])
        lengths = store.lengths[used]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        frames = np.empty((int(lengths.sum()), store.embedding_dim), store.dtype)
        for position, start, length in zip(
            used.tolist(), starts.tolist(), lengths.tolist(), strict=True
        ):
            store.read_into(position, frames[start : start + length])
        first_row = np.full(store.num_sequences, -1, np.int64)
        first_row[used] = starts
        return cls(frames, first_row)

    def trainee(self, trainee: Any) -> Any:
        """Return a model that takes `rows` (B, T) int32 in the place of `embedding` (B, T, D).

        The frames are a weight of it that is not trained, so they stay where the weights are.
        """
        table = keras.layers.Embedding(
            *self.frames.shape, dtype=str(self.frames.dtype), trainable=False, name="frames"
        )
        rows = keras.Input((None,), dtype="int32", name="rows")
        inputs = {name: tensor for name, tensor in trainee.input.items() if name != "embedding"}
        model = keras.Model({"rows": rows, **inputs}, trainee({"embedding": table(rows), **inputs}))
        table.set_weights([self.frames])
        model.dtype_policy = trainee.dtype_policy
        return model


class ResidentSequence(EmbeddingSequence):
    """An EmbeddingSequence whose batches have `rows` (B, T) int32 in the place of `embedding`.

    Args:
        resident: The frames that the rows number.
        arguments, options: As for EmbeddingSequence; sequences cannot be augmented, nor mixed.

    Raises:
        ValueError: Augmentation was asked for.
    """

    def __init__(self, resident: ResidentFrames, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._resident = resident
        if self.augmentation.any_sequence or self.augmentation.mixup:
            raise ValueError(
                "augmentation changes embeddings, which --resident keeps on the device; leave one "
                "of them out (--stored-views goes with it)"
            )

    def _read(self, positions: Indices, num_steps: int) -> Arrays:
        lengths = self.store.lengths[positions]
        mask = np.arange(num_steps) < lengths[:, None]
        rows = self._resident.first_row[positions][:, None] + np.arange(num_steps)
        return {"rows": np.where(mask, rows, 0).astype(np.int32), "mask": mask}

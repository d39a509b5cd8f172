"""The batches of an EmbeddingSequence as a `tf.data.Dataset`."""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stage2_temporal.dataset import Batch, EmbeddingSequence


def as_tf_dataset(sequence: "EmbeddingSequence", *, prefetch: int) -> Any:
    """Return the sequence's batches as a `tf.data.Dataset` that prepares `prefetch` ahead.

    Each pass over it is one epoch of the sequence, which goes on to the next when the pass starts.
    A pass that is broken off (Keras does so when it builds a model) counts, and disturbs no other.
    A `draw` must give the same number of clips each time, as those of this package do.

    Raises:
        ValueError: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ValueError(
            "as_tf_dataset needs TensorFlow: pip install tensorflow; on other backends iterate "
            "over the EmbeddingSequence itself"
        ) from error

    def epoch() -> Iterator["Batch"]:
        this = copy.copy(sequence)
        sequence.on_epoch_end()
        for index in range(len(this)):
            yield this[index]

    spec = tf.nest.map_structure(lambda array: _spec(tf, array), sequence[0])
    batches = tf.data.Dataset.from_generator(epoch, output_signature=spec)
    counted = batches.apply(tf.data.experimental.assert_cardinality(len(sequence)))
    return counted.prefetch(prefetch)  # Keras would warn of a pass whose end it did not foresee


def _spec(tf: Any, array: Any) -> Any:
    """Clips and steps vary from batch to batch, features do not."""
    has_steps = array.ndim == 3 or (array.ndim == 2 and array.dtype == np.bool_)
    shape = [None, None] if has_steps else [None]
    return tf.TensorSpec((*shape, *array.shape[len(shape) :]), tf.as_dtype(array.dtype))

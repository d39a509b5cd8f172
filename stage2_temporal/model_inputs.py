"""What models and their batches agree on: names of outputs, padding and its lengths."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

PAD_MULTIPLE = 8
Lengths = TypeVar("Lengths", int, NDArray[np.int64])


def output_key(number: int) -> str:
    """Return the name of a model's output for the target of that number."""
    return f"target_{number}"


def padded_length(length: Lengths) -> Lengths:
    """Return a length, or several, rounded up to multiples of 8."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def pad_sequences(
    sequences: Sequence[NDArray[Any]], num_steps: int, *, num_rows: int | None = None
) -> dict[str, NDArray[Any]]:
    """Stack sequences (T_i, D) into {"embedding": (B, T, D), "mask": (B, T) bool}, right-padded.

    Args:
        sequences: At least one.
        num_steps: T.
        num_rows: B; rows without a sequence are empty. None for as many as there are.
    """
    shape = (num_rows or len(sequences), num_steps, sequences[0].shape[1])
    embedding = np.zeros(shape, sequences[0].dtype)
    mask = np.zeros(shape[:2], np.bool_)
    for i, sequence in enumerate(sequences):
        embedding[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = True
    return {"embedding": embedding, "mask": mask}

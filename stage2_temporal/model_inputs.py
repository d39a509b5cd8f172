"""What models and their batches agree on: names of outputs, and padded lengths."""

from typing import TypeVar

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

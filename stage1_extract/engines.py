"""What computes embeddings: the contract, and Keras itself on any of its backends."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import chosen_backend


def engine_name(engine: str, backend: str | None) -> str:
    """Return how shards name what computes, e.g. keras-tensorflow, before it is loaded."""
    return f"keras-{chosen_backend(backend)}" if engine == "keras" else engine


class Pending(Protocol):
    """Embeddings that are being computed."""

    def result(self) -> NDArray[np.float32]:
        """Wait for the embeddings (B, D) and return them."""
        ...


class Engine(Protocol):
    """A frozen network on its device.

    Attributes:
        name: What computes, e.g. keras-tensorflow.
        max_in_flight: Batches to submit before the first result is asked for, so that the device
            never waits.
    """

    name: str
    max_in_flight: int

    def submit(self, frames: NDArray[np.uint8]) -> Pending:
        """Start embedding frames (B, S, S, 3), which may not change until the result is there."""
        ...


class KerasEngine:
    """A Keras model with one thread that computes batch after batch.

    The thread makes every backend asynchronous in the same way: while it waits for the device, or
    computes on CPUs, the caller fills the next batch and stores the last.

    Args:
        model: Keras model (B, S, S, 3) uint8 -> (B, D).
    """

    max_in_flight = 2

    def __init__(self, model: Any) -> None:
        self.name = engine_name("keras", None)
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keras")

    def submit(self, frames: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Start embedding frames (B, S, S, 3), which may not change until the result is there."""
        return self._thread.submit(self._compute, frames)

    def _compute(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self._model.predict_on_batch(frames), np.float32)

"""A Ray actor that starts a worker process on its node, and carries messages to and from it.

The process is the same as without a cluster: what it prints, and how it ends, are known here too.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_workers import LocalWorker


@dataclasses.dataclass(frozen=True)
class Told:
    """A message of the process."""

    message: Any


@dataclasses.dataclass(frozen=True)
class Ended:
    """The process ended.

    Attributes:
        how: Signal or exit code.
        words: The end of what it printed.
    """

    how: str
    words: str


class SweepRelay:
    """One worker process; its methods run side by side, in threads.

    Args:
        setup: What the process needs.
        environment: Variables to add.
        has_gpu: Whether Ray granted it one.
    """

    def __init__(self, setup: Setup, environment: Mapping[str, str], *, has_gpu: bool) -> None:
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        self._worker = LocalWorker(setup, environment)

    def send(self, message: Any) -> None:
        """Pass a message on."""
        self._worker.send(message)

    def receive(self, seconds: float) -> Told | Ended | None:
        """Return what comes from the process, waiting at most so long."""
        try:
            if not self._worker.process.connection.poll(seconds):
                return None
            return Told(self._worker.receive())
        except (EOFError, ConnectionResetError):
            return Ended(self._worker.end(), self._worker.last_words())

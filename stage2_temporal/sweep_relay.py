"""A Ray actor that starts a worker process on its node, and carries messages to and from it.

The process is the same as without a cluster: what it prints, and how it ends, are known here too.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from stage2_temporal.still_process import StillProcess
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_workers import LocalWorker

STILL_SECONDS = 900.0
"""A process with something to do that does nothing for so long is given up."""


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


@dataclasses.dataclass(frozen=True)
class Still:
    """The process has something to do, and has done nothing for `STILL_SECONDS`."""


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
        self._process = StillProcess(self._worker.process.pid)
        self._is_busy = True  # it starts

    def send(self, message: Any) -> None:
        """Pass a message on."""
        self._process.begin()
        self._is_busy = True
        self._worker.send(message)

    def receive(self, seconds: float) -> Told | Ended | Still | None:
        """Return what comes from the process, waiting at most so long."""
        try:
            if not self._worker.process.connection.poll(seconds):
                is_still = self._is_busy and self._process.still_seconds > STILL_SECONDS
                return Still() if is_still else None
            self._is_busy = False  # after each message it waits for one
            return Told(self._worker.receive())
        except (EOFError, ConnectionResetError):
            return Ended(self._worker.end(), self._worker.last_words())

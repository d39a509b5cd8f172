"""Where the trials of a sweep run: processes of this machine, or (`sweep_cluster`) of a cluster."""

from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol

from stage1_extract.child import ChildProcess
from stage2_temporal.sweep_messages import Job, Setup

WORKER_MODULE = "stage2_temporal.sweep_worker"


class WorkerProcess(Protocol):
    """A process that runs trials."""

    def send(self, message: Any) -> None:
        """Send a message; that the process is gone will be noticed where it is heard."""

    def receive(self) -> Any:
        """Return the message that `WorkerPool.wait` announced.

        Raises:
            EOFError: The process ended.
        """

    @property
    def is_waiting(self) -> bool:
        """Whether there is no room for it yet."""

    @property
    def is_displaced(self) -> bool:
        """Whether it ended because its machine is gone, which is no fault of its trial."""

    def end(self) -> str:
        """Say how a process that ended did so."""

    def last_words(self) -> str:
        """Return the end of what it printed."""

    def kill(self) -> None:
        """End it at once."""


class WorkerPool(Protocol):
    """Starts processes and hears them."""

    def has_room(self) -> bool:
        """Whether there is room for one more now."""

    def start(self, setup: Setup) -> WorkerProcess:
        """Start a process, for which there is room."""

    def wait(self, workers: Sequence[Any], seconds: float) -> list[Any]:
        """Return those that sent something, or ended, waiting for it no longer than that."""


class LocalWorker:
    """A process of this machine.

    Args:
        setup: What it needs.
        environment: Variables to add.
    """

    is_waiting = False
    is_displaced = False

    def __init__(self, setup: Setup, environment: Mapping[str, str]) -> None:
        self.process = ChildProcess(WORKER_MODULE, environment=environment)
        self.send(setup)

    def send(self, message: Any) -> None:
        """Send a message; that the process is gone will be noticed where it is heard."""
        if isinstance(message, Job):
            self.process.forget_output()  # it would grow with the sweep
        try:
            self.process.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Any:
        """Return the next message."""
        try:
            return self.process.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error

    def end(self) -> str:
        """Say how it ended."""
        return self.process.end()

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return self.process.last_words()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()


class LocalPool:
    """Processes of this machine.

    Args:
        environment: Variables by which they share cores and GPU.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def has_room(self) -> bool:
        """Whether there is room: yes, the user chose how many there are."""
        return True

    def start(self, setup: Setup) -> LocalWorker:
        """Start a process."""
        return LocalWorker(setup, self._environment)

    def wait(self, workers: Sequence[LocalWorker], seconds: float) -> list[LocalWorker]:
        """Return those that sent something, or ended."""
        ready = wait([worker.process.connection for worker in workers], seconds)
        return [worker for worker in workers if worker.process.connection in ready]

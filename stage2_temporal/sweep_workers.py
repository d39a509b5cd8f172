"""Where the trials of a sweep run: processes of this machine, or (`sweep_cluster`) of a cluster."""

from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol

from stage1_extract.child import ChildProcess
from stage2_temporal.sweep_messages import Job, Setup
from stage2_temporal.sweep_room import Room

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
        """Whether it has found no room for a while: others use what its pool thought free."""

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
    """Starts processes where there is room, and hears them."""

    @property
    def size(self) -> int:
        """How many processes find room, as far as is known."""

    @property
    def is_over(self) -> bool:
        """Whether there are more processes than are wanted, for one that waited found room."""

    def start(self, setup: Setup) -> WorkerProcess | None:
        """Start a process; None if there is no room for one more."""

    def wait(self, workers: Sequence[Any], seconds: float) -> list[Any]:
        """Return those that sent something, or ended, waiting for it no longer than that."""

    def note_ready(self, worker: Any) -> None:
        """Note that a process can take trials."""

    def note_failed_start(self, worker: Any) -> str | None:
        """Note that a process, killed by now, was never ready; says so if its place is used less.

        One place that is broken must not use up what others could do.
        """

    def leave_out(self, worker: Any, error: OSError) -> str | None:
        """Start nothing more in the place of a process, and say so; None if there is no other."""


class LocalWorker:
    """A process of this machine.

    Args:
        setup: What it needs.
        environment: Variables to add.
    """

    is_waiting = False
    is_displaced = False

    def __init__(self, setup: Setup, environment: Mapping[str, str]) -> None:
        self.is_killed = False
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
        self.is_killed = True
        self.process.kill()


class LocalPool:
    """Processes of this machine.

    Args:
        jobs: How many, at most.
        environment: Variables by which they share cores and GPU.
    """

    is_over = False

    def __init__(self, jobs: int, environment: Mapping[str, str]) -> None:
        self._room = Room(jobs)
        self._environment = environment
        self._workers: list[LocalWorker] = []

    @property
    def size(self) -> int:
        """How many processes find room."""
        return self._room.size

    def start(self, setup: Setup) -> LocalWorker | None:
        """Start a process; None if there are as many as find room."""
        if self._num_living() >= self._room.size:
            return None
        worker = LocalWorker(setup, self._environment)
        self._workers.append(worker)
        return worker

    def _num_living(self) -> int:
        self._workers = [worker for worker in self._workers if not worker.is_killed]
        return len(self._workers)

    def wait(self, workers: Sequence[LocalWorker], seconds: float) -> list[LocalWorker]:
        """Return those that sent something, or ended."""
        ready = wait([worker.process.connection for worker in workers], seconds)
        return [worker for worker in workers if worker.process.connection in ready]

    def note_ready(self, _: LocalWorker) -> None:
        """Note that a process can take trials."""
        self._room.note_ready()

    def note_failed_start(self, worker: LocalWorker) -> str | None:
        """Note that a process was never ready; says so if there will be fewer, but some."""
        num_left = self._num_living()
        if not self._room.note_failed_start(num_left) or not num_left:
            return None
        return (
            f"one of {num_left + 1} processes could not start ({worker.end()}); going on with fewer"
        )

    def leave_out(self, _: LocalWorker, __: OSError) -> None:
        """There is no other place."""

"""Checking many shards: here if they are small, by several processes if not."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

from stage1_extract.child import ChildProcess
from stage1_extract.provenance import StoreError
from stage1_extract.shard_check import ShardCheck, check_shard
from stage1_extract.shard_index import ShardState

_SMALL_BYTES = 64 * 10**6
"""Starting a process takes as long as reading so much."""
_SILENT_SECONDS = 600.0
_START_SECONDS = 600.0
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")


class ReadingProgress(Protocol):
    """Whom checking tells of what it has read."""

    def add_bytes(self, count: int) -> None:
        """Count bytes."""


def check_shards(
    shards: Sequence[tuple[Path, ShardState]], *, processes: int, progress: ReadingProgress
) -> Iterator[ShardCheck]:
    """Yield the check of every shard, in any order.

    Args:
        shards: Each with the state of its file, asked for before.
        processes: How many read at the same time.
        progress: Told of what was read.

    Raises:
        StoreError: A shard is gone.
        OSError: A process was ended from outside, or does not start.
    """
    if sum(state.size_bytes for _, state in shards) < _SMALL_BYTES:
        for path, state in shards:
            yield check_shard(path, state, progress.add_bytes)
        return
    todo = deque(shards)
    with ExitStack() as stack:
        workers = [_Worker(stack) for _ in range(min(processes, len(shards)))]
        for worker in workers:
            worker.take(todo)
        while busy := [worker for worker in workers if worker.shard is not None]:
            connections = {worker.connection: worker for worker in busy}
            for connection in wait(connections, timeout=1.0):
                worker = connections[connection]  # type: ignore[index]
                check = worker.receive(progress)
                if check is not None:
                    yield check
                    worker.take(todo)
            for worker in busy:
                if worker.is_stuck():
                    yield worker.give_up(f"no progress for {_SILENT_SECONDS:.0f} s")
                    worker.take(todo)


class _Worker:
    """A process, replaced by another when it dies, and the shard that it reads."""

    def __init__(self, stack: ExitStack) -> None:
        stack.callback(lambda: self._child.kill())
        self.shard: tuple[Path, ShardState] | None = None
        self._start()

    def _start(self) -> None:
        self._child = ChildProcess("stage1_extract.check_worker")
        self.connection = self._child.connection
        self._has_started = False

    def take(self, todo: deque[tuple[Path, ShardState]]) -> None:
        """Take the next shard, if there is one."""
        self.shard = todo.popleft() if todo else None
        self._heard = time.monotonic()
        if self.shard is not None:
            self.connection.send(self.shard)

    def receive(self, progress: ReadingProgress) -> ShardCheck | None:
        """Take a message; returns the check when it is complete."""
        self._heard = time.monotonic()
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._died()
        self._has_started = True
        if isinstance(message, StoreError):
            raise message
        if isinstance(message, ShardCheck):
            return message
        progress.add_bytes(message)
        return None

    def _died(self) -> ShardCheck:
        how, words = self._child.end(), self._child.last_words()
        if how not in _CRASHES:
            raise OSError(
                f"a process that read shards was ended ({how}) {words[-500:]}: memory may be "
                "short; give fewer --processes. The same command goes on from here"
            )
        return self.give_up(f"reading it crashes the HDF5 library ({how})")

    def is_stuck(self) -> bool:
        """Return whether a shard holds it up: nothing was heard of it for long.

        Raises:
            OSError: It did not even start, which is no shard's fault.
        """
        silent_seconds = time.monotonic() - self._heard
        if not self._has_started and silent_seconds > _START_SECONDS:
            raise OSError(
                f"a process to read shards did not start within {_START_SECONDS:.0f} s: does the "
                "file server with Python hang? The same command goes on from here"
            )
        return self._has_started and self.shard is not None and silent_seconds > _SILENT_SECONDS

    def give_up(self, why: str) -> ShardCheck:
        """Report the shard as unreadable, and start another process."""
        self._child.kill()
        if self.shard is None:
            raise ValueError("a process that reads nothing cannot fail")
        path, state = self.shard
        self._start()
        return ShardCheck(path, state, unreadable=f"{path} cannot be read: {why}")

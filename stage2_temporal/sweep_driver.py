"""Running the trials of a sweep in worker processes, which are replaced when they die."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from stage1_extract.interrupt import deferred_interrupt
from stage2_temporal.sweep_messages import (
    Done,
    Hindered,
    Job,
    Pruned,
    Ready,
    Refused,
    Report,
    Setup,
    Verdict,
)
from stage2_temporal.sweep_queue import OpenTrial, TrialQueue
from stage2_temporal.sweep_workers import WorkerPool, WorkerProcess

_TICK_SECONDS = 0.5
_MOST_DISPLACED = 5
_MEMORY_HINT = " (mostly for want of memory; fewer --jobs need less)"


class WatchesSweep(Protocol):
    """Whom a sweep tells of its progress."""

    def tick(self, counts: dict[str, int]) -> None:
        """Show how many trials are in which state; called often."""

    def write(self, message: str) -> None:
        """Show a message."""


class Driver:
    """Gives trials to worker processes until there are no more.

    A process gets a trial once it is ready, so that none waits for a process that finds no room, or
    cannot start.

    Args:
        queue: The trials.
        setup: What a worker needs.
        store: Of trials among which none compete.
        folder: Where each trial has a folder for what it needs to go on after a stop.
        pool: Starts workers where there is room.
        deadline: When to stop, in `time.monotonic()`; None for never.
        progress: Told of what happens.
        check_lock: Raises an error once another process may have taken the sweep over.
    """

    def __init__(
        self,
        queue: TrialQueue,
        setup: Setup,
        *,
        store: str,
        folder: Path,
        pool: WorkerPool,
        deadline: float | None,
        progress: WatchesSweep,
        check_lock: Callable[[], None],
    ) -> None:
        self._queue, self._setup, self._store, self._folder = queue, setup, store, folder
        self._pool, self._deadline, self._progress = pool, deadline, progress
        self._check_lock = check_lock
        self._workers: dict[WorkerProcess, _State] = {}
        self._displaced: Counter[int] = Counter()
        self._failed_start = ""

    def run(self) -> bool:
        """Run trials until there are no more; False if the deadline came first.

        Trials that are at work when it ends, however it ends, go on with the next call.

        Raises:
            ValueError: All trials fail, or workers cannot start.
            OSError: No trial can go on, as with a full disk; or the lock is lost.
        """
        with deferred_interrupt() as check_interrupt:
            try:
                return self._run(check_interrupt)
            finally:
                for worker in self._workers:
                    worker.kill()

    def _run(self, check_interrupt: Callable[[], None]) -> bool:
        self._employ(check_interrupt)
        while self._workers:
            check_interrupt()
            if self._deadline is not None and time.monotonic() > self._deadline:
                return False
            heard = self._pool.wait(list(self._workers), _TICK_SECONDS)
            self._check_lock()
            for worker in heard:
                self._serve(worker)
            self._employ(check_interrupt)
            self._progress.tick(self._queue.counts)
        if self._queue.num_left:
            self._refuse()
        return True

    def _employ(self, check_interrupt: Callable[[], None]) -> None:
        """Have free workers take trials, and as many start as find room and something to do."""
        free = [worker for worker, state in self._workers.items() if state.opened is None]
        for worker in [worker for worker in free if self._workers[worker].is_ready]:
            if self._pool.is_over:
                self._dismiss(worker)
                free.remove(worker)
                continue
            if (opened := self._queue.next()) is None:
                break
            self._give(worker, opened)
            free.remove(worker)
        num_left = self._queue.num_left
        if not num_left:
            for worker in free:
                self._dismiss(worker)
            return
        starting = [worker for worker in free if not worker.is_waiting]
        for _ in range(num_left - len(starting)):
            if (started := self._pool.start(self._setup)) is None:
                break
            self._workers[started] = _State()
            check_interrupt()

    def _refuse(self) -> None:
        """Say why trials are left and no worker is."""
        if self._failed_start:
            raise ValueError(f"a process to train in could not start: {self._failed_start}")
        raise OSError(
            "there is no room for a process to train in: all nodes are gone, too small, or left "
            "out; the same command goes on when there are some"
        )

    def _give(self, worker: WorkerProcess, opened: OpenTrial) -> None:
        folder = self._trial_folder(opened)
        folder.mkdir(parents=True, exist_ok=True)
        self._workers[worker].opened = opened
        worker.send(Job(opened.settings, opened.store or self._store, folder))

    def _trial_folder(self, opened: OpenTrial) -> Path:
        return self._folder / f"{opened.number:05d}"

    def _serve(self, worker: WorkerProcess) -> None:
        """Answer a worker's message, or see to a dead one."""
        try:
            message = worker.receive()
        except EOFError:
            self._bury(worker)
            return
        state = self._workers[worker]
        opened = state.opened
        if isinstance(message, Ready):
            state.is_ready = True
            self._failed_start = ""
            self._pool.note_ready(worker)
        elif isinstance(message, Hindered):
            self._leave_out(worker, message.error)
        elif opened is None:
            raise TypeError(f"a worker without a trial sent {message!r}")
        elif isinstance(message, Report):
            worker.send(Verdict(self._queue.report(opened, message.step, message.value)))
        else:
            self._end(opened, message)
            state.opened = None
            if message.leaves:
                self._dismiss(worker)

    def _end(self, opened: OpenTrial, message: Done | Pruned | Refused) -> None:
        if isinstance(message, Done):
            self._queue.finish(opened, message.result)
        elif isinstance(message, Pruned):
            self._queue.prune(opened)
        else:
            self._queue.fail(opened, message.reason)
        self._clear(opened)

    def _clear(self, opened: OpenTrial) -> None:
        rmtree(self._trial_folder(opened), ignore_errors=True)

    def _dismiss(self, worker: WorkerProcess) -> None:
        worker.kill()
        del self._workers[worker]

    def _leave_out(self, worker: WorkerProcess, error: ValueError | OSError) -> None:
        """Go on without the place of a worker whose disk is full, say; if there is another."""
        told = self._pool.leave_out(worker, error) if isinstance(error, OSError) else None
        if told is None:
            raise error
        self._progress.write(told)
        if (opened := self._workers[worker].opened) is not None:
            self._queue.put_back(opened)
        self._dismiss(worker)

    def _bury(self, worker: WorkerProcess) -> None:
        """Note how a worker died, and what that costs."""
        words, how, state = worker.last_words(), worker.end(), self._workers[worker]
        self._dismiss(worker)
        if not state.is_ready:
            self._failed_start = f"{how}\n{words}".strip()
            if (told := self._pool.note_failed_start(worker)) is not None:
                self._progress.write(told)
        elif state.opened is None:
            return
        elif worker.is_displaced:
            first_line = words.partition("\n")[0]
            self._displace(state.opened, f"{how} ({first_line})")
        else:
            self._queue.fail(state.opened, _reason(how, words), words=words)
            self._clear(state.opened)

    def _displace(self, opened: OpenTrial, how: str) -> None:
        """Have a trial that lost its process go on elsewhere, unless it is what ends them."""
        self._displaced[opened.number] += 1
        if self._displaced[opened.number] < _MOST_DISPLACED:
            self._progress.write(f"{how}; its trial goes on elsewhere")
            self._queue.put_back(opened)
            return
        self._queue.fail(
            opened, f"{_MOST_DISPLACED} processes were lost while they ran it, at last: {how}"
        )
        self._clear(opened)


def _reason(how: str, words: str) -> str:
    """Say of what a trial's process died."""
    reason = f"its process ended with {how}" + (_MEMORY_HINT if how.startswith("SIGKILL") else "")
    return f"{words.splitlines()[-1]} ({reason})" if how.startswith("exit") and words else reason


@dataclasses.dataclass
class _State:
    """What is known of a worker: whether it can take trials, and the one that it runs."""

    is_ready: bool = False
    opened: OpenTrial | None = None

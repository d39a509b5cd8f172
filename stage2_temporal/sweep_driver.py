"""Running the trials of a sweep in worker processes, which are replaced when they die."""

import time
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
_MOST_FAILED_STARTS = 3
_MEMORY_HINT = " (mostly for want of memory; fewer --jobs need less)"


class WatchesSweep(Protocol):
    """Whom a sweep tells of its progress."""

    def tick(self, counts: dict[str, int]) -> None:
        """Show how many trials are in which state; called often."""

    def write(self, message: str) -> None:
        """Show a message."""


class Driver:
    """Gives trials to worker processes until there are no more.

    Args:
        queue: The trials.
        setup: What a worker needs.
        store: Of trials among which none compete.
        folder: Where each trial has a folder for what it needs to go on after a stop.
        pool: Starts workers.
        jobs: How many workers, at most.
        deadline: When to stop, in `time.monotonic()`; None for never.
        progress: Told of what happens.
    """

    def __init__(
        self,
        queue: TrialQueue,
        setup: Setup,
        *,
        store: str,
        folder: Path,
        pool: WorkerPool,
        jobs: int,
        deadline: float | None,
        progress: WatchesSweep,
    ) -> None:
        self._queue, self._setup, self._store, self._folder = queue, setup, store, folder
        self._pool, self._jobs = pool, jobs
        self._deadline, self._progress = deadline, progress
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def run(self) -> bool:
        """Run trials until there are no more; False if the deadline came first.

        Trials that are at work when it ends, however it ends, go on with the next call.

        Raises:
            ValueError: All trials fail, or workers cannot start.
            OSError: No trial can go on, as with a full disk.
        """
        with deferred_interrupt() as check_interrupt:
            try:
                return self._run(check_interrupt)
            finally:
                for worker in self._workers:
                    worker.process.kill()

    def _run(self, check_interrupt: Callable[[], None]) -> bool:
        self._fill_up(check_interrupt)
        while self._workers:
            check_interrupt()
            if self._deadline is not None and time.monotonic() > self._deadline:
                return False
            heard = self._pool.wait([worker.process for worker in self._workers], _TICK_SECONDS)
            for worker in [worker for worker in self._workers if worker.process in heard]:
                if worker in self._workers:  # another's message may have let it go
                    self._serve(worker)
            self._fill_up(check_interrupt)
            self._progress.tick(self._queue.counts)
        if (left := self._queue.next()) is not None:
            self._queue.put_back(left)
            raise OSError(
                "there is no room for a process to train in: all nodes are gone, or too small; the "
                "same command goes on when there are some"
            )
        return True

    def _fill_up(self, check_interrupt: Callable[[], None]) -> None:
        """Start workers while there are trials and room: nodes may join, and come back."""
        while len(self._workers) < self._jobs and self._start_worker():
            check_interrupt()

    def _start_worker(self) -> bool:
        if not self._pool.has_room() or (opened := self._queue.next()) is None:
            return False
        worker = _Worker(self._pool.start(self._setup))
        self._workers.append(worker)
        self._give(worker, opened)
        return True

    def _give(self, worker: "_Worker", opened: OpenTrial) -> None:
        folder = self._trial_folder(opened)
        folder.mkdir(parents=True, exist_ok=True)
        worker.opened = opened
        worker.process.send(Job(opened.settings, opened.store or self._store, folder))

    def _trial_folder(self, opened: OpenTrial) -> Path:
        return self._folder / f"{opened.number:05d}"

    def _serve(self, worker: "_Worker") -> None:
        """Answer a worker's message, or see to a dead one."""
        try:
            message = worker.process.receive()
        except EOFError:
            self._bury(worker)
            return
        opened = worker.opened
        if isinstance(message, Ready):
            worker.ready = True
            self._failed_starts = 0
            self._dismiss_idle()
        elif isinstance(message, Hindered):
            raise message.error
        elif opened is None:
            raise TypeError(f"a worker without a trial sent {message!r}")
        elif isinstance(message, Report):
            worker.process.send(Verdict(self._queue.report(opened, message.step, message.value)))
        else:
            self._end(opened, message)
            if message.leaves:
                self._dismiss(worker)
                self._start_worker()
            else:
                self._go_on(worker)

    def _end(self, opened: OpenTrial, message: Done | Pruned | Refused) -> None:
        if isinstance(message, Done):
            self._queue.finish(opened, message.result)
        elif isinstance(message, Pruned):
            self._queue.prune(opened)
        else:
            self._queue.fail(opened, message.reason)
        rmtree(self._trial_folder(opened), ignore_errors=True)

    def _go_on(self, worker: "_Worker") -> None:
        """Give a worker the next trial; without one, it stays for those that may fail to start."""
        opened = self._queue.next() or self._trial_without_room()
        if opened is not None:
            self._give(worker, opened)
            return
        worker.opened = None
        self._dismiss_idle()

    def _trial_without_room(self) -> OpenTrial | None:
        """Take a trial from a process that waits for room, for hours perhaps."""
        for worker in self._workers:
            if worker.process.is_waiting and worker.opened is not None:
                self._dismiss(worker)
                self._queue.put_back(worker.opened)
                return self._queue.next()
        return None

    def _dismiss_idle(self) -> None:
        if all(worker.ready for worker in self._workers):
            for worker in [worker for worker in self._workers if worker.opened is None]:
                self._dismiss(worker)

    def _dismiss(self, worker: "_Worker") -> None:
        worker.process.kill()
        self._workers.remove(worker)

    def _bury(self, worker: "_Worker") -> None:
        """Note how a worker died, which costs its trial, and start another."""
        words, how = worker.process.last_words(), worker.process.end()
        self._dismiss(worker)
        if worker.opened is None:
            return
        if worker.process.is_displaced:
            self._progress.write(f"{how} ({words}); its trial goes on elsewhere")
            self._queue.put_back(worker.opened)
            self._start_worker()
            return
        if not worker.ready:
            self._do_without(worker.opened, f"{how}\n{words}".strip())
            return
        last_line = words.splitlines()[-1] if words else ""
        reason = f"its process ended with {how}" + (_MEMORY_HINT if how == "SIGKILL" else "")
        if how.startswith("exit") and last_line:
            reason = f"{last_line} ({reason})"
        self._queue.fail(worker.opened, reason, words=words)
        rmtree(self._trial_folder(worker.opened), ignore_errors=True)
        self._start_worker()

    def _do_without(self, opened: OpenTrial, how: str) -> None:
        """See to a worker that died before it was ready: try again, then go on with fewer."""
        self._queue.put_back(opened)
        self._failed_starts += 1
        if self._failed_starts < _MOST_FAILED_STARTS:
            self._start_worker()
            return
        if not self._workers:
            raise ValueError(f"a process to train in could not start: {how}")
        self._jobs = len(self._workers)
        self._progress.write(
            f"one of {len(self._workers) + 1} processes could not start ({how.splitlines()[0]}); "
            "going on with fewer"
        )
        for worker in [worker for worker in self._workers if worker.opened is None]:
            self._go_on(worker)


class _Worker:
    """A process, and the trial that it runs."""

    def __init__(self, process: WorkerProcess) -> None:
        self.ready = False
        self.opened: OpenTrial | None = None
        self.process = process

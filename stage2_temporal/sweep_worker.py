"""A worker of a sweep: a process of its own, so that a trial that crashes costs only itself."""

import dataclasses
import importlib
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from stage1_extract.child import connect_to_run
from stage1_extract.keras_setup import load_keras
from stage2_temporal.config import TrainSettings
from stage2_temporal.sweep_messages import (
    Done,
    Hindered,
    Job,
    Pruned,
    Ready,
    Refused,
    Report,
    Setup,
    TrialPrunedError,
)
from stage2_temporal.sweep_settings import SweepSettings


class RunsTrials(Protocol):
    """What a worker's factory returns."""

    @property
    def should_be_replaced(self) -> bool:
        """Whether the next trial should have a fresh process."""

    def run(
        self,
        settings: TrainSettings,
        store: str,
        folder: Path,
        report: Callable[[int, float], None],
    ) -> Any:
        """Run a trial and return its result, a dataclass."""


def main() -> None:
    """Run trials until the sweep is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's to handle
    connection, _ = connect_to_run(when_gone=lambda: os._exit(0))
    try:
        worker = _Worker(connection)
        while worker.run_next():
            pass
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the sweep is over


class _Worker:
    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        setup: Setup = connection.recv()
        try:
            module, _, name = setup.factory.partition(":")
            factory = getattr(importlib.import_module(module), name)
            self._trials: RunsTrials = factory(*setup.arguments)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except (ValueError, OSError) as error:
            self._hinder(error)
            raise
        connection.send(Ready())

    def run_next(self) -> bool:
        """Run a trial; only the program's own faults are raised. False: nothing more shall run."""
        job: Job = self._connection.recv()
        try:
            answer = self._answer(job)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except OSError as error:
            self._hinder(error)
            return False
        leaves = self._trials.should_be_replaced
        self._connection.send(dataclasses.replace(answer, leaves=leaves))
        return not leaves

    def _answer(self, job: Job) -> Done | Pruned | Refused:
        try:
            result = self._trials.run(job.settings, job.store, job.folder, self._report)
        except TrialPrunedError:
            return Pruned()
        except ValueError as error:
            return Refused(str(error))
        return Done(_plain(dataclasses.asdict(result)))

    def _report(self, step: int, value: float) -> None:
        self._connection.send(Report(int(step), float(value)))
        if self._connection.recv().prune:
            raise TrialPrunedError

    def _hinder(self, error: ValueError | OSError) -> None:
        # Errors of other libraries need not be importable, or picklable, where they arrive.
        kind = OSError if isinstance(error, OSError) else ValueError
        self._connection.send(Hindered(kind(str(error))))


def _plain(value: Any) -> Any:
    """Return Python's own numbers for numpy's, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def trial_runner(store: str, manifest: str, settings: SweepSettings, cache: Path) -> RunsTrials:
    """Load Keras and the data, and return what runs a trial."""
    load_keras(settings.base.backend)
    from stage2_temporal.sweep_data import load_sweep_data
    from stage2_temporal.trial import TrialRunner

    data = load_sweep_data(Path(store), Path(manifest), settings)
    return TrialRunner(data, cache)

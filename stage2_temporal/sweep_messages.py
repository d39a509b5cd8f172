"""What a sweep and its worker processes tell each other."""

import dataclasses
from pathlib import Path
from typing import Any

from stage2_temporal.config import TrainSettings


class TrialPrunedError(Exception):
    """Raised by `report`: the trial is not worth going on with."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """To a worker, once: what makes its function that runs a trial.

    Attributes:
        factory: `module:function`, which loads data and returns what `RunsTrials`.
        arguments: Of the factory.
    """

    factory: str
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """To a worker: a trial to run."""

    settings: TrainSettings
    store: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class Ready:
    """From a worker that has loaded everything."""


@dataclasses.dataclass(frozen=True)
class Report:
    """From a worker: the trial's score so far; it waits for the verdict."""

    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """To a worker: whether the trial ends here."""

    prune: bool


@dataclasses.dataclass(frozen=True)
class Done:
    """From a worker: the fields of a `TrialResult`; whether it leaves, to be replaced."""

    result: dict[str, Any]
    leaves: bool = False


@dataclasses.dataclass(frozen=True)
class Pruned:
    """From a worker: the trial ended as the verdict said; whether it leaves."""

    leaves: bool = False


@dataclasses.dataclass(frozen=True)
class Refused:
    """From a worker: settings or data do not allow this trial, or its training failed."""

    reason: str
    leaves: bool = False


@dataclasses.dataclass(frozen=True)
class Hindered:
    """From a worker: no trial can go on, as with a full disk; or it cannot start."""

    error: ValueError | OSError

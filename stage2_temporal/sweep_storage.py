"""Reading a sweep folder: what was asked for, and every trial."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from stage2_temporal.sweep_dimensions import tidy
from stage2_temporal.sweep_names import STORE, kind_of
from stage2_temporal.sweep_optuna import STUDY_NAME, journal_storage, load_optuna

SWEEP_FORMAT = "stage2-sweep"
SWEEP_VERSION = 1
DOCUMENT = "sweep.json"
JOURNAL = "optuna.log"
SPLIT = "split.csv"
TRIALS = "trials"
CACHE = "cache"

COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
_STATES = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED, "RUNNING": RUNNING}


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """One trial of a sweep.

    Attributes:
        number: From 0, in the order in which they were begun.
        state: complete, pruned, failed or running (begun, and not ended yet).
        value: The score that is optimised; None unless complete.
        parameters: The searched settings, and `store` if several compete.
        baseline: The same score of the mean-pool baseline.
        by_fold: The score of each fold.
        scores: Every score of every model, all scored clips together.
        epochs: The best epoch of each training; 0 is the baseline itself.
        kept_baseline: How many trainings kept the baseline.
        num_trainings: Of how many.
        reason: Why it failed or ended early, or which trial it repeats; blank for none.
        started: When it was begun, in local time.
        seconds: How long it was trained.
        intermediate: The score so far by step; see `TrialRunner`.
    """

    number: int
    state: str
    value: float | None
    parameters: dict[str, Any]
    baseline: float | None
    by_fold: list[float]
    scores: dict[str, dict[str, float]]
    epochs: list[int]
    kept_baseline: int
    num_trainings: int
    reason: str
    started: datetime | None
    seconds: float | None
    intermediate: dict[int, float]


@dataclasses.dataclass(frozen=True)
class SweepDocument:
    """What sweep.json says.

    Attributes:
        created: When the sweep was begun, ISO 8601.
        request: Everything that its trials follow from; equal for every call.
        search: The searched settings: lists of choices, tables of ranges.
        base: The settings that hold for every trial.
        sampler: How settings are chosen.
        pruner: Which trials end early.
        validation_folds: Into how many folds the development clips are divided.
        metric: The score that is optimised.
        higher_is_better: Whether it is to become large.
        stores: Paths of the competing stores.
        manifest: Path of the manifest.
        sides: Clips and groups of the development side and of the test side.
        notices: Remarks on the data.
    """

    created: str
    request: dict[str, Any]
    search: dict[str, Any]
    base: dict[str, Any]
    sampler: str
    pruner: str
    validation_folds: int
    metric: str
    higher_is_better: bool
    stores: list[str]
    manifest: str
    sides: dict[str, dict[str, int]]
    notices: list[str]


def read_sweep(folder: Path | str) -> SweepDocument:
    """Read sweep.json.

    Raises:
        ValueError: It is not there, or of another version, or incomplete.
    """
    path = Path(folder) / DOCUMENT
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no sweep at {folder}: {path.name} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != SWEEP_FORMAT:
        raise ValueError(f"{path} is not the description of a sweep")
    if content.get("format_version") != SWEEP_VERSION:
        raise ValueError(
            f"{path} has version {content.get('format_version')}; this program reads version "
            f"{SWEEP_VERSION}"
        )
    names = [field.name for field in dataclasses.fields(SweepDocument)]
    lacking = [name for name in names if name not in content]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; the file was altered")
    return SweepDocument(**{name: content[name] for name in names})


def open_study(folder: Path | str) -> Any:
    """Return the sweep's `optuna.Study`, to look at; a sweep at work may go on meanwhile.

    Raises:
        ValueError: There is none, or Optuna is not installed.
    """
    optuna = load_optuna()
    path = Path(folder) / JOURNAL
    if not path.is_file():
        raise ValueError(f"there is no sweep at {folder}: {path.name} is missing")
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=journal_storage(path))
    except KeyError as error:
        raise ValueError(f"{path} holds no study of a sweep") from error


def read_trials(folder: Path | str) -> list[TrialRecord]:
    """Return every trial in the order of their numbers.

    Raises:
        ValueError: There is no sweep, or Optuna is not installed.
    """
    trials = open_study(folder).get_trials(deepcopy=False)
    return [record_of(trial) for trial in trials if trial.state.name in _STATES]


def record_of(trial: Any) -> TrialRecord:
    """Return what is known of an `optuna.trial.FrozenTrial`."""
    known: Mapping[str, Any] = trial.user_attrs
    state = _STATES[trial.state.name]
    duration = trial.duration.total_seconds() if trial.duration else None
    return TrialRecord(
        number=trial.number,
        state=state,
        value=trial.value if state == COMPLETE else None,
        parameters={name: written(name, value) for name, value in trial.params.items()},
        baseline=known.get("baseline"),
        by_fold=list(known.get("by_fold", ())),
        scores=dict(known.get("scores", {})),
        epochs=list(known.get("epochs", ())),
        kept_baseline=known.get("kept_baseline", 0),
        num_trainings=known.get("num_trainings", 0),
        reason=known.get("reason", ""),
        started=trial.datetime_start,
        seconds=known.get("seconds", duration),
        intermediate=dict(sorted(trial.intermediate_values.items())),
    )


def written(name: str, value: Any) -> Any:
    """Return a value of Optuna's as the search wrote it: lists are JSON there."""
    if isinstance(value, float):
        return tidy(value)
    return json.loads(value) if name != STORE and kind_of(name).is_list else value


def best_trial(records: list[TrialRecord], *, higher_is_better: bool) -> TrialRecord | None:
    """Return the complete trial with the best value, the earliest of equals; None without any."""
    complete = [record for record in records if record.state == COMPLETE]
    sign = -1 if higher_is_better else 1
    return min(complete, key=lambda r: (sign * _value(r), r.number), default=None)


def _value(record: TrialRecord) -> float:
    return math.nan if record.value is None else record.value

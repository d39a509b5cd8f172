"""Sweep folders written by hand, for the tests of what comes out of a sweep."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from stage2_temporal.config import TrainSettings
from stage2_temporal.sweep_optuna import STUDY_NAME, as_stored, journal_storage
from stage2_temporal.sweep_storage import TrialRecord

NUM_FOLDS, RUNGS = 5, 4
BEGAN = datetime(2026, 1, 2, 3)
SEARCH: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "units": [16, 32, 64],
    "head": ["gru", "lstm"],
}
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_NOTED = ("baseline", "by_fold", "scores", "epochs", "kept_baseline", "num_trainings")


def record(number: int, value: float | None = None, **changes: Any) -> TrialRecord:
    """A trial of two minutes, begun a minute after the one before; complete if it has a value."""
    is_complete, score = value is not None, value or 0.0
    facts: dict[str, Any] = {
        "state": "complete" if is_complete else "failed",
        "parameters": {"units": 16, "head": "gru"},
        "baseline": 0.75 if is_complete else None,
        "by_fold": [score + d for d in (-0.02, -0.01, 0.0, 0.01, 0.02)] if is_complete else [],
        "scores": {},
        "epochs": [3] * NUM_FOLDS if is_complete else [],
        "kept_baseline": 0,
        "num_trainings": NUM_FOLDS if is_complete else 0,
        "reason": "" if is_complete else "the loss became NaN",
        "started": BEGAN + timedelta(minutes=number),
        "seconds": 120.0,
        "intermediate": {s: score - 0.1 / (1 + s) for s in range(NUM_FOLDS * RUNGS)}
        if is_complete
        else {},
    }
    return TrialRecord(number=number, value=value, **(facts | changes))


def document(search: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What sweep.json says of a sweep of a target `abnormal`, grouped by patient."""
    base = dataclasses.asdict(TrainSettings("abnormal", group="patient"))
    facts: dict[str, Any] = {
        **{"format": "stage2-sweep", "format_version": 1, "created": "2026-01-02T03:00:00+00:00"},
        **{"search": search, "base": base, "sampler": "tpe", "pruner": "none"},
        **{"validation_folds": NUM_FOLDS, "metric": "auroc", "higher_is_better": True},
        **{"stores": ["/stores/a"], "manifest": "/clips.csv", "notices": ["clip_8 ended early"]},
        "sides": {
            "development": {"clips": 203, "groups": 61},
            "test": {"clips": 47, "groups": 17},
        },
        "request": {"settings": base, "search": search, "software": {"keras": "3.12.7"}},
    }
    return facts | changes


def write_sweep(
    folder: Path,
    records: Sequence[TrialRecord],
    *,
    search: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write sweep.json and a journal with the trials; their numbers must be 0, 1, ..."""
    searched = SEARCH if search is None else search
    folder.mkdir(parents=True, exist_ok=True)
    written = document(searched, **changes)
    (folder / "sweep.json").write_text(json.dumps(written))
    study = optuna.create_study(
        storage=journal_storage(folder / "optuna.log"),
        study_name=STUDY_NAME,
        direction="maximize" if written["higher_is_better"] else "minimize",
    )
    study.add_trials([_frozen(one, searched) for one in records])
    return folder


def _frozen(one: TrialRecord, search: dict[str, Any]) -> Any:
    noted = {name: getattr(one, name) for name in _NOTED if getattr(one, name)}
    noted |= {"reason": one.reason} if one.reason else {}
    trial = create_trial(
        state=_STATES[one.state],
        value=one.value,
        params={name: as_stored(value) for name, value in one.parameters.items()},
        distributions={name: _distribution(search[name]) for name in one.parameters},
        user_attrs=noted | {"seconds": one.seconds},
        intermediate_values=one.intermediate,
    )
    trial.datetime_start, trial.datetime_complete = one.started, one.started
    return trial


def _distribution(searched: Any) -> Any:
    if isinstance(searched, list):
        return CategoricalDistribution([as_stored(value) for value in searched])
    low, high, log = searched["low"], searched["high"], searched.get("log", False)
    kind = IntDistribution if isinstance(low, int) else FloatDistribution
    return kind(low, high, log=log)

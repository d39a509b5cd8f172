"""Which searched settings matter: shares of the variation in the trials' values."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stage2_temporal.sweep_optuna import load_optuna, quiet_optuna
from stage2_temporal.sweep_report_data import evenly, near

MAX_TRIALS = 200  # in two seconds or so; the time grows with more than their square
_NUM_TREES, _SEED = 16, 0


@dataclass(frozen=True)
class Importances:
    """What explains the values.

    Attributes:
        shares: Of each setting, the largest first; they add up to 1. Empty where unknown.
        num_trials: From how many trials.
        why_missing: Why they are unknown; blank where they are known.
    """

    shares: dict[str, float]
    num_trials: int = 0
    why_missing: str = ""


def importances_of(trials: Sequence[Any]) -> Importances:
    """Compute importances by functional analysis of variance (Hutter, Hoos, Leyton-Brown 2014).

    Its random forest is fitted to the complete trials, of more than 200 to so many of them, evenly
    spaced, with a fixed seed: the same trials have the same importances. Settings that some
    complete trial lacks are left out, and values far out (a training that diverged) are drawn in to
    the others.

    Args:
        trials: `optuna.trial.FrozenTrial` objects, by number.
    """
    complete = [t for t in trials if t.state.name == "COMPLETE" and math.isfinite(t.value)]
    if len(complete) < 2:
        why = f"two complete trials are needed, and there are {len(complete)}"
        return Importances({}, why_missing=why)
    if len({trial.value for trial in complete}) == 1:
        why = f"all {len(complete)} complete trials have the same value"
        return Importances({}, why_missing=why)
    drawn = evenly(complete, MAX_TRIALS)
    names = [name for name in drawn[0].params if _varies(name, drawn)]
    if not names:
        why = "no setting that all complete trials have differs among them"
        return Importances({}, why_missing=why)
    shares = _analysed(drawn, names)
    if not sum(shares.values()) > 0:
        return Importances({}, why_missing="no setting explains any of the variation")
    return Importances(dict(sorted(shares.items(), key=lambda item: -item[1])), len(drawn))


def _varies(name: str, trials: Sequence[Any]) -> bool:
    if not all(name in trial.params for trial in trials):
        return False
    return len({repr(trial.params[name]) for trial in trials}) > 1


def _analysed(trials: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    importance = importlib.import_module("optuna.importance")
    values = np.array([trial.value for trial in trials], np.float64)
    kept = near(values)
    with quiet_optuna():
        study = load_optuna().create_study()
        for trial, value in zip(trials, values.clip(kept.min(), kept.max()), strict=True):
            study.add_trial(_linear(trial, names, float(value)))
        evaluator = importance.FanovaImportanceEvaluator(n_trees=_NUM_TREES, seed=_SEED)
        found = importance.get_param_importances(study, evaluator=evaluator, params=list(names))
    return {name: float(share) for name, share in found.items()}


def _linear(trial: Any, names: Sequence[str], value: float) -> Any:
    """Return a trial with logarithms of what was searched by them.

    Optuna's analysis weighs every part of a range alike, also where the range is logarithmic.
    """
    optuna = load_optuna()
    params = {name: trial.params[name] for name in names}
    kinds = {name: trial.distributions[name] for name in names}
    for name, kind in kinds.items():
        if getattr(kind, "log", False):
            ends = math.log(kind.low), math.log(kind.high)
            kinds[name] = optuna.distributions.FloatDistribution(*ends)
            params[name] = min(max(math.log(params[name]), ends[0]), ends[1])
    return optuna.trial.create_trial(value=value, params=params, distributions=kinds)

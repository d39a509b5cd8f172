"""What is Optuna's: storage, distributions, samplers, pruners. It is imported when work starts."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stage2_temporal.sweep_dimensions import Choices, Dimension

STUDY_NAME = "sweep"

_STARTUP_TRIALS = 5


def load_optuna() -> Any:
    """Import Optuna and return it.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ValueError(
            "a sweep needs Optuna: pip install 'embed-then-sequence[sweep]'"
        ) from error


def journal_storage(path: Path) -> Any:
    """Return the storage in a journal file, which is made if it is not there."""
    journal = importlib.import_module("optuna.storages.journal")
    return load_optuna().storages.JournalStorage(journal.JournalFileBackend(str(path)))


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from printing what the sweep tells itself."""
    logging = load_optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def suggest(trial: Any, dimension: Dimension) -> Any:
    """Return a trial's value of a searched setting, drawn now or before, as Optuna stores it."""
    name = dimension.name
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(name, [as_stored(value) for value in dimension.values])
    low, high, log = dimension.low, dimension.high, dimension.log
    if dimension.is_whole:
        return trial.suggest_int(name, low, high, log=log, step=dimension.step or 1)
    return trial.suggest_float(name, low, high, log=log, step=dimension.step)


def as_stored(value: Any) -> Any:
    """Return a value that Optuna can store: a list becomes JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def sampler_of(name: str, seed: int, number: int) -> Any:
    """Return a sampler for one trial, drawing from the seed and the trial's number alone.

    So a sweep that was stopped goes on as if it had not been. The tree-structured Parzen estimator
    (Bergstra et al. 2011) takes running trials for bad ones, so that parallel trials differ.

    Args:
        name: tpe, random or grid, whose trials are not drawn.
        seed: Of the sweep.
        number: Of the trial.
    """
    samplers = load_optuna().samplers
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "tpe":
        return samplers.TPESampler(seed=own, constant_liar=True)
    return samplers.RandomSampler(seed=own)


def pruner_of(name: str, num_steps: int, num_folds: int) -> Any:
    """Return a pruner.

    Args:
        name: none; median (the rule of Golovin et al. 2017), at the end of each fold, where all
            trials were scored on the same clips; hyperband (Li et al. 2018).
        num_steps: How often a trial reports.
        num_folds: In how many folds, with as many reports each.
    """
    pruners = load_optuna().pruners
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=num_steps)
    if name == "median":
        per_fold = num_steps // num_folds if num_folds > 1 else 1
        return _median_pruner(per_fold)
    return pruners.NopPruner()


def _median_pruner(interval: int) -> Any:
    """Return a pruner of trials that are worse than the median of the others at the same step.

    Optuna's own compares a trial's best report so far, and here the early ones are of other clips.

    Args:
        interval: It looks at every step of that number, counted from 1.
    """
    optuna = load_optuna()
    base: Any = optuna.pruners.BasePruner

    class MedianPruner(base):  # type: ignore[misc]
        def prune(self, study: Any, trial: Any) -> bool:
            step = trial.last_step
            if step is None or (step + 1) % interval:
                return False
            states = (optuna.trial.TrialState.COMPLETE,)
            others = [
                other.intermediate_values[step]
                for other in study.get_trials(deepcopy=False, states=states)
                if step in other.intermediate_values
            ]
            if len(others) < _STARTUP_TRIALS:
                return False
            middle, value = np.nanmedian(others), trial.intermediate_values[step]
            maximise = study.direction == optuna.study.StudyDirection.MAXIMIZE
            return bool(value < middle if maximise else value > middle)

    return MedianPruner()

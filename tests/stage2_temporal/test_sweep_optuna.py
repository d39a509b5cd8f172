"""The median pruner looks at the ends of folds, where all trials were scored on the same clips."""

from collections.abc import Sequence
from typing import Any

import optuna
import pytest

from stage2_temporal.sweep_optuna import pruner_of, quiet_optuna

PER_FOLD = 4


def study_of(direction: str, others: Sequence[Sequence[float]], num_folds: int = 2) -> Any:
    """A study whose complete trials reported these values, each at all steps of its fold."""
    with quiet_optuna():
        pruner = pruner_of("median", PER_FOLD * num_folds, num_folds)
        study = optuna.create_study(direction=direction, pruner=pruner)
        for values in others:
            trial = study.ask()
            for fold, value in enumerate(values):
                for step in range(PER_FOLD):
                    trial.report(value, fold * PER_FOLD + step)
            study.tell(trial, values[-1])
    return study


def pruned_at(study: Any, reports: Sequence[float]) -> list[int]:
    trial = study.ask()
    steps = []
    for step, value in enumerate(reports):
        trial.report(value, step)
        if trial.should_prune():
            steps.append(step)
    return steps


@pytest.mark.parametrize(
    ("direction", "reports", "steps"),
    [
        ("maximize", [0.85, 0.5, 0.5, 0.5], [3]),  # one lucky report early in the fold
        ("maximize", [0.1, 0.2, 0.3, 0.9], []),
        ("maximize", [0.1, 0.2, 0.3, 0.8], []),  # as good as the median
        ("maximize", [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1], [7]),
        ("minimize", [0.1, 0.1, 0.1, 0.9], [3]),
        ("minimize", [0.9, 0.9, 0.9, 0.1], []),
    ],
)
def test_worse_than_the_median_at_the_end_of_a_fold(
    direction: str, reports: list[float], steps: list[int]
) -> None:
    study = study_of(direction, [[0.8, 0.8]] * 5)
    assert pruned_at(study, reports) == steps


def test_few_trials_prune_nothing() -> None:
    assert pruned_at(study_of("maximize", [[0.8, 0.8]] * 4), [0.1] * 8) == []


def test_a_single_split_is_looked_at_at_every_report() -> None:
    assert pruned_at(study_of("maximize", [[0.8]] * 5, num_folds=1), [0.9, 0.1]) == [1]

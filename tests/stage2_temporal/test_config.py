"""Settings that contradict each other, or do nothing, are refused before any work begins."""

from typing import Any

import pytest

from stage2_temporal.augment import AugmentSettings
from stage2_temporal.config import TrainSettings

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target": ()}, "no target was given"),
    ({"target": ("a", "a")}, "names a column twice"),
    ({"task": ("binary", "binary", "auto")}, "task was given 3 times for 2 targets"),
    ({"loss_weight": (1.0,)}, "loss_weight was given 1 times for 2 targets"),
    ({"loss_weight": (1.0, 0.0)}, "expected numbers above 0"),
    ({"task": "ternary"}, "task is 'ternary'"),
    ({"head": "rnn"}, "head is 'rnn'"),
    ({"units": 0}, "units is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ({"threshold": 1.5}, "threshold is 1.5"),
    ({"folds": 1, "validation": "kfold"}, "folds is 1"),
    ({"folds": 10}, "only --validation kfold"),
    ({"folds": 7, "validation": "kfold", "fold_column": "f"}, "without a fold column"),
    ({"fold_repeats": 2}, "only --validation kfold"),
    ({"validation": "leave-one-group-out"}, "needs --group"),
    ({"split_column": "side", "validation": "kfold"}, "belongs to --validation holdout"),
    ({"fold_column": "f"}, "belongs to --validation kfold"),
    ({"feature": "age"}, "without a feature_table"),
    ({"head": "transformer", "bidirectional": True}, "reads both ways"),
    ({"devices": "0"}, "expected two GPUs or more"),
    ({"devices": "0,0"}, "expected two GPUs or more"),
    ({"devices": "0,cpu"}, "expected two GPUs or more"),
    ({"devices": "0,1,2"}, r"batch_size is 32, which 3 devices .* can: 30 or 33"),
    ({"devices": "0,1,2", "batch_size": 2}, "that they can: 3$"),
    ({"resident": True, "augmentation": AugmentSettings(noise=0.1)}, "--resident"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**{"target": ("a", "b"), **changes})


def test_one_target_may_be_a_text() -> None:
    settings = TrainSettings("a", task="binary")
    assert settings.target == ("a",)
    assert settings.task_of(0) == "binary"


def test_one_task_is_for_all_targets() -> None:
    settings = TrainSettings(("a", "b"), task=("regression",))
    assert [settings.task_of(i) for i in range(2)] == ["regression"] * 2
    assert TrainSettings(("a", "b")).task_of(1) == "auto"


def test_five_folds_unless_told_otherwise() -> None:
    assert TrainSettings("a", validation="kfold").num_folds == 5
    assert TrainSettings("a", validation="kfold", folds=3).num_folds == 3

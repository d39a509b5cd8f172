"""How much clips count once training is balanced: worked by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage2_temporal.balancing import plan_balance
from stage2_temporal.config import TrainSettings
from stage2_temporal.importance import clip_importance
from stage2_temporal.targets import Target

CLASSES = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 2])  # the last three do not train
TRAIN = np.arange(8)


def target(numbers: NDArray[Any], task: str, num_classes: int = 0, **changes: Any) -> Target:
    names = tuple(f"c{i}" for i in range(num_classes))
    return Target("y", task, names, numbers, changes.get("present", np.ones(len(numbers), bool)))


def importance(of: Target, balance: str, **settings: Any) -> dict[str, NDArray[np.float64]]:
    plan = plan_balance([of], TRAIN, TrainSettings("y", balance=balance, **settings))
    return clip_importance(plan, [of], TRAIN, seed=0)


def test_without_balancing_nothing_is_weighted() -> None:
    assert importance(target(CLASSES, "multiclass", 3), "none") == {}


def test_oversampled_clips_count_as_often_as_they_are_drawn() -> None:
    """6 and 2 training clips become 6 and 6 of 12: 1 and 3 draws, over their mean 1.5."""
    found = importance(target(CLASSES, "multiclass", 3), "oversample")["y"]
    np.testing.assert_allclose(found[CLASSES == 0], 1 / 1.5)
    np.testing.assert_allclose(found[CLASSES == 1], 3 / 1.5)
    assert found[10] == pytest.approx(1 / 1.5)  # a class that training lacks counts 1


def test_class_weights_are_those_of_the_loss() -> None:
    found = importance(target(CLASSES, "multiclass", 3), "weights")["y"]
    assert found[TRAIN].mean() == pytest.approx(1)
    assert found[6] / found[0] == pytest.approx(3)
    assert found[9] == pytest.approx(found[6])


def test_values_count_like_the_nearest_training_clip() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 10.0, 0.05, 9.0, 20.0])
    found = importance(target(values, "regression"), "uniformize", bins=2, max_repeats=4)["y"]
    rare, common = found[7], found[0]
    assert rare / common == pytest.approx(4)  # one clip of the upper bin, drawn at most 4 times
    np.testing.assert_allclose(found[[8, 9, 10]], [common, rare, rare])


def test_clips_without_the_target_count_like_an_average_draw_of_theirs() -> None:
    present = np.ones(11, bool)
    present[[0, 10]] = False
    found = importance(target(CLASSES, "multiclass", 3, present=present), "oversample")["y"]
    assert found[10] == pytest.approx(found[0])
    assert found[TRAIN].mean() == pytest.approx(1)


def test_labels_count_by_the_rarest_of_a_clip() -> None:
    labels = np.zeros((11, 2), np.int64)
    labels[:8, 0] = 1
    labels[[0, 1, 8], 1] = 1
    found = importance(target(labels, "multilabel", 2), "oversample")["y"]
    assert found[8] > found[2]
    assert found[TRAIN].mean() == pytest.approx(1)

"""Scales from training clips alone; losses against scikit-learn."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from stage2_temporal.target_scale import (
    TargetScale,
    TrainingError,
    clip_losses,
    loss_weights,
    scale_of,
    weighted_losses,
)
from stage2_temporal.targets import Target
from tests.stage2_temporal.examples import example

PLAIN = TargetScale(0.0, 1.0)


def make(task: str, numbers: Any, present: Any = None, name: str = "y") -> Target:
    values = np.asarray(numbers)
    known = np.ones(len(values), bool) if present is None else np.asarray(present, bool)
    count = {"binary": 2, "multiclass": 4, "multilabel": 4, "regression": 0}[task]
    return Target(name, task, tuple("abcd"[:count]), values, known)


def test_scale_is_that_of_training_clips_that_have_the_target() -> None:
    target = make("regression", [2.0, 4.0, 99.0, 0.0, 9.0], [1, 1, 1, 0, 1])
    scale = scale_of(target, np.array([0, 1, 3, 4]))
    assert scale.mean == 5
    assert scale.deviation == pytest.approx(np.sqrt((9 + 1 + 16) / 3))
    found = scale.standardised(np.array([5.0, 5 + scale.deviation]))
    np.testing.assert_allclose(found, [0, 1], atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_classes_have_no_scale(task: str) -> None:
    assert scale_of(make(task, example(task)[0]), np.arange(3)) == PLAIN


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1, -7.3])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_target_constant_in_training_is_refused(value: float, count: int) -> None:
    """The standard deviation of 0.1, 0.1, 0.1 is not quite 0."""
    target = make("regression", [value] * count + [value + 1])
    with pytest.raises(TrainingError, match=r"'y' is .* in every training clip"):
        scale_of(target, np.arange(count))


def test_a_target_that_no_training_clip_has_is_refused() -> None:
    with pytest.raises(TrainingError, match="'y' is blank in all"):
        scale_of(make("regression", [0.0, 0.0, 4.0], [0, 0, 1]), np.array([0, 1]))


def losses(task: str, numbers: Any, prediction: Any, present: Any = None) -> NDArray[np.float64]:
    return clip_losses([make(task, numbers, present)], [prediction], [PLAIN])[0]


@pytest.mark.parametrize("blank", [False, True])
def test_losses_equal_scikit_learns(blank: bool) -> None:
    known = np.arange(60) % 3 > 0 if blank else np.ones(60, bool)
    truth, p = example("binary")
    p = np.clip(p, 1e-7, 1 - 1e-7)
    found = losses("binary", truth, p[:, None], known)
    assert np.isnan(found).tolist() == (~known).tolist()
    assert np.nanmean(found) == pytest.approx(log_loss(truth[known], p[known]))
    truth, p = example("multiclass")
    expected = log_loss(truth[known], p[known], labels=range(4))
    assert np.nanmean(losses("multiclass", truth, p, known)) == pytest.approx(expected)
    truth, p = example("multilabel")
    p = np.clip(p, 1e-7, 1 - 1e-7)
    expected = np.mean([log_loss(t[known], q[known]) for t, q in zip(truth.T, p.T, strict=True)])
    assert np.nanmean(losses("multilabel", truth, p, known)) == pytest.approx(expected)


def test_squared_error_is_in_deviations() -> None:
    target, scale = make("regression", [10.0, 20.0, 0.0], [1, 1, 0]), TargetScale(10.0, 5.0)
    prediction = np.array([[1.0], [4.0], [77.0]])  # the truth is 0 and 2 deviations
    found = clip_losses([target], [prediction], [scale])[0]
    np.testing.assert_allclose(found, [1, 4, np.nan])


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_a_certain_error_costs_much_and_is_finite(wrong: float) -> None:
    found = losses("binary", [1 - int(wrong)], np.array([[wrong]]))
    assert found.tolist() == [pytest.approx(16.1, abs=0.1)]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_predictions_that_are_no_numbers_are_never_a_good_loss(task: str) -> None:
    """A model whose weights became NaN must not count as the best."""
    truth, p = example(task)
    p = np.array(p, np.float64).reshape(len(truth), -1)
    p[7] = np.nan
    found = losses(task, truth, p)
    assert np.isinf(found).tolist() == (np.arange(60) == 7).tolist()
    assert weighted_losses([found], ()).mean() == np.inf
    known = np.arange(60) != 7
    assert np.isnan(losses(task, truth, p, known)[7])
    assert np.isfinite(weighted_losses([losses(task, truth, p, known)], ())).all()


def test_the_mean_of_weighted_losses_is_the_weighted_sum_of_means() -> None:
    """Of four clips, the second target has two, the third none."""
    nan = np.nan
    of_targets = [
        np.array([1.0, 2.0, 3.0, 6.0]),
        np.array([nan, 8.0, 4.0, nan]),
        np.full(4, nan),
    ]
    assert weighted_losses(of_targets, (0.5, 2.0, 9.0)).tolist() == [0.5, 33, 17.5, 3]
    assert weighted_losses(of_targets, (0.5, 2.0, 9.0)).mean() == 0.5 * 3 + 2 * 6
    assert weighted_losses(of_targets, ()).mean() == 3 + 6
    with pytest.raises(ValueError, match="zip"):
        weighted_losses(of_targets, (1.0,))


def test_loss_weights_are_0_where_the_target_is_missing() -> None:
    target = make("binary", [0, 1, 0, 1], [1, 0, 1, 1])
    clips = np.array([3, 1, 0])
    assert loss_weights(target, clips, None).tolist() == [1, 0, 1]
    balance = {"y": np.array([0.5, 8.0, 1.5])}
    found = loss_weights(target, clips, balance)
    assert found.tolist() == [0.5, 0, 1.5]
    assert found.dtype == np.float32
    assert loss_weights(target, clips, {"other": np.zeros(3)}).tolist() == [1, 0, 1]

"""Scores against scikit-learn and hand-worked values; intervals against known formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from stage2_temporal.metrics import (
    PRIMARY,
    TASKS,
    bootstrap,
    higher_is_better,
    scores,
    weighted_scores,
)

NAN = float("nan")


def example(
    task: str, num_clips: int = 60, seed: int = 0, num_classes: int = 4
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a target and a prediction, with ties among the predictions."""
    rng = np.random.default_rng(seed)
    if task == "binary":
        return rng.integers(0, 2, num_clips), rng.integers(0, 11, num_clips) / 10
    if task == "multiclass":
        odds = rng.integers(1, 6, (num_clips, num_classes)).astype(float)
        return rng.integers(0, num_classes, num_clips), odds / odds.sum(axis=1, keepdims=True)
    target = rng.normal(50, 10, num_clips)
    return target, target + rng.normal(0, 5, num_clips)


def test_binary_scores_worked_by_hand() -> None:
    target = np.array([1, 1, 0, 0, 1])
    probability = np.array([0.9, 0.4, 0.6, 0.1, 0.5])  # 0.5 counts as class 1
    result = scores("binary", target, probability)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result["auroc"] == pytest.approx(4 / 6)  # of 6 pairs, 0.6 beats 0.5 and 0.4
    assert result["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)


def test_regression_scores_worked_by_hand() -> None:
    result = scores("regression", np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0]))
    assert result["mae"] == pytest.approx(1.0)
    assert result["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert result["r2"] == pytest.approx(1 - 5 / 2)
    assert result["pearson"] == pytest.approx(np.sqrt(3) / 2)


def test_multiclass_scores_equal_scikit_learn() -> None:
    target, probability = example("multiclass")
    predicted = probability.argmax(axis=1)
    result = scores("multiclass", target, probability)
    assert result == pytest.approx(
        {
            "accuracy": sk.accuracy_score(target, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(target, predicted),
            "f1_macro": sk.f1_score(target, predicted, average="macro"),
            "auroc_macro": sk.roc_auc_score(target, probability, multi_class="ovr"),
        }
    )


def test_pearson_equals_scipy() -> None:
    target, prediction = example("regression")
    expected = stats.pearsonr(target, prediction).statistic
    assert scores("regression", target, prediction)["pearson"] == pytest.approx(expected)


def test_multiclass_ignores_a_class_that_does_not_occur() -> None:
    probability = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    result = scores("multiclass", np.array([0, 1, 1]), probability)
    assert result == {
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "f1_macro": 1.0,
        "auroc_macro": 1.0,
    }


UNDEFINED = [
    ("binary", [0, 0], [0.2, 0.3], {"balanced_accuracy", "f1", "auroc", "auprc"}),
    ("binary", [0, 0], [0.2, 0.7], {"balanced_accuracy", "auroc", "auprc"}),
    ("binary", [1, 1], [0.2, 0.7], {"balanced_accuracy", "auroc", "auprc"}),
    ("multiclass", [1, 1], [[0.2, 0.8], [0.7, 0.3]], {"balanced_accuracy", "auroc_macro"}),
    ("regression", [3.0, 3.0], [1.0, 2.0], {"r2", "pearson"}),
    ("regression", [1.0, 2.0], [0.1, 0.1], {"pearson"}),
    ("regression", [1.0], [2.0], {"r2", "pearson"}),
]


@pytest.mark.parametrize(("task", "target", "prediction", "undefined"), UNDEFINED)
def test_undefined_scores_are_nan(task: Any, target: Any, prediction: Any, undefined: Any) -> None:
    target, prediction = np.array(target), np.array(prediction)
    result = scores(task, target, prediction)
    assert {name for name, value in result.items() if np.isnan(value)} == undefined
    many = weighted_scores(task, target, prediction, np.ones((2, len(target))))
    assert {name for name, values in many.items() if np.isnan(values).all()} == undefined
    intervals = bootstrap(task, target, prediction, np.arange(len(target)), seed=0)
    for name in undefined:
        assert np.isnan([intervals[name].value, intervals[name].low, intervals[name].high]).all()
        assert intervals[name].num_resamples < 500


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(1, 25), st.integers(0, 10_000))
def test_weighted_scores_equal_scikit_learn_on_repeated_rows(
    task: Any, num_clips: Any, seed: Any
) -> None:
    target, prediction = example(task, num_clips, seed)
    weights = np.random.default_rng(seed).integers(0, 4, (5, num_clips))
    weights[:, 0] += weights.sum(axis=1) == 0
    many = weighted_scores(task, target, prediction, weights)
    for row, weight in enumerate(weights):
        one = scores(task, np.repeat(target, weight), np.repeat(prediction, weight, axis=0))
        assert {name: values[row] for name, values in many.items()} == pytest.approx(
            one, nan_ok=True
        )


def test_interval_of_accuracy_equals_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 400)
    probability = np.where(rng.random(400) < 0.8, target, 1 - target).astype(float)
    score = bootstrap("binary", target, probability, np.arange(400), seed=0, num_resamples=4000)
    accuracy = score["accuracy"]
    half_width = 1.96 * np.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    assert accuracy.low == pytest.approx(accuracy.value - half_width, abs=0.005)
    assert accuracy.high == pytest.approx(accuracy.value + half_width, abs=0.005)
    assert accuracy.num_resamples == 4000


def test_interval_of_mae_agrees_with_scipy_bootstrap() -> None:
    target, prediction = example("regression", 80)
    ours = bootstrap("regression", target, prediction, np.arange(80), seed=0, num_resamples=5000)
    theirs = stats.bootstrap(
        (np.abs(target - prediction),), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    assert ours["mae"].low == pytest.approx(theirs.low, abs=0.05)
    assert ours["mae"].high == pytest.approx(theirs.high, abs=0.05)


def test_interval_widens_by_the_root_of_the_group_size_when_groups_are_alike() -> None:
    rng = np.random.default_rng(2)
    patients, clips_each = 100, 9
    target = np.repeat(rng.integers(0, 2, patients), clips_each)
    right = np.repeat(rng.random(patients) < 0.75, clips_each)
    probability = np.where(right, target, 1 - target).astype(float)
    patient = np.repeat(np.arange(patients), clips_each)
    grouped = bootstrap("binary", target, probability, patient, seed=0)["accuracy"]
    single = bootstrap("binary", target, probability, np.arange(len(target)), seed=0)["accuracy"]
    ratio = (grouped.high - grouped.low) / (single.high - single.low)
    assert ratio == pytest.approx(np.sqrt(clips_each), rel=0.15)


def test_higher_confidence_gives_a_wider_interval() -> None:
    target, probability = example("binary")
    wide, narrow = (
        bootstrap("binary", target, probability, np.arange(60), seed=0, confidence=c)["auroc"]
        for c in (0.99, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_intervals(task: Any) -> None:
    target, prediction = example(task)
    groups = np.arange(60) // 3
    first, second = (bootstrap(task, target, prediction, groups, seed=[3, 1]) for _ in range(2))
    assert first == second
    assert first != bootstrap(task, target, prediction, groups, seed=[3, 2])


def test_memory_chunks_do_not_change_the_intervals(monkeypatch: Any) -> None:
    target, probability = example("binary")
    whole = bootstrap("binary", target, probability, np.arange(60), seed=0)
    monkeypatch.setattr("stage2_temporal.metrics._CELLS_AT_ONCE", 60 * 7)
    assert bootstrap("binary", target, probability, np.arange(60), seed=0) == whole


def test_resamples_without_a_class_are_left_out() -> None:
    target = np.array([1, 0, 0, 0, 0, 0])
    probability = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.95])
    score = bootstrap("binary", target, probability, np.arange(6), seed=0, num_resamples=5000)
    defined = score["auroc"].num_resamples / 5000
    assert defined == pytest.approx(1 - (5 / 6) ** 6 - (1 / 6) ** 6, abs=0.03)
    assert score["accuracy"].num_resamples == 5000
    assert score["auroc"].low <= score["auroc"].value <= score["auroc"].high


def test_one_group_has_scores_but_no_interval() -> None:
    target, probability = example("binary")
    auroc = bootstrap("binary", target, probability, np.zeros(60, int), seed=0)["auroc"]
    assert auroc.value == pytest.approx(sk.roc_auc_score(target, probability))
    assert np.isnan([auroc.low, auroc.high]).all()


@pytest.mark.parametrize("task", TASKS)
def test_primary_score_exists_and_has_a_direction(task: Any) -> None:
    result = scores(task, *example(task))
    assert PRIMARY[task] in result
    perfect = {"binary": "auroc", "multiclass": "f1_macro", "regression": "r2"}[task]
    assert higher_is_better(perfect)
    assert {name for name in result if not higher_is_better(name)} <= {"mae", "rmse"}


@pytest.mark.parametrize(
    ("task", "target", "prediction", "message"),
    [
        ("ranking", [0, 1], [0.1, 0.2], "unknown task 'ranking'.*binary"),
        ("binary", [0, 1], [0.1, NAN], r"prediction\[1\] = nan"),
        ("regression", [0.0, np.inf], [0.1, 0.2], r"target\[1\] = inf"),
        ("binary", [0, 1], [[0.1], [0.2]], r"prediction \(2, 1\): binary needs"),
        ("binary", [0, 1, 1], [0.1, 0.2], r"target has shape \(3,\)"),
        ("binary", [], [], "1 or more"),
        ("multiclass", [0, 1], [0.1, 0.2], r"\(N, C\) with two classes"),
        ("multiclass", [0, 0], [[1.0], [1.0]], r"\(N, C\) with two classes"),
        ("multiclass", [0, 2], [[0.1, 0.9], [0.2, 0.8]], r"contains \[2\].*0 to 1"),
        ("multiclass", [0, 1], [[0.1, 0.9], [0.2, 0.2]], r"prediction\[1\] sums to 0.4"),
        ("binary", [0, 1], [-3.0, 4.0], "from -3 to 4.*sigmoid"),
        ("binary", [0, 0.5], [0.1, 0.2], r"contains \[0.5\]"),
        ("binary", ["no", "yes"], [0.1, 0.2], "class names into"),
    ],
)
def test_impossible_input_is_an_error(
    task: Any, target: Any, prediction: Any, message: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        scores(task, np.array(target), np.array(prediction))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": np.arange(3)}, r"groups has shape \(3,\)"),
        ({"num_resamples": 0}, "num_resamples is 0"),
        ({"confidence": 95}, "confidence is 95"),
    ],
)
def test_impossible_bootstrap_settings_are_errors(changes: Any, message: Any) -> None:
    target, probability = example("binary")
    settings = {"groups": np.arange(60), "seed": 0, **changes}
    with pytest.raises(ValueError, match=message):
        bootstrap("binary", target, probability, **settings)


def test_weights_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape \(60,\): expected \(R, 60\)"):
        weighted_scores("binary", *example("binary"), np.ones(60))


def test_direction_of_an_unknown_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown score 'loss'"):
        higher_is_better("loss")

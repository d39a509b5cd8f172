"""Scores against scikit-learn and hand-worked values; intervals against known formulas."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from stage2_temporal.bootstrap import bootstrap, weighted_scores
from stage2_temporal.metrics import (
    PRIMARY,
    TASKS,
    higher_is_better,
    scores,
)
from tests.stage2_temporal.examples import example

NAN = float("nan")


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


def test_direction_of_an_unknown_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown score 'loss'"):
        higher_is_better("loss")

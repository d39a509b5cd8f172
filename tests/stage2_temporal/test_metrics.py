"""Scores against scikit-learn and hand-worked values; intervals against known formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from stage2_temporal.bootstrap import bootstrap
from stage2_temporal.metrics import PRIMARY, TASKS, choose_threshold, higher_is_better, scores
from stage2_temporal.weighted import weighted_scores
from tests.stage2_temporal.examples import example

NAN = float("nan")


def labels(num_clips: int = 60, num_labels: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Return a multilabel target and its prediction, with ties among the predictions."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, (num_clips, num_labels))
    return target, rng.integers(0, 11, target.shape) / 10


def example_of(task: str) -> tuple[Any, Any]:
    return labels() if task == "multilabel" else example(task)


def test_binary_scores_worked_by_hand() -> None:
    target = np.array([1, 1, 0, 0, 1])
    probability = np.array([0.9, 0.4, 0.6, 0.1, 0.5])  # 0.5 counts as class 1
    result = scores("binary", target, probability)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result["auroc"] == pytest.approx(4 / 6)  # of 6 pairs, 0.6 beats 0.5 and 0.4
    assert result["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert result["sensitivity"] == pytest.approx(2 / 3)
    assert result["specificity"] == pytest.approx(1 / 2)
    assert result["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01 + 0.25) / 5)
    # Each probability has a bin of its own, so that each is compared with one outcome.
    assert result["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.1 + 0.5) / 5)


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
    one_hot = np.eye(4)[target]
    expected = {
        "accuracy": sk.accuracy_score(target, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(target, predicted),
        "f1_macro": sk.f1_score(target, predicted, average="macro"),
        "auroc_macro": sk.roc_auc_score(target, probability, multi_class="ovr"),
        "auprc_macro": sk.average_precision_score(one_hot, probability),
        "brier": ((probability - one_hot) ** 2).sum() / len(target),
    }
    assert result == pytest.approx({**expected, "ece": result["ece"]})


def test_multilabel_scores_equal_scikit_learn() -> None:
    target, probability = labels()
    predicted = probability >= 0.5
    result = scores("multilabel", target, probability)
    assert result == pytest.approx(
        {
            "f1_macro": sk.f1_score(target, predicted, average="macro"),
            "auroc_macro": sk.roc_auc_score(target, probability),
            "auprc_macro": sk.average_precision_score(target, probability),
            "exact_match": sk.accuracy_score(target, predicted),
            "hamming_loss": sk.hamming_loss(target, predicted),
            "brier": sk.mean_squared_error(target, probability),
        }
    )


def test_multilabel_scores_worked_by_hand() -> None:
    target = np.array([[1, 0], [0, 0], [1, 0]])  # no clip has the second label
    result = scores("multilabel", target, np.array([[0.9, 0.2], [0.6, 0.7], [0.3, 0.1]]))
    assert result["f1_macro"] == pytest.approx(2 * 1 / (2 + 2))  # of the first label alone
    assert result["auroc_macro"] == pytest.approx(1 / 2)
    assert result["auprc_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["exact_match"] == pytest.approx(1 / 3)
    assert result["hamming_loss"] == pytest.approx(3 / 6)
    assert result["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.49 + 0.49 + 0.01) / 6)


# calibration


def test_binary_calibration_worked_by_hand() -> None:
    """Bin edges are multiples of 1/15; an edge belongs to the bin below it."""
    probability = np.array([0.0, 1 / 15, 0.05, 0.61, 0.65, 0.66, 1.0])
    target = np.array([0, 0, 1, 1, 0, 1, 1])
    first, tenth, last = 1 - (1 / 15 + 0.05), 2 - (0.61 + 0.65 + 0.66), 0.0
    assert scores("binary", target, probability)["ece"] == pytest.approx(
        (first + tenth + last) / len(target)
    )


def test_multiclass_calibration_worked_by_hand() -> None:
    """What counts is the highest probability, and whether that class is right."""
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.52, 0.38], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]])
    target = np.array([0, 2, 2, 0])  # right, wrong, right, right
    together, eighty, ninety = abs(1 - (0.5 + 0.52)), 0.2, 0.1
    assert scores("multiclass", target, probability)["ece"] == pytest.approx(
        (together + eighty + ninety) / 4
    )


def test_binary_calibration_agrees_with_the_reliability_curve() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(3000)
    target = (rng.random(3000) < probability**2).astype(int)  # overconfident
    frequency, confidence = calibration_curve(target, probability, n_bins=15)
    counts = np.histogram(probability, np.linspace(0, 1, 16))[0]
    expected = np.average(np.abs(frequency - confidence), weights=counts)
    assert scores("binary", target, probability)["ece"] == pytest.approx(expected)


def test_multiclass_brier_is_twice_the_binary_one() -> None:
    """Brier (1950) sums over classes, of which the two of a binary task are alike."""
    target, probability = example("binary")
    both = np.stack([1 - probability, probability], axis=1)
    assert scores("multiclass", target, both)["brier"] == pytest.approx(
        2 * sk.brier_score_loss(target, probability)
    )


# thresholds


@pytest.mark.parametrize("threshold", [0.2, 0.7])
def test_threshold_decides_who_is_positive(threshold: float) -> None:
    target, probability = example("binary")
    predicted = probability >= threshold
    result = scores("binary", target, probability, threshold=threshold)
    assert result["f1"] == pytest.approx(sk.f1_score(target, predicted))
    assert result["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(target, predicted)
    )
    assert result["sensitivity"] == pytest.approx(sk.recall_score(target, predicted))
    assert result["auroc"] == scores("binary", target, probability)["auroc"]


def test_each_clip_and_each_label_may_have_its_threshold() -> None:
    target, probability = labels()
    threshold = np.array([0.2, 0.5, 0.9])
    expected = sk.accuracy_score(target, probability >= threshold)
    for limit in (threshold, np.tile(threshold, (60, 1))):
        result = scores("multilabel", target, probability, threshold=limit)
        assert result["exact_match"] == pytest.approx(expected)
        many = weighted_scores("multilabel", target, probability, np.ones((1, 60)), threshold=limit)
        assert many["exact_match"] == pytest.approx([expected])


@pytest.mark.parametrize(
    ("threshold", "message"),
    [(1.5, "threshold is 1.5"), (NAN, "is nan"), (np.full(3, 0.5), r"has shape \(3,\)")],
)
def test_impossible_thresholds_are_errors(threshold: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores("binary", *example("binary"), threshold=threshold)


@pytest.mark.parametrize(
    ("target", "probability", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 0.25),  # the middle of the gap
        ([0, 0, 1, 1], [0.6, 0.7, 0.8, 0.9], 0.75),
        ([0, 0, 1, 1], [0.1, 0.4, 0.9, 0.8], 0.5),  # 0.5 is in the gap
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.35),  # 0.15 is as good, but farther from 0.5
        ([0, 1, 0, 1], [0.6, 0.7, 0.8, 0.9], 0.65),
        ([0, 1], [0.5, 0.5], 0.5),
        ([1, 1], [0.1, 0.2], 0.5),
        ([0, 1], [0.0, 1.0], 0.5),
    ],
)
def test_threshold_worked_by_hand(target: Any, probability: Any, threshold: float) -> None:
    found = choose_threshold(np.array(target), np.array(probability))
    assert found == pytest.approx(threshold)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=20))
def test_no_threshold_is_better_than_the_chosen(clips: list[tuple[int, int]]) -> None:
    target, probability = (np.array(values) for values in zip(*clips, strict=True))
    if len(set(target.tolist())) < 2:
        return
    probability = probability / 20
    chosen = choose_threshold(target, probability)
    limits = np.append(np.linspace(0.0125, 0.9875, 40), chosen)
    positive = probability >= limits[:, None]
    balanced = (positive[:, target == 1].mean(axis=1) - positive[:, target == 0].mean(axis=1)) / 2
    assert balanced[-1] >= balanced.max() - 1e-9


# ranking many classes


def test_many_classes_are_ranked_as_scikit_learn_ranks_them() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 150, 600)
    odds = rng.integers(1, 9, (600, 160)).astype(np.float32)  # with ties; 10 classes never occur
    odds[np.arange(600), target] += rng.integers(0, 9, 600)
    probability = odds / odds.sum(axis=1, keepdims=True)
    present = np.unique(target)
    result = scores("multiclass", target, probability)
    assert result["auroc_macro"] == pytest.approx(
        np.mean([sk.roc_auc_score(target == c, probability[:, c]) for c in present])
    )
    assert result["auprc_macro"] == pytest.approx(
        np.mean([sk.average_precision_score(target == c, probability[:, c]) for c in present])
    )


def test_pearson_equals_scipy() -> None:
    target, prediction = example("regression")
    expected = stats.pearsonr(target, prediction).statistic
    assert scores("regression", target, prediction)["pearson"] == pytest.approx(expected)


def test_multiclass_ignores_a_class_that_does_not_occur() -> None:
    probability = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    result = scores("multiclass", np.array([0, 1, 1]), probability)
    perfect = ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "auprc_macro")
    assert {name: result[name] for name in perfect} == dict.fromkeys(perfect, 1.0)


RANKED = {"balanced_accuracy", "auroc", "auprc"}
MACRO = {"auroc_macro", "auprc_macro"}
UNDEFINED = [
    ("binary", [0, 0], [0.2, 0.3], {*RANKED, "f1", "sensitivity"}),
    ("binary", [0, 0], [0.2, 0.7], {*RANKED, "sensitivity"}),
    ("binary", [1, 1], [0.2, 0.7], {*RANKED, "specificity"}),
    ("multiclass", [1, 1], [[0.2, 0.8], [0.7, 0.3]], {"balanced_accuracy", *MACRO}),
    ("multilabel", [[1, 0], [1, 0]], [[0.2, 0.8], [0.7, 0.3]], {"f1_macro", *MACRO}),
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
    result = scores(task, *example_of(task))
    assert PRIMARY[task] in result
    lower = {name for name in result if not higher_is_better(name)}
    assert lower <= {"mae", "rmse", "ece", "brier", "hamming_loss"}


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
        ("multilabel", [0, 1], [0.1, 0.2], r"multilabel needs target \(N, L\)"),
        ("multilabel", [[0, 1]], [[0.1, 0.2, 0.3]], r"target has shape \(1, 2\)"),
        ("multilabel", [[0, 2]], [[0.1, 0.2]], r"contains \[2\].*0 to 1"),
        ("multilabel", [[0, 1]], [[0.1, NAN]], r"prediction\[0\] = \[0.1 nan\]"),
        ("multiclass", [0, 1], [[0.1, 0.9], [NAN, 0.2]], r"prediction is not finite for 1 of 2"),
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

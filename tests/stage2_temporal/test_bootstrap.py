"""Intervals against known formulas, and resampled scores against scikit-learn."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from stage2_temporal.bootstrap import bootstrap, bootstrap_difference
from stage2_temporal.metrics import TASKS, scores
from stage2_temporal.weighted import weighted_scores
from tests.stage2_temporal.examples import example


def example_of(task: str, num_clips: int = 60, seed: int = 0) -> tuple[Any, Any]:
    if task != "multilabel":
        return example(task, num_clips, seed)
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (num_clips, 3)), rng.integers(0, 11, (num_clips, 3)) / 10


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(1, 25), st.integers(0, 10_000))
def test_weighted_scores_equal_scikit_learn_on_repeated_rows(
    task: Any, num_clips: Any, seed: Any
) -> None:
    target, prediction = example_of(task, num_clips, seed)
    weights = np.random.default_rng(seed).integers(0, 4, (5, num_clips))
    weights[:, 0] += weights.sum(axis=1) == 0
    many = weighted_scores(task, target, prediction, weights, threshold=0.3)
    for row, weight in enumerate(weights):
        repeated = (np.repeat(values, weight, axis=0) for values in (target, prediction))
        one = scores(task, *repeated, threshold=0.3)
        assert {name: values[row] for name, values in many.items()} == pytest.approx(
            one, nan_ok=True
        )


@pytest.mark.parametrize("few_positives", [1, 3, 1000])
@pytest.mark.parametrize("cells_at_once", [70, 4_000_000])
@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_rare_and_frequent_classes_are_ranked_alike(
    monkeypatch: Any, few_positives: int, cells_at_once: int, sparse: float
) -> None:
    """Classes are ranked by sorting, or by comparing their clips with all, in blocks."""
    target, prediction = example("multiclass", 30, num_classes=12)
    weights = np.random.default_rng(1).integers(0, 4, (4, 30))
    monkeypatch.setattr("stage2_temporal.ranking._FEW_POSITIVES", few_positives)
    monkeypatch.setattr("stage2_temporal.ranking._CELLS_AT_ONCE", cells_at_once)
    monkeypatch.setattr("stage2_temporal.ranking._SPARSE", sparse)
    many = weighted_scores("multiclass", target, prediction, weights)
    for row, weight in enumerate(weights):
        repeated = np.repeat(target, weight), np.repeat(prediction, weight, axis=0)
        one = scores("multiclass", *repeated)
        for name in ("auroc_macro", "auprc_macro"):
            assert many[name][row] == pytest.approx(one[name])


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


def test_paired_difference_of_accuracy_equals_normal_approximation() -> None:
    # McNemar's table: of 500 clips 60 are right by the model alone, 30 by the baseline alone.
    target = np.ones(500, int)
    model, baseline = np.full(500, 0.9), np.full(500, 0.9)
    baseline[:60] = 0.1
    model[60:90] = 0.1
    found = bootstrap_difference(
        "binary", target, model, baseline, np.arange(500), seed=0, num_resamples=4000
    )["accuracy"]
    deviation = np.sqrt((60 + 30) / 500 - (30 / 500) ** 2) / np.sqrt(500)
    assert found.value == pytest.approx(30 / 500)
    assert found.low == pytest.approx(30 / 500 - 1.96 * deviation, abs=0.004)
    assert found.high == pytest.approx(30 / 500 + 1.96 * deviation, abs=0.004)


def test_difference_to_itself_is_zero_in_every_resample() -> None:
    target, prediction = example("regression")
    found = bootstrap_difference(
        "regression", target, prediction, prediction, np.arange(60) // 2, seed=0
    )
    assert {(s.value, s.low, s.high) for s in found.values()} == {(0.0, 0.0, 0.0)}


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
    target, prediction = example_of(task)
    groups = np.arange(60) // 3
    first, second = (bootstrap(task, target, prediction, groups, seed=[3, 1]) for _ in range(2))
    assert first == second
    assert first != bootstrap(task, target, prediction, groups, seed=[3, 2])


# repetitions


def repetitions(task: str, count: int = 3) -> tuple[Any, list[Any]]:
    target = example_of(task)[0]
    return target, [example_of(task, seed=seed)[1] for seed in range(1, count + 1)]


@pytest.mark.parametrize("task", TASKS)
def test_value_and_spread_are_of_the_repetitions(task: Any) -> None:
    target, predictions = repetitions(task)
    found = bootstrap(task, target, predictions, np.arange(60), seed=0, num_resamples=20)
    alone = [scores(task, target, prediction) for prediction in predictions]
    for name, score in found.items():
        values = [one[name] for one in alone]
        assert score.value == pytest.approx(np.mean(values))
        assert score.spread == pytest.approx(np.std(values, ddof=1))


def test_equal_repetitions_are_like_one() -> None:
    target, probability = example("binary")
    one = bootstrap("binary", target, probability, np.arange(60), seed=0)
    three = bootstrap("binary", target, [probability] * 3, np.arange(60), seed=0)
    for name, score in three.items():
        assert (score.low, score.high) == pytest.approx((one[name].low, one[name].high))
        assert score.spread == pytest.approx(0, abs=1e-12)
        assert np.isnan(one[name].spread)


def test_repetitions_share_their_resamples() -> None:
    """Of two predictions whose errors cancel the mean error is constant, in every resample."""
    target = np.zeros(40)
    error = np.random.default_rng(0).random(40)
    found = bootstrap("regression", target, [error, 1 - error], np.arange(40), seed=0)["mae"]
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_each_repetition_may_have_its_threshold() -> None:
    target, probability = example("binary")
    found = bootstrap(
        "binary", target, [probability] * 2, np.arange(60), seed=0, threshold=[0.2, 0.7]
    )["f1"]
    alone = [sk.f1_score(target, probability >= limit) for limit in (0.2, 0.7)]
    assert found.value == pytest.approx(np.mean(alone))
    assert found.low < found.value < found.high


def test_difference_pairs_the_repetitions() -> None:
    target, predictions = repetitions("regression")
    shifted = [prediction + 1000 for prediction in predictions]
    found = bootstrap_difference("regression", target, shifted, predictions, np.arange(60), seed=0)
    alone = [
        scores("regression", target, ours)["mae"] - scores("regression", target, theirs)["mae"]
        for ours, theirs in zip(shifted, predictions, strict=True)
    ]
    assert found["mae"].value == pytest.approx(np.mean(alone))
    assert found["mae"].spread == pytest.approx(np.std(alone, ddof=1))


def test_one_baseline_serves_all_repetitions() -> None:
    target, predictions = repetitions("binary")
    baseline = example("binary", seed=9)[1]
    options: dict[str, Any] = {"seed": 0, "threshold": 0.4, "baseline_threshold": 0.6}
    groups = np.arange(60)
    one = bootstrap_difference("binary", target, predictions, baseline, groups, **options)
    three = bootstrap_difference("binary", target, predictions, [baseline] * 3, groups, **options)
    assert one == three
    expected = np.mean([sk.f1_score(target, p >= 0.4) for p in predictions])
    assert one["f1"].value == pytest.approx(expected - sk.f1_score(target, baseline >= 0.6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, p, g: bootstrap("binary", t, [], g, seed=0), "predictions is empty"),
        (
            lambda t, p, g: bootstrap("binary", t, [p, p], g, seed=0, threshold=[0.5]),
            "1 thresholds for 2 predictions",
        ),
        (
            lambda t, p, g: bootstrap_difference("binary", t, [p] * 3, [p] * 2, g, seed=0),
            "3 predictions and 2 baselines",
        ),
    ],
)
def test_repetitions_that_do_not_fit_are_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*example("binary"), np.arange(60))


def test_ranking_that_would_take_too_long_has_no_interval(monkeypatch: Any) -> None:
    target, prediction = example("multiclass")
    monkeypatch.setattr("stage2_temporal.bootstrap.MAX_COMPARISONS", 60 * 60 * 1000 - 1)
    found = bootstrap("multiclass", target, prediction, np.arange(60), seed=0, num_resamples=1000)
    for name in ("auroc_macro", "auprc_macro"):
        assert found[name].value == pytest.approx(scores("multiclass", target, prediction)[name])
        assert np.isnan([found[name].low, found[name].high]).all()
        assert found[name].num_resamples == 0
    assert found["accuracy"].low < found["accuracy"].high


@pytest.mark.slow
def test_memory_of_many_classes_is_bounded() -> None:
    """An array of resamples x clips x classes would take 16 GB here."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2000, 5000)
    prediction = np.full((5000, 2000), 1 / 2000, np.float32)
    tracemalloc.start()
    bootstrap("multiclass", target, prediction, np.arange(5000), seed=0, num_resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6


def test_memory_chunks_do_not_change_the_intervals(monkeypatch: Any) -> None:
    target, probability = example("binary")
    whole = bootstrap("binary", target, probability, np.arange(60), seed=0)
    monkeypatch.setattr("stage2_temporal.bootstrap._CELLS_AT_ONCE", 60 * 7)
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

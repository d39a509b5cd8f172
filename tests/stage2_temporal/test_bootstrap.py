"""Intervals against known formulas, and resampled scores against scikit-learn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from stage2_temporal.bootstrap import bootstrap, bootstrap_difference, weighted_scores
from stage2_temporal.metrics import (
    TASKS,
    scores,
)
from tests.stage2_temporal.examples import example


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
    target, prediction = example(task)
    groups = np.arange(60) // 3
    first, second = (bootstrap(task, target, prediction, groups, seed=[3, 1]) for _ in range(2))
    assert first == second
    assert first != bootstrap(task, target, prediction, groups, seed=[3, 2])


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

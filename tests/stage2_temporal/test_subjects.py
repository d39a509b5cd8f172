"""Scores by subject: predictions worked by hand, and who is left out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_temporal.metrics import scores
from stage2_temporal.subjects import per_subject


def test_binary_subjects_worked_by_hand() -> None:
    groups = np.array([7, 3, 7, 5, 3, 7])
    target = np.array([1, 0, 1, 1, 0, 1])
    found = per_subject("binary", groups, target, np.array([0.9, 0.2, 0.6, 0.4, 0.4, 0.3]))
    assert found.groups.tolist() == [3, 5, 7]
    assert found.target.tolist() == [0, 1, 1]
    assert found.prediction == pytest.approx([0.3, 0.4, 0.6])
    assert found.num_mixed == 0


def test_subjects_of_two_labels_are_left_out_and_counted() -> None:
    groups, target = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 2, 2, 1])
    prediction = np.array([[1.0, 0, 0], [1, 0, 0], [0.2, 0.2, 0.6], [0, 0, 1], [0.5, 0.5, 0]])
    found = per_subject("multiclass", groups, target, prediction)
    assert (found.groups.tolist(), found.target.tolist()) == ([1, 2], [2, 1])
    assert found.prediction == pytest.approx(np.array([[0.1, 0.1, 0.8], [0.5, 0.5, 0]]))
    assert found.num_mixed == 1


def test_one_label_that_differs_leaves_a_subject_out() -> None:
    target = np.array([[1, 0], [1, 1], [0, 1], [0, 1]])
    prediction = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.4], [0.4, 0.8]])
    found = per_subject("multilabel", np.array([4, 4, 9, 9]), target, prediction)
    assert (found.groups.tolist(), found.target.tolist(), found.num_mixed) == ([9], [[0, 1]], 1)
    assert found.prediction == pytest.approx(np.array([[0.3, 0.6]]))


def test_values_of_a_regression_are_averaged() -> None:
    found = per_subject(
        "regression", np.array([1, 0, 1]), np.array([10.0, 5, 20]), np.array([1.0, 2, 4])
    )
    assert (found.target.tolist(), found.prediction.tolist()) == ([5, 15], [2, 2.5])
    assert found.num_mixed == 0


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)))
def test_subjects_of_one_clip_are_scored_as_clips(order: list[int]) -> None:
    target = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    probability = np.array([0.1, 0.4, 0.35, 0.8, 0.7, 0.6, 0.2, 0.9])
    found = per_subject("binary", np.array(order), target, probability)
    assert found.groups.tolist() == list(range(8))
    assert scores("binary", found.target, found.prediction) == pytest.approx(
        scores("binary", target, probability)
    )


def test_predictions_keep_their_precision() -> None:
    probability = np.full((4, 2), 0.5, np.float32)
    found = per_subject("multiclass", np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), probability)
    assert found.prediction.dtype == np.float32


@pytest.mark.parametrize(
    ("task", "groups", "message"),
    [
        ("ranking", [0, 1], "unknown task"),
        ("binary", [0, 1, 2], r"shapes \(3,\), \(2,\) and \(2,\)"),
    ],
)
def test_impossible_input_is_an_error(task: str, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_subject(task, np.array(groups), np.array([0, 1]), np.array([0.1, 0.9]))

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from stage2_temporal.ranking_curves import rank, thinned


def test_a_known_ranking_by_hand() -> None:
    # Three of the four (positive, negative) pairs are ranked correctly. Down the ranks + - + -:
    # recall 1/2 at precision 1, then 1 at 2/3.
    found = rank(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]))
    assert found is not None
    assert found.roc.area == pytest.approx(0.75)
    assert found.precision_recall.area == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found.share == 0.5
    assert (found.precision_recall.x[0], found.precision_recall.y[0]) == (0, 1)


@pytest.mark.parametrize("digits", [1, 8])  # many ties, hardly any
def test_curves_are_those_of_scikit_learn(digits: int) -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.3
    values = np.asarray(np.round(0.3 * positive + 0.6 * rng.random(60), digits), np.float64)
    found = rank(positive, values)
    assert found is not None
    alarms, hits, _ = roc_curve(positive, values)
    np.testing.assert_allclose([found.roc.x, found.roc.y], [alarms, hits])
    precision, recall, _ = precision_recall_curve(positive, values)
    np.testing.assert_allclose(found.precision_recall.x, recall[::-1])
    np.testing.assert_allclose(found.precision_recall.y[1:], precision[::-1][1:])
    curve = found.precision_recall  # each precision holds back to the recall before
    assert curve.area == pytest.approx(average_precision_score(positive, values))
    assert curve.area == pytest.approx((np.diff(curve.x) * curve.y[1:]).sum())
    assert found.roc.area == pytest.approx(auc(alarms, hits))


@pytest.mark.parametrize("truth", [True, False])
def test_curves_of_a_single_class_are_undefined(truth: bool) -> None:
    assert rank(np.array([truth] * 3), np.array([0.1, 0.2, 0.3])) is None


def test_a_constant_prediction_ranks_by_chance() -> None:
    found = rank(np.array([True, False, False, False]), np.full(4, 0.5))
    assert found is not None
    assert found.roc.area == 0.5
    assert found.precision_recall.y.tolist() == [0.25, 0.25]


def test_thinning_a_long_curve_moves_it_less_than_can_be_seen() -> None:
    x = np.sort(np.random.default_rng(0).random(50_000))
    y = np.sqrt(x)
    few_x, few_y = thinned(x, y)
    assert len(few_x) < 2000
    assert few_x[[0, -1]].tolist() == x[[0, -1]].tolist()
    assert np.abs(np.interp(x, few_x, few_y) - y).max() < 0.01

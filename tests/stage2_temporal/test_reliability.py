import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from stage2_temporal.calibration import NUM_BINS
from stage2_temporal.metrics import scores
from stage2_temporal.reliability import reliability, wilson


def test_bins_are_those_of_scikit_learn_and_of_the_score() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(300) ** 2
    true = rng.random(300) < values
    found = reliability(true, values, np.arange(300))
    observed, predicted = calibration_curve(true, values, n_bins=NUM_BINS)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted)
    assert found.counts.sum() == 300
    assert found.ece == pytest.approx(scores("binary", true.astype(int), values)["ece"])


@pytest.mark.parametrize(("hits", "num"), [(0, 1), (3, 10), (200, 200)])
def test_intervals_of_independent_clips_are_wilsons(hits: int, num: int) -> None:
    interval = binomtest(hits, num).proportion_ci(method="wilson")
    found = wilson(np.array([hits / num]), np.array([float(num)]))
    assert np.concatenate(found).tolist() == pytest.approx([interval.low, interval.high])


def test_clips_of_one_group_count_as_one() -> None:
    # 30 clips of 10 patients: the interval is that of 10 clips of the same share.
    true, values = np.repeat([True, False], 15), np.full(30, 0.5)
    found = reliability(true, values, np.arange(30) // 3)
    low, high = wilson(np.array([0.5]), np.array([10.0]))
    assert (found.low.tolist(), found.high.tolist()) == (low.tolist(), high.tolist())


def test_intervals_hold_the_truth_where_groups_are_alike() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), rng.integers(1, 8, 20))
    held = 0
    for _ in range(400):
        true = (rng.random(20) < 0.6)[groups]
        found = reliability(true, np.full(len(groups), 0.6), groups)
        held += bool(found.low[0] <= 0.6 <= found.high[0])
    assert held / 400 > 0.9

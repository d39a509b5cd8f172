import numpy as np
import pytest

from stage2_temporal.curve_bands import resampled
from stage2_temporal.residuals import agreement, bin_errors, running


def test_limits_of_agreement_by_hand() -> None:
    # Mean 1, standard deviation (n - 1) 2; 3.92 below and above.
    found = agreement(np.array([-1.0, 1.0, 3.0]), np.arange(3), seed=0)
    assert found is not None
    assert (found.low, found.bias, found.high) == pytest.approx((-2.92, 1, 4.92))
    assert found.share == 1


def test_intervals_of_limits_are_those_of_a_slow_bootstrap() -> None:
    errors, groups = np.random.default_rng(0).normal(1000, 2, 40), np.arange(40) // 4
    found = agreement(errors, groups, seed=5)
    assert found is not None
    [counts] = resampled(groups, seed=5)
    drawn = [np.repeat(errors, row.astype(int)) for row in counts]
    means = np.array([values.mean() for values in drawn])
    half = 1.96 * np.array([values.std(ddof=1) for values in drawn])
    for bounds, values in zip(found.intervals, (means - half, means, means + half), strict=True):
        assert bounds.tolist() == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())


def test_too_few_clips_or_groups_leave_out_what_is_undefined() -> None:
    assert agreement(np.array([1.0]), np.array([0]), seed=0) is None
    found = agreement(np.array([1.0, 2.0]), np.array([0, 0]), seed=0)
    assert found is not None
    assert np.isnan(found.intervals).all()


def test_running_median_follows_the_errors_and_not_their_order() -> None:
    true = np.linspace(0, 1, 400)
    errors = 2 * true + 0.01 * np.where(np.arange(400) % 2, 1.0, -1.0)
    found = running(true, errors)
    assert found is not None
    np.testing.assert_allclose(found.median, 2 * found.x, atol=0.02)
    assert (found.low <= found.median).all()
    assert (found.median <= found.high).all()
    mixed = np.random.default_rng(0).permutation(400)
    other = running(true[mixed], errors[mixed])
    assert other is not None
    np.testing.assert_array_equal(found.median, other.median)


def test_running_median_of_whole_numbers_takes_all_clips_of_a_value() -> None:
    true = np.repeat([1.0, 2.0, 3.0], 100)
    found = running(true, true * 10)
    assert found is not None
    assert found.x.tolist() == [1, 1.5, 2, 2.5, 3]  # a window across two values holds all of both
    assert found.median.tolist() == [10, 15, 20, 25, 30]


@pytest.mark.parametrize("true", [np.arange(29.0), np.ones(100)])
def test_no_running_median_of_few_or_equal_clips(true: np.ndarray) -> None:
    assert running(true, true) is None


def test_errors_of_bins_by_hand() -> None:
    bins, errors = np.array([0, 0, 2, 2]), np.array([1.0, -3.0, 5.0, 5.0])
    found = bin_errors(bins, 3, errors, np.array([0, 1, 2, 2]), seed=0)
    np.testing.assert_array_equal(found.mae, [2, np.nan, 5])
    assert found.counts.tolist() == [2, 0, 2]
    assert (found.low[0], found.high[0]) == (1, 3)  # either clip alone
    assert np.isnan(found.low[1:]).all()  # no clip, and one group

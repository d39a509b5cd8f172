"""Whether training gained anything: a t-test over groups, as SciPy computes it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from stage2_temporal.gain import gain_confidence


def group_means(values: NDArray[np.float64], groups: NDArray[np.intp]) -> list[float]:
    return [float(values[groups == group].mean()) for group in np.unique(groups)]


@pytest.mark.parametrize("gain", [-0.3, 0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_scipys_paired_t_test_of_group_means(gain: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat([40, 7, 3, 90, 8], [1, 2, 3, 10, 20]))
    before = rng.normal(1, 0.5, len(groups))
    after = before - rng.normal(gain, 0.4, len(groups))
    test = ttest_rel(group_means(after, groups), group_means(before, groups), alternative="less")
    found = gain_confidence(before, after, groups)
    assert found == pytest.approx(1 - test.pvalue, abs=1e-12)


def test_clips_of_a_group_count_once() -> None:
    """A hundred clips of one patient say no more than one."""
    once, often = np.arange(4), np.repeat(np.arange(4), [1, 1, 1, 100])
    before, after = np.ones(4), np.array([0.9, 0.7, 1.2, 0.4])
    expected = gain_confidence(before, after, once)
    assert gain_confidence(before[often], after[often], often) == pytest.approx(expected)
    assert expected < 0.9 < gain_confidence(before[often], after[often], np.arange(103))


@pytest.mark.parametrize("groups", [[0] * 6, [0, 0, 0, 5, 5, 5]])
def test_fewer_than_three_groups_show_nothing(groups: list[int]) -> None:
    assert gain_confidence(np.ones(6), np.linspace(0, 0.1, 6), np.array(groups)) == 0


@pytest.mark.parametrize(("after", "expected"), [(0.5, 1.0), (1.0, 0.0), (2.0, 0.0)])
def test_the_same_gain_in_every_group_is_sure(after: float, expected: float) -> None:
    assert gain_confidence(np.ones(6), np.full(6, after), np.array([0, 0, 1, 1, 2, 2])) == expected

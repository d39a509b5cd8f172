"""Balancing: every clip kept, cells filled as asked, extras spread evenly and at random."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from stage2_temporal.balance import (
    bin_edges,
    bin_numbers,
    class_distribution,
    draw_to_counts,
    oversample,
    uniformize,
    value_distribution,
)

labels_of_clips = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
values_of_clips = st.lists(finite, min_size=1, max_size=60).map(np.array)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def repeats(draws: NDArray[np.intp], num_clips: int) -> NDArray[np.intp]:
    return np.bincount(draws, minlength=num_clips)


def test_oversample_brings_each_class_to_the_largest() -> None:
    labels = np.array([0] * 7 + [1] * 3 + [2])
    draws = oversample(labels, rng())
    assert np.bincount(labels[draws]).tolist() == [7, 7, 7]
    assert repeats(draws, 11)[:7].tolist() == [1] * 7
    assert sorted(repeats(draws, 11)[7:10]) == [2, 2, 3]
    assert repeats(draws, 11)[10] == 7


@settings(deadline=None)
@given(labels_of_clips, st.integers(0, 1000))
def test_oversample_keeps_every_clip_and_spreads_repeats(labels: Any, seed: Any) -> None:
    draws = oversample(labels, rng(seed))
    counts = repeats(draws, len(labels))
    assert counts.min() >= 1
    for label in np.unique(labels):
        of_class = counts[labels == label]
        assert of_class.sum() == np.bincount(labels).max()
        assert of_class.max() - of_class.min() <= 1


def test_extra_repeats_fall_on_each_clip_alike() -> None:
    labels = np.array([0] * 8 + [1] * 5)  # class 1 gets 3 extras over 5 clips
    counts = np.stack([repeats(oversample(labels, rng(seed)), 13) for seed in range(1000)])
    extras = (counts[:, 8:] - 1).sum(axis=0)
    assert extras.sum() == 3000
    assert stats.chisquare(extras).pvalue > 0.001


def test_order_is_shuffled() -> None:
    labels = np.repeat([0, 1], 50)
    first_places = np.mean([oversample(labels, rng(seed))[0] for seed in range(400)])
    assert first_places == pytest.approx(49.5, abs=6)  # four standard errors
    assert not np.array_equal(oversample(labels, rng()), np.arange(100))


@pytest.mark.parametrize("draw", [oversample, uniformize])
def test_same_seed_same_draws_and_another_seed_others(draw: Any) -> None:
    values = np.array([0] * 20 + [5] * 3 + [9] * 4)
    assert np.array_equal(draw(values, rng(5)), draw(values, rng(5)))
    assert not np.array_equal(draw(values, rng(5)), draw(values, rng(6)))


def test_uniformize_fills_bins_up_to_the_fullest() -> None:
    values = np.array([0.0] * 6 + [5.0] * 3 + [10.0])
    draws = uniformize(values, rng(), num_bins=2, max_repeats=10)
    counts = repeats(draws, 10)
    assert counts[:6].tolist() == [1] * 6  # the lower bin: 6 clips
    assert counts[6:].sum() == 6  # the upper bin: 5 (its lower edge) and 10
    assert counts[6:].max() - counts[6:].min() <= 1


def test_uniformize_never_repeats_a_clip_more_than_allowed() -> None:
    values = np.array([0.0] * 100 + [10.0])
    assert repeats(uniformize(values, rng(), max_repeats=4), 101)[100] == 4
    assert repeats(uniformize(values, rng(), max_repeats=1), 101).tolist() == [1] * 101


@settings(deadline=None)
@given(values_of_clips, st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))
def test_uniformize_keeps_every_clip_within_its_bounds(
    values: Any, num_bins: Any, max_repeats: Any, seed: Any
) -> None:
    counts = repeats(
        uniformize(values, rng(seed), num_bins=num_bins, max_repeats=max_repeats), len(values)
    )
    assert counts.min() >= 1
    assert counts.max() <= max_repeats
    cells = bin_numbers(values, num_bins)
    fullest = np.bincount(cells).max()
    for cell in np.unique(cells):
        of_bin = counts[cells == cell]
        assert of_bin.sum() == min(fullest, max_repeats * len(of_bin))
        assert of_bin.max() - of_bin.min() <= 1


def test_uniformize_makes_a_skewed_target_flat() -> None:
    values = rng(1).beta(2, 2, 3000)
    before = stats.kstest(values, "uniform").statistic
    after = stats.kstest(values[uniformize(values, rng(), max_repeats=50)], "uniform").statistic
    assert after < before / 3


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=50), st.sampled_from([1, 2, 4, 8]))
def test_bins_equal_numpy_histogram(numbers: Any, num_bins: Any) -> None:
    values = np.array(numbers, dtype=float)
    counts = np.bincount(bin_numbers(values, num_bins))
    if np.ptp(values) > 0:
        expected = np.histogram(values, bins=bin_edges(values, num_bins))[0]
        assert counts.tolist() == np.trim_zeros(expected, "b").tolist()


def test_constant_target_is_one_bin_drawn_once_each() -> None:
    values = np.full(5, 3.2)
    assert bin_numbers(values, 10).tolist() == [0] * 5
    assert sorted(uniformize(values, rng())) == [0, 1, 2, 3, 4]
    assert value_distribution(values, np.arange(5)).before == [5]


def test_class_distribution_counts_before_and_after() -> None:
    labels = np.array([0, 0, 0, 2])
    after = class_distribution(labels, oversample(labels, rng()), ["a", "b", "c"])
    assert (after.labels, after.before, after.after) == (["a", "b", "c"], [3, 0, 1], [3, 0, 3])
    assert after.empty_bins == ["b"]


def test_value_distribution_names_bins_and_empty_ones() -> None:
    values = np.array([0.0, 1.0, 1.0, 10.0])
    after = value_distribution(values, np.array([0, 1, 2, 3, 3]), num_bins=4)
    assert after.labels == ["0 to 2.5", "2.5 to 5", "5 to 7.5", "7.5 to 10"]
    assert after.before == [3, 0, 0, 1]
    assert after.after == [3, 0, 0, 2]
    assert after.empty_bins == ["2.5 to 5", "5 to 7.5"]


@pytest.mark.parametrize("wanted", [[1, 1], [2, 1, 4]])
def test_dropping_a_clip_or_filling_an_empty_cell_is_an_error(wanted: Any) -> None:
    with pytest.raises(ValueError, match=r"cell \d has \d clips but \d draws"):
        draw_to_counts(np.array([0, 0, 1]), np.array(wanted), rng())


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.0, np.nan], {}, r"1 of 2 values are not finite.*values\[1\] = nan"),
        ([0.0, np.inf], {}, r"values\[1\] = inf"),
        ([0.0, 1.0], {"num_bins": 0}, "num_bins is 0"),
        ([0.0, 1.0], {"max_repeats": 0}, "max_repeats is 0"),
        ([], {}, r"shape \(0,\)"),
        ([[0.0], [1.0]], {}, r"shape \(2, 1\)"),
    ],
)
def test_impossible_values_are_errors(values: Any, options: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        uniformize(np.array(values), rng(), **options)


@pytest.mark.parametrize(
    ("labels", "message"), [([0.5, 1.5], "dtype float64.*uniformize"), ([[1]], "shape")]
)
def test_impossible_labels_are_errors(labels: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        oversample(np.array(labels), rng())


def test_label_without_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="from 0 to 2: expected 0 to 1"):
        class_distribution(np.array([0, 2]), np.array([0]), ["a", "b"])

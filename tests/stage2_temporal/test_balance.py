"""Balancing: every clip kept, cells filled as asked, extras even and at random, weights by hand."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from stage2_temporal.balance import (
    Distribution,
    bin_edges,
    bin_numbers,
    class_shares,
    class_weights,
    density_weights,
    draw_to_counts,
    joint_bins,
    multilabel_weights,
    oversample,
    oversample_multilabel,
    undersample,
    uniformize,
)

labels_of_clips = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
values_of_clips = st.lists(finite, min_size=1, max_size=60).map(np.array)
pairs_of_clips = st.lists(st.tuples(finite, finite), min_size=1, max_size=60).map(np.array)
num_clips_and_labels = st.tuples(st.integers(1, 40), st.just(4))
label_sets = arrays(np.int64, num_clips_and_labels, elements=st.integers(0, 1))
seeds = st.integers(0, 1000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def repeats(draws: NDArray[np.intp], num_clips: int) -> NDArray[np.intp]:
    return np.bincount(draws, minlength=num_clips)


def assert_alike(counts: NDArray[Any]) -> None:
    """No clip was favoured: chi-square over the clips, at one in a thousand."""
    assert stats.chisquare(counts).pvalue > 0.001


# oversample


def test_oversample_brings_each_class_to_the_largest() -> None:
    labels = np.array([0] * 7 + [1] * 3 + [2])
    draws = oversample(labels, rng())
    assert np.bincount(labels[draws]).tolist() == [7, 7, 7]
    assert repeats(draws, 11)[:7].tolist() == [1] * 7
    assert sorted(repeats(draws, 11)[7:10]) == [2, 2, 3]
    assert repeats(draws, 11)[10] == 7


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({1: 0.5}, [12, 12]),  # as without shares
        ({1: 0.25}, [12, 4]),  # as the clips are
        ({1: 0.4}, [12, 8]),  # 12 / 0.6 = 20 draws
        ({1: 0.1}, [36, 4]),  # 4 / 0.1 = 40 draws: class 0 is the one to repeat
        ({0: 0.6, 1: 0.4}, [12, 8]),
        ({1: 0.9}, [12, 40]),  # 108 wanted, but 10 repeats of 4 clips allowed
        ({1: 0.4, 7: 0.2}, [12, 8]),  # class 7 has no clip: class 0 gets what it was to have
    ],
)
def test_oversample_reaches_the_wanted_shares(shares: Any, expected: Any) -> None:
    labels = np.array([0] * 12 + [1] * 4)
    assert np.bincount(labels[oversample(labels, rng(), shares=shares)]).tolist() == expected


@settings(deadline=None)
@given(labels_of_clips, st.integers(1, 8), seeds)
def test_oversample_keeps_every_clip_within_its_bounds(labels: Any, cap: Any, seed: Any) -> None:
    draws = oversample(labels, rng(seed), max_repeats=cap)
    counts = repeats(draws, len(labels))
    assert counts.min() >= 1
    for label in np.unique(labels):
        of_class = counts[labels == label]
        assert of_class.sum() == min(np.bincount(labels).max(), cap * len(of_class))
        assert of_class.max() - of_class.min() <= 1


@settings(deadline=None)
@given(labels_of_clips, st.floats(0.01, 0.9), seeds)
def test_a_named_class_gets_its_share_and_the_others_are_alike(
    labels: Any, share: Any, seed: Any
) -> None:
    classes = np.unique(labels)
    draws = oversample(labels, rng(seed), shares={int(classes[0]): share}, max_repeats=10**9)
    drawn = np.bincount(labels[draws], minlength=7)[classes]
    assert repeats(draws, len(labels)).min() >= 1
    if len(classes) > 1:
        wanted = [share, *[(1 - share) / (len(classes) - 1)] * (len(classes) - 1)]
        np.testing.assert_allclose(drawn, np.multiply(wanted, len(draws)), atol=len(classes))


def test_extra_repeats_fall_on_each_clip_alike() -> None:
    labels = np.array([0] * 8 + [1] * 5)  # class 1 gets 3 extras over 5 clips
    counts = np.stack([repeats(oversample(labels, rng(seed)), 13) for seed in range(1000)])
    extras = (counts[:, 8:] - 1).sum(axis=0)
    assert extras.sum() == 3000
    assert_alike(extras)


def test_order_is_shuffled() -> None:
    labels = np.repeat([0, 1], 50)
    first_places = np.mean([oversample(labels, rng(seed))[0] for seed in range(400)])
    assert first_places == pytest.approx(49.5, abs=6)  # four standard errors
    assert not np.array_equal(oversample(labels, rng()), np.arange(100))


@pytest.mark.parametrize(
    "draw",
    [oversample, undersample, uniformize, lambda x, r: oversample_multilabel(x[:, None] // 5, r)],
)
def test_same_seed_same_draws_and_another_seed_others(draw: Any) -> None:
    values = np.array([0] * 20 + [5] * 3 + [9] * 4)
    assert np.array_equal(draw(values, rng(5)), draw(values, rng(5)))
    assert not np.array_equal(draw(values, rng(5)), draw(values, rng(6)))


# undersample


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (None, [4, 4, 4]),
        ({2: 0.5}, [2, 2, 4]),
        ({0: 0.8}, [30, 4, 4]),  # 30 / 0.8 = 37.5 draws: class 0 is scarce, the others 3.75 each
        ({0: 0.5, 1: 0.3, 2: 0.2}, [10, 6, 4]),
        ({0: 0.99}, [30, 1, 1]),  # 0.15 each: a class that has clips is never left out
    ],
)
def test_undersample_brings_each_class_to_its_share(shares: Any, expected: Any) -> None:
    labels = np.array([0] * 30 + [1] * 10 + [2] * 4)
    draws = undersample(labels, rng(), shares=shares)
    assert np.bincount(labels[draws]).tolist() == expected
    assert repeats(draws, 44).max() == 1


@settings(deadline=None)
@given(labels_of_clips, seeds)
def test_undersample_draws_no_clip_twice_and_every_class(labels: Any, seed: Any) -> None:
    draws = undersample(labels, rng(seed))
    assert repeats(draws, len(labels)).max() == 1
    counts = np.bincount(labels)
    expected = np.where(counts > 0, counts[counts > 0].min(), 0)
    assert np.bincount(labels[draws], minlength=len(counts)).tolist() == expected.tolist()


def test_undersampling_sees_every_clip_in_time_and_each_alike() -> None:
    labels = np.array([0] * 30 + [1] * 6)
    epochs = [repeats(undersample(labels, rng(seed)), 36) for seed in range(1000)]
    assert np.sum(epochs[:60], axis=0).min() >= 1  # a clip is missed with 0.8 ** 60
    seen = np.sum(epochs, axis=0)
    assert seen[30:].tolist() == [1000] * 6
    assert seen[:30].sum() == 6000
    assert_alike(seen[:30])


# oversample_multilabel


def test_multilabel_clips_are_repeated_by_their_rarest_label() -> None:
    labels = np.zeros((28, 3), int)
    labels[:16, 0] = 1  # 16 clips: factor 1
    labels[14:18, 1] = 1  # 4 clips: sqrt(16 / 4) = 2
    labels[17, 2] = 1  # 1 clip: sqrt(16) = 4
    counts = repeats(oversample_multilabel(labels, rng()), 28)
    assert counts.tolist() == [1] * 14 + [2] * 3 + [4] + [1] * 10
    capped = repeats(oversample_multilabel(labels, rng(), max_repeats=3), 28)
    assert capped.tolist() == [1] * 14 + [2] * 3 + [3] + [1] * 10


@settings(deadline=None)
@given(label_sets, st.integers(1, 4), seeds)
def test_multilabel_draws_follow_repeat_factor_sampling(labels: Any, cap: Any, seed: Any) -> None:
    counts = repeats(oversample_multilabel(labels, rng(seed), max_repeats=cap), len(labels))
    frequency = labels.mean(axis=0)
    for clip, has in enumerate(labels.astype(bool)):  # the formula of the paper, clip by clip
        rarest = frequency[has].min() if has.any() else frequency.max()
        factor = np.sqrt(frequency.max() / rarest) if has.any() else 1.0
        assert 1 <= counts[clip] <= cap
        assert abs(counts[clip] - min(factor, cap)) < 1.5
    assert counts.sum() >= len(labels)


def test_fractions_of_a_repeat_fall_on_each_clip_alike() -> None:
    labels = np.zeros((18, 2), int)
    labels[:9, 0] = 1
    labels[9:13, 1] = 1  # sqrt(9 / 4) = 1.5: two of the four are drawn twice
    epochs = [repeats(oversample_multilabel(labels, rng(seed)), 18) for seed in range(500)]
    assert {epoch[9:13].sum() for epoch in epochs} == {6}
    assert_alike(np.sum(epochs, axis=0)[9:13] - 500)


# uniformize


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
@given(
    st.one_of(values_of_clips, pairs_of_clips),
    st.sampled_from(["width", "quantile"]),
    st.integers(1, 12),
    st.integers(1, 6),
    seeds,
)
def test_uniformize_keeps_every_clip_within_its_bounds(
    values: Any, bin_kind: Any, num_bins: Any, max_repeats: Any, seed: Any
) -> None:
    options = {"num_bins": num_bins, "bin_kind": bin_kind}
    counts = repeats(uniformize(values, rng(seed), max_repeats=max_repeats, **options), len(values))
    assert counts.min() >= 1
    assert counts.max() <= max_repeats
    cells, _ = joint_bins(values, **options)
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


def test_two_targets_are_uniform_in_their_joint_bins() -> None:
    first = np.array([0.0, 0, 0, 0, 0, 10, 10, 10])
    second = np.array([1.0, 1, 1, 2, 2, 1, 2, 2])  # joint bins: 3, 2, 1 and 2 clips
    draws = uniformize(np.stack([first, second], axis=1), rng(), num_bins=2)
    cells = [[int(a > 5), int(b > 1.5)] for a, b in zip(first[draws], second[draws], strict=True)]
    assert np.unique(cells, axis=0, return_counts=True)[1].tolist() == [3, 3, 3, 3]


def test_joint_bins_count_the_second_target_fastest() -> None:
    values = np.array([[0.0, 0.0], [0.0, 30.0], [9.0, 0.0], [9.0, 19.0]])
    cells, (first, second) = joint_bins(values, 3)
    assert cells.tolist() == [0, 2, 6, 7]
    assert first.tolist() == [0, 3, 6, 9]
    assert second.tolist() == [0, 10, 20, 30]


# bins


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=50), st.sampled_from([1, 2, 4, 8]))
def test_bins_equal_numpy_histogram(numbers: Any, num_bins: Any) -> None:
    values = np.array(numbers, dtype=float)
    edges = bin_edges(values, num_bins)
    if np.ptp(values) > 0:
        counts = np.bincount(bin_numbers(values, edges), minlength=num_bins)
        assert counts.tolist() == np.histogram(values, bins=edges)[0].tolist()


def test_quantile_bins_hold_equally_many_clips() -> None:
    values = rng().lognormal(size=1000)
    assert np.bincount(bin_numbers(values, bin_edges(values, 8, "quantile"))).tolist() == [125] * 8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0, 0, 0, 0, 1, 2, 3, 4], [6, 2, 2]),  # ties at the least value: fewer bins
        ([0, 1, 2, 3, 4, 4, 4, 4, 4, 4], [2, 2, 6]),  # and at the greatest
        ([0, 1, 1, 1, 1, 1], [1, 5]),
        ([0, 0, 0, 0, 0, 1], [5, 1]),
        ([1, 2], [1, 1]),
    ],
)
def test_quantile_bins_of_tied_values_are_never_empty(values: Any, expected: Any) -> None:
    numbers = bin_numbers(np.array(values), bin_edges(np.array(values), 5, "quantile"))
    assert np.bincount(numbers).tolist() == expected


@settings(deadline=None)
@given(values_of_clips, st.integers(1, 12))
def test_quantile_bins_have_a_clip_each(values: Any, num_bins: Any) -> None:
    edges = bin_edges(values, num_bins, "quantile")
    assert np.bincount(bin_numbers(values, edges), minlength=len(edges) - 1).min() >= 1
    assert edges[0] == values.min()
    assert edges[-1] == values.max()


def test_constant_target_is_one_bin_drawn_once_each() -> None:
    values = np.full(5, 3.2)
    assert bin_numbers(values, bin_edges(values, 10)).tolist() == [0] * 5
    assert sorted(uniformize(values, rng())) == [0, 1, 2, 3, 4]
    assert density_weights(values).tolist() == [1] * 5


# weights


def test_class_weights_are_inverse_frequencies_of_mean_one() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4)  # no clip of class 2
    weights = class_weights(labels)
    np.testing.assert_allclose(weights, [2 / 3] * 6 + [2] * 2 + [1] * 4)
    assert weights.mean() == pytest.approx(1)


def test_multilabel_weights_count_having_and_lacking_a_label_alike() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])  # the last: nobody has it
    # label 0: 4 / 2 = 2 with, 4 / 6 = 2/3 without; label 1: 1 and 1; label 2: 1
    expected = [(2 + 1 + 1) / 3] + [(2 / 3 + 1 + 1) / 3] * 3
    np.testing.assert_allclose(multilabel_weights(labels), expected)


@settings(deadline=None)
@given(label_sets)
def test_multilabel_weights_have_mean_one(labels: Any) -> None:
    weights = multilabel_weights(labels)
    assert weights.min() > 0
    assert weights.mean() == pytest.approx(1)


def test_density_weights_are_inverse_to_the_convolved_density() -> None:
    values = rng().gamma(2.0, 5.0, 400)
    counts = np.histogram(values, bins=20)[0].astype(float)
    offsets = np.arange(-20, 21)
    kernel = np.exp(-0.5 * (offsets / 2) ** 2)
    density = np.convolve(np.pad(counts, 20, "symmetric"), kernel / kernel.sum(), "valid")
    places = 20 * (values - values.min()) / np.ptp(values)
    expected = 1 / density[np.minimum(places, 19).astype(int)]
    weights = density_weights(values, num_bins=20, smoothing_bins=2)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=2e-3)  # scipy cuts at 4 sd
    assert weights.mean() == pytest.approx(1)


def test_without_smoothing_every_bin_weighs_the_same() -> None:
    values = np.array([0.0] * 6 + [5.0] * 3 + [10.0])
    weights = density_weights(values, num_bins=4, smoothing_bins=0)
    np.testing.assert_allclose(weights, 10 / 3 / np.array([6] * 6 + [3] * 3 + [1]))


@pytest.mark.parametrize("bin_kind", ["width", "quantile"])
@pytest.mark.parametrize("smoothing", [0.0, 0.05, 1.0, 30.0])
def test_a_flat_density_gives_equal_weights(bin_kind: str, smoothing: float) -> None:
    values = np.append(np.arange(1000) / 10, 100.0)
    weights = density_weights(values, smoothing_bins=smoothing, bin_kind=bin_kind)
    np.testing.assert_allclose(weights, 1, atol=0.02)


def test_quantile_bins_weigh_sparse_regions_more() -> None:
    values = np.concatenate([np.linspace(0, 1, 500), np.linspace(1.01, 11, 500)])
    weights = density_weights(values, num_bins=2, smoothing_bins=0, bin_kind="quantile")
    assert weights[-1] / weights[0] == pytest.approx(10, rel=0.05)  # a tenth of the density


# shares, cells, errors


@pytest.mark.parametrize(
    ("counts", "named", "expected"),
    [
        ([5, 5, 5, 5], {}, [0.25] * 4),
        ([5, 0, 5, 0], {}, [0.5, 0, 0.5, 0]),
        ([5, 9, 1], {1: 0.5}, [0.25, 0.5, 0.25]),
        ([5, 0, 1], {1: 0.5, 0: 0.2}, [0.2, 0, 0.8]),  # the share of a class without clips
        ([5, 1, 0], {0: 0.5, 1: 0.25, 2: 0.25}, [2 / 3, 1 / 3, 0]),
    ],
)
def test_classes_not_named_share_the_rest_alike(counts: Any, named: Any, expected: Any) -> None:
    np.testing.assert_allclose(class_shares(np.array(counts), named), expected)


@pytest.mark.parametrize("named", [{0: 0.7, 1: 0.6}, {0: 1.0}, {0: 0.0}, {0: -0.1}, {0: np.nan}])
def test_impossible_shares_are_errors(named: Any) -> None:
    with pytest.raises(ValueError, match="shares by class number are"):
        oversample(np.array([0, 1, 2]), rng(), shares=named)


def test_draws_are_even_within_every_cell() -> None:
    cells = np.array([2, 0, 0, 2, 0])
    counts = repeats(draw_to_counts(cells, np.array([2, 0, 5]), rng()), 5)
    assert sorted(counts[[1, 2, 4]]) == [0, 1, 1]
    assert sorted(counts[[0, 3]]) == [2, 3]


def test_filling_an_empty_cell_is_an_error() -> None:
    with pytest.raises(ValueError, match="cell 2 has 0 clips but 4 draws are wanted"):
        draw_to_counts(np.array([0, 0, 1]), np.array([2, 1, 4]), rng())


def test_distribution_names_what_is_empty() -> None:
    assert Distribution(["a", "b", "c"], [3, 0, 1], [3, 0, 3]).empty_bins == ["b"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.0, np.nan], {}, r"1 of 2 values are not finite.*values\[1\] = nan"),
        ([0.0, np.inf], {}, r"values\[1\] = inf"),
        ([0.0, 1.0], {"num_bins": 0}, "num_bins is 0"),
        ([0.0, 1.0], {"max_repeats": 0}, "max_repeats is 0"),
        ([0.0, 1.0], {"bin_kind": "log"}, "bin_kind is 'log': expected width or quantile"),
        ([], {}, r"shape \(0,\)"),
        ([[0.0], [1.0]], {}, r"shape \(2, 1\): expected \(N,\) or \(N, 2\)"),
        (0.5, {}, r"shape \(\)"),
    ],
)
def test_impossible_values_are_errors(values: Any, options: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        uniformize(np.array(values), rng(), **options)


@pytest.mark.parametrize("draw", [oversample, undersample])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.5], "dtype float64.*uniformize"),
        ([-1, 1], "least value -1"),
        ([[1]], "shape"),
        ([], "shape"),
    ],
)
def test_impossible_labels_are_errors(draw: Any, labels: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        draw(np.array(labels), rng())


@pytest.mark.parametrize(
    "function", [partial(oversample_multilabel, rng=rng()), multilabel_weights]
)
@pytest.mark.parametrize("labels", [[0, 1], [[0, 2]], [[-1, 0]], np.empty((0, 3), int)])
def test_impossible_label_sets_are_errors(function: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, L\)"):
        function(np.array(labels))

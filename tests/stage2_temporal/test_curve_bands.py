import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from stage2_temporal.bootstrap import bootstrap
from stage2_temporal.curve_bands import (
    GRID,
    NUM_RESAMPLES,
    group_numbers,
    ranking_bands,
    resampled,
)

Floats = NDArray[np.float64]


def ranked(num_clips: int, digits: int = 2) -> tuple[NDArray[np.bool_], Floats, NDArray[np.intp]]:
    rng = np.random.default_rng(1)
    positive = rng.random(num_clips) < 0.4
    values = np.round(0.4 * positive + 0.6 * rng.random(num_clips), digits)
    return positive, values, np.arange(num_clips) // 3


def slow_curves(positive: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats]:
    """Return both curves on the grid, of clips that are really repeated, by scikit-learn."""
    alarms, hits, _ = roc_curve(positive, values, drop_intermediate=False)
    rates = [
        hits[alarms == x].max() if (alarms == x).any() else np.interp(x, alarms, hits) for x in GRID
    ]
    precision, recall, _ = precision_recall_curve(positive, values)
    # The first threshold, from above, that finds at least such a share of the positive clips.
    first = [np.flatnonzero(recall >= x - 1e-9).max() for x in GRID[1:]]
    return np.array(rates), precision[first]


@pytest.mark.parametrize("digits", [1, 6])
def test_bands_are_those_of_a_slow_bootstrap(digits: int) -> None:
    positive, values, groups = ranked(45, digits)
    found = ranking_bands(positive, values, groups, seed=3)
    assert found is not None
    [counts] = resampled(groups, seed=3)
    drawn = [np.repeat(np.arange(45), row.astype(int)) for row in counts]
    curves = [slow_curves(positive[rows], values[rows]) for rows in drawn]
    for band, of_resamples in zip(found, zip(*curves, strict=True), strict=True):
        low, high = np.quantile(np.stack(of_resamples), [0.025, 0.975], axis=0)
        np.testing.assert_allclose(band.low, low, atol=1e-12)
        np.testing.assert_allclose(band.high, high, atol=1e-12)


def test_resamples_are_of_whole_groups_and_those_of_the_scores() -> None:
    _, values, groups = ranked(60)
    drawn = np.concatenate(list(resampled(groups, seed=0)))
    assert (drawn[:, ::3] == drawn[:, 1::3]).all()
    assert drawn[:, ::3].sum(axis=1).tolist() == [20] * NUM_RESAMPLES
    means = drawn @ values / drawn.sum(axis=1)
    target = np.zeros(60)
    scored = bootstrap("regression", target, values, groups, num_resamples=NUM_RESAMPLES, seed=0)[
        "mae"
    ]
    assert np.quantile(means, [0.025, 0.975]).tolist() == pytest.approx([scored.low, scored.high])


def test_blocks_of_resamples_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.arange(20) // 2
    whole = np.concatenate(list(resampled(groups, seed=0)))
    monkeypatch.setattr("stage2_temporal.bootstrap._CELLS_AT_ONCE", 7 * 20)
    blocks = list(resampled(groups, seed=0))
    assert len(blocks) > 10
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_no_band_of_one_group_or_of_one_class() -> None:
    positive, values, groups = ranked(30)
    assert ranking_bands(positive, values, np.zeros(30, np.intp), seed=0) is None
    assert ranking_bands(positive | True, values, groups, seed=0) is None


def test_a_clip_without_a_name_is_a_group_of_its_own() -> None:
    numbers = group_numbers(np.array(["b", "", "a", "b", ""], object))
    assert numbers[0] == numbers[3]
    assert len(set(numbers.tolist())) == 4

"""Errors by region: labels whose density is known, and errors planted where they are rare."""

from typing import Any

import numpy as np
import pytest

from stage2_temporal.regions import REGIONS, region_errors


def by_name(*arrays: Any) -> dict[str, dict[str, Any]]:
    return {region["region"]: region for region in region_errors(*map(np.asarray, arrays))}


def test_density_decides_the_region() -> None:
    """Densities 1 : 10 : 100 on three thirds of the range; smoothing blurs their borders alone."""
    thirds = [np.linspace(low, low + 10, n) for low, n in ((0, 30), (10, 300), (20, 3000))]
    target = np.array([2.0, 5.0, 15.0, 25.0])
    found = by_name(np.concatenate(thirds), target, target + np.array([4, 2, -3, 1]))
    assert list(found) == list(REGIONS) == ["many", "medium", "few"]
    assert [found[name]["mae"] for name in REGIONS] == [1, 3, 3]
    assert [found[name]["num_clips"] for name in REGIONS] == [1, 1, 2]


def test_tails_of_a_normal_distribution_are_rare() -> None:
    train = np.random.default_rng(0).normal(60, 10, 5000)
    target = np.array([60.0, 58.0, 91.0, 29.0])
    found = by_name(train, target, target + np.array([1, 1, 9, 9]))
    assert (found["many"]["mae"], found["few"]["mae"]) == (1, 9)
    trained = [found[name]["num_training_clips"] for name in REGIONS]
    assert sum(trained) == 5000
    assert trained[0] > trained[1] > trained[2]


def test_values_outside_the_training_range_are_few() -> None:
    found = by_name(np.linspace(0, 1, 100) ** 2, [-5.0, 7.0], [0.0, 0.0])
    assert (found["few"]["num_clips"], found["few"]["mae"]) == (2, 6)


def test_a_region_without_clips_has_no_error() -> None:
    found = by_name(np.random.default_rng(0).normal(size=500), [0.0], [1.0])
    assert (found["few"]["num_clips"], found["many"]["mae"]) == (0, 1)
    assert np.isnan(found["few"]["mae"])


def test_every_clip_is_in_one_region() -> None:
    rng = np.random.default_rng(1)
    train, target = rng.gamma(2, 10, 400), rng.gamma(2, 12, 90)
    error = rng.normal(size=90)
    found = by_name(train, target, target + error).values()
    assert sum(region["num_clips"] for region in found) == 90
    total = sum(region["mae"] * region["num_clips"] for region in found if region["num_clips"])
    assert total == pytest.approx(np.abs(error).sum())


@pytest.mark.parametrize(
    ("train", "target", "prediction", "message"),
    [
        ([1.0, 1.0], [1.0], [1.0], "2 training labels have no range"),
        ([], [1.0], [1.0], "0 training labels"),
        ([1.0, 2.0], [1.0, 2.0], [1.0], r"shapes \(2,\), \(2,\) and \(1,\)"),
        ([1.0, 2.0], [np.nan], [1.0], "1 labels or predictions are not finite"),
    ],
)
def test_impossible_input_is_an_error(
    train: Any, target: Any, prediction: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        region_errors(np.array(train), np.array(target), np.array(prediction))

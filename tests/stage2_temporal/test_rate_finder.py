"""The range test: between the rates that do nothing and those that explode."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.rate_finder import HIGHEST, LOWEST, find_learning_rate, suggested_rate
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store


def descent(curvature: float, num_steps: int = 100) -> pd.DataFrame:
    """Gradient descent on curvature / 2 * x ** 2, with a rate that rises as in the range test."""
    rates, x, losses = np.geomspace(LOWEST, HIGHEST, num_steps), 1.0, []
    for rate in rates.tolist():
        losses.append(curvature / 2 * x**2)
        x -= rate * curvature * x
    weights = 0.9 ** np.arange(num_steps)
    smoothed = [
        np.average(losses[: i + 1][::-1], weights=weights[: i + 1]) for i in range(num_steps)
    ]
    return pd.DataFrame({"learning_rate": rates, "loss": losses, "smoothed": smoothed})


@pytest.mark.parametrize("curvature", [10.0, 100.0, 1000.0])
def test_suggestion_for_a_parabola(curvature: float) -> None:
    """A step multiplies x by 1 - rate * curvature: it diverges from a rate of 2 / curvature on."""
    suggestion = suggested_rate(descent(curvature))
    assert 0.02 / curvature < suggestion < 2 / curvature


def test_the_steepest_fall_before_the_minimum_is_suggested() -> None:
    smoothed = [5.0, 5.0, 4.9, 3.0, 1.1, 1.0, 3.0, 9.0, 1.5]
    table = pd.DataFrame({"learning_rate": np.logspace(-8, 0, 9), "smoothed": smoothed})
    assert suggested_rate(table) == pytest.approx(1e-5)


@pytest.mark.parametrize("rest", [[], [np.inf], [np.nan, np.nan]])
def test_losses_that_are_no_number_are_not_in_the_way(rest: list[float]) -> None:
    smoothed = [5.0, 4.9, 3.0, 1.1, 1.0, 8.0, *rest]
    table = pd.DataFrame({"learning_rate": np.logspace(-8, 0, 9)[: len(smoothed)]})
    assert suggested_rate(table.assign(smoothed=smoothed)) == pytest.approx(1e-6)


def test_a_loss_that_never_was_a_number_is_an_error() -> None:
    table = pd.DataFrame({"learning_rate": [1e-6], "smoothed": [np.nan]})
    with pytest.raises(ValueError, match="loss of the first batch is nan"):
        suggested_rate(table)


def test_a_training_is_tested(tmp_path: Path) -> None:
    sequences, classes = ordered(48)
    store = write_store(tmp_path / "s", sequences)
    manifest = write_manifest(tmp_path / "m.csv", list(sequences), label=classes)
    settings = quick(head="tcn", units=8, batch_size=32, input_dropout=0.0, dropout=0.0)
    found = find_learning_rate(store, manifest, settings, num_steps=60)
    rates = found.table["learning_rate"].to_numpy()
    np.testing.assert_allclose(rates, np.geomspace(1e-6, 1, 60)[: len(rates)])
    # The skip path starts from zero, and the head does: an even chance costs log 2.
    assert found.table["loss"].iloc[0] == pytest.approx(np.log(2), rel=1e-5)
    assert found.table["smoothed"].min() < 0.5
    assert 1e-4 < found.suggestion < 1


def test_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps is 1; expected 2 or more"):
        find_learning_rate("store", "manifest.csv", quick(), num_steps=1)

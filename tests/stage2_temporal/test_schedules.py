"""Learning rates against the formulas of their sources."""

import math
from typing import Any

import numpy as np
import pytest

from stage2_temporal.schedules import epoch_learning_rate
from tests.stage2_temporal.synthetic import quick

RATE = 0.02


def rates(num_epochs: int, num_plateaus: int = 0, **changes: Any) -> list[float]:
    settings = quick(learning_rate=RATE, epochs=num_epochs, **changes)
    return [
        epoch_learning_rate(settings, epoch, num_plateaus) for epoch in range(1, num_epochs + 1)
    ]


def test_constant_stays() -> None:
    assert rates(5) == [RATE] * 5


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_warmup_rises_in_even_steps_to_the_rate(schedule: str) -> None:
    found = rates(9, schedule=schedule, warmup_epochs=4)
    np.testing.assert_allclose(found[:5], RATE * np.array([0.2, 0.4, 0.6, 0.8, 1.0]))


def test_warmup_may_outlast_the_training() -> None:
    np.testing.assert_allclose(rates(2, schedule="cosine", warmup_epochs=3), [RATE / 4, RATE / 2])


def test_cosine_is_that_of_loshchilov_and_hutter() -> None:
    found = rates(8, schedule="cosine")
    np.testing.assert_allclose(
        found, [RATE * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    )
    assert found[4] == pytest.approx(RATE / 2)


def test_cosine_falls_after_the_warmup_to_nearly_nothing() -> None:
    found = rates(110, schedule="cosine", warmup_epochs=10)
    assert found[10] == RATE
    assert (np.diff(found[10:]) < 0).all()
    assert found[60] == pytest.approx(RATE / 2)
    assert 0 < found[-1] < RATE / 1000


@pytest.mark.parametrize(("plateaus", "part"), [(0, 1), (1, 1 / 2), (2, 1 / 4), (5, 1 / 32)])
def test_plateau_halves(plateaus: int, part: float) -> None:
    assert rates(3, plateaus, schedule="plateau") == [pytest.approx(RATE * part)] * 3


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_others_know_no_plateau(schedule: str) -> None:
    assert rates(4, 3, schedule=schedule) == rates(4, schedule=schedule)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 5])
def test_a_training_of_one_epoch_learns(schedule: str, warmup_epochs: int) -> None:
    assert 0 < rates(1, schedule=schedule, warmup_epochs=warmup_epochs)[0] <= RATE

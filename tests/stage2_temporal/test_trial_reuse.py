"""What is kept of trainings before: bounded, and never for what it is not."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage2_temporal.trial_memory import Growth, used_bytes
from stage2_temporal.trial_reuse import Memo, digest, num_bytes


@dataclasses.dataclass
class Fit:
    """Stands for a linear model."""

    slope: NDArray[np.float64]
    name: str = "fit"


def test_a_value_is_made_once_while_there_is_room() -> None:
    made: list[str] = []

    def make(key: str) -> NDArray[np.float64]:
        made.append(key)
        return np.zeros(10)

    memo = Memo(2 * 80)
    for key in "abaacab":  # a is always the last that was used before another comes
        np.testing.assert_array_equal(memo.get(key, partial(make, key)), np.zeros(10))
        assert len(memo) <= 2
    assert made == ["a", "b", "c", "b"]


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (79, 0), (80, 1), (239, 2)])
def test_no_more_is_kept_than_was_allowed(limit: int, kept: int) -> None:
    memo = Memo(limit)
    for key in range(5):
        memo.get(key, lambda: np.zeros(10))
    assert len(memo) == kept


def test_sizes_are_those_of_all_arrays_within() -> None:
    array = np.zeros(3)
    assert num_bytes([array, (array, {"a": Fit(array)}), "text", None]) == 3 * array.nbytes


@pytest.mark.parametrize(
    "other",
    [
        [np.zeros(4)],
        [np.zeros(2), np.zeros(2), np.zeros(0)],
        [np.zeros((2, 1)), np.zeros(2)],
        [np.zeros(2, np.float32), np.zeros(2)],
        [np.array([0.0, 1.0]), np.zeros(2)],
        [None, np.zeros(2)],
    ],
)
def test_other_arrays_have_another_digest(other: list[Any]) -> None:
    assert digest(np.zeros(2), np.zeros(2)) == digest(np.zeros(4)[::2], np.zeros(2))
    assert digest(*other) != digest(np.zeros(2), np.zeros(2))


def test_a_process_whose_memory_grew_is_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from stage2_temporal import trial_memory

    assert 2**20 < used_bytes() < 2**40
    growth = Growth()
    for used, is_large in ((5, False), (5 + 2**30, False), (6 + 2**30, True)):
        monkeypatch.setattr(trial_memory, "used_bytes", lambda used=used: used)
        growth.note()
        assert growth.is_large == is_large

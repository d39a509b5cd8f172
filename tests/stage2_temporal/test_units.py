"""Results of single trainings: exactly what was saved, whole or not at all."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.units import Predictions, Unit, UnitResult

UNIT = Unit(1, 0, 2)


def predictions(num_clips: int, num_targets: int) -> Predictions:
    rng = np.random.default_rng(num_clips)
    shapes = [(num_clips, 1 + number % 3) for number in range(num_targets)]
    return {model: [rng.random(shape) for shape in shapes] for model in ("recurrent", "mean_pool")}


def result(num_targets: int = 12, unit: Unit = UNIT) -> UnitResult:
    history = pd.DataFrame(
        {"epoch": [0, 1], "loss": [np.nan, 1 / 3], "val_loss": [0.1 + 0.2, np.inf], "größe": 5e-324}
    )
    notices = ("a notice", 'with "quotes" and é')
    return UnitResult(
        unit,
        predictions(3, num_targets),
        predictions(5, num_targets),
        history,
        best_epoch=1,
        gain_confidence=1 / 3,
        notices=notices,
    )


def assert_same(found: UnitResult | None, expected: UnitResult) -> None:
    assert found is not None
    assert (found.unit, found.best_epoch, found.gain_confidence) == (UNIT, 1, 1 / 3)
    assert found.notices == expected.notices
    pd.testing.assert_frame_equal(found.history, expected.history, check_exact=True)
    for side in ("validation", "test"):
        ours, theirs = getattr(found, side), getattr(expected, side)
        assert list(ours) == list(theirs)
        for model, values in theirs.items():
            for one, other in zip(ours[model], values, strict=True):
                np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("num_targets", [1, 12])
def test_what_was_saved_comes_back(tmp_path: Path, num_targets: int) -> None:
    result(num_targets).save(tmp_path)
    assert_same(UnitResult.load(tmp_path, UNIT), result(num_targets))


def test_other_units_are_not_there(tmp_path: Path) -> None:
    result().save(tmp_path)
    assert UnitResult.load(tmp_path, Unit(1, 0, 1)) is None
    assert UnitResult.load(tmp_path, Unit(11, 0, 2)) is None


def test_a_stop_while_saving_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            result().save(tmp_path)
    assert UnitResult.load(tmp_path, UNIT) is None
    result().save(tmp_path)
    assert_same(UnitResult.load(tmp_path, UNIT), result())


def test_every_unit_has_its_own_name_and_seed() -> None:
    every = [Unit(*numbers) for numbers in itertools.product(range(12), range(4), range(4))]
    assert len({unit.name for unit in every}) == len(every)
    for seed in (0, 1, 2**40):
        seeds = {unit.seed(seed) for unit in every}
        assert len(seeds) == len(every)
        assert all(0 <= one < 2**31 for one in seeds)
    assert UNIT.seed(3) == Unit(1, 0, 2).seed(3) != UNIT.seed(4)

"""Checkpoints: exactly what was saved, whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage2_temporal.checkpoint import FitState, load_checkpoint, save_checkpoint

VARIABLES: list[NDArray[Any]] = [
    np.array(1e-3, np.float32),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([7, 2**32 - 1], np.uint32),
    np.zeros((0, 4), np.float16),
    *[np.full(1, i, np.int64) for i in range(12)],  # more than ten: their order is no text's
]


def state() -> FitState:
    return FitState(
        history=[
            {"epoch": 0, "loss": float("nan"), "val_loss": 0.1 + 0.2},
            {"epoch": 1, "loss": np.float64(1 / 3), "val_loss": float("inf"), "val_loss ü": 5e-324},
        ],
        best_loss=0.1 + 0.2,
        best_epoch=0,
        best_weights=[np.full((2, 2), i, np.float32) for i in range(11)],
        first_losses=np.array([np.inf, 1 / 3]),
        best_losses=np.array([0.1, 0.2, 0.3]),
        num_plateaus=3,
        plateau_start=1,
    )


def assert_same(found: FitState, expected: FitState) -> None:
    assert [list(row) for row in found.history] == [list(row) for row in expected.history]
    for ours, theirs in zip(found.history, expected.history, strict=True):
        np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))
    for name in ("best_loss", "best_epoch", "num_plateaus", "plateau_start", "epoch"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.first_losses, expected.first_losses)
    np.testing.assert_array_equal(found.best_losses, expected.best_losses)
    for weight, other in zip(found.best_weights, expected.best_weights, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("saved", [state(), FitState()])
def test_what_was_saved_comes_back(tmp_path: Path, saved: FitState) -> None:
    save_checkpoint(tmp_path / "c.npz", saved, VARIABLES)
    found, variables = load_checkpoint(tmp_path / "c.npz")
    assert_same(found, saved)
    for ours, theirs in zip(variables, VARIABLES, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_epoch_is_the_last_finished_one() -> None:
    assert FitState().epoch == 0
    assert state().epoch == 1


@pytest.mark.parametrize("step", ["numpy.savez", "os.fsync"])
def test_a_stop_while_saving_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "c.npz"
    save_checkpoint(path, state(), VARIABLES)
    with monkeypatch.context() as patch:
        patch.setattr(step, stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, FitState(num_plateaus=9), [])
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path / "other.npz", FitState(), [])
    assert_same(load_checkpoint(path)[0], state())
    assert not (tmp_path / "other.npz").exists()
    save_checkpoint(path, FitState(num_plateaus=9), [])
    assert load_checkpoint(path)[0].num_plateaus == 9


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "c.npz")

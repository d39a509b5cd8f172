"""A run that was stopped goes on, and ends with the bytes of a run that was not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from stage2_temporal import cli
from stage2_temporal.run_folder import PROGRESS
from stage2_temporal.training import TrainResult
from stage2_temporal.training_progress import TrainingProgress
from tests.stage2_temporal.whole_runs import (
    WholeRun,
    command,
    contents,
    holdout,
    names,
    read_texts,
    write_data,
)

PATIENT_TOML = """
target = "label"
group = "patient"
validation = "kfold"
folds = 2
units = 4
epochs = 80
patience = 1000
batch_size = 16
resamples = 20
"""
UNITS = [f"fold{fold}-member0-repeat0" for fold in range(4)]


def partial_of(run: Path) -> Path:
    (found,) = run.parent.glob(f".{run.name}.*.partial")
    return found


def modified(run: Path) -> dict[str, int]:
    """When each finished training's result was written."""
    progress = partial_of(run) / PROGRESS
    return {name: (progress / f"{name}.npz").stat().st_mtime_ns for name in results(run)}


def results(run: Path) -> list[str]:
    return [name for name in UNITS if (partial_of(run) / PROGRESS / f"{name}.npz").exists()]


# in this process


def stop_at(monkeypatch: pytest.MonkeyPatch, wanted: str, trained: list[str]) -> None:
    """Note each training that begins, and press Ctrl-C when `wanted` does."""
    from stage2_temporal.runner import Runner

    original = Runner._train

    def noted(self: Runner, unit: Any, *rest: Any, **options: Any) -> Any:
        trained.append(unit.name)
        if unit.name == wanted:
            raise KeyboardInterrupt
        return original(self, unit, *rest, **options)

    monkeypatch.setattr(Runner, "_train", noted)


@pytest.mark.xslow
def test_a_run_stopped_between_folds_goes_on(
    whole_data: Path,
    folds_run: WholeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even with other workers; and neither they nor the order of the manifest change a byte."""
    table = read_texts(whole_data / "m.csv")
    table.iloc[::-1].to_csv(whole_data / "reversed.csv", index=False)
    run = tmp_path / "run"
    trained: list[str] = []
    with monkeypatch.context() as patch:
        stop_at(patch, UNITS[2], trained)
        assert command(whole_data, run, manifest="reversed.csv") == 130
    assert capsys.readouterr().err.endswith("stage2-temporal: error: stopped\n")
    assert not run.exists()
    assert results(run) == UNITS[:2]
    with monkeypatch.context() as patch:
        stop_at(patch, "none", trained)
        assert command(whole_data, run, "--workers", "3", manifest="reversed.csv") == 0
    assert trained == [*UNITS[:3], *UNITS[2:]]
    assert contents(run) == contents(folds_run.folder)
    assert names(run) == names(folds_run.folder)
    assert names(tmp_path) == ["run"]


@pytest.mark.slow
def test_a_training_stopped_between_epochs_goes_on(
    whole_data: Path,
    holdout_run: TrainResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stage2_temporal import epochs

    trained: list[int] = []

    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    def note(keeper: Any, epoch: int, *rest: Any) -> None:
        trained.append(epoch + 1)
        original(keeper, epoch, *rest)

    original = epochs.EpochKeeper.on_epoch_begin
    monkeypatch.setattr(epochs, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(epochs.EpochKeeper, "on_epoch_begin", note)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "finish_epoch", press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            holdout(whole_data, tmp_path / "run")
    holdout(whole_data, tmp_path / "run")
    assert trained == [1, 2]
    assert contents(tmp_path / "run") == contents(holdout_run.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c_raises")
@pytest.mark.parametrize("call", ["train_on_batch", "predict_on_batch", "save"])
def test_ctrl_c_waits_for_keras(
    whole_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: str,
) -> None:
    """TensorFlow makes a SystemError of it, and an archive that it cuts short a ValueError."""
    import keras

    ended: list[str] = []

    def pressed(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        found = original(*arguments, **options)
        ended.append(call)
        return found

    original = getattr(keras.Model, call)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, call, pressed)
        assert command(whole_data, tmp_path / "run") == 130
    assert ended == [call]
    assert capsys.readouterr().err.endswith("stage2-temporal: error: stopped\n")


def test_other_settings_begin_anew(
    whole_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in ("1", "2"):
        trained: list[str] = []
        with monkeypatch.context() as patch:
            stop_at(patch, UNITS[0], trained)
            assert command(whole_data, tmp_path / "run", "--seed", seed) == 130
    found = list(tmp_path.glob(".run.*.partial"))
    assert len(found) == 2


# as a program


@pytest.fixture(scope="module")
def long_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and settings of trainings that take some seconds each."""
    folder = tmp_path_factory.mktemp("long")
    write_data(folder)
    (folder / "long.toml").write_text(PATIENT_TOML)
    return folder


def long_arguments(data: Path, run: Path) -> list[str]:
    where = [str(data / "store"), str(data / "m.csv"), str(run)]
    return ["train", *where, "--config", str(data / "long.toml")]


TRAIN_AND_HALT = """
import os, signal, sys
from stage1_extract.keras_setup import load_keras
from stage2_temporal.cli import main

load_keras()
from stage2_temporal import epochs

save = epochs.save_checkpoint

def save_and_halt(path, *content):
    save(path, *content)
    if path.name.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGSTOP)

epochs._SECONDS_BETWEEN_CHECKPOINTS, epochs.save_checkpoint = 0.0, save_and_halt
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def halted(data: Path, run: Path, unit: str) -> Iterator["subprocess.Popen[str]"]:
    """A run that holds itself still within a training, at its first checkpoint."""
    argv = [sys.executable, "-c", TRAIN_AND_HALT, unit, *long_arguments(data, run)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        argv,
        text=True,
        # A job in the background of a shell starts with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **pipes,
    ) as process:
        until = time.monotonic() + 300
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the run did not get there"
            time.sleep(0.01)
        yield process


@pytest.mark.xslow
def test_a_killed_run_ends_like_one_that_was_not(
    long_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed within the first training, and stopped by Ctrl-C within the second."""
    run = tmp_path / "run"
    with halted(long_data, run, UNITS[0]) as process:
        assert cli.main(long_arguments(long_data, run)) == 2
        assert "another process is training" in capsys.readouterr().err
        os.kill(process.pid, signal.SIGKILL)
    assert results(run) == []
    with halted(long_data, run, UNITS[1]) as process:
        written = modified(run)
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGCONT)
        _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert list(written) == UNITS[:1]
    assert modified(run) == written
    assert not run.exists()
    assert cli.main(long_arguments(long_data, run)) == 0
    assert names(tmp_path) == ["run"]
    assert cli.main(long_arguments(long_data, tmp_path / "undisturbed")) == 0
    assert contents(run) == contents(tmp_path / "undisturbed")
    assert names(run) == names(tmp_path / "undisturbed")

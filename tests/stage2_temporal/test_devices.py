"""Several devices train what one does: on parts of a CPU, each as good as a GPU for that."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras, num_gpus
from stage2_temporal import cli, devices
from stage2_temporal.config import TrainSettings
from stage2_temporal.devices import chosen_devices, devices_of
from stage2_temporal.sweep_settings import SweepSettings
from tests.stage2_temporal.device_trainings import CASES
from tests.stage2_temporal.synthetic import ordered, write_manifest, write_store

keras = load_keras()

Found = Mapping[str, NDArray[Any]]
TOLERANCE, COARSE = 1e-5, {"float16": 5e-3}
"""Relative error of losses and predictions, and where the arithmetic is coarse."""
VARIABLE_TOLERANCE, VARIABLE_COARSE = 2e-3, {"float16": 3e-2}
"""Of a variable, of its greatest value. It is larger for the loss of a probability that is all but
1, which has few digits, and so has its gradient."""
WITH_DROPOUT = "dropout"  # of which TensorFlow draws another one on each device
PROGRAMS = {
    "tensorflow, one case": ("tensorflow", "1,2", ["four"]),
    "tensorflow": (
        "tensorflow",
        "1,2",
        [*(case for case in CASES if case not in ("bfloat16", "four")), "seeds"],
    ),
    # One program, which XLA divides: what a case computes matters less.
    "jax": ("jax", "1,4", ["binary", "four", WITH_DROPOUT]),
}
"""Backend, numbers of devices and cases of what runs in one process."""
SAME = [
    pytest.param(name, case, marks=pytest.mark.slow if "one case" in name else pytest.mark.xslow)
    for name, (_, _, cases) in PROGRAMS.items()
    for case in cases
    if case in CASES and (name, case) != ("tensorflow", WITH_DROPOUT)
]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What the trainings of a program find; they run when they are first asked for."""
    known: dict[str, Found] = {}

    def found(name: str) -> Found:
        backend, numbers, cases = PROGRAMS[name]
        if backend == "jax":
            pytest.importorskip("jax")
        if name not in known:
            out = tmp_path_factory.mktemp(backend) / "found.npz"
            program = [sys.executable, "-m", "tests.stage2_temporal.device_trainings"]
            subprocess.run([*program, backend, str(out), numbers, *cases], check=True)
            with np.load(out, allow_pickle=False) as file:
                known[name] = {key: file[key] for key in file.files}
        return known[name]

    return found


def of_training(found: Found, prefix: str) -> Found:
    """Return what one training found, by what it is."""
    return {key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)}


@pytest.mark.parametrize(("name", "case"), SAME)
def test_several_devices_train_what_one_does(
    found_by: Callable[[str], Found], name: str, case: str
) -> None:
    number = PROGRAMS[name][1].split(",")[1]
    one, several = (of_training(found_by(name), f"{case}/{n}/") for n in ("1", number))
    assert one.keys() == several.keys()
    assert len(set(one["loss"])) == 3
    assert sum(what.startswith("optimizer") for what in one) > 20
    results = {"loss", "val_loss", "predictions", "counters"}
    for what in results:
        tolerance = COARSE.get(case, TOLERANCE)
        np.testing.assert_allclose(several[what], one[what], rtol=tolerance, atol=tolerance)
    for what in one.keys() - results:
        tolerance = VARIABLE_COARSE.get(case, VARIABLE_TOLERANCE) * np.abs(one[what]).max()
        np.testing.assert_allclose(several[what], one[what], rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.xslow
@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_what_several_devices_train_is_repeated_and_goes_on_after_a_stop(
    found_by: Callable[[str], Found], name: str
) -> None:
    found, number = found_by(name), PROGRAMS[name][1].split(",")[1]
    values = of_training(found, f"{WITH_DROPOUT}/{number}/")
    first = {what: v for what, v in values.items() if not what.startswith(("again ", "resumed "))}
    for how in ("again", "resumed"):
        for what in first:
            np.testing.assert_array_equal(values[f"{how} {what}"], first[what])


@pytest.mark.xslow
def test_each_device_drops_other_values(found_by: Callable[[str], Found]) -> None:
    first, again, other = found_by("tensorflow")["seeds/2/losses"]
    assert first == again
    assert first != other


# the command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sequences, classes = ordered(60)
    write_store(tmp_path / "store", sequences)
    write_manifest(tmp_path / "m.csv", list(sequences), label=classes)
    return tmp_path


def arguments(data: Path, run: str, *more: str) -> list[str]:
    where = [str(data / "store"), str(data / "m.csv"), str(data / run)]
    small = ["--units", "4", "--epochs", "3", "--batch-size", "8", "--resamples", "20"]
    return ["train", *where, "--target", "label", "--gain-confidence", "0", *small, *more]


@pytest.mark.xslow
def test_what_a_run_trained_on_several_devices_predicts_on_one(data: Path) -> None:
    pytest.importorskip("jax")
    parts = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    more = ["--backend", "jax", "--devices", "cpu,cpu", "--head", "tcn"]
    subprocess.run(
        [sys.executable, "-m", "stage2_temporal", *arguments(data, "run", *more)],
        check=True,
        capture_output=True,
        env={**os.environ, **parts},
    )
    settings = json.loads((data / "run" / "settings.json").read_text())
    assert settings["settings"]["devices"] == "cpu,cpu"
    out = data / "predictions.csv"
    where = [str(data / "run"), "--store", str(data / "store"), "--out", str(out)]
    assert cli.main(["predict", *where]) == 0
    predicted = pd.read_csv(out).set_index("video_id")["probability_1"]
    tested = pd.read_csv(data / "run" / "predictions.csv").set_index("video_id")["probability_1"]
    assert tested.max() > tested.min()
    np.testing.assert_allclose(predicted[tested.index], tested, rtol=0, atol=1e-5)


@pytest.mark.skipif(num_gpus() > 1, reason="there are two GPUs")
def test_devices_that_are_not_there_are_an_error_that_counts_those_that_are(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(data, "run", "--devices", "0,1")) == 2
    backend = keras.backend.backend()
    assert f"devices is '0,1', but {backend} sees {num_gpus()} GPU" in capsys.readouterr().err
    assert sorted(path.name for path in data.iterdir()) == ["m.csv", "store"]


# which devices


def test_devices_are_taken_by_their_numbers() -> None:
    there = ["gpu:0", "gpu:1", "gpu:2"]
    assert chosen_devices("2,0", there) == ["gpu:2", "gpu:0"]
    assert chosen_devices("cpu,cpu", ["cpu:0", "cpu:1", "cpu:2"]) == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    ("wanted", "there", "message"),
    [
        ("0,1", ["gpu:0"], r"sees 1 GPU: they are numbered from 0, and CUDA_VISIBLE_DEVICES"),
        ("0,2", ["gpu:0", "gpu:1"], "sees 2 GPUs: they are numbered from 0"),
        ("cpu,cpu", ["cpu:0"], "sees 1 CPU: .* divides it.*; leave --devices out"),
    ],
)
def test_more_devices_than_there_are(wanted: str, there: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_devices(wanted, there)


def test_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="with tensorflow and jax alone, not with torch"):
        devices_of("0,1")


def test_trials_at_the_same_time_do_not_share_devices() -> None:
    base = TrainSettings("label", devices="0,1")
    with pytest.raises(ValueError, match=r"3 trials at a time .* --jobs 1"):
        SweepSettings(base, jobs=3)
    assert SweepSettings(base, jobs=1).base.devices == "0,1"

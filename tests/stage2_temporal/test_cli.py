"""The command line: exit codes, plain words on stderr, and settings from flags and files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage1_extract.command import parse_arguments
from stage2_temporal import cli
from tests.stage2_temporal.synthetic import ordered, write_manifest, write_store

NUM_CLIPS = 24
QUICK = ["--units", "4", "--epochs", "1", "--resamples", "10"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a store and a manifest; the tests' files go there, too."""
    sequences, classes = ordered(NUM_CLIPS)
    write_store(tmp_path / "store", sequences)
    number = np.arange(NUM_CLIPS)
    write_manifest(
        tmp_path / "m.csv",
        list(sequences),
        label=np.where(classes, "rising", "falling"),
        constant="same",
        two_groups=[f"g{i}" for i in number % 2],
        one_group_a_class=np.where(classes, "g0", [f"g{i}" for i in number]),
    )
    return tmp_path


def arguments(data: Path, *flags: str) -> list[str]:
    return ["train", str(data / "store"), str(data / "m.csv"), str(data / "run"), *flags]


def fail(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run a command that must fail, and return its one complaint."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("stage2-temporal: error: ")
    return err


def test_training_prints_scores_and_writes_the_run(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(data, "--target", "label", *QUICK)) == 0
    out = capsys.readouterr().out
    metrics = json.loads((data / "run" / "metrics.json").read_text())
    auroc = metrics["test"]["recurrent"]["auroc"]["value"]
    line = next(line for line in out.splitlines() if line.startswith("auroc "))
    assert line.split()[1] == f"{auroc:.3f}"
    assert "binary: train" in out
    assert f"Report: {data / 'run' / 'report.html'}" in out
    settings = json.loads((data / "run" / "settings.json").read_text())["settings"]
    assert (settings["units"], settings["epochs"], settings["head"]) == (4, 1, "gru")

    page = data / "run" / "report.html"
    page.unlink()
    assert cli.main(["report", str(data / "run")]) == 0
    assert capsys.readouterr().out == f"Report: {page}\n"
    assert page.is_file()

    message = fail(capsys, arguments(data, "--target", "label", *QUICK))
    assert "run exists; choose another run folder, or give --overwrite" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "lable"], "has no column 'lable'; its columns are ['path', 'video_id', 'l"),
        (["--target", "constant"], "single value 'same' in 24 clips"),
        (["--target", "label", "--group", "patient"], "has no column 'patient'"),
        (["--target", "label", "--group", "two_groups"], "2 groups cannot fill train, validation"),
        (["--target", "label", "--group", "one_group_a_class"], "rising (class 1): 12 clips in 1"),
        (["--target", "label", "--split-column", "label"], "blank or unknown"),
        (["--target", "label", "--positive", "sick"], "'sick' is not in 'label': ['falling', "),
        (["--target", "label", "--task", "regression"], "no finite"),
        (["--target", "label", "--balance", "uniformize"], "use oversample or none"),
        (["--target", "label", "--backend", "theano"], "backend 'theano' is unknown"),
        (["--target", "label", "--test-fraction", "1.5"], "test_fraction is 1.5"),
    ],
)
def test_wrong_input_is_explained(
    data: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in fail(capsys, arguments(data, *flags, *QUICK))
    assert not (data / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--target"),
        (["--target", "label", "--units", "many"], "units"),
        (["--target", "label", "--unit", "8"], "--units"),
        (["--target", "label", "--head", "rnn"], "head is 'rnn'; expected one of gru, lstm"),
        (["--target", "label", "--epochs", "0"], "epochs is 0; expected 1 or more"),
    ],
)
def test_wrong_flags_exit_with_2(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "store", "m.csv", "run", *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def spoil(data: Path, how: str) -> None:
    shard, manifest = data / "store" / "a.h5", data / "m.csv"
    content = shard.read_bytes()
    if how == "no store":
        shard.unlink()
        shard.parent.rmdir()
    elif how == "empty store":
        shard.unlink()
    elif how == "cut short":
        shard.write_bytes(content[: len(content) // 2])
    elif how == "not HDF5":
        shard.write_bytes(b"hello" * 1000)
    elif how == "no manifest":
        manifest.unlink()
    elif how == "clip not in store":
        with manifest.open("a") as file:
            file.write("new.mp4,new,rising,same,g0,g0\n")
    elif how == "blank target":
        manifest.write_text(manifest.read_text().replace("clip003,rising", "clip003,"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no store", "no store at "),
        ("empty store", "holds no shards"),
        ("cut short", "a.h5 "),
        ("not HDF5", "a.h5 cannot be read as a shard"),
        ("no manifest", "no manifest at "),
        ("clip not in store", "1 clips of "),
        ("blank target", "1 clips have no 'label', e.g. ['clip003']"),
    ],
)
def test_bad_files_are_explained(
    data: Path, capsys: pytest.CaptureFixture[str], how: str, message: str
) -> None:
    spoil(data, how)
    assert message in fail(capsys, arguments(data, "--target", "label", *QUICK))
    assert not (data / "run").exists()


@pytest.mark.parametrize(
    ("how", "flag", "reason"),
    [
        ("clip not in store", "--unmatched", "not in the store"),
        ("blank target", "--blank-target", "blank target"),
    ],
)
@pytest.mark.slow
def test_clips_may_be_left_out(data: Path, how: str, flag: str, reason: str) -> None:
    spoil(data, how)
    assert cli.main(arguments(data, "--target", "label", flag, "drop", *QUICK)) == 0
    document = json.loads((data / "run" / "data.json").read_text())
    assert document["left_out"][reason] == 1
    assert sum(document["left_out"].values()) == 1


@pytest.mark.parametrize("argv", [["trian"], ["trian", "--help"]])
def test_unknown_command_names_the_near_one(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert "unknown command 'trian'; did you mean train?" in fail(capsys, argv)


def test_report_of_no_run_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in fail(capsys, ["report", str(tmp_path)])


# settings


def parsed(toml: str, folder: Path, *flags: str) -> Any:
    (folder / "c.toml").write_text(toml)
    argv = ["s", "m", "r", "--config", str(folder / "c.toml"), *flags]
    return parse_arguments(cli.Train, argv, program="x").settings


def test_flag_beats_file_beats_default(tmp_path: Path) -> None:
    toml = 'units = 8\nhead = "lstm"\nbidirectional = true\nlearning_rate = 0.01\n'
    found = parsed(toml, tmp_path, "--target", "y", "--units", "16", "--no-bidirectional")
    assert (found.units, found.head, found.bidirectional) == (16, "lstm", False)
    assert (found.learning_rate, found.layers) == (0.01, 1)


def test_target_may_stand_in_the_file(tmp_path: Path) -> None:
    assert parsed('target = "ef"\n', tmp_path).target == "ef"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("unit = 8\n", "unknown setting 'unit'; did you mean 'units'?"),
        ("batchsize = 8\n", "did you mean 'batch_size'?"),
        ("units = \n", "is not valid TOML"),
        ("[units]\nx = 1\n", "units is a dict; expected a text, number or truth value"),
    ],
)
def test_wrong_file_is_explained(
    data: Path, capsys: pytest.CaptureFixture[str], toml: str, message: str
) -> None:
    (data / "c.toml").write_text(toml)
    flags = ["--target", "label", "--config", str(data / "c.toml")]
    assert message in fail(capsys, arguments(data, *flags))


# as a program


def program(*argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "stage2_temporal", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_shows_the_commands() -> None:
    out = program("--help").stdout
    assert "usage: stage2-temporal COMMAND" in out
    assert "train" in out
    assert "report" in out


def test_help_of_train_explains_settings_without_keras() -> None:
    code = (
        "import sys\nfrom stage2_temporal.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit as stop:\n    print(stop.code)\n"
        "print([name for name in ('keras', 'tensorflow', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n[]\n")
    assert "--blank-target" in done.stdout


def test_program_without_a_command_is_wrong_use() -> None:
    assert "usage:" in program(code=2).stdout


def test_program_reports_a_mistake_on_stderr(tmp_path: Path) -> None:
    pd.DataFrame({"path": ["a.mp4"]}).to_csv(tmp_path / "m.csv")
    done = program("train", "nowhere", str(tmp_path / "m.csv"), "r", "--target", "y", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("stage2-temporal: error: no store at nowhere")

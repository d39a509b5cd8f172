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
from tests.stage2_temporal.whole_runs import WholeRun, arguments, read_json

NUM_CLIPS = 24
QUICK = ["--units", "4", "--epochs", "1", "--resamples", "10"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a store and a manifest; the tests' files go there, too."""
    sequences, classes = ordered(NUM_CLIPS)
    write_store(tmp_path / "store", sequences)
    label = np.where(classes, "rising", "falling")
    write_manifest(tmp_path / "m.csv", list(sequences), label=label)
    return tmp_path


def train_arguments(data: Path, *flags: str) -> list[str]:
    return ["train", str(data / "store"), str(data / "m.csv"), str(data / "run"), *flags]


def fail(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run a command that must fail, and return its one complaint."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("stage2-temporal: error: ")
    return err


# train and report


def test_training_prints_the_sides_and_where_the_report_is(folds_run: WholeRun) -> None:
    assert folds_run.code == 0
    lines = folds_run.printed.splitlines()
    first = read_json(folds_run.folder / "data.json")["folds"][0]
    sides = ", ".join(
        f"{name} {first[name]['clips']} clips of {first[name]['groups']} groups"
        for name in ("train", "validation", "test")
    )
    assert f"{sides}; the first of 4 folds" in lines
    assert lines[-1] == f"Report: {folds_run.folder / 'report.html'}"
    assert (folds_run.folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("target", "task", "score"), [("label", "binary", "auroc"), ("ef", "regression", "mae")]
)
def test_training_prints_a_table_of_each_target(
    folds_run: WholeRun, target: str, task: str, score: str
) -> None:
    lines = folds_run.printed.splitlines()
    start = lines.index(f"{target} ({task})")
    head = lines[start + 1]
    models = ["recurrent", "mean-pool baseline", "side features alone", "minus mean-pool baseline"]
    places = [head.index(model) for model in [*models, "minus side features alone"]]
    assert places == sorted(places)
    (line,) = [line for line in lines[start : start + 12] if line.startswith(f"{score} ")]
    test = read_json(folds_run.folder / "metrics.json")["targets"][target]["test"]
    keys = ["recurrent", "mean_pool", "features", "difference", "difference_features"]
    for place, key in zip(places, keys, strict=True):
        found = test[key][score]
        text = f"{found['value']:.3f} ± {found['spread']:.3f}"
        assert line[place:].startswith(f"{text} [{found['low']:.3f}, {found['high']:.3f}]")


def test_side_features_tell_what_the_embeddings_do_not(folds_run: WholeRun) -> None:
    """The table holds the label itself, blank in five clips."""
    test = read_json(folds_run.folder / "metrics.json")["targets"]["label"]["test"]
    assert test["features"]["auroc"]["value"] > 0.8
    assert test["difference_features"]["auroc"]["value"] < 0
    assert test["mean_pool"]["auroc"]["value"] < 0.8


def test_report_is_written_anew(folds_run: WholeRun, capsys: pytest.CaptureFixture[str]) -> None:
    page = folds_run.folder / "report.html"
    page.unlink()
    assert cli.main(["report", str(folds_run.folder)]) == 0
    assert capsys.readouterr().out == f"Report: {page}\n"
    assert page.is_file()


def test_a_run_that_exists_is_refused(
    whole_data: Path, folds_run: WholeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fail(capsys, arguments(whole_data, folds_run.folder))
    assert "folds exists; choose another run folder, or give --overwrite" in message


def test_report_of_no_run_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in fail(capsys, ["report", str(tmp_path)])


# features and find-rate


def test_features_says_what_was_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(
        {"video_id": ["a", "b", "c"], "age": [61, None, 45], "sex": ["f", "m", "f"]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    assert cli.main(["features", str(tmp_path / "t.csv"), str(tmp_path / "t.h5")]) == 0
    out = capsys.readouterr().out
    assert out == (
        f"{tmp_path / 't.h5'}: 3 rows, 3 features from columns: 1 number, 1 category; "
        "1 blank values\n"
    )


def test_find_rate_suggests_a_rate(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["find-rate", str(data / "store"), str(data / "m.csv"), "--target", "label", *QUICK]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert out.split()[:3] == ["learning_rate", "loss", "smoothed"]
    suggested = float(out.split("--learning-rate ")[1].split()[0])
    assert 1e-6 <= suggested <= 1
    assert "(now 0.001)" in out
    assert not (data / "run").exists()


def test_find_rate_explains_a_wrong_column(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["find-rate", str(data / "store"), str(data / "m.csv"), "--target", "lable"]
    assert "has no column 'lable'" in fail(capsys, argv)


# wrong use


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--target"),
        (["--target", "label", "--units", "many"], "units"),
        (["--target", "label", "--unit", "8"], "--units"),
        (["--target", "label", "--head", "rnn"], "head is 'rnn'; expected one of gru, lstm"),
        (["--target", "label", "--epochs", "0"], "epochs is 0; expected 1 or more"),
        (["--target", "label", "--crop", "2"], "crop is 2.0; expected more than 0"),
        (["--target", "label", "--threshold", "often"], "threshold"),
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
            file.write("new.mp4,new,rising\n")
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
    assert message in fail(capsys, train_arguments(data, "--target", "label", *QUICK))
    assert not (data / "run").exists()


@pytest.mark.slow
def test_clips_may_be_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(data, "clip not in store")
    spoil(data, "blank target")
    flags = ["--unmatched", "drop", "--blank-target", "drop"]
    assert cli.main(train_arguments(data, "--target", "label", *flags, *QUICK)) == 0
    left_out = json.loads((data / "run" / "data.json").read_text())["left_out"]
    assert left_out == {"not in the store": 1, "not in the manifest": 0, "blank target": 1}
    out = capsys.readouterr().out
    assert "left out, not in the store: 1 clips" in out
    assert "left out, blank target: 1 clips" in out
    assert "not in the manifest" not in out


@pytest.mark.parametrize("argv", [["trian"], ["trian", "--help"]])
def test_unknown_command_names_the_near_one(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert "unknown command 'trian'; did you mean train?" in fail(capsys, argv)


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


@pytest.mark.parametrize(
    ("toml", "flags", "targets"),
    [
        ('target = "ef"\n', [], ("ef",)),
        ('target = ["label", "age"]\n', [], ("label", "age")),
        ('target = ["label", "age"]\n', ["--target", "ef"], ("ef",)),
    ],
)
def test_targets_may_stand_in_the_file(
    tmp_path: Path, toml: str, flags: list[str], targets: tuple[str, ...]
) -> None:
    assert parsed(toml, tmp_path, *flags).target == targets


def test_lists_and_augmentation_may_stand_in_the_file(tmp_path: Path) -> None:
    toml = 'target = "y"\nloss_weight = [0.5]\nclass_share = ["a=0.5"]\nnoise = 0.2\ncrop = 0.5\n'
    found = parsed(toml, tmp_path, "--crop", "0.75")
    assert (found.loss_weight, found.class_share) == ((0.5,), ("a=0.5",))
    assert (found.augmentation.noise, found.augmentation.crop) == (0.2, 0.75)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("unit = 8\n", "unknown setting 'unit'; did you mean 'units'?"),
        ("batchsize = 8\n", "did you mean 'batch_size'?"),
        ("units = \n", "is not valid TOML"),
        ("[units]\nx = 1\n", "units is a dict; expected a text, number or truth value"),
        ("units = [8]\n", "units is a list; expected a text, number or truth value"),
        ('task = [["binary"]]\n', "task is a list; expected a text or number, or a list of such"),
    ],
)
def test_wrong_file_is_explained(
    data: Path, capsys: pytest.CaptureFixture[str], toml: str, message: str
) -> None:
    (data / "c.toml").write_text(toml)
    flags = ["--target", "label", "--config", str(data / "c.toml")]
    assert message in fail(capsys, train_arguments(data, *flags))


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
    assert all(f"  {name} " in out for name in ("train", "report", "features", "find-rate"))


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

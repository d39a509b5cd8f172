import re
from pathlib import Path

import pandas as pd
import pytest

from stage2_temporal.run_files import read_run
from tests.stage2_temporal.written_runs import FILES, edit, make_run

TARGET = ("targets", 0)
SCORES = ("targets", "abnormal", "test", "recurrent", "auroc")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (make_run(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(name)}.*not a complete run"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'a,b\n"1,2\n', b"\x00"])
def test_garbled_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (make_run(tmp_path) / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*not a complete run"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("csv")])
def test_cut_off_table_is_named(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path) / name
    path.write_text(path.read_text()[:-6])
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: row \d+ has \d+ of \d+ fields"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("settings.json", ["format_version"], 1, "expected stage2-run, version 3, got"),
        ("settings.json", ["store"], None, "store"),
        ("data.json", ["targets"], [], "a target and a fold or more"),
        ("data.json", [*TARGET, "task"], "magic", "unknown task 'magic'"),
        ("data.json", [*TARGET, "classes"], None, "do not suit the task 'binary'"),
        ("data.json", [*TARGET, "classes"], ["0", "2"], "probability_2"),
        ("data.json", [*TARGET, "classes"], ["0", 2], "classes[1] is 2"),
        ("data.json", [*TARGET, "class_counts"], None, "class_counts"),
        ("data.json", [*TARGET, "predictions"], "../secret.csv", "expected a file's name"),
        ("data.json", ["folds", 0, "test"], {"clips": 3}, "folds[0].test.groups is missing"),
        ("data.json", ["balance", "distributions", 0, "after"], [1], "differ in length"),
        ("data.json", ["best_epochs", "fold0-member0-repeat0"], 9, "chose epoch 9"),
        ("data.json", ["best_epochs"], {}, "no best epoch of"),
        ("data.json", ["map_variance"], [0.5], "expected two shares"),
        ("data.json", ["near_duplicates"], [{}], "near_duplicates[0].first is missing"),
        ("metrics.json", ["targets"], {}, "its targets are {}"),
        ("metrics.json", ["targets", "abnormal", "primary"], "f2", "f2"),
        ("metrics.json", ["targets", "abnormal", "primary"], "f1", "no test score of"),
        ("metrics.json", ["targets", "abnormal", "test", "oracle"], {}, "models ['oracle']"),
        ("metrics.json", SCORES, 0.9, "0.9"),
        ("metrics.json", [*SCORES, "low"], "x", "'x'"),
        ("metrics.json", ["targets", "abnormal", "subjects"], {}, "subjects.count is missing"),
    ],
)
def test_wrong_content_is_shown(
    tmp_path: Path, name: str, keys: list[str | int], value: object, message: str
) -> None:
    edit(make_run(tmp_path) / name, *keys, value=value)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("predictions.csv", "split", "train", r"no row of split \['test'\]"),
        ("predictions.csv", "target", "2", r"target: labels \['2'\]"),
        ("predictions.csv", "target", "", "no test clip has the target"),
        ("predictions.csv", "prediction", "", "a prediction of the test rows is blank"),
        ("predictions.csv", "probability_1", "high", "a number was expected in row 3"),
        ("predictions.csv", "probability_1", "", "blank or infinite"),
        ("predictions.csv", "video_id", "same", r"clips \['same'\] have several test rows"),
        ("history.csv", "epoch", "", "the column epoch holds blank"),
        ("history.csv", "fold", "7", r"folds \[7\], expected 0 to 0"),
        ("history.csv", "loss", "low", "a number was expected in row 2"),
        ("clips.csv", "x", "", "frames, x and y hold blank"),
        ("clips.csv", "video_id", "same", r"clips \['same'\] have several rows"),
        ("scores_by_fold.csv", "fold", "1", "expected 0 to 0"),
        ("scores_by_fold.csv", "model", "oracle", "oracle"),
        ("scores_by_fold.csv", "split", "test", "gives a score a second time"),
    ],
)
def test_wrong_tables_are_shown(
    tmp_path: Path, name: str, column: str, value: str, message: str
) -> None:
    path = make_run(tmp_path) / name
    pd.read_csv(path, dtype=str).assign(**{column: value}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_tested_clip_without_a_row_is_named(tmp_path: Path) -> None:
    path = make_run(tmp_path) / "clips.csv"
    table = pd.read_csv(path, dtype=str)
    table[table["video_id"] != "clip_3"].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"clips\.csv: no row of clips \['clip_3'\]"):
        read_run(tmp_path)


def test_facts_of_clips_are_read(tmp_path: Path) -> None:
    clips = read_run(make_run(tmp_path, "multiclass", ["NA", "01", "1e3"])).clips
    assert clips.index[:3].tolist() == ["clip_0", "clip_1", "clip_2"]
    assert clips[["group", "target_abnormal"]].to_numpy()[1].tolist() == ["p01", "01"]
    numbers = clips[["frames", "seconds", "x", "y"]]
    assert numbers.to_numpy()[2].tolist() == [14, 0.5, 4, -2]
    assert numbers["seconds"].isna().tolist() == [False] * 8 + [True]


def test_texts_are_read_as_they_are(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "multiclass", ["NA", "01", "1e3"]))
    assert run.tested["abnormal"].target[:3].tolist() == ["01", "1e3", "NA"]


def test_the_first_making_of_the_folds_is_read(tmp_path: Path) -> None:
    make_run(tmp_path, folds=4)
    for fold in (2, 3):
        edit(tmp_path / "data.json", "folds", fold, "repetition", value=1)
    ids = read_run(tmp_path).tested["abnormal"].video_ids
    assert [name for name in ids if name.startswith(("clip_2_", "clip_3_"))] == []
    assert len(ids) == 14


@pytest.mark.parametrize(
    ("classes", "text", "row"),
    [
        (["a", "b", "c"], "a+c", [1, 0, 1]),
        (["a", "b", "c"], "", [0, 0, 0]),
        (["a+b", "b", "c"], "a+b+c", [1, 0, 1]),
    ],
)
def test_lists_of_labels_are_read(
    tmp_path: Path, classes: list[str], text: str, row: list[int]
) -> None:
    path = make_run(tmp_path, "multilabel", classes) / "predictions.csv"
    pd.read_csv(path, dtype=str).assign(target=text).to_csv(path, index=False)
    assert read_run(tmp_path).tested["abnormal"].target.tolist() == [row] * 7


def test_labels_that_cannot_be_told_apart_are_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path, "multilabel", ["a", "b", "a+b"]) / "predictions.csv"
    table = pd.read_csv(path, dtype=str)
    table["target"] = ["a", "a", "a+b", "b", "", "b", "b", "b"]
    table.to_csv(path, index=False)
    clips = read_run(tmp_path).tested["abnormal"]
    assert clips.num_without == 1
    assert "clip_2" not in clips.video_ids
    edit(tmp_path / "data.json", *TARGET, "labelled", value=129)  # so the blank may be missing
    assert read_run(tmp_path).tested["abnormal"].num_without == 2

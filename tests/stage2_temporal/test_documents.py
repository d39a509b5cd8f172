"""The files of a run folder: complete, and what they count is what the manifest holds."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage1_extract.command import parse_arguments
from stage2_temporal import cli
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.config import TrainSettings
from stage2_temporal.documents import command_line
from stage2_temporal.training import TrainResult
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import (
    IDS,
    NUM_CLIPS,
    WholeRun,
    columns,
    names,
    predictions,
    read_json,
    read_texts,
    side_features,
)

ALWAYS = [
    "clips.csv",
    "data.json",
    "files.json",
    "history.csv",
    "metrics.json",
    "predictions-1.csv",
    "predictions.csv",
    "report.html",
    "scores_by_fold.csv",
    "settings.json",
    "split.csv",
    "strips",
]
UNITS = [f"fold{fold}-member0-repeat0" for fold in range(4)]


# files


def test_files_of_one_training(holdout_run: TrainResult) -> None:
    assert names(holdout_run.folder) == sorted([*ALWAYS, "model.keras"])


def test_files_of_several_trainings(folds_run: WholeRun) -> None:
    expected = [f"model-{unit}.keras" for unit in UNITS]
    expected += [f"features-{unit}.json" for unit in UNITS]
    expected += [f"attention-fold{fold}.npz" for fold in range(4)]
    assert names(folds_run.folder) == sorted([*ALWAYS, *expected])


def test_nothing_else_is_left_beside_the_runs(
    whole_data: Path, folds_run: WholeRun, holdout_run: TrainResult
) -> None:
    del folds_run, holdout_run
    assert [name for name in names(whole_data) if name.startswith(".")] == []


def test_features_are_scaled_by_training_clips_alone(folds_run: WholeRun) -> None:
    sides = read_texts(folds_run.folder / "split.csv").set_index("video_id")
    tells = side_features().set_index("video_id")["tells"]
    for fold, unit in enumerate(UNITS):
        train = sides.index[sides[f"fold{fold}-member0"] == "train"]
        scaler = read_json(folds_run.folder / f"features-{unit}.json")
        (number,) = [i for i, name in enumerate(scaler["columns"]) if name == "tells"]
        assert scaler["mean"][number] == pytest.approx(tells[train].mean())
        assert scaler["deviation"][number] == pytest.approx(tells[train].std(ddof=0))
        assert scaler["indicators"][number] == tells[train].isna().any()


# data.json and settings.json


def test_data_document_counts_what_was_used(holdout_run: TrainResult) -> None:
    document = read_json(holdout_run.folder / "data.json")
    grade, labels = document["targets"]
    assert (grade["name"], grade["task"], labels["task"]) == ("grade", "multiclass", "multilabel")
    assert (grade["labelled"], labels["labelled"]) == (NUM_CLIPS - 2, NUM_CLIPS - 1)
    assert (grade["predictions"], labels["predictions"]) == ("predictions.csv", "predictions-1.csv")
    table = pd.DataFrame(columns(), index=IDS)
    for side, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = table[table["side"] == name]
        of_grade = rows["grade"].value_counts().drop("", errors="ignore")
        assert grade["class_counts"][side] == of_grade.to_dict()
        judged = rows[rows["a"].astype(str) != ""]
        assert labels["class_counts"][side] == judged[["a", "b"]].astype(int).sum().to_dict()
        expected = {"clips": len(rows), "groups": rows["patient"].nunique()}
        assert document["folds"][0][side] == expected == holdout_run.sides[side]
    assert document["left_out"]["blank target"] == 0
    assert document["lengths"] == {"min": 8, "median": 8.0, "max": 8}


def test_data_document_names_the_folds(folds_run: WholeRun) -> None:
    document = read_json(folds_run.folder / "data.json")
    assert [fold["repetition"] for fold in document["folds"]] == [0, 0, 1, 1]
    assert len({fold["name"] for fold in document["folds"]}) == 4
    assert len(set(document["split_sha256"])) == 4
    assert list(document["best_epochs"]) == UNITS
    for first in (0, 2):
        tested = [fold["test"]["clips"] for fold in document["folds"][first : first + 2]]
        assert sum(tested) == NUM_CLIPS


def test_best_epoch_has_the_least_validation_loss(folds_run: WholeRun) -> None:
    """Where no certainty is asked for."""
    history = pd.read_csv(folds_run.folder / "history.csv")
    best = read_json(folds_run.folder / "data.json")["best_epochs"]
    for fold, unit in enumerate(UNITS):
        rows = history[history["fold"] == fold]
        assert rows["epoch"].tolist() == [0, 1, 2]
        assert best[unit] == rows["epoch"].iloc[rows["val_loss"].to_numpy().argmin()]


def test_validation_loss_is_the_sum_of_the_targets(folds_run: WholeRun) -> None:
    history = pd.read_csv(folds_run.folder / "history.csv").set_index("fold")
    table = predictions(folds_run.folder, 1).query("split == 'validation'")
    complete = [n for n, rows in table.groupby("fold") if (rows["target"] != "").all()]
    assert complete
    rows = history.loc[complete]
    both = rows["val_loss label"] + rows["val_loss ef"]
    np.testing.assert_allclose(rows["val_loss"], both, rtol=1e-9)


def test_settings_document_tells_what_made_the_run(whole_data: Path, folds_run: WholeRun) -> None:
    document = read_json(folds_run.folder / "settings.json")
    assert document["settings"]["target"] == ["label", "ef"]
    assert document["settings"]["threshold"] == "validation"
    assert document["settings"]["augmentation"]["crop"] == 1.0
    assert document["store"]["path"] == str(whole_data / "store")
    assert document["store"]["num_sequences"] == document["manifest"]["num_clips"] == NUM_CLIPS
    assert {"keras", "numpy", "python"} <= set(document["software"])


# predictions


def test_missing_targets_are_blank(holdout_run: TrainResult) -> None:
    blank = predictions(holdout_run.folder).query("target == ''")["video_id"]
    tested = [i for i in (3, 16) if columns()["side"][i] != "train"]
    assert sorted(blank) == [IDS[i] for i in tested]


def test_several_labels_are_joined(holdout_run: TrainResult) -> None:
    table = predictions(holdout_run.folder, 1)
    for video_id, text in zip(table["video_id"], table["target"], strict=True):
        number = int(video_id)
        expected = ["a"] * (number % 3 == 0) + ["b"] * (number % 2)
        assert text == ("" if number == 5 else "+".join(expected))


# the command that repeats a run


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings("label"),
        quick(group="patient", bidirectional=True, overwrite=True, head="lstm", skip=False),
        quick("ejection fraction", positive="it's sick", seed=7, dropout=0.25, learning_rate=1e-05),
        TrainSettings(["a+b", "-odd"], ["multilabel", "auto"], loss_weight=[1, 0.5], skip=False),
        quick(balance="oversample", class_share=["sick=0.5", "a b=0.25"], balance_target="label"),
        quick(feature_table=Path("/t/x.h5"), feature=["age", "sex=F"], threshold="validation"),
        quick(validation="kfold", fold_repeats=3, threshold=0.3),
        quick(
            augmentation=AugmentSettings(noise=0.1, stored_views=True, crop=0.5), warmup_epochs=2
        ),
    ],
)
def test_command_line_repeats_the_settings(settings: TrainSettings) -> None:
    words = shlex.split(command_line(Path("my store"), Path("m.csv"), Path("r"), settings))
    assert words[:2] == ["stage2-temporal", "train"]
    parsed: Any = parse_arguments(cli.Train, words[2:], program="x")
    assert parsed == cli.Train(Path("my store"), Path("m.csv"), Path("r"), settings)


def test_command_line_finds_the_feature_table_from_any_folder() -> None:
    settings = quick(feature_table=Path("t.h5"))
    words = shlex.split(command_line(Path("s"), Path("m.csv"), Path("r"), settings))
    assert f"--feature-table={Path.cwd() / 't.h5'}" in words

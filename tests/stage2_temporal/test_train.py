"""A whole run: every file, the same scores again from the predictions, and no look at the test."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from stage1_extract.command import parse_arguments
from stage1_extract.keras_setup import load_keras
from stage2_temporal import cli
from stage2_temporal.config import TrainSettings
from stage2_temporal.documents import command_line
from stage2_temporal.fitting import TrainingError, predict_sequences
from stage2_temporal.train import TrainResult, train
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store

FILES = [
    "data.json",
    "history.csv",
    "metrics.json",
    "model.keras",
    "predictions.csv",
    "report.html",
    "settings.json",
    "split.csv",
]
NUM_CLIPS = 40
SAME = ("metrics.json", "predictions.csv", "split.csv", "history.csv", "data.json")
TARGETS = {"binary": "label", "multiclass": "grade", "regression": "ef"}


def columns() -> dict[str, Any]:
    number = np.arange(NUM_CLIPS)
    return {
        "label": np.where(number % 2, "Rising", "None"),  # None: a word, not a blank
        "grade": number % 4,
        "ef": 30.25 + 1.5 * number,
        "patient": [f"{i // 2:03d}" for i in number],
        "side": np.resize(["train"] * 4 + ["val"] * 2 + ["test"] * 2, NUM_CLIPS),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and a manifest whose rows are shuffled."""
    folder = tmp_path_factory.mktemp("data")
    sequences, _ = ordered(NUM_CLIPS)
    write_store(folder / "store", {f"{i:03d}": s for i, s in enumerate(sequences.values())})
    order = np.random.default_rng(0).permutation(NUM_CLIPS)
    shuffled = {name: np.asarray(values)[order] for name, values in columns().items()}
    write_manifest(folder / "m.csv", [f"{i:03d}" for i in order], **shuffled)
    return folder


def run(data: Path, folder: Path, target: str = "label", **settings: Any) -> TrainResult:
    return train(data / "store", data / "m.csv", folder, quick(target, **settings))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """One run of each task, by task."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"multiclass": {"balance": "oversample"}, "regression": {"balance": "uniformize"}}
    return {
        task: run(data, folder / task, target, group="patient", **options.get(task, {}))
        for task, target in TARGETS.items()
    }


def predictions(result: TrainResult) -> pd.DataFrame:
    return pd.read_csv(
        result.folder / "predictions.csv",
        dtype={"video_id": str, "group": str},
        keep_default_na=False,
    )


def metrics_of(result: TrainResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.folder / "metrics.json").read_text())
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# one run


@pytest.mark.parametrize("task", list(TARGETS))
def test_run_folder_is_complete(runs: dict[str, TrainResult], task: str) -> None:
    result = runs[task]
    assert names(result.folder) == FILES
    assert result.task == task
    assert set(names(result.folder.parent)) == set(TARGETS)  # no partial is left
    assert "split" in (result.folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize("task", list(TARGETS))
def test_predictions_carry_the_manifests_truth(runs: dict[str, TrainResult], task: str) -> None:
    table = predictions(runs[task]).set_index("video_id").sort_index()
    assert table.index.tolist() == [f"{i:03d}" for i in range(NUM_CLIPS)]
    expected = columns()
    assert table["target"].tolist() == np.asarray(expected[TARGETS[task]]).tolist()
    assert table["group"].tolist() == expected["patient"]
    split = pd.read_csv(runs[task].folder / "split.csv", dtype=str).set_index("video_id")
    assert split["split"].sort_index().tolist() == table["split"].tolist()
    assert len(table[["group", "split"]].drop_duplicates()) == NUM_CLIPS / 2


def sklearn_scores(task: str, table: pd.DataFrame, prefix: str) -> dict[str, float]:
    target, chosen = table["target"], table[f"{prefix}prediction"]
    if task == "regression":
        return {
            "mae": mean_absolute_error(target, chosen),
            "rmse": float(((target - chosen) ** 2).mean() ** 0.5),
            "r2": r2_score(target, chosen),
        }
    out = {"balanced_accuracy": balanced_accuracy_score(target, chosen)}
    if task == "binary":
        rising = (target == "Rising").to_numpy()
        out["auroc"] = roc_auc_score(rising, table[f"{prefix}probability_Rising"])
        out["f1"] = f1_score(rising, chosen == "Rising", zero_division=0)
        return out
    out["f1_macro"] = f1_score(target, chosen, average="macro", zero_division=0)
    return out


@pytest.mark.parametrize("task", list(TARGETS))
@pytest.mark.parametrize(("model", "prefix"), [("recurrent", ""), ("mean_pool", "baseline_")])
@pytest.mark.parametrize("side", ["validation", "test"])
def test_scores_are_scikit_learns_on_the_predictions(
    runs: dict[str, TrainResult], task: str, model: str, prefix: str, side: str
) -> None:
    table = predictions(runs[task])
    document = metrics_of(runs[task])
    found = document[side][model]
    expected = sklearn_scores(task, table[table["split"] == side], prefix)
    for name, value in expected.items():
        if name == "f1" and found[name]["value"] is None:
            continue  # no clip of class 1, or predicted as such
        assert found[name]["value"] == pytest.approx(value, abs=1e-5), name
    assert document["primary"] in expected
    assert document["resampled_by"] == "patient"


@pytest.mark.parametrize("task", list(TARGETS))
def test_saved_model_repeats_the_predictions(
    runs: dict[str, TrainResult], data: Path, task: str
) -> None:
    from stage1_extract.store import EmbeddingStore

    store = EmbeddingStore(data / "store")
    table = predictions(runs[task])
    model = load_keras().saving.load_model(runs[task].folder / "model.keras", safe_mode=True)
    positions = np.array([store.find(i) for i in table["video_id"]])
    found = predict_sequences(model, store, positions, task, batch_size=7)
    column = {"binary": "probability_Rising", "multiclass": "probability_2"}.get(task, "prediction")
    if task == "multiclass":
        found = found[:, 2]
    np.testing.assert_allclose(found, table[column], rtol=1e-5, atol=1e-6)


def test_probabilities_agree_with_the_prediction(runs: dict[str, TrainResult]) -> None:
    table = predictions(runs["multiclass"])
    probabilities = table[[f"probability_{i}" for i in range(4)]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert probabilities.argmax(axis=1).tolist() == table["prediction"].tolist()
    table = predictions(runs["binary"])
    likely = table["probability_Rising"] >= 0.5
    assert (table["prediction"] == np.where(likely, "Rising", "None")).all()


def test_data_document_counts_what_was_used(runs: dict[str, TrainResult]) -> None:
    document = json.loads((runs["multiclass"].folder / "data.json").read_text())
    table = predictions(runs["multiclass"])
    train_counts = table[table["split"] == "train"]["target"].value_counts().sort_index()
    assert document["distribution"]["before"] == train_counts.tolist()
    assert document["distribution"]["after"] == [train_counts.max()] * 4
    assert document["classes"] == list("0123")
    for side, counts in document["split"].items():
        rows = table[table["split"] == side]
        assert counts == {"clips": len(rows), "groups": rows["group"].nunique()}
    lengths = [len(s) for s in ordered(NUM_CLIPS)[0].values()]
    assert document["lengths"]["min"] == min(lengths)
    assert document["lengths"]["median"] == np.median(lengths)


def test_best_epoch_is_the_one_of_the_history(runs: dict[str, TrainResult]) -> None:
    history = pd.read_csv(runs["binary"].folder / "history.csv")
    document = json.loads((runs["binary"].folder / "data.json").read_text())
    assert history["epoch"].tolist() == [1, 2]
    assert document["best_epoch"] == 1 + history["val_loss"].to_numpy().argmin()


# one seed


def contents(result: TrainResult, files: tuple[str, ...] = SAME) -> dict[str, bytes]:
    return {name: (result.folder / name).read_bytes() for name in files}


@pytest.mark.parametrize(
    ("task", "workers"), [("binary", 3), pytest.param("regression", 1, marks=pytest.mark.slow)]
)
def test_one_seed_gives_the_same_bytes(
    runs: dict[str, TrainResult], data: Path, tmp_path: Path, task: str, workers: int
) -> None:
    balance = "uniformize" if task == "regression" else "none"
    again = run(
        data, tmp_path / "r", TARGETS[task], group="patient", balance=balance, workers=workers
    )
    assert contents(again) == contents(runs[task])


def test_another_seed_gives_another_run(
    runs: dict[str, TrainResult], data: Path, tmp_path: Path
) -> None:
    other = contents(run(data, tmp_path / "r", group="patient", seed=1))
    first = contents(runs["binary"])
    assert all(other[name] != first[name] for name in ("predictions.csv", "split.csv"))


@pytest.mark.slow
def test_order_of_the_manifest_changes_nothing(
    runs: dict[str, TrainResult], data: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(data / "m.csv", dtype=str, keep_default_na=False)
    table.iloc[::-1].to_csv(tmp_path / "m.csv", index=False)
    settings = quick("label", group="patient")
    other = train(data / "store", tmp_path / "m.csv", tmp_path / "r", settings)
    assert contents(other) == contents(runs["binary"])


@pytest.mark.parametrize("target", ["label", pytest.param("ef", marks=pytest.mark.slow)])
def test_labels_of_test_clips_do_not_reach_the_models(
    data: Path, tmp_path: Path, target: str
) -> None:
    table = pd.read_csv(data / "m.csv", dtype=str, keep_default_na=False)
    test = table.index[table["side"] == "test"]
    changed = table.copy()
    changed.loc[test, target] = table.loc[test[::-1], target].to_numpy()
    assert (changed[target] != table[target]).any()
    found = []
    for number, each in enumerate((table, changed)):
        each.to_csv(tmp_path / f"{number}.csv", index=False)
        result = train(
            data / "store",
            tmp_path / f"{number}.csv",
            tmp_path / f"run{number}",
            quick(target, split_column="side", epochs=1),
        )
        found.append(predictions(result).drop(columns="target"))
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)


# what goes wrong


def test_existing_run_is_refused_before_training(runs: dict[str, TrainResult], data: Path) -> None:
    before = contents(runs["binary"], tuple(FILES))
    with pytest.raises(FileExistsError, match="--overwrite"):
        run(data, runs["binary"].folder)
    assert contents(runs["binary"], tuple(FILES)) == before


def test_other_folder_is_never_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(FileExistsError, match="not a run folder"):
        run(data, tmp_path, overwrite=True)
    assert names(tmp_path) == ["settings.json", "thesis.docx"]


@pytest.mark.slow
def test_run_is_replaced_on_request(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "r", epochs=1)
    (first.folder / "stale").touch()
    run(data, tmp_path / "r", overwrite=True, epochs=1, target="grade")
    assert names(first.folder) == FILES
    assert metrics_of(first)["task"] == "multiclass"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": 1e30, "epochs": 4}, TrainingError, "no number any more"),
        ({"balance": "uniformize"}, ValueError, "uniformize does not suit the binary"),
        ({"target": "nope"}, ValueError, "no column 'nope'"),
        ({"validation_fraction": 0.6, "test_fraction": 0.6}, ValueError, "nothing to train on"),
    ],
)
def test_failing_run_leaves_nothing(
    data: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(data, tmp_path / "deep" / "r", **settings)
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["deep"])


@pytest.mark.slow
def test_failing_report_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("stage2_temporal.train.write_report", broken)
    with pytest.raises(OSError, match="disk full"):
        run(data, tmp_path / "r", epochs=1)
    assert names(tmp_path) == []


# the command that repeats a run


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings("label"),
        quick(group="patient", bidirectional=True, overwrite=True, head="lstm"),
        quick("ejection fraction", positive="it's sick", seed=7, dropout=0.25, learning_rate=1e-05),
        quick(split_column="side", backend="tensorflow", balance="oversample", workers=4),
    ],
)
def test_command_line_repeats_the_settings(settings: TrainSettings) -> None:
    words = shlex.split(command_line(Path("my store"), Path("m.csv"), Path("r"), settings))
    assert words[:2] == ["stage2-temporal", "train"]
    parsed = parse_arguments(cli.Train, words[2:], program="x")
    assert parsed == cli.Train(Path("my store"), Path("m.csv"), Path("r"), settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate nan must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be above 0"),
        ({"weight_decay": float("nan")}, "weight_decay nan"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"units": 0}, "units is 0; expected 1 or more"),
        ({"head": "rnn"}, "head is 'rnn'; expected one of gru, lstm"),
        ({"unmatched": "ignore"}, "unmatched is 'ignore'"),
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**setting)

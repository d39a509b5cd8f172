"""Whole runs: the same scores again from the predictions, one seed, and no look at the test."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.target_scale import TrainingError
from stage2_temporal.training import TrainResult, train
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import (
    HOLDOUT,
    IDS,
    SAME,
    WholeRun,
    columns,
    contents,
    holdout,
    names,
    predictions,
    read_json,
    read_texts,
    values,
)

PREFIXES = {"recurrent": "", "mean_pool": "baseline_", "features": "features_"}
FOLD_NUMBERS = [[0, 1], [2, 3]]
"""The folds of each repetition of `folds_run`."""


# scores


def sklearn_scores(task: str, rows: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Score rows of predictions.csv that have the target."""
    truth, chosen = rows["target"], rows[f"{prefix}prediction"]
    if task == "regression":
        truth, chosen = values(rows, "target"), values(rows, f"{prefix}prediction")
        return {
            "mae": sk.mean_absolute_error(truth, chosen),
            "rmse": float(((truth - chosen) ** 2).mean() ** 0.5),
            "r2": sk.r2_score(truth, chosen),
            "pearson": float(np.corrcoef(truth, chosen)[0, 1]),
        }
    if task == "multilabel":
        probabilities = rows[[f"{prefix}probability_{name}" for name in "ab"]].to_numpy()
        of_clip = np.array([[name in text.split("+") for name in "ab"] for text in truth])
        return {
            "auroc_macro": sk.roc_auc_score(of_clip, probabilities, average="macro"),
            "auprc_macro": sk.average_precision_score(of_clip, probabilities, average="macro"),
            "exact_match": float((truth == chosen).mean()),
        }
    out = {
        "accuracy": sk.accuracy_score(truth, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, chosen),
    }
    if task == "multiclass":
        return out | {"f1_macro": sk.f1_score(truth, chosen, average="macro", zero_division=0)}
    rising = truth == "Rising"
    return out | {
        "auroc": sk.roc_auc_score(rising, rows[f"{prefix}probability_Rising"]),
        "brier": sk.brier_score_loss(rising, rows[f"{prefix}probability_Rising"]),
        "f1": sk.f1_score(rising, chosen == "Rising", zero_division=0),
    }


@pytest.mark.parametrize(("number", "name"), list(enumerate(HOLDOUT["target"])))
@pytest.mark.parametrize("model", ["recurrent", "mean_pool"])
@pytest.mark.parametrize("side", ["validation", "test"])
def test_scores_are_scikit_learns_on_the_predictions(
    holdout_run: TrainResult, number: int, name: str, model: str, side: str
) -> None:
    table = predictions(holdout_run.folder, number)
    rows = table[(table["split"] == side) & has_target(table, name)]
    document = read_json(holdout_run.folder / "metrics.json")["targets"][name]
    expected = sklearn_scores(document["task"], rows, PREFIXES[model])
    for score, value in expected.items():
        assert document[side][model][score]["value"] == pytest.approx(value, abs=1e-6), score


def has_target(table: pd.DataFrame, name: str) -> "pd.Series[bool]":
    """Whether a row's clip has the target in the manifest: no label at all is one, too."""
    parts = [pd.Series(columns()[part], IDS).astype(str) != "" for part in name.split("+")]
    present = pd.concat(parts, axis=1).all(axis=1)
    found: pd.Series[bool] = table["video_id"].map(present)
    return found


@pytest.mark.parametrize(("number", "name"), list(enumerate(["label", "ef"])))
@pytest.mark.parametrize("model", PREFIXES)
def test_test_scores_are_pooled_over_folds_and_averaged_over_repetitions(
    folds_run: WholeRun, number: int, name: str, model: str
) -> None:
    table = predictions(folds_run.folder, number)
    rows = table[(table["split"] == "test") & (table["target"] != "")]
    document = read_json(folds_run.folder / "metrics.json")["targets"][name]
    rounds = [
        sklearn_scores(document["task"], rows[rows["fold"].isin(folds)], PREFIXES[model])
        for folds in FOLD_NUMBERS
    ]
    assert len(rounds[0]) >= 4
    for score in rounds[0]:
        found = document["test"][model][score]
        both = [each[score] for each in rounds]
        assert found["value"] == pytest.approx(np.mean(both), abs=1e-6), score
        assert found["spread"] == pytest.approx(np.std(both, ddof=1), abs=1e-6), score


def test_difference_is_recurrent_minus_the_other(folds_run: WholeRun) -> None:
    test = read_json(folds_run.folder / "metrics.json")["targets"]["label"]["test"]
    for model, difference in (("mean_pool", "difference"), ("features", "difference_features")):
        expected = test["recurrent"]["auroc"]["value"] - test[model]["auroc"]["value"]
        assert test[difference]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("model", PREFIXES)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_by_fold_are_scikit_learns(folds_run: WholeRun, model: str, split: str) -> None:
    by_fold = pd.read_csv(folds_run.folder / "scores_by_fold.csv")
    table = predictions(folds_run.folder)
    for fold in range(4):
        rows = table[(table["split"] == split) & (table["fold"] == fold)]
        expected = sklearn_scores("binary", rows, PREFIXES[model])
        chosen = by_fold.query(
            f"fold == {fold} and model == {model!r} and split == {split!r} and target == 'label'"
        ).set_index("score")["value"]
        for score, value in expected.items():
            assert chosen[score] == pytest.approx(value, abs=1e-6), (fold, score)


@pytest.mark.parametrize("model", PREFIXES)
def test_subjects_are_scored_by_the_mean_of_their_clips(folds_run: WholeRun, model: str) -> None:
    """By hand: two patients, 018 and 019, have clips of both labels and are left out."""
    table = predictions(folds_run.folder)
    column = f"{PREFIXES[model]}probability_Rising"
    found = read_json(folds_run.folder / "metrics.json")["targets"]["label"]["subjects"]
    areas = []
    for folds in FOLD_NUMBERS:
        rows = table[(table["split"] == "test") & table["fold"].isin(folds)]
        clips = rows.groupby("group").agg(
            labels=("target", "nunique"), target=("target", "first"), mean=(column, "mean")
        )
        same = clips[clips["labels"] == 1]
        areas.append(sk.roc_auc_score(same["target"] == "Rising", same["mean"]))
        assert (found["count"], found["left_out"]) == (len(same), 2) == (18, 2)
    assert found["test"][model]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)


@pytest.mark.parametrize("model", PREFIXES)
def test_threshold_is_chosen_on_validation_clips(folds_run: WholeRun, model: str) -> None:
    """No other cut of a fold's validation probabilities has a higher balanced accuracy."""
    table = predictions(folds_run.folder)
    probability, chosen = f"{PREFIXES[model]}probability_Rising", f"{PREFIXES[model]}prediction"
    for _, rows in table.groupby("fold"):
        positive = rows[chosen] == "Rising"
        lowest = rows.loc[positive, probability].min() if positive.any() else np.inf
        assert (rows.loc[~positive, probability] < lowest).all()  # one cut for both sides
        own = rows[rows["split"] == "validation"]
        cuts = [*own[probability], np.inf]
        truth = own["target"] == "Rising"
        best = max(sk.balanced_accuracy_score(truth, own[probability] >= cut) for cut in cuts)
        reached = sk.balanced_accuracy_score(truth, own[chosen] == "Rising")
        assert reached == pytest.approx(best)


# who is tested


def test_every_clip_is_tested_once_a_repetition(folds_run: WholeRun) -> None:
    table = predictions(folds_run.folder)
    for folds in FOLD_NUMBERS:
        tested = table[(table["split"] == "test") & table["fold"].isin(folds)]
        assert sorted(tested["video_id"]) == IDS


def test_no_group_is_on_two_sides(folds_run: WholeRun, holdout_run: TrainResult) -> None:
    for folder, splits in ((folds_run.folder, 4), (holdout_run.folder, 1)):
        table = read_texts(folder / "split.csv").set_index("video_id").sort_index()
        assert table.index.tolist() == IDS
        assert table["group"].tolist() == columns()["patient"]
        sides = table.drop(columns="group")
        assert sides.shape[1] == splits
        for name in sides:
            assert set(sides[name]) == {"train", "validation", "test"}
            assert len(table[["group", name]].drop_duplicates()) == table["group"].nunique()


def test_predictions_are_of_the_sides_of_the_split(folds_run: WholeRun) -> None:
    sides = read_texts(folds_run.folder / "split.csv").set_index("video_id")
    table = predictions(folds_run.folder)
    for fold in range(4):
        side = sides[f"fold{fold}-member0"]
        rows = table[table["fold"] == fold].set_index("video_id")["split"]
        assert rows.sort_index().to_dict() == side[side != "train"].to_dict()


@pytest.mark.parametrize(
    ("run", "number", "name"), [("folds", 0, "label"), ("folds", 1, "ef"), ("holdout", 0, "grade")]
)
def test_predictions_carry_the_manifests_truth(
    whole_data: Path,
    folds_run: WholeRun,
    holdout_run: TrainResult,
    run: str,
    number: int,
    name: str,
) -> None:
    del folds_run, holdout_run
    table = predictions(whole_data / run, number)
    truth = pd.Series(columns()[name], IDS).astype(str)
    assert table["target"].tolist() == truth[table["video_id"]].tolist()


# no look at the test


@pytest.fixture(scope="module")
def other_labels(whole_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The holdout, with the labels of the test clips changed round and the rows in another order.

    And with three workers.
    """
    table = read_texts(whole_data / "m.csv")
    test = table.index[table["side"] == "test"]
    for name in ("grade", "a", "b"):
        table.loc[test, name] = np.roll(table.loc[test, name], 1)
    table.iloc[::-1].to_csv(whole_data / "changed.csv", index=False)
    folder = tmp_path_factory.mktemp("changed") / "run"
    return holdout(whole_data, folder, "changed.csv", workers=3)


def test_labels_of_test_clips_never_reach_the_models(
    holdout_run: TrainResult, other_labels: TrainResult
) -> None:
    assert contents(other_labels.folder, ("history.csv",)) == contents(
        holdout_run.folder, ("history.csv",)
    )
    for number in range(2):
        first = predictions(holdout_run.folder, number)
        second = predictions(other_labels.folder, number)
        assert (first["target"] != second["target"]).any()
        pd.testing.assert_frame_equal(
            first.drop(columns="target"), second.drop(columns="target"), check_exact=True
        )


def test_changed_test_labels_change_the_test_scores_alone(
    holdout_run: TrainResult, other_labels: TrainResult
) -> None:
    for name in HOLDOUT["target"]:
        first, second = (
            read_json(run.folder / "metrics.json")["targets"][name]
            for run in (holdout_run, other_labels)
        )
        assert first["validation"] == second["validation"]
        assert first["test"]["recurrent"] != second["test"]["recurrent"]


# models


def test_saved_model_repeats_the_predictions(whole_data: Path, folds_run: WholeRun) -> None:
    """From nothing but its file, the store and the scaled features of features.json."""
    name = "fold2-member0-repeat0"
    model = load_keras().saving.load_model(folds_run.folder / f"model-{name}.keras", safe_mode=True)
    store = EmbeddingStore(whole_data / "store")
    tables = [predictions(folds_run.folder, number) for number in range(2)]
    rows = [table[table["fold"] == 2] for table in tables]
    ids = rows[0]["video_id"].tolist()
    inputs = {
        "embedding": np.stack([store.read(store.find(i)) for i in ids]),
        "mask": np.ones((len(ids), 8), bool),
        "features": scaled_by_hand(read_json(folds_run.folder / f"features-{name}.json"), ids),
    }
    found = model.predict_on_batch(inputs)
    np.testing.assert_allclose(
        np.asarray(found["target_0"])[:, 0], rows[0]["probability_Rising"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        np.asarray(found["target_1"])[:, 0], values(rows[1], "prediction"), rtol=1e-5
    )


def scaled_by_hand(scaler: dict[str, Any], ids: list[str]) -> "np.ndarray[Any, Any]":
    from tests.stage2_temporal.whole_runs import side_features

    table = side_features().set_index("video_id").loc[ids]
    raw = np.column_stack(
        [table["tells"], *((table["scanner"] == kind).astype(float) for kind in ("GE", "Philips"))]
    )
    known = np.where(np.isnan(raw), scaler["mean"], raw)
    scaled = (known - scaler["mean"]) / np.array(scaler["deviation"])
    indicators = np.isnan(raw)[:, np.array(scaler["indicators"])]
    return np.concatenate([scaled, indicators], axis=1).astype(np.float32)


def test_attention_of_each_clip_sums_to_1(folds_run: WholeRun) -> None:
    table = predictions(folds_run.folder)
    for fold in range(4):
        with np.load(folds_run.folder / f"attention-fold{fold}.npz") as file:
            rows = table[(table["fold"] == fold) & (table["split"] == "test")]
            assert file["video_id"].tolist() == rows["video_id"].tolist()
            assert file["length"].tolist() == [8] * len(rows)
            weights = np.split(file["weight"], np.cumsum(file["length"])[:-1])
        np.testing.assert_allclose([of_clip.sum() for of_clip in weights], 1, atol=1e-5)
        assert all((of_clip >= 0).all() for of_clip in weights)


def test_probabilities_agree_with_the_prediction(holdout_run: TrainResult) -> None:
    table = predictions(holdout_run.folder)
    kinds = ["high", "low", "mid"]
    for prefix in ("", "baseline_"):
        probabilities = table[[f"{prefix}probability_{name}" for name in kinds]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        likeliest = [kinds[i] for i in probabilities.argmax(axis=1)]
        assert likeliest == table[f"{prefix}prediction"].tolist()
    table = predictions(holdout_run.folder, 1)
    labels = [
        "+".join(n for n in "ab" if row[f"probability_{n}"] >= 0.5) for _, row in table.iterrows()
    ]
    assert table["prediction"].tolist() == labels


# what goes wrong


def test_existing_run_is_refused_before_training(
    whole_data: Path, holdout_run: TrainResult
) -> None:
    before = contents(holdout_run.folder, SAME)
    with pytest.raises(FileExistsError, match="--overwrite"):
        holdout(whole_data, holdout_run.folder)
    assert contents(holdout_run.folder, SAME) == before


def test_other_folder_is_never_replaced(whole_data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(FileExistsError, match="not a run folder"):
        holdout(whole_data, tmp_path, overwrite=True)
    assert names(tmp_path) == ["settings.json", "thesis.docx"]


@pytest.mark.slow
def test_run_is_replaced_on_request(whole_data: Path, tmp_path: Path) -> None:
    settings = quick("label", epochs=1, overwrite=True)
    first = train(whole_data / "store", whole_data / "m.csv", tmp_path / "r", settings)
    (first.folder / "stale").touch()
    holdout(whole_data, tmp_path / "r", target=["grade"], epochs=1, overwrite=True)
    assert names(tmp_path) == ["r"]
    assert "stale" not in names(first.folder)
    assert list(read_json(first.folder / "metrics.json")["targets"]) == ["grade"]


def test_a_loss_that_explodes_leaves_nothing(whole_data: Path, tmp_path: Path) -> None:
    settings = quick("label", learning_rate=1e30, epochs=4)
    with pytest.raises(TrainingError, match="no number any more"):
        train(whole_data / "store", whole_data / "m.csv", tmp_path / "deep" / "r", settings)
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == []

"""Scores on labelled clips: those of training again, and none that flatter unnoticed."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage1_extract.store import EmbeddingStore
from stage2_temporal.encoding import TargetError
from stage2_temporal.evaluate_settings import EvaluateSettings
from stage2_temporal.evaluating import EvaluationResult, evaluate, evaluation_text
from stage2_temporal.known_targets import encode_known
from stage2_temporal.prediction_rows import read_predictions
from stage2_temporal.run_facts import BundleTarget
from stage2_temporal.training import TrainResult, train
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store
from tests.stage2_temporal.whole_runs import IDS, NUM_CLIPS, WholeRun, columns, read_json


def settings(data: Path, **changes: Any) -> EvaluateSettings:
    return EvaluateSettings(**{"store": data / "store", "manifest": data / "m.csv", **changes})


@pytest.fixture(scope="module")
def own(
    holdout_run: TrainResult, whole_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationResult:
    """The holdout run on its own store and manifest, without what it has seen."""
    out = tmp_path_factory.mktemp("evaluated") / "own"
    return evaluate(holdout_run.folder, settings(whole_data, seen="drop", out=out))


@pytest.mark.parametrize("name", ["grade", "a+b"])
def test_test_scores_of_training_come_again(
    own: EvaluationResult, holdout_run: TrainResult, name: str
) -> None:
    assert own.folder is not None
    trained = read_json(holdout_run.folder / "metrics.json")["targets"][name]
    found = read_json(own.folder / "evaluation.json")["targets"][name]
    assert found["scores"] == trained["test"]["recurrent"]
    assert found["subjects"]["count"] == trained["subjects"]["count"]
    assert found["subjects"]["scores"] == trained["subjects"]["test"]["recurrent"]


def test_predictions_are_those_of_training(own: EvaluationResult, holdout_run: TrainResult) -> None:
    assert own.folder is not None
    found = read_predictions(own.folder / "predictions.csv").set_index("video_id")
    for name, file in (("grade", "predictions.csv"), ("a+b", "predictions-1.csv")):
        table = pd.read_csv(holdout_run.folder / file, dtype=str, keep_default_na=False)
        trained = table[table["split"] == "test"].set_index("video_id").loc[found.index]
        for column in ("target", "prediction"):
            assert found[f"{name}:{column}"].tolist() == trained[column].tolist()
        assert found["group"].tolist() == trained["group"].tolist()


def test_what_is_printed_says_what_was_scored(own: EvaluationResult) -> None:
    text = evaluation_text(own)
    sides = pd.Series(columns()["side"])
    assert f"{(sides == 'test').sum()} clips of 4 groups, 1 model" in text
    assert f"left out, seen in training: {(sides != 'test').sum()} clips" in text
    assert "grade (multiclass, 7 clips)" in text  # one has none
    assert "auprc_macro" in text


def test_seen_clips_are_an_error_unless_kept(holdout_run: TrainResult, whole_data: Path) -> None:
    with pytest.raises(TargetError, match=r"32 of 40 clips were on the training or validation"):
        evaluate(holdout_run.folder, settings(whole_data))
    kept = evaluate(holdout_run.folder, settings(whole_data, seen="keep"))
    assert kept.num_clips == NUM_CLIPS
    assert any("--seen keep" in notice for notice in kept.notices)


def test_of_a_cross_validation_every_clip_is_seen(folds_run: WholeRun, whole_data: Path) -> None:
    table = whole_data / "table.h5"
    with pytest.raises(TargetError, match=r"has seen all 40 clips.*metrics.json"):
        evaluate(folds_run.folder, settings(whole_data, seen="drop", feature_table=table))
    with pytest.raises(ValueError, match=r"side features.*tells"):
        evaluate(folds_run.folder, settings(whole_data, seen="drop"))


def test_an_ensemble_is_scored_by_its_mean(folds_run: WholeRun, whole_data: Path) -> None:
    changes = {"seen": "keep", "feature_table": whole_data / "table.h5"}
    found = evaluate(folds_run.folder, settings(whole_data, **changes))
    assert found.num_models == 4
    assert found.targets["ef"].num_clips == NUM_CLIPS - 2  # two have none
    assert found.targets["label"].num_mixed_subjects == 2


# another store


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """New clips of new patients, and two that the holdout run knows: by id, and by content."""
    sequences, _ = ordered(NUM_CLIPS, lengths=(8, 8))
    known = dict(zip(IDS, sequences.values(), strict=True))
    new, _ = ordered(10, seed=7)
    clips = {f"n{i}": values for i, values in enumerate(new.values())}
    clips |= {"001": new["clip003"] * 2, "renamed": known["002"]}
    write_store(tmp_path / "store", clips)
    write_manifest(
        tmp_path / "m.csv",
        list(clips),
        grade=["low", "high"] * 6,
        a=[0, 1, ""] * 4,
        b=[1, 1, 0] * 4,
        patient=[f"q{i // 2}" for i in range(10)] + ["q9", "001"],
    )
    return tmp_path


def test_clips_known_by_id_or_by_content_are_found(
    holdout_run: TrainResult, other: Path, whole_data: Path
) -> None:
    with pytest.raises(TargetError, match=r"2 of 12 clips.*\['001', 'renamed'\]"):
        evaluate(holdout_run.folder, settings(other))
    found = evaluate(holdout_run.folder, settings(other, seen="drop"))
    assert found.num_clips == 10
    # Classes that do not occur keep their place: nobody is "mid" here.
    assert np.isfinite(found.targets["grade"].scores["auroc_macro"].value)


def test_other_parts_of_a_recording_that_was_seen_are_found(
    holdout_run: TrainResult, other: Path
) -> None:
    new, _ = ordered(2, seed=9)
    parts = dict(zip(("n0", "part"), new.values(), strict=True))
    # 000 is on the training side, and its file is named as it is; n0 has a file of its own.
    ranges = {"part": (5.0, 6.0)}
    write_store(other / "parts", parts, sources={"part": "000", "n0": "n0"}, ranges=ranges)
    table = pd.read_csv(other / "m.csv", dtype=str, keep_default_na=False).iloc[:2]
    table.assign(video_id=["n0", "part"]).to_csv(other / "m.csv", index=False)
    here = {"store": other / "parts"}
    with pytest.raises(TargetError, match=r"1 of 2 clips.*cut from a recording.*\['part'\]"):
        evaluate(holdout_run.folder, settings(other, **here))
    assert evaluate(holdout_run.folder, settings(other, **here, seen="drop")).num_clips == 1
    assert evaluate(holdout_run.folder, settings(other, **here, seen="keep")).num_clips == 2


def test_what_cannot_be_looked_up_is_said(
    holdout_run: TrainResult, other: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(holdout_run.folder, tmp_path / "run")
    document = json.loads((run / "settings.json").read_text())
    document["store"]["path"] = str(tmp_path / "gone")
    (run / "settings.json").write_text(json.dumps(document))
    hashes = json.loads((run / "files.json").read_text())
    hashes["sha256"]["settings.json"] = hashlib.sha256(
        (run / "settings.json").read_bytes()
    ).hexdigest()
    (run / "files.json").write_text(json.dumps(hashes))
    found = evaluate(run, settings(other, seen="drop"))
    assert found.num_clips == 11  # the renamed one is not noticed
    assert any("own store is not at" in notice for notice in found.notices)
    assert any("1 clips are of 1 groups (patient)" in notice for notice in found.notices)
    (run / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"split.csv.*--seen keep"):
        evaluate(run, settings(other, seen="drop"))
    assert evaluate(run, settings(other, seen="keep")).num_clips == 12


def test_a_missing_group_column_is_said(holdout_run: TrainResult, other: Path) -> None:
    table = pd.read_csv(other / "m.csv", dtype=str).drop(columns="patient")
    table.to_csv(other / "m.csv", index=False)
    found = evaluate(holdout_run.folder, settings(other, seen="drop"))
    assert found.group is None
    assert any("take all clips for independent" in notice for notice in found.notices)
    assert any("independent groups only" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("grade", "awful", r"has \['awful'\], which the run does not know.*'high', 'low', 'mid'"),
        ("a", "2", "each label of a multilabel"),
        ("video_id", "never", r"1 clips of .* are not in .*\['never'\].*--unmatched drop"),
    ],
)
def test_labels_and_clips_that_do_not_fit_are_errors(
    holdout_run: TrainResult, other: Path, column: str, value: str, message: str
) -> None:
    table = pd.read_csv(other / "m.csv", dtype=str, keep_default_na=False)
    table.loc[0, column] = value
    table.to_csv(other / "m.csv", index=False)
    with pytest.raises(TargetError, match=message):
        evaluate(holdout_run.folder, settings(other, seen="drop"))


def test_files_are_not_overwritten_unasked(own: EvaluationResult, whole_data: Path) -> None:
    with pytest.raises(FileExistsError, match=r"predictions.csv|evaluation.json"):
        evaluate(whole_data / "holdout", settings(whole_data, out=own.folder))
    changes = {"out": whole_data / "holdout", "overwrite": True}
    with pytest.raises(FileExistsError, match="is a run folder"):
        evaluate(whole_data / "holdout", settings(whole_data, **changes))


def test_a_kill_leaves_no_scores_beside_other_predictions(
    own: EvaluationResult,
    holdout_run: TrainResult,
    whole_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own.folder is not None
    out = shutil.copytree(own.folder, tmp_path / "e")
    wanted = settings(whole_data, seen="keep", out=out, overwrite=True)
    real, steps = Path.replace, list[Path]()

    def killed(self: Path, target: Path) -> Path:
        if len(steps) == kill_at:
            raise KeyboardInterrupt
        steps.append(target)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    for kill_at in (0, 1, 2):
        steps.clear()
        with contextlib.suppress(KeyboardInterrupt):
            evaluate(holdout_run.folder, wanted)
        count = read_json(out / "evaluation.json")["num_clips"]
        if kill_at < 2:
            assert not (out / "predictions.csv").exists()
        else:
            assert len(read_predictions(out / "predictions.csv")) == count == NUM_CLIPS
        assert not list(out.glob(".*"))


def test_predictions_without_scores_are_not_overwritten(
    holdout_run: TrainResult, whole_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "predictions.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"evaluation.json is missing beside it"):
        evaluate(holdout_run.folder, settings(whole_data, out=tmp_path, overwrite=True))
    assert (tmp_path / "predictions.csv").read_text() == "mine"


@pytest.mark.slow
def test_values_are_scored_in_their_own_units(tmp_path: Path) -> None:
    sequences, _ = ordered(30)
    store = write_store(tmp_path / "store", sequences)
    values = [300 + 40 * float(frames[0, 0]) + i for i, frames in enumerate(sequences.values())]
    manifest = write_manifest(tmp_path / "m.csv", list(sequences), ef=values)
    train(store, manifest, tmp_path / "run", quick("ef", gain_confidence=0.0))
    found = evaluate(tmp_path / "run", settings(tmp_path, seen="drop", out=tmp_path / "e"))
    trained = read_json(tmp_path / "run/metrics.json")["targets"]["ef"]["test"]["recurrent"]
    for name, score in found.targets["ef"].scores.items():
        assert score.value == pytest.approx(trained[name]["value"], rel=1e-5, abs=1e-5)
    table = read_predictions(tmp_path / "e/predictions.csv")
    error = np.abs(table["target"] - table["prediction"]).mean()
    assert found.targets["ef"].scores["mae"].value == pytest.approx(error)
    assert EmbeddingStore(tmp_path / "store").num_sequences == 30


@pytest.mark.parametrize(
    ("known", "table", "separator", "expected"),
    [
        (BundleTarget("x", "binary", ("b", "a"), (0.5,)), {"x": ["a", "", "b"]}, None, [1, 0, 0]),
        (BundleTarget("x", "binary", ("0", "1"), (0.5,)), {"x": ["1.0", "01"]}, None, [1, 1]),
        (BundleTarget("x", "multiclass", ("b", "c", "a"), ()), {"x": ["a", "c"]}, None, [2, 1]),
        (
            BundleTarget("x", "multilabel", ("q", "p"), (0.5, 0.5)),
            {"x": ["p", "p;q", ";"]},
            ";",
            [[0, 1], [1, 1], [0, 0]],
        ),
        (
            BundleTarget("u+v", "multilabel", ("u", "v"), (0.5, 0.5)),
            {"u": ["1", "true"], "v": ["0", "0"]},
            None,
            [[1, 0], [1, 0]],
        ),
        (BundleTarget("x", "regression", (), ()), {"x": ["7", "7"]}, None, [7.0, 7.0]),
    ],
)
def test_labels_get_the_runs_numbers_though_classes_lack(
    known: BundleTarget, table: dict[str, list[str]], separator: str | None, expected: list[Any]
) -> None:
    found = encode_known(pd.DataFrame(table), known, separator=separator)
    assert found.numbers.tolist() == expected
    assert found.classes == known.classes
    assert found.present.tolist() == [value != "" for value in next(iter(table.values()))]


@pytest.mark.parametrize("changes", [{"seen": "maybe"}, {"resamples": 0}, {"seed": -1}])
def test_impossible_settings_are_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        settings(Path(), **changes)

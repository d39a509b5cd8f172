"""Videos in, rows out: the store's numbers, without the store; and again after any interruption."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.predict_settings import PredictSettings
from stage2_temporal.predicting import Predictor, PredictResult, predict, prediction_text
from stage2_temporal.prediction_rows import read_predictions
from stage2_temporal.training import train
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import IDS, WholeRun

NUM_CLIPS = 24
EXTRACT = ExtractSettings(
    backbone="MobileNet",
    alpha=0.25,
    weights="random",
    input_size=32,
    sampling="uniform:6",
    dtype="float32",
    batch_size=8,
    seed=3,
    decoders=1,
)


def write_clip(path: Path, number: int) -> None:
    """Brighter and brighter, or darker and darker; of unequal length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (48, 32))
    count = 3 + number % 5
    levels = np.linspace(40, 200, count)[:: 1 if number % 2 else -1]
    rng = np.random.default_rng(number)
    for level in levels:
        noise = rng.integers(0, 30, (4, 6, 3))
        frame = np.clip(level + noise, 0, 255).astype(np.uint8)
        writer.write(cv2.resize(frame, (48, 32), interpolation=cv2.INTER_NEAREST))
    writer.release()


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, and what it was made from."""

    run: Path
    store: Path
    videos: Path
    manifest: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two models, on videos of two classes."""
    folder = tmp_path_factory.mktemp("trained")
    names = [f"clip{i:02d}" for i in range(NUM_CLIPS)]
    for number, name in enumerate(names):
        write_clip(folder / "videos" / f"{name}.mp4", number)
    table = pd.DataFrame({"path": [f"videos/{n}.mp4" for n in names], "video_id": names})
    table["label"] = np.where(np.arange(NUM_CLIPS) % 2, "rising", "falling")
    table.to_csv(folder / "m.csv", index=False)
    extract(folder / "m.csv", folder / "store", EXTRACT)
    train(
        folder / "store",
        folder / "m.csv",
        folder / "run",
        quick(head="tcn", repeats=2, gain_confidence=0.0),
    )
    return Trained(folder / "run", folder / "store", folder / "videos", folder / "m.csv")


def settings(out: Path, **changes: Any) -> PredictSettings:
    return PredictSettings(out, decoders=1, **changes)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(scope="module")
def predicted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> PredictResult:
    """All clips from their files, with a timeline."""
    out = tmp_path_factory.mktemp("predicted") / "p.csv"
    return predict(trained.run, [trained.videos], settings(out, timeline=True))


def test_videos_get_what_plain_keras_says_of_the_stored_sequences(
    trained: Trained, predicted: PredictResult
) -> None:
    table, store = read_predictions(predicted.path), EmbeddingStore(trained.store)
    assert table["video_id"].tolist() == store.video_ids.tolist()
    assert (predicted.num_predicted, predicted.failures) == (NUM_CLIPS, ())
    models = [load_keras().saving.load_model(p) for p in trained.run.glob("*.keras")]
    for i, row in table.iterrows():
        sequence = store.read(int(str(i)))[None]
        inputs = {"embedding": sequence, "mask": np.ones(sequence.shape[:2], bool)}
        each = [float(model.predict_on_batch(inputs)["target_0"][0, 0]) for model in models]
        assert row["probability_rising"] == pytest.approx(np.mean(each), abs=1e-6)
        assert row["probability_falling"] == pytest.approx(1 - np.mean(each), abs=1e-6)
        assert row["spread_rising"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
        assert row["prediction"] == ("rising" if np.mean(each) >= 0.5 else "falling")
        assert row["path"] == str(trained.videos / f"{row['video_id']}.mp4")


def test_a_store_gives_the_same_numbers_as_the_videos(
    trained: Trained, predicted: PredictResult, tmp_path: Path
) -> None:
    found = predict(
        trained.run, [], settings(tmp_path / "s.csv", store=trained.store, timeline=True)
    )
    assert found.path.read_bytes() == predicted.path.read_bytes()
    assert found.timeline is not None
    assert predicted.timeline is not None
    assert found.timeline.read_bytes() == predicted.timeline.read_bytes()
    some = tmp_path / "some.csv"
    some.write_text("path\nclip07.mp4\nclip02.mp4\nnever.mp4\n")
    result = predict(trained.run, [some], settings(tmp_path / "t.csv", store=trained.store))
    assert [failure.video_id for failure in result.failures] == ["never"]
    table, whole = read_predictions(result.path), read_predictions(predicted.path)
    expected = whole.set_index("video_id").loc[["clip07", "clip02"]].reset_index()
    pd.testing.assert_frame_equal(table, expected)


def test_clips_that_the_run_has_seen_are_remarked(
    trained: Trained, predicted: PredictResult
) -> None:
    sides = pd.read_csv(trained.run / "split.csv").filter(regex="^(fold|split)")
    count = int(sides.isin(["train", "validation"]).any(axis=1).sum())
    assert any(f"{count} of {NUM_CLIPS} clips have ids that this run" in n for n in predicted.notes)


def test_the_last_row_of_a_timeline_is_the_prediction(predicted: PredictResult) -> None:
    assert predicted.timeline is not None
    timeline, table = read_predictions(predicted.timeline), read_predictions(predicted.path)
    last = timeline.groupby("video_id", sort=False).last().reset_index()
    for name in ("video_id", "probability_rising", "spread_rising", "prediction"):
        assert last[name].tolist() == table[name].tolist()
    # 3 to 7 frames each; of 7, six are sampled: the middles of six equal parts.
    assert timeline.groupby("video_id").size().tolist()[:5] == [3, 4, 5, 6, 6]
    assert timeline[timeline["video_id"] == "clip04"]["frame"].tolist() == [*"012456"]


def test_a_copied_run_needs_neither_store_nor_manifest(
    trained: Trained, predicted: PredictResult, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained.run, tmp_path / "elsewhere")
    for name in ("report.html", "split.csv", "metrics.json", "history.csv", "predictions.csv"):
        (copy / name).unlink()
    for path in (trained.store, trained.manifest):
        path.rename(path.with_name(f"{path.name}.gone"))
    try:
        found = predict(copy, [trained.videos / "clip05.mp4"], settings(tmp_path / "p.csv"))
    finally:
        for path in (trained.store, trained.manifest):
            path.with_name(f"{path.name}.gone").rename(path)
    row = read_predictions(found.path).iloc[0]
    whole = read_predictions(predicted.path).set_index("video_id").loc["clip05"]
    assert row["probability_rising"] == whole["probability_rising"]
    assert row["video_id"] == str(trained.videos / "clip05")


def test_the_same_again_does_nothing(trained: Trained, predicted: PredictResult) -> None:
    before = files(predicted.path.parent)
    again = predict(trained.run, [trained.videos], settings(predicted.path, timeline=True))
    assert (again.num_present, again.num_predicted, again.num_frames) == (NUM_CLIPS, 0, 0)
    assert files(predicted.path.parent) == before
    assert "24 already there" in prediction_text(again)


def test_a_killed_prediction_goes_on(
    trained: Trained, predicted: PredictResult, tmp_path: Path
) -> None:
    folder = shutil.copytree(predicted.path.parent, tmp_path / "killed")
    lines = (folder / "p.csv").read_bytes().splitlines(keepends=True)
    # Rows in another order, the last one torn; the timeline is ahead of them.
    (folder / "p.csv").write_bytes(b"".join([lines[0], lines[9], lines[2], lines[5][:30]]))
    timeline = (folder / "p-timeline.csv").read_bytes()
    (folder / "p-timeline.csv").write_bytes(timeline[: len(timeline) // 2])
    again = predict(trained.run, [trained.videos], settings(folder / "p.csv", timeline=True))
    assert (again.num_present, again.num_predicted) == (2, NUM_CLIPS - 2)
    assert files(folder) == files(predicted.path.parent)


def test_new_videos_are_added(trained: Trained, tmp_path: Path) -> None:
    for name in ("clip01.mp4", "clip02.mp4"):
        shutil.copy(trained.videos / name, tmp_path)
        result = predict(trained.run, [tmp_path], settings(tmp_path / "p.csv"))
    assert (result.num_present, result.num_predicted) == (1, 1)
    # A file that was written anew is not what was predicted.
    write_clip(tmp_path / "clip01.mp4", 5)
    with pytest.raises(ValueError, match=r"1 clips that are of another file.*clip01.*--overwrite"):
        predict(trained.run, [tmp_path], settings(tmp_path / "p.csv"))
    (tmp_path / "clip02.mp4").unlink()
    with pytest.raises(ValueError, match=r"1 clips that are not among the inputs: \['clip02'\]"):
        predict(trained.run, [tmp_path], settings(tmp_path / "p.csv"))
    result = predict(trained.run, [tmp_path], settings(tmp_path / "p.csv", overwrite=True))
    assert read_predictions(result.path)["video_id"].tolist() == ["clip01"]


def test_what_is_not_this_runs_is_not_overwritten(trained: Trained, tmp_path: Path) -> None:
    video, out = trained.videos / "clip01.mp4", tmp_path / "p.csv"
    out.write_text("video_id,path\nmine,1\n")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not known to hold predictions"):
            predict(trained.run, [video], settings(out, overwrite=overwrite))
    assert out.read_text() == "video_id,path\nmine,1\n"
    out.unlink()
    predict(trained.run, [video], settings(out))
    with pytest.raises(FileExistsError, match="timeline: False there, True now"):
        predict(trained.run, [video], settings(out, timeline=True))
    with pytest.raises(FileExistsError, match=r"min_coverage: 0.8 there, 0.5 now"):
        predict(trained.run, [video], settings(out, min_coverage=0.5))
    replaced = predict(trained.run, [video], settings(out, timeline=True, overwrite=True))
    assert (replaced.num_present, replaced.num_predicted) == (0, 1)


def test_bad_videos_are_listed_and_the_rest_is_predicted(trained: Trained, tmp_path: Path) -> None:
    shutil.copy(trained.videos / "clip03.mp4", tmp_path / "good.mp4")
    (tmp_path / "=bad.mp4").write_bytes(b"no video")
    (tmp_path / "empty.avi").touch()
    result = predict(trained.run, [tmp_path], settings(tmp_path / "p.csv"))
    assert (result.num_clips, result.num_predicted) == (3, 1)
    listed = read_predictions(tmp_path / "p-failures.csv")
    assert sorted(listed["video_id"]) == ["=bad", "empty"]
    assert listed["reason"].str.contains("0 bytes").sum() == 1
    assert "2 failed:" in prediction_text(result)
    assert "p-failures.csv" in prediction_text(result)
    assert f"Predictions: {tmp_path / 'p.csv'}" in prediction_text(result)
    none = predict(trained.run, [tmp_path / "empty.avi"], settings(tmp_path / "none.csv"))
    assert prediction_text(none).endswith("\nNo clip was predicted.")
    shutil.copy(trained.videos / "clip03.mp4", tmp_path / "=bad.mp4")
    os.utime(tmp_path / "=bad.mp4", (1, 1))
    (tmp_path / "empty.avi").unlink()
    result = predict(trained.run, [tmp_path], settings(tmp_path / "p.csv"))
    assert (result.num_present, result.num_predicted, result.failures) == (1, 1, ())
    assert not (tmp_path / "p-failures.csv").exists()


def test_ids_are_texts_and_nothing_else(trained: Trained, tmp_path: Path) -> None:
    ids = ["<script>alert(1)</script>", "=cmd()", "../../x", "-2+3", "'a", "a,b", '"q"', "/etc/x"]
    rows = "".join(f'clip0{i}.mp4,"{v.replace(chr(34), chr(34) * 2)}"\n' for i, v in enumerate(ids))
    shutil.copytree(trained.videos, tmp_path / "v")
    (tmp_path / "v/m.csv").write_text("path,video_id\n" + rows)
    (tmp_path / "out").mkdir()
    result = predict(
        trained.run, [tmp_path / "v/m.csv"], settings(tmp_path / "out/p.csv", timeline=True)
    )
    assert read_predictions(result.path)["video_id"].tolist() == ids
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "v"]
    assert len([p for p in (tmp_path / "out").iterdir() if p.name[0] != "."]) == 2
    raw = pd.read_csv(result.path, dtype=str)["video_id"]
    assert not raw.str.startswith(("=", "+", "-", "@")).any()


def test_parts_of_a_video_are_predicted_as_clips(trained: Trained, tmp_path: Path) -> None:
    manifest = trained.videos / "parts.csv"
    manifest.write_text(
        "path,video_id,start_seconds,end_seconds\nclip04.mp4,head,,0.35\nclip04.mp4,tail,0.35,\n"
    )
    try:
        whole = settings(tmp_path / "p.csv", timeline=True)
        result = predict(trained.run, [manifest], whole)
        manifest.write_text(manifest.read_text().replace("0.35", "0.45"))
        with pytest.raises(ValueError, match="2 clips that are of another file, another part"):
            predict(trained.run, [manifest], whole)
    finally:
        manifest.unlink()
    assert result.timeline is not None
    frames = read_predictions(result.timeline).groupby("video_id")["frame"].apply(list)
    assert frames["head"] == ["0", "1", "2", "3"]
    assert frames["tail"] == ["4", "5", "6"]


def test_other_weights_are_refused_with_both_hashes(trained: Trained, tmp_path: Path) -> None:
    wanted = EmbeddingStore(trained.store).settings["weights_sha256"]
    with pytest.raises(ValueError, match=rf"hash of their values is \w{{64}}, expected {wanted}"):
        predict(trained.run, [trained.videos], settings(tmp_path / "p.csv", seed=4))
    assert not read_predictions(tmp_path / "p.csv")["video_id"].tolist()


def test_one_loading_serves_many_calls(
    trained: Trained, predicted: PredictResult, tmp_path: Path
) -> None:
    whole = read_predictions(predicted.path).set_index("video_id")["probability_rising"]
    with Predictor(trained.run, settings(tmp_path / "0.csv")) as predictor:
        predictor.prepare()
        for number in (3, 8):
            video = trained.videos / f"clip{number:02d}.mp4"
            result = predictor.predict([video], tmp_path / f"{number}.csv")
            [value] = read_predictions(result.path)["probability_rising"]
            assert value == whole[f"clip{number:02d}"]


def test_a_store_of_other_settings_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "store"
    extract(trained.manifest, other, dataclasses.replace(EXTRACT, sampling="uniform:3"))
    with pytest.raises(ValueError, match=r"run against store\): sampling: 'uniform:6' against"):
        predict(trained.run, [], settings(tmp_path / "p.csv", store=other))


# side features


def test_side_features_are_needed_by_name(
    folds_run: WholeRun, whole_data: Path, trained: Trained, tmp_path: Path
) -> None:
    store, out = whole_data / "store", tmp_path / "p.csv"
    with pytest.raises(ValueError, match=r"side features.*tells.*--feature-table"):
        predict(folds_run.folder, [], settings(out, store=store))
    table = whole_data / "table.h5"
    with pytest.raises(ValueError, match="trained without side features"):
        predict(trained.run, [trained.videos], settings(out, feature_table=table))
    result = predict(folds_run.folder, [], settings(out, store=store, feature_table=table))
    found = read_predictions(result.path)
    assert found["video_id"].tolist() == IDS
    assert [*found.columns][2:] == [
        *("label:prediction", "label:probability_None", "label:probability_Rising"),
        *("label:spread_None", "label:spread_Rising", "ef:prediction", "ef:spread"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": Path("p.txt")}, "ends with .csv"),
        ({"decoders": 0}, "decoders is 0"),
        ({"stall_seconds": 0.0}, "stall_seconds"),
        ({"min_coverage": 1.5}, "min_coverage"),
        ({"store": Path("s"), "weights": Path("w")}, "a store needs no weights"),
        ({"backend": "jax"}, "leave it out"),
    ],
)
def test_impossible_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictSettings(**{"out": Path("p.csv"), **changes})


@pytest.mark.slow
def test_held_out_real_clips_get_the_stores_numbers(shared_data: Path, tmp_path: Path) -> None:
    """Bit for bit: frames, embeddings and heads are computed in the same shapes."""
    weights = shared_data.parent / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    source = shared_data / "drone_infrared"
    table = pd.read_csv(source / "manifest.csv", dtype=str)
    table = table.drop_duplicates(["label", "scene"]).groupby("label").head(5)
    table["path"] = [str(source / path) for path in table["path"]]
    table["video_id"] = [Path(path).stem for path in table["path"]]
    table.to_csv(tmp_path / "m.csv", index=False)
    backbone = ExtractSettings(
        backbone="MobileNet", alpha=0.25, weights=str(weights), sampling="uniform:16"
    )
    extract(tmp_path / "m.csv", tmp_path / "store", backbone)
    run = tmp_path / "run"
    train(
        tmp_path / "store",
        tmp_path / "m.csv",
        run,
        quick("label", group="scene", gain_confidence=0.0),
    )
    trained = pd.read_csv(run / "predictions.csv").query("split == 'test'").set_index("video_id")
    table[table["video_id"].isin(trained.index)].to_csv(tmp_path / "held.csv", index=False)
    found = predict(run, [tmp_path / "held.csv"], PredictSettings(tmp_path / "p.csv"))
    stored = predict(
        run, [tmp_path / "held.csv"], PredictSettings(tmp_path / "s.csv", store=tmp_path / "store")
    )
    assert found.path.read_bytes() == stored.path.read_bytes()
    rows = read_predictions(found.path).set_index("video_id")
    numbers = [name for name in rows.columns if name.startswith("probability_")]
    np.testing.assert_allclose(rows[numbers], trained.loc[rows.index, numbers], atol=1e-6)

"""Input that cannot be learned from is explained before anything is trained; odd input works."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal import cli
from stage2_temporal.partition import load_data
from stage2_temporal.training import train
from tests.stage2_temporal.synthetic import planted, quick, write_manifest, write_store
from tests.stage2_temporal.whole_runs import names, predictions, read_json

NUM_CLIPS = 24
QUICK = ["--units", "4", "--epochs", "1", "--resamples", "10"]


def columns() -> dict[str, Any]:
    number = np.arange(NUM_CLIPS)
    classes = np.where(number % 2, "rising", "falling")
    return {
        "label": classes,
        "spaced": [f" {name}" if i % 3 else f"{name}  " for i, name in enumerate(classes)],
        "cased": np.where(number == 3, "Rising", classes),
        "constant": "same",
        "same_number": 3.0,
        "blank": "",
        "ef": number / 7,
        "infinite": np.where(number == 3, np.inf, number / 7),
        "huge": np.where(number == 3, 1e39, number / 7),
        "text_and_numbers": np.where(number == 3, "n/k", (number / 7).astype(str)),
        "one_rare": np.where(number == 3, "rare", classes),
        "some_blank": np.where(number == 3, "", classes),
        "flag": number % 2,
        "flag2": number // 2 % 2,
        "flag_of_3": number % 3,
        "group": [f"g{i // 2}" for i in number],
        "three_groups": [f"g{i % 3}" for i in number],
        "group_case": np.where(number == 3, "G1", [f"g{i // 2}" for i in number]),
        "fold": [f"f{i // 2 % 3}" for i in number],
        "fold_by_class": classes,
        "split": np.resize(["train", "train", "train", "train", "val", "val", "test", "test"], 24),
        "split_by_class": np.where(number % 2, "train", np.where(number < 12, "val", "test")),
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sequences = planted([8] * NUM_CLIPS)
    write_store(tmp_path / "store", sequences)
    write_manifest(tmp_path / "m.csv", list(sequences), **columns())
    return tmp_path


def command(data: Path, *flags: str) -> int:
    """Train; returns the exit code, also where a wrong flag ends the program at once."""
    where = [str(data / "store"), str(data / "m.csv"), str(data / "runs" / "run")]
    try:
        return cli.main(["train", *where, *flags, *QUICK])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def complaint(data: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Run the command, which must fail and leave nothing; return what it says, in one line."""
    assert command(data, *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert not (data / "runs").exists() or names(data / "runs") == []
    return " ".join(err.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--target infinite --task regression", "'infinite' holds values that are no finite float"),
        ("--target huge --task regression", "no finite float32 numbers: ['1e+39']"),
        ("--target text_and_numbers --task regression", "no finite float32 numbers"),
        ("--target constant", "has the single value 'same' in 24 clips"),
        ("--target same_number --task regression", "has the single value '3.0' in 24 clips"),
        ("--target blank", "24 clips have no 'blank'"),
        ("--target blank --blank-target drop", "has both a sequence and a 'blank'"),
        ("--target label --target blank --blank-target drop", "no clip has a 'blank'"),
        ("--target some_blank", "1 clips have no 'some_blank', e.g. ['v003']"),
        ("--target cased", "differ only in case: [['rising', 'Rising']]"),
        ("--target lable", "has no column 'lable'"),
        ("--target label --target label", "names a column twice"),
        ("--target flag+flag", "'flag+flag' names a column twice"),
        ("--target flag+flag_of_3", "'flag_of_3' holds ['2']"),
        ("--target flag+nope", "has no column 'nope'"),
        ("--target label --task multilabel", "--label-separator"),
        ("--target label --label-separator ;", "but no text of ['label'] holds it"),
        ("--target label --positive sick", "'sick' is in no binary target"),
        ("--target label --task binary --task regression", "task was given 2 times for 1 targets"),
        ("--target one_rare", "rare"),
        ("--target one_rare --validation kfold --folds 3", "rare"),
        ("--target label --split-column split_by_class", "no training clip has"),
        ("--target label --split-column fold", "blank or unknown"),
        ("--target label --validation kfold --fold-column fold_by_class", "no training clip has"),
        ("--target label --group three_groups --validation kfold", "3"),
        ("--target label --group three_groups --validation kfold --folds 25", "25"),
        ("--target label --group group_case", "groups that differ only in case: [['G1', 'g1']]"),
        ("--target label --group nope", "has no column 'nope'"),
        ("--target label --validation leave-one-group-out", "needs --group"),
        ("--target label --validation kfold --group group --inner-folds 30", "30 inner folds need"),
        ("--target label --test-fraction 1.5", "test_fraction"),
        ("--target label --validation-fraction 0.9", "fraction"),
        ("--target label --balance uniformize", "uniformize does not suit"),
        ("--target ef --balance oversample", "oversample does not suit"),
        ("--target label --balance oversample --balance-target ef", "ef"),
        ("--target label --balance oversample --class-share sick=0.5", "sick"),
        ("--target label --feature-table nowhere.h5", "nowhere.h5"),
        ("--target label --backend theano", "backend 'theano' is unknown"),
        ("--target label --backend jax", "Keras already runs on tensorflow"),
        ("--target label --seed -1", "seed"),
    ],
)
def test_what_cannot_be_learned_from_is_explained(
    data: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    assert message in complaint(data, capsys, *flags.split())


# side features


def import_features(data: Path, table: pd.DataFrame, *flags: str) -> int:
    table.to_csv(data / "t.csv", index=False)
    return cli.main(["features", str(data / "t.csv"), str(data / "t.h5"), *flags])


def feature_table(**changes: Any) -> pd.DataFrame:
    ids = [f"v{i:03d}" for i in range(NUM_CLIPS)]
    return pd.DataFrame({"video_id": ids, "age": np.arange(NUM_CLIPS) / 3, **changes})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (feature_table().iloc[:20], "v02"),
        (feature_table(video_id=np.arange(NUM_CLIPS)), "v000"),
        (feature_table(video_id=[f"V{i:03d}" for i in range(NUM_CLIPS)]), "v000"),
    ],
)
def test_clips_without_features_are_named(
    data: Path, capsys: pytest.CaptureFixture[str], table: pd.DataFrame, message: str
) -> None:
    assert import_features(data, table) == 0
    capsys.readouterr()
    flags = ["--target", "label", "--feature-table", str(data / "t.h5")]
    error = complaint(data, capsys, *flags)
    assert message in error
    assert "t.h5" in error


def test_features_that_are_not_in_the_table_are_named(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_features(data, feature_table()) == 0
    capsys.readouterr()
    flags = ["--target", "label", "--feature-table", str(data / "t.h5"), "--feature", "agee"]
    assert "agee" in complaint(data, capsys, *flags)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.concat([feature_table(), feature_table().iloc[3:4]]), "v003"),
        (feature_table(video_id=["", *[f"v{i:03d}" for i in range(1, NUM_CLIPS)]]), "video_id"),
        (feature_table().rename(columns={"video_id": "clip"}), "video_id"),
        (feature_table(age=np.inf), "age"),
    ],
)
def test_a_wrong_feature_table_is_not_imported(
    data: Path, capsys: pytest.CaptureFixture[str], table: pd.DataFrame, message: str
) -> None:
    assert import_features(data, table) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (data / "t.h5").exists()


# a store that does not last


def test_a_shard_that_is_cut_short_during_training_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stage2_temporal.fitting import Trainer

    shard = data / "store" / "a.h5"
    original = Trainer.fresh_model

    def cut(self: Trainer, *rest: Any, **options: Any) -> Any:
        shard.write_bytes(shard.read_bytes()[:100])
        return original(self, *rest, **options)

    monkeypatch.setattr(Trainer, "fresh_model", cut)
    assert command(data, "--target", "label") == 2
    error = capsys.readouterr().err
    assert f"{shard} is damaged: it ends within v0" in error
    assert "Traceback" not in error


def test_a_store_that_vanishes_before_it_is_read_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stage2_temporal.runner import Runner

    original = Runner.run

    def vanish(self: Runner, *rest: Any, **options: Any) -> Any:
        (data / "store" / "a.h5").unlink()
        return original(self, *rest, **options)

    monkeypatch.setattr(Runner, "run", vanish)
    assert command(data, "--target", "label") == 2
    assert f"a shard of {data / 'store'} is gone" in capsys.readouterr().err


def test_keras_on_another_backend_is_an_error(data: Path) -> None:
    """The backend is fixed once Keras is imported, so it is said, not ignored."""
    code = (
        "import os, sys, types\n"
        "keras = types.ModuleType('keras')\n"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'torch')\n"
        "sys.modules['keras'] = keras\n"
        "from stage2_temporal.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    where = [str(data / "store"), str(data / "m.csv"), str(data / "run")]
    flags = ["--target", "label", "--backend", "tensorflow"]
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *where, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Keras already runs on torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (data / "run").exists()


# odd, but right


def test_spaces_around_labels_do_not_count(data: Path) -> None:
    found = [load_data(data / "store", data / "m.csv", quick(name)) for name in ("label", "spaced")]
    plain, spaced = (each.clips.targets[0] for each in found)
    assert plain.classes == spaced.classes == ("falling", "rising")
    assert plain.numbers.tolist() == spaced.numbers.tolist() == [0, 1] * (NUM_CLIPS // 2)
    sides = [each.partition.folds[0].splits[0].name_of_clip.tolist() for each in found]
    assert sides[0] == sides[1]


@pytest.mark.xslow
def test_ten_thousand_classes(tmp_path: Path) -> None:
    """Of 12,000 clips of one frame; every class has a training clip."""
    num_classes, num_clips = 10_000, 12_000
    rng = np.random.default_rng(0)
    others = rng.integers(0, num_classes, num_clips - num_classes)
    of_clip = np.concatenate([np.arange(num_classes), others])
    centres = rng.normal(size=(num_classes, 8))
    frames = centres[of_clip] + 0.05 * rng.normal(size=(num_clips, 8))
    ids = [f"{i:05d}" for i in range(num_clips)]
    write_store(tmp_path / "store", {i: row[None] for i, row in zip(ids, frames, strict=True)})
    side = np.array(["train"] * (num_clips - 200) + ["val"] * 100 + ["test"] * 100)
    write_manifest(tmp_path / "m.csv", ids, label=[f"c{i:05d}" for i in of_clip], side=side)
    settings = quick("label", split_column="side", epochs=1, batch_size=256)
    result = train(tmp_path / "store", tmp_path / "m.csv", tmp_path / "run", settings)
    tested = predictions(result.folder).query("split == 'test'")
    right = (tested["target"] == tested["baseline_prediction"]).mean()
    assert right > 0.5  # of 10,000: the centres are far apart
    found = read_json(result.folder / "metrics.json")["targets"]["label"]["test"]
    assert found["mean_pool"]["accuracy"]["value"] == pytest.approx(right)


@pytest.mark.xslow
def test_sequences_of_one_frame_and_of_a_hundred_thousand(tmp_path: Path) -> None:
    lengths = [1] * 23 + [100_000]
    sequences = planted(lengths, dim=2)
    write_store(tmp_path / "store", sequences)
    side = np.resize(["train", "train", "train", "train", "val", "val", "test", "test"], 24)
    label = ["a", "b"] * 12
    write_manifest(tmp_path / "m.csv", list(sequences), label=label, side=side)
    settings = quick("label", split_column="side", epochs=1, batch_size=4)
    result = train(tmp_path / "store", tmp_path / "m.csv", tmp_path / "run", settings)
    table = predictions(result.folder)
    assert table["probability_b"].between(0, 1).all()
    assert read_json(result.folder / "data.json")["lengths"]["max"] == 100_000

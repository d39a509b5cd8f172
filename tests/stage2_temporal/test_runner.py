"""The trainings of a run: who is tested, members and repeats, balancing and stored views."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.inputs import ClipInputs
from stage2_temporal.run_folder import PROGRESS
from stage2_temporal.runner import Runner, units_of
from stage2_temporal.splits import Split
from stage2_temporal.training import TrainResult, train
from stage2_temporal.units import Unit
from tests.marks import xslow
from tests.stage2_temporal.synthetic import (
    ordered,
    planted,
    quick,
    write_manifest,
    write_store,
    write_views,
)
from tests.stage2_temporal.whole_runs import (
    IDS,
    columns,
    names,
    predictions,
    read_json,
    read_texts,
)


def run(data: Path, folder: Path, target: str = "label", **settings: Any) -> TrainResult:
    """Train for one epoch."""
    options = {"epochs": 1, "gain_confidence": 0.0, **settings}
    return train(data / "store", data / "m.csv", folder, quick(target, **options))


# units


def test_units_go_by_fold_member_and_repeat() -> None:
    split = Split(np.array([0]), np.array([1]), np.array([2]))
    found = [(u.fold, u.member, u.repeat) for u in units_of([[split, split], [split]], 2)]
    assert found == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)]


def test_every_unit_has_a_seed_of_its_own() -> None:
    units = [Unit(f, m, r) for f in range(5) for m in range(5) for r in range(5)]
    seeds = {unit.seed(seed) for unit in units for seed in range(4)}
    assert len(seeds) == 4 * len(units)


def runner_of(folder: Path, store: EmbeddingStore, positions: list[int]) -> Runner:
    (folder / PROGRESS).mkdir(parents=True, exist_ok=True)
    inputs = ClipInputs(store, np.array(positions))
    return Runner(folder, inputs, [], np.arange(len(positions)), quick())


def test_mean_embeddings_are_those_of_the_clips_in_their_order(tmp_path: Path) -> None:
    sequences = planted([1, 5, 3, 8])
    store = write_store(tmp_path / "store", sequences)
    expected = np.stack([sequences[f"v00{i}"].mean(axis=0) for i in (3, 0, 2)])
    for _ in range(2):  # computed, then read again
        found = runner_of(tmp_path, store, [3, 0, 2]).mean_embeddings()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert names(tmp_path / PROGRESS) == ["mean_embeddings.npy"]


def test_half_written_mean_embeddings_are_not_used(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", planted([2, 2]))
    runner = runner_of(tmp_path, store, [0, 1])
    (tmp_path / PROGRESS / ".mean_embeddings.npy").write_bytes(b"\x93NUMPY")
    assert runner.mean_embeddings().shape == (2, 3)


# who is tested


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "column", "name"),
    [
        *xslow(({"validation": "leave-one-group-out", "group": "site"}, "site", "site {}")),
        ({"validation": "kfold", "fold_column": "part", "group": "patient"}, "part", "{}"),
    ],
)
def test_folds_are_the_groups_or_those_of_the_column(
    whole_data: Path, tmp_path: Path, settings: dict[str, Any], column: str, name: str
) -> None:
    result = run(whole_data, tmp_path / "r", **settings)
    folds = read_json(result.folder / "data.json")["folds"]
    of_clip = pd.Series(columns()[column], IDS)
    table = predictions(result.folder).query("split == 'test'")
    assert sorted(table["video_id"]) == IDS
    assert len(folds) == of_clip.nunique()
    for number, fold in enumerate(folds):
        (value,) = set(of_clip[table.loc[table["fold"] == number, "video_id"]])
        assert fold["name"].endswith(name.format(value))


@pytest.mark.slow
def test_members_are_averaged_and_repeats_are_not(whole_data: Path, tmp_path: Path) -> None:
    result = run(whole_data, tmp_path / "r", inner_folds=2, repeats=2, split_column="side")
    units = [f"fold0-member{member}-repeat{repeat}" for member in (0, 1) for repeat in (0, 1)]
    models = [name for name in names(result.folder) if name.startswith("model-")]
    assert models == [f"model-{unit}.keras" for unit in units]
    table = predictions(result.folder)
    store = EmbeddingStore(whole_data / "store")
    for repeat in (0, 1):
        rows = table[(table["split"] == "test") & (table["repeat"] == repeat)]
        sequences = np.stack([store.read(store.find(i)) for i in rows["video_id"]])
        inputs = {"embedding": sequences, "mask": np.ones(sequences.shape[:2], bool)}
        found = [
            load_keras().saving.load_model(result.folder / f"model-{units[k]}.keras")
            for k in (repeat, 2 + repeat)
        ]
        outputs = [np.asarray(model.predict_on_batch(inputs)["target_0"])[:, 0] for model in found]
        assert not np.allclose(outputs[0], outputs[1])
        np.testing.assert_allclose(rows["probability_Rising"], np.mean(outputs, axis=0), rtol=1e-5)
        rest = table[(table["split"] == "validation") & (table["repeat"] == repeat)]
        sides = pd.Series(columns()["side"], IDS)
        assert sorted(rest["video_id"]) == sorted(sides.index[sides != "test"])
    first, second = (table[table["repeat"] == k]["probability_Rising"] for k in (0, 1))
    assert not np.allclose(first, second)


# balance, labels, views


@pytest.mark.slow
@pytest.mark.parametrize(
    ("balance", "target"),
    [
        ("oversample", "grade"),
        ("uniformize", "ef"),
        *xslow(("undersample", "grade"), ("weights", "ef")),
    ],
)
def test_training_clips_are_balanced(
    whole_data: Path, tmp_path: Path, balance: str, target: str
) -> None:
    options = {"balance": balance, "blank_target": "drop", "split_column": "side", "bins": 4}
    result = run(whole_data, tmp_path / "r", target, **options)
    document = read_json(result.folder / "data.json")
    (found,) = document["balance"]["distributions"]
    train_clips = read_texts(result.folder / "split.csv").query("split == 'train'")["video_id"]
    values = pd.Series(columns()[target], IDS)[train_clips]
    if target == "grade":
        before = values.value_counts().sort_index().tolist()
        level = max(before) if balance == "oversample" else min(before)
        assert found["after"] == [level] * 3
    else:
        before = np.histogram(values.astype(float), 4)[0].tolist()
        assert np.ptp(found["after"]) <= np.ptp(before)
    assert found["before"] == before


@pytest.mark.slow
def test_labels_in_one_column_are_split(whole_data: Path, tmp_path: Path) -> None:
    table = read_texts(whole_data / "m.csv")
    lists = ["; ".join(["a"] * (int(i) % 3 == 0) + ["b"] * (int(i) % 2)) for i in table["video_id"]]
    table.assign(tags=[text or ";" for text in lists]).to_csv(tmp_path / "m.csv", index=False)
    settings = quick("tags", label_separator=";", split_column="side", epochs=1)
    result = train(whole_data / "store", tmp_path / "m.csv", tmp_path / "r", settings)
    (target,) = read_json(result.folder / "data.json")["targets"]
    assert (target["task"], target["classes"]) == ("multilabel", ["a", "b"])
    expected = dict(zip(table["video_id"], lists, strict=True))
    for video_id, text in predictions(result.folder)[["video_id", "target"]].to_numpy():
        assert text == expected[video_id].replace("; ", "+")


@pytest.mark.slow
def test_stored_views_are_trained_on_and_nothing_else(tmp_path: Path) -> None:
    """They change the recurrent model, but neither the baseline nor what is predicted for a clip.

    So the model before training, epoch 0, is as good whatever the views are.
    """
    sequences, classes = ordered(24, lengths=(8, 8))
    side = np.resize(["train", "train", "train", "train", "val", "val", "test", "test"], 24)
    write_manifest(tmp_path / "m.csv", list(sequences), label=classes, side=side)
    train_only = {
        i: -s for (i, s), of in zip(sequences.items(), side, strict=True) if of == "train"
    }
    augmentation = AugmentSettings(stored_views=True)
    settings = quick(split_column="side", augmentation=augmentation, epochs=1, gain_confidence=0)
    tables, histories = [], []
    for number, views in enumerate([train_only, {i: 50 + s for i, s in sequences.items()}]):
        write_views(tmp_path / f"store{number}", {0: sequences, 1: views})
        folder = tmp_path / f"run{number}"
        train(tmp_path / f"store{number}", tmp_path / "m.csv", folder, settings)
        tables.append(predictions(folder)["baseline_probability_1"])
        histories.append(pd.read_csv(folder / "history.csv")["val_loss"])
    pd.testing.assert_series_equal(tables[0], tables[1], check_exact=True)
    assert histories[0][0] == histories[1][0]
    assert histories[0][1] != histories[1][1]

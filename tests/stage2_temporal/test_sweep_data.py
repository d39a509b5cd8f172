"""What trials learn from: no test clip, folds that keep groups whole, the same in every store."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stage2_temporal.partition import TrainingData, load_data
from stage2_temporal.sweep_data import SweepData, load_sweep_data
from stage2_temporal.sweep_settings import SweepSettings
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store
from tests.stage2_temporal.whole_runs import IDS, columns, read_texts

PATIENT = pd.Series(columns()["patient"], IDS)
SIDE = pd.Series(columns()["side"], IDS)


def a_sweep(target: str = "label", *, folds: int = 3, **changes: Any) -> SweepSettings:
    sweep = {"other_store": (), "metric": None} | {
        name: changes.pop(name) for name in ("other_store", "metric") if name in changes
    }
    base = quick(target, **{"group": "patient", **changes})
    return SweepSettings(base, validation_folds=folds, **sweep)


def load(data: Path, settings: SweepSettings, store: str = "store") -> SweepData:
    return load_sweep_data(data / store, data / "m.csv", settings)


def ids_of(found: SweepData, side: str) -> set[str]:
    return set(found.split["video_id"][found.split["side"] == side])


def own(found: SweepData) -> TrainingData:
    return found.development[found.stores[0]]


def copied_store(folder: Path, *, copies: tuple[str, str] | None = None) -> Path:
    """Write another store of the same clips, in reverse; of two clips one may be a copy."""
    sequences = dict(zip(IDS, ordered(len(IDS), seed=5, lengths=(6, 6))[0].values(), strict=True))
    if copies is not None:
        sequences[copies[1]] = sequences[copies[0]]
    write_store(folder, dict(reversed(list(sequences.items()))))
    return folder


# the test side


@pytest.mark.parametrize(
    "changes", [{}, {"seed": 3}, {"split_column": "side"}, {"inner_folds": 2}, {"folds": 1}]
)
def test_the_test_side_is_that_of_a_training(whole_data: Path, changes: dict[str, Any]) -> None:
    settings = a_sweep(**changes)
    expected = load_data(whole_data / "store", whole_data / "m.csv", settings.base)
    test = set(expected.clips.video_ids[expected.partition.folds[0].test].tolist())
    found = load(whole_data, settings)
    assert ids_of(found, "test") == test
    assert ids_of(found, "development") == set(IDS) - test


def test_nothing_of_a_test_clip_is_in_what_trials_get(whole_data: Path, tmp_path: Path) -> None:
    """Ids and labels are looked for in the bytes of everything but the store itself."""
    marks = [f"mark{number:03d}" for number in range(len(IDS))]
    table = read_texts(whole_data / "m.csv").set_index("video_id")
    write_manifest(
        tmp_path / "m.csv",
        [f"id-{i}-id" for i in IDS],
        label=[f"{float(i)}9876" for i in IDS],
        patient=table["patient"][IDS].to_numpy(),
        mark=marks,
    )
    sequences = dict(zip([f"id-{i}-id" for i in IDS], ordered(len(IDS))[0].values(), strict=True))
    write_store(tmp_path / "store", sequences)
    found = load(tmp_path, a_sweep())
    data = own(found)
    seen = pickle.dumps((data.clips, data.manifest, data.partition))
    for number, video_id in enumerate(IDS):
        is_test = f"id-{video_id}-id" in ids_of(found, "test")
        label = np.float64(f"{float(number)}9876").tobytes()
        # numpy keeps ids as four bytes a character
        for text in (f"id-{video_id}-id".encode("utf-32-le"), marks[number].encode(), label):
            assert (text in seen) != is_test
    held = set(data.store.video_ids[data.clips.positions].tolist())
    assert held == ids_of(found, "development")
    assert len(data.clips.rows) == len(data.manifest.table) == len(data.manifest.clips)
    assert data.manifest.table["video_id"].tolist() == data.clips.video_ids.tolist()


# the folds


@pytest.mark.parametrize("changes", [{}, {"seed": 1}, {"split_column": "side"}])
def test_each_development_clip_is_scored_once_by_models_that_did_not_see_its_patient(
    whole_data: Path, changes: dict[str, Any]
) -> None:
    found = load(whole_data, a_sweep(**changes))
    data = own(found)
    patients = PATIENT[data.clips.video_ids.tolist()].to_numpy()
    scored: list[int] = []
    for number, fold in enumerate(data.partition.folds):
        (split,) = fold.splits
        scored += fold.test.tolist()
        of_side = [set(patients[clips]) for _, clips in split.items()]
        assert all(of_side)
        assert sum(map(len, of_side)) == len(set(patients))
        rows = found.split["video_id"].isin(data.clips.video_ids[fold.test])
        assert set(found.split["fold"][rows]) == {number}
    assert sorted(scored) == list(range(len(data.clips.rows)))
    assert found.split["fold"].isna().tolist() == (found.split["side"] == "test").tolist()


@pytest.mark.parametrize("target", ["label", "grade", "ef", "a+b"])
def test_folds_are_those_of_a_cross_validation_of_the_development_clips_alone(
    whole_data: Path, tmp_path: Path, target: str
) -> None:
    settings = a_sweep(target, blank_target="drop")
    found = load(whole_data, settings)
    table = read_texts(whole_data / "m.csv")
    table[table["video_id"].isin(ids_of(found, "development"))].to_csv(tmp_path / "m.csv")
    alone = dataclasses.replace(settings.base, validation="kfold", folds=3, unmatched="drop")
    expected = load_data(whole_data / "store", tmp_path / "m.csv", alone).partition.folds
    for ours, theirs in zip(own(found).partition.folds, expected, strict=True):
        for (_, clips), (_, others) in zip(
            ours.splits[0].items(), theirs.splits[0].items(), strict=True
        ):
            np.testing.assert_array_equal(clips, others)


def test_one_fold_scores_the_validation_clips_of_the_column(whole_data: Path) -> None:
    found = load(whole_data, a_sweep(folds=1, split_column="side"))
    (fold,) = own(found).partition.folds
    ids = own(found).clips.video_ids
    assert set(ids[fold.test]) == set(SIDE.index[SIDE == "val"])
    rest = {*ids[fold.splits[0].train], *ids[fold.splits[0].validation]}
    assert rest == set(SIDE.index[SIDE == "train"])
    table = found.split.set_index("video_id")
    assert table["fold"].eq(0).fillna(value=False).tolist() == (SIDE[table.index] == "val").tolist()


def test_inner_folds_share_what_is_scored(whole_data: Path) -> None:
    for fold in own(load(whole_data, a_sweep(inner_folds=2))).partition.folds:
        first, second = fold.splits
        assert not set(first.validation) & set(second.validation)


# several stores


def folds_by_id(found: SweepData) -> list[list[tuple[NDArray[np.str_], ...]]]:
    data = own(found)
    return [
        [tuple(np.sort(data.clips.video_ids[clips]) for _, clips in split.items())]
        for fold in data.partition.folds
        for split in fold.splits
    ]


def test_stores_have_the_same_folds_in_any_order(whole_data: Path, tmp_path: Path) -> None:
    other = copied_store(tmp_path / "other")
    first = load(whole_data, a_sweep(other_store=[other]))
    second = load_sweep_data(
        other, whole_data / "m.csv", a_sweep(other_store=[whole_data / "store"])
    )
    assert first.stores == (str(whole_data / "store"), str(other)) == second.stores[::-1]
    pd.testing.assert_frame_equal(first.split, second.split)
    pd.testing.assert_frame_equal(first.split, load(whole_data, a_sweep()).split)
    for ours, theirs in zip(folds_by_id(first), folds_by_id(second), strict=True):
        for one, two in zip(ours[0], theirs[0], strict=True):
            np.testing.assert_array_equal(one, two)
    for data in first.development.values():
        held = data.store.video_ids[data.clips.positions]
        np.testing.assert_array_equal(held, data.clips.video_ids)


def test_a_store_that_lacks_clips_is_named(whole_data: Path, tmp_path: Path) -> None:
    sequences = dict(zip(IDS, ordered(len(IDS))[0].values(), strict=True))
    write_store(tmp_path / "part", {i: s for i, s in sequences.items() if i not in ("007", "011")})
    message = (
        r"part lacks 2 clips that another of .* has, e\.g\. \['007', '011'\].*stage1-extract run"
    )
    for unmatched, text in (("drop", message), ("error", r"2 clips of .*m\.csv are not in .*part")):
        with pytest.raises(ValueError, match=text):
            load(whole_data, a_sweep(other_store=[tmp_path / "part"], unmatched=unmatched))


def test_a_store_cannot_compete_with_itself(whole_data: Path) -> None:
    with pytest.raises(ValueError, match="one and the same"):
        load(whole_data, a_sweep(other_store=[whole_data / "store"]))


def test_copies_in_any_store_stay_together(whole_data: Path, tmp_path: Path) -> None:
    """Of two patients of the development side, two clips are alike in the other store alone."""
    pair = ("000", "003")
    other = copied_store(tmp_path / "other", copies=pair)
    settings = a_sweep(other_store=[other], split_column="side", folds=5)
    data = own(load(whole_data, settings))
    ids = data.clips.video_ids
    joined = np.isin(PATIENT[ids.tolist()], PATIENT[list(pair)])
    for fold in data.partition.folds:
        assert len(set(fold.splits[0].name_of_clip[joined])) == 1


def test_copies_on_two_sides_of_another_store_are_an_error(
    whole_data: Path, tmp_path: Path
) -> None:
    pair = (SIDE.index[SIDE == "train"][0], SIDE.index[SIDE == "test"][0])
    other = copied_store(tmp_path / "other", copies=pair)
    with pytest.raises(ValueError, match=r"other: split column: content: 1 of 39 values"):
        load(whole_data, a_sweep(other_store=[other], split_column="side"))


def test_stores_that_hold_out_other_clips_are_an_error(whole_data: Path, tmp_path: Path) -> None:
    """A copy in the other store would move a patient to the test side that is made for it."""
    held_out = ids_of(load(whole_data, a_sweep()), "test")
    pair = (min(set(IDS) - held_out), min(held_out))
    other = copied_store(tmp_path / "other", copies=pair)
    with pytest.raises(
        ValueError, match=r"different test sides: they disagree on .*--split-column"
    ):
        load(whole_data, a_sweep(other_store=[other]))


# what goes wrong


def test_fewer_groups_than_folds_are_an_error(whole_data: Path) -> None:
    with pytest.raises(
        ValueError, match=r"5 validation folds need .* there are 3; use fewer --val"
    ):
        load(whole_data, a_sweep(folds=5, group="site", test_fraction=0.25))


def test_folds_without_a_class_are_an_error(tmp_path: Path) -> None:
    """One patient alone has the class rare: training on the others cannot learn it."""
    group = np.arange(24) % 12
    label = np.select([group == 0, group % 2 == 0], ["rare", "a"], "b")
    side = np.select([group < 8, group < 10], ["train", "val"], "test")
    sequences, _ = ordered(24)
    write_store(tmp_path / "store", sequences)
    write_manifest(tmp_path / "m.csv", list(sequences), label=label, patient=group, side=side)
    with pytest.raises(ValueError, match=r"cannot be divided into --validation-folds 2: .*rare"):
        load(tmp_path, a_sweep(folds=2, split_column="side"))


def test_folds_that_score_no_clip_of_a_class_are_told(tmp_path: Path) -> None:
    group = np.arange(36) % 18
    label = np.select([group < 2, group % 2 == 0], ["rare", "a"], "b")
    side = np.select([group < 14, group < 16], ["train", "val"], "test")
    sequences, _ = ordered(36)
    write_store(tmp_path / "store", sequences)
    write_manifest(tmp_path / "m.csv", list(sequences), label=label, patient=group, side=side)
    notices = load(tmp_path, a_sweep(folds=3, split_column="side")).notices
    assert any("no scored clip has label rare in 1 of the splits" in text for text in notices)
    assert any("no early-stopping clip has label rare in 2" in text for text in notices)


@pytest.mark.parametrize(
    ("target", "metric", "higher"),
    [
        ("label", None, True),
        ("label", "brier", False),
        ("grade", None, True),
        ("grade", "auroc_macro", True),
        ("ef", None, False),
        ("ef", "pearson", True),
        ("a+b", None, True),
        ("a+b", "hamming_loss", False),
    ],
)
def test_the_metric_is_the_primary_score_or_the_one_asked_for(
    whole_data: Path, target: str, metric: str | None, higher: bool
) -> None:
    primary = {"label": "auroc", "grade": "balanced_accuracy", "ef": "mae", "a+b": "auprc_macro"}
    found = load(whole_data, a_sweep(target, metric=metric, blank_target="drop"))
    assert (found.metric, found.higher_is_better) == (metric or primary[target], higher)


@pytest.mark.parametrize(("target", "metric"), [("label", "mae"), ("ef", "auroc"), ("ef", "x")])
def test_a_metric_of_another_task_is_an_error(whole_data: Path, target: str, metric: str) -> None:
    with pytest.raises(ValueError, match=rf"metric '{metric}' is no score of '{target}' \("):
        load(whole_data, a_sweep(target, metric=metric, blank_target="drop"))

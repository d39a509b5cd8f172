"""Partition: what belongs together stays together, and a leak is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.manifest import ManifestError, read_manifest
from stage2_temporal.config import TrainSettings
from stage2_temporal.leakage import LeakageError
from stage2_temporal.partition import Partition, count_sides, partition_clips
from stage2_temporal.splits import Split
from stage2_temporal.targets import join_targets
from tests.stage2_temporal.synthetic import planted, write_manifest, write_store

SIDES = ["train", "train", "val", "val", "test", "test"]


def partition(
    folder: Path,
    *,
    sequences: Mapping[str, NDArray[Any]] | None = None,
    sources: Mapping[str, str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    num_clips: int = 24,
    columns: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Partition:
    """Partition clips whose label alternates."""
    sequences = sequences or planted([2] * num_clips)
    store = write_store(folder / "store", sequences, sources=sources, ranges=ranges)
    labels = [("sick", "well")[i % 2] for i in range(len(sequences))]
    path = write_manifest(
        folder / "m.csv", list(sequences), **{"label": labels, **dict(columns or {})}
    )
    manifest = read_manifest(path, files_must_exist=False)
    chosen = TrainSettings(**{"target": "label", **settings})
    clips = join_targets(store, manifest, chosen)
    return partition_clips(clips, manifest, store, chosen)


def holdout(found: Partition) -> Split:
    """The only split of the only fold."""
    ((split,),) = (fold.splits for fold in found.folds)
    return split


def assert_whole(found: Partition, key: list[Any]) -> None:
    sides: dict[Any, set[str]] = {}
    for value, side in zip(key, holdout(found).name_of_clip, strict=True):
        sides.setdefault(value, set()).add(str(side))
    assert all(len(names) == 1 for names in sides.values())


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_whole(tmp_path: Path, seed: int) -> None:
    patient = [f"p{i // 3}" for i in range(24)]
    found = partition(tmp_path, columns={"patient": patient}, group="patient", seed=seed)
    assert_whole(found, patient)
    assert found.group_names.tolist() == patient
    assert not any("--group" in notice for notice in found.notices)


@pytest.mark.parametrize("seed", range(8))
def test_clips_of_one_file_stay_together(tmp_path: Path, seed: int) -> None:
    sources = {f"v{i:03d}": f"recording{i // 3}" for i in range(24)}
    found = partition(tmp_path, sources=sources, seed=seed)
    assert_whole(found, list(sources.values()))


@pytest.mark.parametrize("seed", range(8))
def test_equal_content_under_two_ids_stays_together(tmp_path: Path, seed: int) -> None:
    """A copy in another container has another file hash, but the same embeddings."""
    originals = list(planted([2] * 12).values())
    copies = {f"copy{i:03d}": originals[i // 2] for i in range(24)}
    found = partition(tmp_path, sequences=copies, seed=seed)
    assert_whole(found, [i // 2 for i in range(24)])


def test_group_and_file_join_in_a_chain(tmp_path: Path) -> None:
    """Patient p0 has v000 and v001, the file of v001 holds v002 as well: all are one group."""
    columns = {"patient": ["p0", "p0", *(f"p{i}" for i in range(2, 24))]}
    sources = {"v001": "shared", "v002": "shared"}
    found = partition(tmp_path, columns=columns, sources=sources, group="patient")
    assert len(set(found.groups[:3])) == 1
    assert len(set(found.groups)) == 22


def test_one_seed_gives_one_split_and_another_another(tmp_path: Path) -> None:
    splits = [
        holdout(partition(tmp_path / str(i), seed=seed)).name_of_clip.tolist()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert splits[0] == splits[1] != splits[2]


def test_blank_groups_stand_alone_and_are_noticed(tmp_path: Path) -> None:
    patient = ["p0", "p0", "", " ", "NA", *(f"p{i}" for i in range(5, 24))]
    with pytest.raises(ValueError, match=r"3 clips have no 'patient', e\.g\. \['v002', .*own"):
        partition(tmp_path / "error", columns={"patient": patient}, group="patient")
    found = partition(tmp_path, columns={"patient": patient}, group="patient", blank_group="own")
    assert "3 clips have no patient; each was taken for a group of its own" in found.notices
    assert found.group_names[:5].tolist() == ["p0", "p0", "", "", ""]
    assert len(set(found.groups)) == 23


def test_split_column_is_followed(tmp_path: Path) -> None:
    found = partition(tmp_path, num_clips=6, columns={"side": SIDES}, split_column="side")
    assert holdout(found).train.tolist() == [0, 1]
    assert holdout(found).validation.tolist() == [2, 3]
    assert holdout(found).test.tolist() == [4, 5]
    assert count_sides(holdout(found), found.groups)["validation"] == {"clips": 2, "groups": 2}


def test_split_column_with_one_group_on_two_sides_is_a_leak(tmp_path: Path) -> None:
    columns = {"side": SIDES, "patient": ["p0", "p1", "p2", "p3", "p1", "p5"]}
    with pytest.raises(LeakageError, match=r"(?s)group patient: 1 of 5 .*p1: v001 .* v004 in test"):
        partition(tmp_path, num_clips=6, columns=columns, split_column="side", group="patient")


def test_split_column_with_equal_content_on_two_sides_is_a_leak(tmp_path: Path) -> None:
    sequences = planted([2] * 6)
    sequences["v005"] = sequences["v000"]
    with pytest.raises(LeakageError, match=r"(?s)content: .*v000 in train, v005 in test"):
        partition(tmp_path, sequences=sequences, columns={"side": SIDES}, split_column="side")


def two_parts(folder: Path, first: tuple[float, float], second: tuple[float, float]) -> Partition:
    """v000 in train and v004 in test are cut from one file."""
    return partition(
        folder,
        num_clips=6,
        sources={"v000": "long", "v004": "long"},
        ranges={"v000": first, "v004": second},
        columns={"side": SIDES},
        split_column="side",
    )


def test_split_within_a_recording_is_noticed(tmp_path: Path) -> None:
    found = two_parts(tmp_path, (0.0, 5.0), (5.0, np.nan))
    assert any(
        n.startswith("1 source files have clips on two sides or folds") for n in found.notices
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [((0.0, 5.0), (4.9, 9.0)), ((4.9, 9.0), (0.0, 5.0)), ((np.nan, np.nan), (5.0, 6.0))],
)
def test_parts_of_a_recording_that_overlap_on_two_sides_are_a_leak(
    tmp_path: Path, first: tuple[float, float], second: tuple[float, float]
) -> None:
    with pytest.raises(LeakageError, match=r"v00[04] .* v00[04] .*same part of one recording"):
        two_parts(tmp_path, first, second)


def test_missing_group_column_is_noticed(tmp_path: Path) -> None:
    found = partition(tmp_path, num_clips=150)
    assert [n.startswith("no --group was given") for n in found.notices] == [True]


def test_few_test_groups_are_noticed(tmp_path: Path) -> None:
    found = partition(tmp_path, columns={"patient": [f"p{i}" for i in range(24)]}, group="patient")
    assert [n.startswith("the tested clips are of 5 independent") for n in found.notices] == [True]


def test_groups_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    patient = ["P1", "p1", *(f"p{i}" for i in range(2, 24))]
    with pytest.raises(ValueError, match=r"differ only in case: \[\['P1', 'p1'\]\]"):
        partition(tmp_path, columns={"patient": patient}, group="patient")


def test_copies_are_named(tmp_path: Path) -> None:
    sequences = planted([2] * 24)
    sequences["v003"] = sequences["v002"]
    found = partition(tmp_path, sequences=sequences)
    assert "2 clips are copies of each other, e.g. ['v002', 'v003']" in found.notices


def test_split_column_that_leaves_a_class_out_of_training_is_an_error(tmp_path: Path) -> None:
    columns = {"side": SIDES, "label": ["a", "b", "a", "b", "a", "c"]}
    with pytest.raises(ValueError, match=r"holdout: no training clip has label c .*column"):
        partition(tmp_path, num_clips=6, columns=columns, split_column="side")


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (["train"] * 4 + ["test"] * 2, "'validation': 0"),
        ([*SIDES[:5], ""], "blank or unknown"),
        ([*SIDES[:5], "holdout"], "'holdout'"),
    ],
)
def test_split_column_must_name_three_sides(tmp_path: Path, side: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(tmp_path, num_clips=6, columns={"side": side}, split_column="side")


@pytest.mark.parametrize("option", ["group", "split_column"])
def test_unknown_column_is_an_error(tmp_path: Path, option: str) -> None:
    wrong: dict[str, Any] = {option: "patent"}
    with pytest.raises(ManifestError, match="no column 'patent'"):
        partition(tmp_path, **wrong)


def test_too_few_groups_are_an_error(tmp_path: Path) -> None:
    columns = {"patient": ["p0", "p1"] * 12}
    with pytest.raises(ValueError, match="2 groups cannot fill train, validation and test"):
        partition(tmp_path, columns=columns, group="patient")


def test_class_of_one_group_is_an_error(tmp_path: Path) -> None:
    columns = {"patient": [f"p{i if i % 2 else 0}" for i in range(24)]}
    with pytest.raises(ValueError, match="label sick: 12 clips in 1 groups"):
        partition(tmp_path, columns=columns, group="patient")


def test_every_side_has_every_class(tmp_path: Path) -> None:
    labels = np.array(["a"] * 20 + ["b"] * 4)
    found = partition(tmp_path, columns={"label": labels})
    assert all(set(labels[side]) == {"a", "b"} for _, side in holdout(found).items())


SCHEMES: list[dict[str, Any]] = [
    {"validation": "kfold", "folds": 3, "fold_repeats": 2},
    {"validation": "kfold", "folds": 3, "inner_folds": 2},
    {"validation": "leave-one-group-out"},
    {"validation": "kfold", "fold_column": "fold"},
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_belongs_together_is_whole_in_every_split_of_every_fold(
    tmp_path: Path, scheme: dict[str, Any]
) -> None:
    patient = [f"p{i // 4}" for i in range(24)]
    columns = {"patient": patient, "fold": [i // 4 % 3 for i in range(24)]}
    found = partition(tmp_path, columns=columns, group="patient", **scheme)
    for fold in found.folds:
        for split in fold.splits:
            sides = {(p, str(side)) for p, side in zip(patient, split.name_of_clip, strict=True)}
            assert len(sides) == len(set(patient))


def test_folds_do_not_depend_on_the_order_of_the_manifest(tmp_path: Path) -> None:
    sequences = planted([2] * 24)
    turned = dict(reversed(sequences.items()))  # 24 is even: turn the labels, too
    labels = [("sick", "well")[i % 2] for i in range(24)]
    first = partition(tmp_path / "a", sequences=sequences, validation="kfold", folds=3)
    other = partition(
        tmp_path / "b",
        sequences=turned,
        columns={"label": labels[::-1]},
        validation="kfold",
        folds=3,
    )
    assert [fold.test.tolist() for fold in first.folds] == [f.test.tolist() for f in other.folds]


def test_groups_that_share_a_file_are_left_out_together_under_their_names(tmp_path: Path) -> None:
    patient = [f"p{i // 4}" for i in range(20)] + [""] * 4
    found = partition(
        tmp_path,
        columns={"patient": patient},
        sources={"v000": "shared", "v004": "shared"},
        group="patient",
        blank_group="own",
        validation="leave-one-group-out",
    )
    assert [fold.name for fold in found.folds] == [
        *("patient p0+p1", "patient p2", "patient p3", "patient p4"),
        *("clip v020", "clip v021", "clip v022", "clip v023"),
    ]


@pytest.mark.parametrize(
    ("columns", "sources", "ranges", "message"),
    [
        (
            {"patient": ["p0", *"bcdefghijk", "p0"]},
            {},
            {},
            r"fold 0: group patient: .* p0: v011 in train, v000 in test",
        ),
        ({}, {"v000": "x", "v001": "x"}, {}, "v00[01] .* v00[01] .*same part of one recording"),
    ],
)
def test_fold_column_that_tears_what_belongs_together_is_a_leak(
    tmp_path: Path, columns: Any, sources: Any, ranges: Any, message: str
) -> None:
    columns = {"fold": [0, 1, 2] * 4, "patient": list("abcdefghijkl"), **columns}
    with pytest.raises(LeakageError, match=f"(?s){message}"):
        partition(
            tmp_path,
            num_clips=12,
            columns=columns,
            sources=sources,
            ranges=ranges,
            group="patient",
            validation="kfold",
            fold_column="fold",
        )


def test_folds_within_a_recording_are_noticed(tmp_path: Path) -> None:
    found = partition(
        tmp_path,
        columns={"fold": [i // 8 for i in range(24)]},
        sources={"v000": "long", "v020": "long"},
        ranges={"v000": (0.0, 5.0), "v020": (5.0, 9.0)},
        validation="kfold",
        fold_column="fold",
    )
    assert any(n.startswith("1 source files have clips on two sides or") for n in found.notices)


def test_class_of_a_second_target_must_be_trained_too(tmp_path: Path) -> None:
    columns = {"other": ["x", "y", *"z" * 22], "patient": [f"p{i // 2}" for i in range(24)]}
    with pytest.raises(ValueError, match=r"fold \d: no training clip has other [xy] \(1 clips"):
        partition(
            tmp_path,
            columns=columns,
            group="patient",
            validation="kfold",
            folds=3,
            target=("label", "other"),
        )


def test_clips_without_the_first_target_are_spread_over_folds(tmp_path: Path) -> None:
    columns = {
        "label": [["a", "b", ""][i % 3] for i in range(36)],
        "other": [("x", "y")[i % 2] for i in range(36)],
    }
    found = partition(
        tmp_path,
        num_clips=36,
        columns=columns,
        target=("label", "other"),
        blank_target="drop",
        validation="kfold",
        folds=4,
    )
    for fold in found.folds:
        assert np.bincount(fold.test % 3).tolist() == [3, 3, 3]


def test_all_groups_of_a_cross_validation_count_as_tested(tmp_path: Path) -> None:
    columns = {"patient": [f"p{i}" for i in range(24)]}
    found = partition(tmp_path, columns=columns, group="patient", validation="kfold")
    assert not any("independent groups only" in notice for notice in found.notices)


def test_single_groups_are_not_blamed_for_lacking_classes(tmp_path: Path) -> None:
    columns = {"patient": [f"p{i % 6}" for i in range(24)]}  # of one class each
    found = partition(tmp_path, columns=columns, group="patient", validation="leave-one-group-out")
    assert len(found.folds) == 6
    assert not any("no test clip" in notice for notice in found.notices)

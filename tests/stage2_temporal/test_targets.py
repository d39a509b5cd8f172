"""Targets: each label reaches its own sequence, and a column means what a reader would say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stage1_extract.manifest import Manifest, ManifestError, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.encoding import TargetError
from stage2_temporal.targets import LabelledClips, Target, encode_target, join_targets
from tests.stage2_temporal.synthetic import planted, write_manifest, write_store

IDS = [f"v{i:03d}" for i in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted([2] * len(IDS)))


def manifest(folder: Path, ids: list[str], name: str = "m.csv", **columns: Any) -> Manifest:
    return read_manifest(write_manifest(folder / name, ids, **columns), files_must_exist=False)


def join(store: EmbeddingStore, manifest: Manifest, *targets: str, **changes: Any) -> LabelledClips:
    return join_targets(store, manifest, TrainSettings(targets, **changes))


# joining


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(order=st.permutations(range(6)))
def test_shuffled_rows_never_shift_labels(
    store: EmbeddingStore, tmp_path: Path, order: list[int]
) -> None:
    ids = [IDS[i] for i in order]
    clips = join(store, manifest(tmp_path, ids, score=[i + 0.5 for i in order]), "score")
    numbers = [store.read(int(i))[0, 0] for i in clips.positions]
    assert numbers == list(range(6))  # in the ids' order, whatever the manifest's
    assert clips.video_ids.tolist() == IDS
    assert (clips.targets[0].numbers - 0.5).tolist() == numbers
    assert [ids[row] for row in clips.rows] == IDS


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    frames = list(planted([2, 2, 2]).values())
    ids = ["001", "1", "1.0"]
    store = write_store(tmp_path / "s", dict(zip(ids, frames, strict=True)))
    clips = join(store, manifest(tmp_path, ids[::-1], x=[2.5, 1.5, 0.5]), "x")
    assert clips.video_ids.tolist() == ids
    assert [store.read(int(i))[0, 0] for i in clips.positions] == [0, 1, 2]
    assert clips.targets[0].numbers.tolist() == [0.5, 1.5, 2.5]


def test_integer_ids_of_parquet_match(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"7": np.ones((2, 1)), "8": np.zeros((2, 1))})
    table = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "video_id": [8, 7], "y": ["zero", "one"]})
    table.to_parquet(tmp_path / "m.parquet")
    clips = join(store, read_manifest(tmp_path / "m.parquet", files_must_exist=False), "y")
    names = [clips.targets[0].classes[number] for number in clips.targets[0].numbers]
    planted_numbers = [float(store.read(int(i))[0, 0]) for i in clips.positions]
    assert sorted(zip(names, planted_numbers, strict=True)) == [("one", 1.0), ("zero", 0.0)]


def test_only_view_zero_is_joined(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {"a": np.full((2, 1), 9.0)}, view=1)
    store = write_store(tmp_path / "s", {"a": np.ones((2, 1)), "b": np.zeros((2, 1))}, shard="b.h5")
    clips = join(store, manifest(tmp_path, ["a", "b"], y=["p", "q"]), "y")
    assert [store.read(int(i))[0, 0] for i in clips.positions] == [1, 0]


def test_missing_clips_are_counted_and_named(store: EmbeddingStore, tmp_path: Path) -> None:
    ids = [*IDS, *(f"absent{i}" for i in range(7))]
    table = manifest(tmp_path, ids, y=["a", "b"] * 6 + ["a"])
    with pytest.raises(TargetError, match=r"^7 clips .*'absent0', .*'absent4'\]; .*--unmatched"):
        join(store, table, "y")
    clips = join(store, table, "y", unmatched="drop")
    assert clips.video_ids.tolist() == IDS
    assert clips.left_out == {"not in the store": 7, "not in the manifest": 0, "blank target": 0}


def test_extra_sequences_are_counted_and_named(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS[2:], y=["a", "b"] * 2)
    with pytest.raises(TargetError, match=r"^2 sequences .*\['v000', 'v001'\].*--unmatched drop"):
        join(store, table, "y")
    clips = join(store, table, "y", unmatched="drop")
    assert clips.left_out["not in the manifest"] == 2
    assert clips.positions.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("blank", ["", " ", "NaN", "n/a", "NULL"])
def test_blank_targets_are_counted_and_named(
    store: EmbeddingStore, tmp_path: Path, blank: str
) -> None:
    table = manifest(tmp_path, IDS, y=["a", blank, "b", "a", blank, "b"])
    with pytest.raises(TargetError, match=r"^2 clips have no 'y', e.g. \['v001', 'v004'\]"):
        join(store, table, "y")
    clips = join(store, table, "y", blank_target="drop")
    assert clips.left_out["blank target"] == 2
    assert clips.rows.tolist() == [0, 2, 3, 5]
    assert clips.targets[0].numbers.tolist() == [0, 1, 0, 1]


def test_a_clip_is_left_out_for_one_reason_only(store: EmbeddingStore, tmp_path: Path) -> None:
    """Each row of the manifest is used or counted once, so that the counts add up."""
    table = manifest(tmp_path, [*IDS, "absent"], y=["a", "", "b", "a", "a", "b", ""])
    clips = join(store, table, "y", unmatched="drop", blank_target="drop")
    assert clips.left_out == {"not in the store": 1, "not in the manifest": 0, "blank target": 1}


def test_blank_targets_of_dropped_clips_do_not_matter(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(tmp_path, [*IDS, "absent"], y=[*"abbaab", ""])
    assert len(join(store, table, "y", unmatched="drop").rows) == 6


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'v000' stands in lines 2, 4"):
        manifest(tmp_path, ["v000", "v001", "v000"], y=["a", "b", "a"])


def test_no_clip_left_is_an_error(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, ["x", "y"], label=["a", "b"])
    with pytest.raises(TargetError, match=r"no clip of .* has both a sequence and a 'label'"):
        join(store, table, "label", unmatched="drop")


def test_unknown_column_shows_those_there_are(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no column 'lable'.*'label'"):
        join(store, manifest(tmp_path, IDS, label=list("ababab")), "lable")


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        ([1, 0, 1, 0, 0, 1], ("0", "1"), [1, 0, 1, 0, 0, 1]),
        ([True, False, True, False, False, True], ("False", "True"), [1, 0, 1, 0, 0, 1]),
        ([2.0, 0.0, 1.0, 0.0, 2.0, 1.0], ("0", "1", "2"), [2, 0, 1, 0, 2, 1]),
        ([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], (), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        (["x", "y", "x", "y", "z", "z"], ("x", "y", "z"), [0, 1, 0, 1, 2, 2]),
    ],
)
def test_parquet_types_are_understood(
    store: EmbeddingStore, tmp_path: Path, values: list[Any], classes: Any, numbers: list[Any]
) -> None:
    target = join(store, manifest(tmp_path, IDS, "m.parquet", y=values), "y").targets[0]
    assert target.classes == classes
    assert target.numbers.tolist() == numbers


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        ([1, 0, None, 1, None, 0], ("0", "1"), [1, 0, 1, 0]),
        ([True, False, None, True, None, False], ("False", "True"), [1, 0, 1, 0]),
        (["b", "a", None, "b", None, "a"], ("a", "b"), [1, 0, 1, 0]),
        ([1.5, 2.5, None, 0.25, np.nan, 1.5], (), [1.5, 2.5, 0.25, 1.5]),
    ],
)
def test_none_in_parquet_is_blank(
    store: EmbeddingStore, tmp_path: Path, values: list[Any], classes: Any, numbers: list[Any]
) -> None:
    table = manifest(tmp_path, IDS, "m.parquet", y=values)
    clips = join(store, table, "y", blank_target="drop")
    assert clips.left_out["blank target"] == 2
    assert clips.targets[0].classes == classes
    assert clips.targets[0].numbers.tolist() == numbers


def test_categories_and_nullable_integers_of_parquet_are_understood(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(
        tmp_path,
        IDS,
        "m.parquet",
        view=pd.Categorical(["a2c", "a4c"] * 3),
        grade=pd.array([1, 2, 3, 1, 2, None], dtype="Int64"),
    )
    assert join(store, table, "view").targets[0].classes == ("a2c", "a4c")
    grade = join(store, table, "grade", blank_target="drop").targets[0]
    assert grade.numbers.tolist() == [0, 1, 2, 0, 1]


# several targets


def test_targets_come_in_the_order_asked_for(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS, a=list("xyxyxy"), b=[0.5, 1, 2, 3, 4, 5], c=list("pqrpqr"))
    clips = join(store, table, "b", "c", "a")
    assert [(t.name, t.task) for t in clips.targets] == [
        ("b", "regression"),
        ("c", "multiclass"),
        ("a", "binary"),
    ]
    assert clips.targets[0].numbers.tolist() == [0.5, 1, 2, 3, 4, 5]


def test_each_target_may_have_its_own_task(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS, a=[1, 2, 3, 1, 2, 3], b=[1, 2, 3, 1, 2, 3])
    clips = join(store, table, "a", "b", task=("regression", "auto"))
    assert [t.task for t in clips.targets] == ["regression", "multiclass"]
    clips = join(store, table, "a", "b", task="regression")
    assert [t.task for t in clips.targets] == ["regression", "regression"]


def test_a_clip_stays_while_it_has_one_target(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(
        tmp_path, IDS, a=["x", "", "y", "x", "", "y"], b=[1.5, 2.5, np.nan, 3.5, np.nan, 4.5]
    )
    with pytest.raises(TargetError, match=r"^2 clips have no 'a', e.g. \['v001', 'v004'\]"):
        join(store, table, "a", "b")
    clips = join(store, table, "a", "b", blank_target="drop")
    assert clips.video_ids.tolist() == ["v000", "v001", "v002", "v003", "v005"]
    assert clips.left_out["blank target"] == 1
    first, second = clips.targets
    assert first.present.tolist() == [True, False, True, True, True]
    assert first.numbers.tolist() == [0, 0, 1, 0, 1]
    assert second.present.tolist() == [True, True, False, True, True]
    assert second.numbers.tolist() == [1.5, 2.5, 0, 3.5, 4.5]


def test_a_target_that_no_clip_has_is_an_error(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS, a=list("xyxyxy"), b=[""] * 6)
    with pytest.raises(TargetError, match="no clip has a 'b'"):
        join(store, table, "a", "b", blank_target="drop")


def test_positive_applies_to_the_binary_targets_that_have_it(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(
        tmp_path, IDS, a=list("nynyny"), b=[*"ynnyn", ""], c=list("ppqqpp"), d=list("nyznyz")
    )
    clips = join(store, table, "a", "b", "c", "d", positive="n", blank_target="drop")
    assert [t.classes for t in clips.targets] == [
        ("y", "n"),
        ("y", "n"),
        ("p", "q"),
        ("n", "y", "z"),
    ]
    assert clips.targets[0].numbers.tolist() == [1, 0, 1, 0, 1, 0]
    assert clips.targets[1].numbers.tolist() == [0, 1, 1, 0, 1, 0]  # the last one is missing
    with pytest.raises(TargetError, match=r"'z' is in no binary target: a \(binary\) \['n', 'y'\]"):
        join(store, table, "a", "d", positive="z")


# several labels


def test_columns_joined_by_plus_are_one_multilabel_target(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(
        tmp_path,
        IDS,
        dust=[0, 1, 0, 1, 0, 1],
        leak=[True, False, False, True, False, False],
        blur=[1.0, 0.0, 1.0, 0.0, 1.0, 0.0],
    )
    (target,) = join(store, table, "leak+dust+blur").targets
    assert (target.name, target.task) == ("leak+dust+blur", "multilabel")
    assert (target.classes, target.num_outputs) == (("leak", "dust", "blur"), 3)
    assert target.numbers.T.tolist() == [
        [1, 0, 0, 1, 0, 0],
        [0, 1, 0, 1, 0, 1],
        [1, 0, 1, 0, 1, 0],
    ]


def test_a_column_of_that_very_name_wins(store: EmbeddingStore, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"a": [0, 1] * 3, "b": [1, 0] * 3, "a+b": list("xyzxyz")}
    table = manifest(tmp_path, IDS, **columns)
    assert join(store, table, "a+b").targets[0].classes == ("x", "y", "z")


def test_a_clip_that_lacks_one_label_lacks_the_target(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(tmp_path, IDS, a=["0", "", "1", "0", "1", "0"], b=[1, 0] * 3)
    with pytest.raises(TargetError, match=r"^1 clips have no 'a\+b', e.g. \['v001'\]"):
        join(store, table, "a+b")
    assert len(join(store, table, "a+b", blank_target="drop").rows) == 5


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a+c", ManifestError, "no column 'c'"),
        ("a+a", TargetError, "names a column twice"),
    ],
)
def test_wrong_columns_of_a_multilabel_target_are_errors(
    store: EmbeddingStore, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    table = manifest(tmp_path, IDS, a=[0, 1] * 3, b=[1, 0] * 3)
    with pytest.raises(error, match=message):
        join(store, table, name)


def test_lists_are_split_where_the_separator_is(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS, found=["b; a", "a", ";", "c;b", "a;a", "c"], y=list("mnmnmn"))
    labels, other = join(store, table, "found", "y", label_separator=";").targets
    assert (labels.task, labels.classes) == ("multilabel", ("a", "b", "c"))
    assert labels.numbers.tolist() == [
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 1],
        [1, 0, 0],
        [0, 0, 1],
    ]
    assert (other.task, other.classes) == ("binary", ("m", "n"))


def test_a_separator_that_splits_nothing_is_an_error(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS, y=list("mnmnmn"))
    with pytest.raises(TargetError, match=r"';' was given, but no text of \['y'\] holds it"):
        join(store, table, "y", label_separator=";")


# the target itself


@pytest.mark.parametrize(
    ("values", "task", "encoded"),
    [
        (["a", None, "b"], "binary", [[0], [0], [1]]),
        (["b", None, "a", "c"], "multiclass", [[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]),
        (["a,c", "", "b,c", ","], "multilabel", [[1, 0, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0]]),
        (["0.5", "NA", "-2"], "regression", [[0.5], [0], [-2]]),
    ],
)
def test_encoding_has_a_column_an_output(values: Any, task: str, encoded: Any) -> None:
    target = encode_target(pd.DataFrame({"y": values}), name="y", task=task, separator=",")
    assert target.encoded().dtype == np.float32
    assert target.encoded().tolist() == encoded
    assert target.encoded().shape == (len(values), target.num_outputs)


@pytest.mark.parametrize(
    ("clips", "numbers"),
    [(np.array([2, 0]), [3.0, 1.0]), (np.array([True, False, True]), [1.0, 3.0])],
)
def test_a_target_of_some_clips(clips: Any, numbers: list[float]) -> None:
    target = Target("y", "regression", (), np.array([1.0, 0.0, 3.0]), np.array([True, False, True]))
    part = target.at(clips)
    assert part.numbers.tolist() == numbers
    assert part.present.all()

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
from stage2_temporal.targets import TargetError, encode_target, join_targets
from tests.stage2_temporal.synthetic import planted, write_manifest, write_store

IDS = [f"v{i:03d}" for i in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted([2] * len(IDS)))


def manifest(folder: Path, ids: list[str], name: str = "m.csv", **columns: Any) -> Manifest:
    return read_manifest(write_manifest(folder / name, ids, **columns), files_must_exist=False)


def column(values: list[Any], dtype: Any = str) -> Any:
    return pd.Series(values, dtype=dtype, name="label")


# joining


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(order=st.permutations(range(6)))
def test_shuffled_rows_never_shift_labels(
    store: EmbeddingStore, tmp_path: Path, order: list[int]
) -> None:
    ids = [IDS[i] for i in order]
    clips = join_targets(store, manifest(tmp_path, ids, score=[i + 0.5 for i in order]), "score")
    numbers = [store.read(int(i))[0, 0] for i in clips.positions]
    assert numbers == list(range(6))  # in the ids' order, whatever the manifest's
    assert clips.video_ids.tolist() == IDS
    assert (clips.target.numbers - 0.5).tolist() == numbers
    assert [ids[row] for row in clips.rows] == IDS


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    frames = list(planted([2, 2, 2]).values())
    ids = ["001", "1", "1.0"]
    store = write_store(tmp_path / "s", dict(zip(ids, frames, strict=True)))
    clips = join_targets(store, manifest(tmp_path, ids[::-1], x=[2.5, 1.5, 0.5]), "x")
    assert clips.video_ids.tolist() == ids
    assert [store.read(int(i))[0, 0] for i in clips.positions] == [0, 1, 2]
    assert clips.target.numbers.tolist() == [0.5, 1.5, 2.5]


def test_integer_ids_of_parquet_match(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"7": np.ones((2, 1)), "8": np.zeros((2, 1))})
    table = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "video_id": [8, 7], "y": ["zero", "one"]})
    table.to_parquet(tmp_path / "m.parquet")
    clips = join_targets(store, read_manifest(tmp_path / "m.parquet", files_must_exist=False), "y")
    names = [clips.target.classes[number] for number in clips.target.numbers]
    planted_numbers = [float(store.read(int(i))[0, 0]) for i in clips.positions]
    assert sorted(zip(names, planted_numbers, strict=True)) == [("one", 1.0), ("zero", 0.0)]


def test_only_view_zero_is_joined(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {"a": np.full((2, 1), 9.0)}, view=1)
    store = write_store(tmp_path / "s", {"a": np.ones((2, 1)), "b": np.zeros((2, 1))}, shard="b.h5")
    clips = join_targets(store, manifest(tmp_path, ["a", "b"], y=["p", "q"]), "y")
    assert [store.read(int(i))[0, 0] for i in clips.positions] == [1, 0]


def test_missing_clips_are_counted_and_named(store: EmbeddingStore, tmp_path: Path) -> None:
    ids = [*IDS, *(f"absent{i}" for i in range(7))]
    table = manifest(tmp_path, ids, y=["a", "b"] * 6 + ["a"])
    with pytest.raises(TargetError, match=r"^7 clips .*'absent0', .*'absent4'\]; .*--unmatched"):
        join_targets(store, table, "y")
    clips = join_targets(store, table, "y", unmatched="drop")
    assert clips.video_ids.tolist() == IDS
    assert clips.left_out == {"not in the store": 7, "not in the manifest": 0, "blank target": 0}


def test_extra_sequences_are_counted_and_named(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, IDS[2:], y=["a", "b"] * 2)
    with pytest.raises(TargetError, match=r"^2 sequences .*\['v000', 'v001'\].*--unmatched drop"):
        join_targets(store, table, "y")
    clips = join_targets(store, table, "y", unmatched="drop")
    assert clips.left_out["not in the manifest"] == 2
    assert clips.positions.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("blank", ["", " ", "NaN", "n/a", "NULL"])
def test_blank_targets_are_counted_and_named(
    store: EmbeddingStore, tmp_path: Path, blank: str
) -> None:
    table = manifest(tmp_path, IDS, y=["a", blank, "b", "a", blank, "b"])
    with pytest.raises(TargetError, match=r"^2 clips have no 'y', e.g. \['v001', 'v004'\]"):
        join_targets(store, table, "y")
    clips = join_targets(store, table, "y", blank_target="drop")
    assert clips.left_out["blank target"] == 2
    assert clips.rows.tolist() == [0, 2, 3, 5]
    assert clips.target.numbers.tolist() == [0, 1, 0, 1]


def test_a_clip_is_left_out_for_one_reason_only(store: EmbeddingStore, tmp_path: Path) -> None:
    """Each row of the manifest is used or counted once, so that the counts add up."""
    table = manifest(tmp_path, [*IDS, "absent"], y=["a", "", "b", "a", "a", "b", ""])
    clips = join_targets(store, table, "y", unmatched="drop", blank_target="drop")
    assert clips.left_out == {"not in the store": 1, "not in the manifest": 0, "blank target": 1}


def test_blank_targets_of_dropped_clips_do_not_matter(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    table = manifest(tmp_path, [*IDS, "absent"], y=[*"abbaab", ""])
    assert len(join_targets(store, table, "y", unmatched="drop").rows) == 6


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'v000' stands in lines 2, 4"):
        manifest(tmp_path, ["v000", "v001", "v000"], y=["a", "b", "a"])


def test_no_clip_left_is_an_error(store: EmbeddingStore, tmp_path: Path) -> None:
    table = manifest(tmp_path, ["x", "y"], label=["a", "b"])
    with pytest.raises(TargetError, match=r"no clip of .* has both a sequence and a 'label'"):
        join_targets(store, table, "label", unmatched="drop")


def test_unknown_column_shows_those_there_are(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no column 'lable'.*'video_id', 'label'"):
        join_targets(store, manifest(tmp_path, IDS, label=list("ababab")), "lable")


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
    target = join_targets(store, manifest(tmp_path, IDS, "m.parquet", y=values), "y").target
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
    clips = join_targets(store, table, "y", blank_target="drop")
    assert clips.left_out["blank target"] == 2
    assert clips.target.classes == classes
    assert clips.target.numbers.tolist() == numbers


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
    assert join_targets(store, table, "view").target.classes == ("a2c", "a4c")
    grade = join_targets(store, table, "grade", blank_target="drop").target
    assert grade.numbers.tolist() == [0, 1, 2, 0, 1]


# inferring the task


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["0", "1", "1"], "binary", ("0", "1")),
        (["0.0", "1.0", "1.0"], "binary", ("0", "1")),
        (["0", "1", "1.0"], "binary", ("0", "1")),
        (["no", "yes", "no"], "binary", ("no", "yes")),
        ([" yes", "no ", "yes"], "binary", ("no", "yes")),
        (["0.5", "2", "2"], "binary", ("0.5", "2")),
        (["-1", "1", "-1"], "binary", ("-1", "1")),
        (["1", "2", "3"], "multiclass", ("1", "2", "3")),
        (["10", "9", "1"], "multiclass", ("1", "9", "10")),
        (["1", "2", "mixed"], "multiclass", ("1", "2", "mixed")),
        (["A4C", "A2C", "PLAX"], "multiclass", ("A2C", "A4C", "PLAX")),
        ([str(i) for i in range(10)], "multiclass", tuple("0123456789")),
        ([str(i) for i in range(11)], "regression", ()),
        (["0.1", "0.2", "0.3"], "regression", ()),
        (["1e3", "2", "2.5"], "regression", ()),
        (["1000001", "1000002", "1000003"], "multiclass", ("1000001", "1000002", "1000003")),
        (["1234567", "1234568", "1234567"], "binary", ("1234567", "1234568")),
    ],
)
def test_task_is_inferred(values: list[str], task: str, classes: tuple[str, ...]) -> None:
    target = encode_target(column(values))
    assert (target.task, target.classes) == (task, classes)


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["1000002", "1000001", "1000003"], [1, 0, 2]),
        (["0", "-0.0", "1", "2"], [0, 0, 1, 2]),
        (["-0.0", "-0.0", "1", "2"], [0, 0, 1, 2]),
        (["01", "1", "2", "3.0"], [0, 0, 1, 2]),
        (["b", "c", "a"], [1, 2, 0]),
    ],
)
def test_classes_are_numbered_in_order(values: list[str], numbers: list[int]) -> None:
    target = encode_target(column(values), task="multiclass")
    assert target.numbers.tolist() == numbers
    assert target.numbers.dtype == np.int64


@given(
    st.lists(
        st.one_of(st.integers(-(2**50), 2**50), st.floats(-1e6, 1e6)), min_size=2, max_size=9
    ).filter(lambda values: len({float(v) for v in values}) > 1)
)
def test_distinct_numbers_are_distinct_classes(values: list[float]) -> None:
    target = encode_target(column([repr(v) for v in values]), task="multiclass")
    assert len(set(target.classes)) == len({float(v) for v in values})
    assert [float(target.classes[n]) for n in target.numbers] == [float(v) for v in values]


def test_eleven_whole_numbers_may_be_classes() -> None:
    target = encode_target(column([str(i) for i in range(11)]), task="multiclass")
    assert (target.num_outputs, target.numbers.tolist()) == (11, list(range(11)))


def test_whole_numbers_may_be_values() -> None:
    target = encode_target(column(["3", "1", "2"]), task="regression")
    assert (target.num_outputs, target.classes) == (1, ())
    assert target.numbers.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("task", ["auto", "binary", "multiclass", "regression"])
@pytest.mark.parametrize("values", [["a"], ["a", "a "], ["1", "1"], ["1", "1.0"], ["0", "-0"]])
def test_a_single_value_is_an_error(task: str, values: list[str]) -> None:
    with pytest.raises(TargetError, match=f"'label' has the single value .* in {len(values)}"):
        encode_target(column(values), task=task)


@pytest.mark.parametrize("bad", ["inf", "-Infinity", "1e999", "1e39", "-1.5e308"])
def test_infinite_values_are_an_error(bad: str) -> None:
    with pytest.raises(TargetError, match=f"no finite float32 numbers: \\['{bad}'\\]"):
        encode_target(column(["0.5", bad, "1.5", "2.5"]))


def test_text_is_no_value() -> None:
    with pytest.raises(TargetError, match=r"no finite float32 numbers: \['bad', 'worse'\]"):
        encode_target(column(["1.5", "bad", "worse", "bad"]), task="regression")


@pytest.mark.parametrize("task", ["auto", "multiclass", "binary"])
def test_classes_that_differ_only_in_case_are_an_error(task: str) -> None:
    with pytest.raises(TargetError, match=r"differ only in case: \[\['Normal', 'normal'\]\]"):
        encode_target(column(["Normal", "normal", "sick"]), task=task)


def test_three_classes_are_not_binary() -> None:
    with pytest.raises(TargetError, match=r"3 classes \(\['a', 'b', 'c'\]\).*--task multiclass"):
        encode_target(column(["a", "b", "c"]), task="binary")


@pytest.mark.parametrize(
    ("values", "positive", "classes", "numbers"),
    [
        (["a", "b", "a"], None, ("a", "b"), [0, 1, 0]),
        (["a", "b", "a"], "a", ("b", "a"), [1, 0, 1]),
        (["a", "b", "a"], "b", ("a", "b"), [0, 1, 0]),
        (["0.0", "1.0", "0.0"], "0", ("1", "0"), [1, 0, 1]),
    ],
)
def test_positive_class_counts_as_one(
    values: list[str], positive: str | None, classes: tuple[str, str], numbers: list[int]
) -> None:
    target = encode_target(column(values), positive=positive)
    assert (target.classes, target.numbers.tolist()) == (classes, numbers)


def test_unknown_positive_class_is_an_error() -> None:
    with pytest.raises(TargetError, match=r"'sick' is not in 'label': \['a', 'b'\]"):
        encode_target(column(["a", "b"]), positive="sick")


@pytest.mark.parametrize("values", [["a", "b", "c"], ["0.1", "0.2", "0.3"]])
def test_positive_class_of_another_task_is_an_error(values: list[str]) -> None:
    with pytest.raises(TargetError, match="positive class 'a' was given, but the task"):
        encode_target(column(values), positive="a")

"""Encoding: a column means what a reader would say, or the reader is told what is wrong with it."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2_temporal.encoding import TargetError, encode, encode_column


def column(values: list[Any], dtype: Any = str) -> Any:
    return pd.Series(values, dtype=dtype, name="label")


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
    target = encode_column(column(values))
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
    target = encode_column(column(values), task="multiclass")
    assert target.numbers.tolist() == numbers
    assert target.numbers.dtype == np.int64


@given(
    st.lists(
        st.one_of(st.integers(-(2**50), 2**50), st.floats(-1e6, 1e6)), min_size=2, max_size=9
    ).filter(lambda values: len({float(v) for v in values}) > 1)
)
def test_distinct_numbers_are_distinct_classes(values: list[float]) -> None:
    target = encode_column(column([repr(v) for v in values]), task="multiclass")
    assert len(set(target.classes)) == len({float(v) for v in values})
    assert [float(target.classes[n]) for n in target.numbers] == [float(v) for v in values]


def test_eleven_whole_numbers_may_be_classes() -> None:
    target = encode_column(column([str(i) for i in range(11)]), task="multiclass")
    assert (len(target.classes), target.numbers.tolist()) == (11, list(range(11)))


def test_whole_numbers_may_be_values() -> None:
    target = encode_column(column(["3", "1", "2"]), task="regression")
    assert target.classes == ()
    assert target.numbers.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("task", ["auto", "binary", "multiclass", "regression"])
@pytest.mark.parametrize("values", [["a"], ["a", "a "], ["1", "1"], ["1", "1.0"], ["0", "-0"]])
def test_a_single_value_is_an_error(task: str, values: list[str]) -> None:
    with pytest.raises(TargetError, match=f"'label' has the single value .* in {len(values)}"):
        encode_column(column(values), task=task)


@pytest.mark.parametrize("bad", ["inf", "-Infinity", "1e999", "1e39", "-1.5e308"])
def test_infinite_values_are_an_error(bad: str) -> None:
    with pytest.raises(TargetError, match=f"no finite float32 numbers: \\['{bad}'\\]"):
        encode_column(column(["0.5", bad, "1.5", "2.5"]))


def test_text_is_no_value() -> None:
    with pytest.raises(TargetError, match=r"no finite float32 numbers: \['bad', 'worse'\]"):
        encode_column(column(["1.5", "bad", "worse", "bad"]), task="regression")


@pytest.mark.parametrize("task", ["auto", "multiclass", "binary"])
def test_classes_that_differ_only_in_case_are_an_error(task: str) -> None:
    with pytest.raises(TargetError, match=r"differ only in case: \[\['Normal', 'normal'\]\]"):
        encode_column(column(["Normal", "normal", "sick"]), task=task)


def test_three_classes_are_not_binary() -> None:
    with pytest.raises(TargetError, match=r"3 classes \(\['a', 'b', 'c'\]\).*--task multiclass"):
        encode_column(column(["a", "b", "c"]), task="binary")


@pytest.mark.parametrize(
    ("values", "positive", "classes", "numbers"),
    [
        (["a", "b", "a"], None, ("a", "b"), [0, 1, 0]),
        (["a", "b", "a"], "a", ("b", "a"), [1, 0, 1]),
        (["a", "b", "a"], "b", ("a", "b"), [0, 1, 0]),
        (["0.0", "1.0", "0.0"], "0", ("1", "0"), [1, 0, 1]),
        (["a", "b", "a"], "other", ("a", "b"), [0, 1, 0]),
    ],
)
def test_positive_class_counts_as_one(
    values: list[str], positive: str | None, classes: tuple[str, str], numbers: list[int]
) -> None:
    target = encode(column(values).to_frame(), positive=positive)
    assert (target.classes, target.numbers.tolist()) == (classes, numbers)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False, True], ("False", "True")),
        (["True", "False", "True"], ("False", "True")),
    ],
)
def test_booleans_are_binary(values: list[Any], classes: tuple[str, ...]) -> None:
    found = encode_column(column(values, dtype=object))
    assert (found.task, found.classes, found.numbers.tolist()) == ("binary", classes, [1, 0, 1])


def test_numbers_too_large_for_a_float_keep_their_names() -> None:
    names = ["9007199254740993", "9007199254740992", "9007199254740995"]
    found = encode_column(column(names), task="multiclass")
    assert [found.classes[i] for i in found.numbers] == names


def test_ten_thousand_classes_are_numbered_at_once() -> None:
    names = [f"class {i:05d}" for i in range(10_000)]
    started = time.process_time()
    found = encode_column(column(names * 5))
    assert found.classes == tuple(names)
    assert found.numbers.tolist() == [*range(10_000)] * 5
    assert time.process_time() - started < 5  # a loop over clips and classes takes minutes


# several labels


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [0, 1, 2], "b": [0, 1, 0]}, r"column 'a' holds \[2\]; each label .* 0 or 1"),
        ({"a": [0, 1, 1], "b": ["no", "yes", "no"]}, r"column 'b' holds \['no', 'yes'\]"),
        ({"a": [0, 1, 1], "b": [1, 1, 1]}, r"labels \['b'\] are the same for all 3 clips"),
        ({"a": [0, 0, 0], "b": [1, 1, 1]}, r"labels \['a', 'b'\] are the same"),
        ({"a": [0, 1, 10], "b": [0, 1, 0]}, r"column 'a' holds \[10\]"),
        ({"a": [0, 1, 0.5], "b": [0, 1, 0]}, r"column 'a' holds \[0.5\]"),
    ],
)
def test_columns_that_are_no_labels_are_errors(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        encode(pd.DataFrame(columns))


def test_several_columns_have_no_other_task() -> None:
    table = pd.DataFrame({"a": [0, 1], "b": [1, 0]})
    with pytest.raises(TargetError, match=r"columns \['a', 'b'\] .* its task is binary"):
        encode(table, task="binary")


@pytest.mark.parametrize(
    ("values", "separator", "message"),
    [
        (["a", "b"], None, "say at what sign .* --label-separator"),
        (["a;b", "B;c"], ";", r"differ only in case: \[\['b', 'B'\]\]"),
        ([";", ";;"], ";", "has no label, only separators ';'"),
        (["a;b", "a"], ";", r"labels \['a'\] are the same for all 2 clips"),
    ],
)
def test_lists_that_are_no_labels_are_errors(
    values: list[str], separator: str | None, message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        encode(column(values).to_frame(), task="multilabel", separator=separator)


@given(
    st.lists(st.frozensets(st.sampled_from("abcde")), min_size=2, max_size=8).filter(
        lambda lists: len(set.union(set(), *lists)) > 0 and not frozenset.intersection(*lists)
    )
)
def test_lists_come_back(lists: list[frozenset[str]]) -> None:
    texts = ["|".join(sorted(labels)) or "|" for labels in lists]
    found = encode(column(texts).to_frame(), task="multilabel", separator="|")
    back = [{found.classes[i] for i in np.flatnonzero(row)} for row in found.numbers]
    assert back == [set(labels) for labels in lists]


def test_the_separator_is_no_pattern() -> None:
    found = encode(column(["a.b", "b", "c"]).to_frame(), separator=".")
    assert found.classes == ("a", "b", "c")


def test_a_given_task_is_not_overruled_by_the_separator() -> None:
    assert encode(column(["a;b", "c"]).to_frame(), task="binary", separator=";").classes == (
        "a;b",
        "c",
    )

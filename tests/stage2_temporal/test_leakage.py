"""Groups that belong together, and leaks that must be found."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_temporal.leakage import LeakageError, check_no_leakage, merge_groups
from stage2_temporal.splits import Split
from tests.stage2_temporal.examples import CLIPS, SPLIT


def test_groups_that_share_any_key_become_one() -> None:
    patient = np.array(["a", "a", "b", "c", "d"])
    content = np.array(["1", "2", "2", "3", "4"])  # the same file for patients a and b
    assert merge_groups(patient, content).tolist() == [0, 0, 0, 1, 2]


def test_groups_are_numbered_by_first_appearance() -> None:
    assert merge_groups(np.array(["z", "b", "z", "a"])).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("blank", ["", "  ", None, float("nan"), pd.NA])
def test_blank_values_join_nothing(blank: Any) -> None:
    keys = np.array([blank, "a", blank, "a"], dtype=object)
    assert merge_groups(keys).tolist() == [0, 1, 2, 1]


def test_the_same_value_in_two_keys_is_not_the_same_thing() -> None:
    assert merge_groups(np.array(["x", "y"]), np.array(["y", "z"])).tolist() == [0, 1]


@pytest.mark.parametrize("keys", [(), (np.arange(2), np.arange(3))])
def test_missing_or_unequal_keys_are_errors(keys: Any) -> None:
    with pytest.raises(ValueError, match=r"keys have lengths \["):
        merge_groups(*keys)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_merging_is_the_transitive_closure(pairs: Any) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    number = list(range(len(pairs)))  # brute force: spread the least number until nothing changes
    for _ in pairs:
        for a, pair in enumerate(pairs):
            like = [
                b for b, other in enumerate(pairs) if pair[0] == other[0] or pair[1] == other[1]
            ]
            number[a] = min(number[b] for b in like)
    merged = merge_groups(first, second)
    same = np.equal.outer(np.array(number), np.array(number))
    assert np.array_equal(np.equal.outer(merged, merged), same)


def test_clean_split_passes() -> None:
    check_no_leakage(SPLIT, {"group patient": np.array(["a", "a", "b", "c", "c"])}, CLIPS)


def test_blank_values_are_no_leak() -> None:
    check_no_leakage(SPLIT, {"content": np.array(["", None, "", "x", "y"], dtype=object)}, CLIPS)


def test_leak_is_named_with_value_clips_and_sides() -> None:
    patient = np.array(["a", "a", "b", "a", "c"])
    content = np.array([1, 2, 2, 3, 4])
    with pytest.raises(LeakageError) as caught:
        check_no_leakage(SPLIT, {"group patient": patient, "content": content}, CLIPS)
    text = str(caught.value)
    assert "group patient: 1 of 3 values are on two sides" in text
    assert "a: a1 in train, a2 in train, c1 in test" in text
    assert "content: 1 of 4 values" in text
    assert "2: a2 in train, b1 in validation" in text


def test_at_most_five_leaks_are_shown() -> None:
    groups = np.arange(20) % 10
    split = Split(np.arange(10), np.array([], dtype=np.intp), np.arange(10, 20))
    with pytest.raises(LeakageError) as caught:
        check_no_leakage(split, {"patient": groups}, [f"clip{i}" for i in range(20)])
    assert "10 of 10 values" in str(caught.value)
    assert str(caught.value).count(" in test") == 5


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=15))
def test_leak_is_found_exactly_when_there_is_one(rows: Any) -> None:
    key, side = (np.array(column) for column in zip(*rows, strict=True))
    split = Split.of(np.array(Split.names)[side])
    leaks = len(set(rows)) > len({value for value, _ in rows})
    if leaks:
        with pytest.raises(LeakageError):
            check_no_leakage(split, {"key": key}, list(map(str, range(len(rows)))))
    else:
        check_no_leakage(split, {"key": key}, list(map(str, range(len(rows)))))


def test_key_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="patient has 2 values: expected one a clip, 5"):
        check_no_leakage(SPLIT, {"patient": np.array([1, 2])}, CLIPS)

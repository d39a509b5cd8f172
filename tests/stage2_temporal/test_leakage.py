"""Groups that belong together, and leaks that must be found."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_temporal.leakage import (
    LeakageError,
    check_no_leakage,
    merge_groups,
    near_duplicates,
)
from stage2_temporal.splits import Split
from tests.stage2_temporal.examples import CLIPS, SPLIT

ONE = [("holdout", SPLIT)]


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
    check_no_leakage(ONE, {"group patient": np.array(["a", "a", "b", "c", "c"])}, CLIPS)


def test_blank_values_are_no_leak() -> None:
    check_no_leakage(ONE, {"content": np.array(["", None, "", "x", "y"], dtype=object)}, CLIPS)


def test_leak_is_named_with_value_clips_and_sides() -> None:
    patient = np.array(["a", "a", "b", "a", "c"])
    content = np.array([1, 2, 2, 3, 4])
    with pytest.raises(LeakageError) as caught:
        check_no_leakage(ONE, {"group patient": patient, "content": content}, CLIPS)
    text = str(caught.value)
    assert "group patient: 1 of 3 values are on two sides" in text
    assert "a: a1 in train, a2 in train, c1 in test" in text
    assert "content: 1 of 4 values" in text
    assert "2: a2 in train, b1 in validation" in text


def test_at_most_five_leaks_are_shown() -> None:
    groups = np.arange(20) % 10
    split = Split(np.arange(10), np.array([], dtype=np.intp), np.arange(10, 20))
    with pytest.raises(LeakageError) as caught:
        check_no_leakage([("one", split)], {"patient": groups}, [f"clip{i}" for i in range(20)])
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
            check_no_leakage([("one", split)], {"key": key}, list(map(str, range(len(rows)))))
    else:
        check_no_leakage([("one", split)], {"key": key}, list(map(str, range(len(rows)))))


def test_key_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="patient has 2 values: expected one a clip, 5"):
        check_no_leakage(ONE, {"patient": np.array([1, 2])}, CLIPS)


def test_leak_in_a_later_split_is_found_and_the_split_named() -> None:
    other = Split(np.array([0, 2]), np.array([1]), np.array([3, 4]))
    keys = {"patient": np.array(["a", "a", "b", "c", "c"])}
    with pytest.raises(LeakageError, match="fold 1: patient: 1 of 3 values"):
        check_no_leakage([*ONE, ("fold 1", other)], keys, CLIPS)


def brute_force(
    embeddings: Any, groups: Any, sides: Any, threshold: float
) -> list[tuple[int, int]]:
    """Pairs apart in group and in any split, the most alike first."""
    found = []
    for a in range(len(embeddings)):
        for b in range(a + 1, len(embeddings)):
            x, y = embeddings[a], embeddings[b]
            cosine = float(x @ y / np.sqrt((x @ x) * (y @ y)))
            if cosine >= threshold and groups[a] != groups[b] and (sides[a] != sides[b]).any():
                found.append((-cosine, a, b))
    return [(a, b) for _, a, b in sorted(found)]


def clusters(num_clips: int, seed: int) -> tuple[Any, Any, Any]:
    """Embeddings about ten directions; groups; the sides in two splits."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(10, 12))
    embeddings = directions[rng.integers(0, 10, num_clips)] + 0.1 * rng.normal(size=(num_clips, 12))
    sides = np.array(["train", "test"])[rng.integers(0, 2, (num_clips, 2))]
    return embeddings, rng.integers(0, 30, num_clips), sides


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_a_brute_force_search(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("stage2_temporal.leakage._TILE", 16)
    embeddings, groups, sides = clusters(70, seed)
    ids = [f"clip{i}" for i in range(70)]
    found = near_duplicates(embeddings, groups, sides, ids, threshold=0.98, limit=1000)
    expected = brute_force(embeddings, groups, sides, 0.98)
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        (ids[a], ids[b]) for a, b in expected
    ]
    assert len(expected) > 20
    assert found.notices == ()


def test_only_the_most_alike_are_listed_and_the_others_counted() -> None:
    embeddings, groups, sides = clusters(70, 0)
    ids = list(map(str, range(70)))
    every = near_duplicates(embeddings, groups, sides, ids, threshold=0.98, limit=1000)
    few = near_duplicates(embeddings, groups, sides, ids, threshold=0.98, limit=3)
    assert few.pairs == every.pairs[:3]
    assert few.notices == (
        f"{len(every.pairs)} pairs of clips on two sides look alike; 3 are listed",
    )


def test_embeddings_that_are_all_alike_are_said_to_be() -> None:
    embeddings = 100 + np.random.default_rng(0).normal(size=(40, 8))
    sides = np.resize([["train"], ["test"]], (40, 1))
    found = near_duplicates(
        embeddings, np.arange(40), sides, list(map(str, range(40))), threshold=0.9, limit=5
    )
    assert len(found.pairs) == 5
    assert "half of all pairs" in found.notices[0]
    assert "400 pairs" in found.notices[1]


def test_near_duplicate_tells_ids_sides_and_cosine() -> None:
    embeddings = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    sides = np.array([["fold 0", "fold 1"], ["fold 0", "fold 2"], ["fold 1"] * 2, ["fold 2"] * 2])
    found = near_duplicates(embeddings, np.arange(4), sides, list("abcd"), threshold=0.9)
    (pair,) = found.pairs  # of an embedding of zeros no cosine is defined
    assert (pair.first, pair.second) == ("a", "b")
    assert (pair.first_side, pair.second_side) == ("fold 1", "fold 2")
    assert pair.cosine == pytest.approx(24 / 25)


def test_copies_are_found_at_a_threshold_of_one() -> None:
    embeddings = np.random.default_rng(0).normal(size=(1, 500)) * np.array([[1], [3], [0.1]])
    sides = np.array([["train"], ["test"], ["test"]])
    found = near_duplicates(embeddings, np.arange(3), sides, list("abc"), threshold=1.0)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c")]


def test_of_too_many_clips_some_are_drawn_and_that_is_said() -> None:
    embeddings, sides = np.ones((40, 3)), np.array([["train"], ["test"]] * 20)
    ids = list(map(str, range(40)))
    found, again = (
        near_duplicates(embeddings, np.arange(40), sides, ids, threshold=0.9, max_clips=10)
        for _ in range(2)
    )
    assert found == again
    assert len({clip for pair in found.pairs for clip in (pair.first, pair.second)}) == 10
    assert "among 10 of 40 clips" in found.notices[0]


def test_embeddings_of_another_number_of_clips_are_an_error() -> None:
    with pytest.raises(ValueError, match="groups has 3 values: expected one a clip, 2"):
        near_duplicates(
            np.ones((2, 3)), np.arange(3), np.array([["a"]] * 2), ["x", "y"], threshold=1
        )

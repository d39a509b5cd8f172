"""Splits: no leak, every clip once, sizes and class shares near the wish, on real tables too."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage2_temporal.leakage import merge_groups
from stage2_temporal.splits import Split, split_from_column, split_holdout, split_sha256
from stage2_temporal.strata import Strata, stratify
from stage2_temporal.targets import Target
from tests.stage2_temporal.examples import CLIPS, SPLIT

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def sizes(split: Split) -> dict[str, int]:
    return {name: len(clips) for name, clips in split.items()}


def assert_clips_once_and_groups_whole(split: Split, groups: NDArray[Any]) -> None:
    clips = np.concatenate([split.train, split.validation, split.test])
    assert sorted(clips) == list(range(len(groups)))
    sides = [set(groups[indices]) for _, indices in split.items()]
    assert all(sides)
    assert sum(map(len, sides)) == len(set(groups))


def real_table(folder: str, target: str, group: str) -> tuple[NDArray[Any], NDArray[Any]]:
    path = REAL_DATA / folder / "manifest.csv"
    if not path.exists():
        pytest.skip(f"the real clips' table {path} is not on this machine")
    table = pd.read_csv(path)
    table = table[table[target].notna()]
    return table[target].to_numpy(), merge_groups(table[group].to_numpy())


# stratify


def target_of(task: str, numbers: Any, present: Any = None) -> Target:
    numbers = np.array(numbers)
    classes = () if task == "regression" else tuple("abcdefghij"[: max(2, numbers.max() + 1)])
    if task == "multilabel":
        classes = tuple("abcdefghij"[: numbers.shape[1]])
    if present is None:
        present = np.ones(len(numbers), bool)
    return Target("label", task, classes, numbers, np.array(present, bool))


def strata_of(numbers: Any) -> Strata:
    return stratify(target_of("multiclass", numbers))


def bins_of(values: Any) -> Strata:
    return stratify(target_of("regression", np.array(values, float)))


def test_classes_are_their_own_strata_and_are_all_needed() -> None:
    strata = strata_of([2, 0, 1, 2])
    assert strata.numbers.tolist() == [2, 0, 1, 2]
    assert strata.needed.names == ("label a", "label b", "label c")
    assert strata.needed.missing(np.array([0, 3])) == [0, 1]


def test_a_class_without_clips_is_not_needed() -> None:
    target = Target("label", "multiclass", ("a", "b", "c"), np.array([0, 2]), np.ones(2, bool))
    assert stratify(target).needed.names == ("label a", "label c")


def test_regression_strata_are_quantiles() -> None:
    values = np.random.default_rng(0).exponential(size=1000)
    bins = bins_of(values).numbers
    assert np.bincount(bins).tolist() == [200] * 5
    assert values[bins == 0].max() < values[bins == 4].min()


@pytest.mark.parametrize(
    ("values", "num_strata"),
    [([7.0] * 20, 1), ([0.0] * 14 + [1.0] * 6, 2), ([1.0, 2.0, 3.0], 1), (range(6), 2)],
)
def test_regression_has_fewer_strata_where_values_or_clips_are_few(
    values: Any, num_strata: Any
) -> None:
    assert np.unique(bins_of(values).numbers).tolist() == list(range(num_strata))


def test_bins_are_wanted_by_their_values_but_any_value_is_enough() -> None:
    strata = bins_of([1.0, 2.0, 3.0, 7.0, 8.0, 9.0])
    assert strata.wanted.names == ("label from 1 to 3", "label from 7 to 9")
    assert strata.wanted.missing(np.array([3])) == [0]
    assert strata.needed.missing(np.array([3])) == []


@pytest.mark.parametrize(
    ("task", "numbers"), [("multiclass", [0, 1, 0, 0]), ("regression", [5.0, 6.0, 7.0, 0.0])]
)
def test_clips_without_the_target_are_a_stratum_that_nothing_needs(task: Any, numbers: Any) -> None:
    strata = stratify(target_of(task, numbers, [1, 1, 1, 0]))
    assert (strata.numbers == strata.numbers[3]).tolist() == [False, False, False, True]
    assert strata.needed.missing(np.arange(3)) == strata.wanted.missing(np.arange(3)) == []
    assert strata.needed.missing(np.array([3])) == list(range(len(strata.needed.names)))


def test_clips_of_several_labels_count_for_the_rarest() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 0, 1]])
    strata = stratify(target_of("multilabel", labels))  # a in 5 clips, b in 2, c in 4
    assert strata.numbers.tolist() == [1, 0, 2, 3, 2, 1, 2]
    assert strata.needed.names == tuple(f"label: {n}" for n in ("a", "b", "c", "a 0", "b 0", "c 0"))
    assert strata.needed.missing(np.array([0, 2])) == [3]


# Split


def test_split_names_each_clip() -> None:
    split = Split(np.array([0, 3]), np.array([2]), np.array([1]))
    assert split.name_of_clip.tolist() == ["train", "test", "validation", "train"]
    assert [name for name, _ in split.items()] == list(Split.names)
    assert sizes(Split.of(split.name_of_clip)) == {"train": 2, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [1, 2], r"\[1\] more than once"),
        ([0, 1], [4], "every clip"),
        ([1, 0], [2], "not sorted"),
    ],
)
def test_split_that_is_no_partition_is_an_error(train: Any, test: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        Split(np.array(train), np.array([3]), np.array(test))


# split_holdout


def test_ungrouped_split_has_the_exact_sizes_and_class_counts() -> None:
    classes = np.repeat([0, 1], [600, 400])
    split = split_holdout(strata_of(classes), np.arange(1000), seed=1)
    assert sizes(split) == {"train": 650, "validation": 150, "test": 200}
    assert np.bincount(classes[split.test]).tolist() == [120, 80]
    assert np.bincount(classes[split.validation]).tolist() == [90, 60]


@pytest.mark.parametrize(("validation", "test"), [(0.3, 0.4), (0.05, 0.02), (0.123, 0.345)])
def test_unusual_fractions_are_met(validation: Any, test: Any) -> None:
    classes = np.random.default_rng(0).integers(0, 3, 600)
    split = split_holdout(
        strata_of(classes),
        np.arange(600) // 2,
        validation_fraction=validation,
        test_fraction=test,
        seed=0,
    )
    assert len(split.validation) == pytest.approx(600 * validation, abs=6)
    assert len(split.test) == pytest.approx(600 * test, abs=6)


group_tables = st.lists(  # of each class: the sizes of 3 or more groups of only that class
    st.lists(st.integers(1, 12), min_size=3, max_size=8), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=20)
@given(group_tables, st.integers(0, 100))
def test_three_groups_of_a_class_are_always_enough(group_sizes: Any, seed: Any) -> None:
    classes = np.repeat(np.arange(len(group_sizes)), [sum(s) for s in group_sizes])
    flat = [size for of_class in group_sizes for size in of_class]
    groups = np.repeat(np.arange(len(flat)), flat)
    order = np.random.default_rng(seed).permutation(len(classes))
    classes, groups = classes[order], groups[order]
    split = split_holdout(strata_of(classes), groups, seed=seed)
    assert_clips_once_and_groups_whole(split, groups)
    for _, clips in split.items():
        assert set(classes[clips]) == set(classes)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), min_size=3, max_size=40))
def test_regression_needs_only_three_groups(rows: Any) -> None:
    groups = np.array([0, 1, 2] + [group for group, _ in rows[3:]])
    bins = bins_of([value for _, value in rows])
    split = split_holdout(bins, groups, seed=0)
    assert_clips_once_and_groups_whole(split, groups)


def test_groups_of_mixed_classes_are_kept_whole() -> None:
    rng = np.random.default_rng(3)
    groups, classes = rng.integers(0, 40, 300), rng.integers(0, 3, 300)
    split = split_holdout(strata_of(classes), groups, seed=0)
    assert_clips_once_and_groups_whole(split, groups)
    assert len(split.test) / 300 == pytest.approx(0.2, abs=0.02)


REAL = [
    ("drone_infrared", "label", "scene"),
    ("lung_ultrasound", "label", "patient"),
    ("lung_ultrasound", "abnormal", "patient"),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("folder", "target", "group"), REAL)
def test_real_tables_split_near_the_wish(folder: Any, target: Any, group: Any, seed: Any) -> None:
    labels, groups = real_table(folder, target, group)
    classes = np.unique(labels, return_inverse=True)[1]
    split = split_holdout(strata_of(classes), groups, seed=seed)
    assert_clips_once_and_groups_whole(split, groups)
    whole = np.bincount(classes)
    for name, wanted in (("train", 0.65), ("validation", 0.15), ("test", 0.2)):
        counts = np.bincount(classes[getattr(split, name)], minlength=len(whole))
        assert counts.min() > 0
        assert counts.sum() / whole.sum() == pytest.approx(wanted, abs=0.02)
        assert np.abs(counts / whole - wanted)[whole >= 20].max() < 0.06


def test_real_regression_target_splits_near_the_wish() -> None:
    target, groups = real_table("drone_infrared", "log2_target_area", "scene")
    bins = bins_of(target)
    split = split_holdout(bins, groups, seed=0)
    assert_clips_once_and_groups_whole(split, groups)
    assert len(split.test) / len(target) == pytest.approx(0.2, abs=0.02)
    assert np.median(target[split.test]) == pytest.approx(np.median(target), abs=0.75)


PINNED = [  # by seed: classes of groups, classes of single clips, values of groups
    (0, "575499c079033b07", "c9a380a014aa37c3", "489314c56a810534"),
    (1, "da0be42375fd416a", "5e9530d4fef6c81a", "8e9d8582b698e197"),
    (2, "012a6db6270163d2", "5cbe36150b091407", "42c7ec885f6fec7a"),
]


@pytest.mark.parametrize(("seed", "grouped", "single", "values"), PINNED)
def test_splits_stay_as_they_were_in_earlier_versions(
    seed: int, grouped: str, single: str, values: str
) -> None:
    rng = np.random.default_rng(7)
    groups, classes = rng.integers(0, 40, 200), strata_of(rng.integers(0, 3, 200))
    found = [
        split_holdout(classes, groups, seed=seed),
        split_holdout(classes, np.arange(200), seed=seed),
        split_holdout(bins_of(rng.normal(size=200)), groups, seed=seed),
    ]
    texts = ["".join(name[:2] for name in split.name_of_clip) for split in found]
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    assert hashes == [grouped, single, values]


def test_same_seed_same_split_and_another_seed_another() -> None:
    classes, groups = np.arange(90) % 3, np.arange(90) // 2
    first, again, other = (
        split_holdout(strata_of(classes), groups, seed=seed) for seed in (4, 4, 5)
    )
    assert np.array_equal(first.name_of_clip, again.name_of_clip)
    assert not np.array_equal(first.test, other.test)


def test_test_side_does_not_depend_on_the_validation_fraction() -> None:
    classes, groups = np.arange(90) % 3, np.arange(90) // 2
    small, large = (
        split_holdout(strata_of(classes), groups, seed=0, validation_fraction=f) for f in (0.1, 0.3)
    )
    assert np.array_equal(small.test, large.test)


def test_each_clip_is_tested_about_as_often_over_seeds() -> None:
    classes = np.arange(100) % 2
    tested = Counter(
        int(clip)
        for seed in range(100)
        for clip in split_holdout(strata_of(classes), np.arange(100), seed=seed).test
    )
    assert sum(tested.values()) == 2000
    assert min(tested.values()) >= 5  # expected 20 each, standard deviation 4
    assert max(tested.values()) <= 38


def test_class_of_two_groups_is_named_with_its_counts() -> None:
    classes = np.array([0] * 6 + [1] * 5)
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7])
    message = (
        r"fewer than 3 groups have label b, .*"
        r"label a: 6 clips in 6 groups; label b: 5 clips in 2 groups.*Merge"
    )
    with pytest.raises(ValueError, match=message):
        split_holdout(strata_of(classes), groups, seed=0)


def test_impossible_mixed_groups_are_an_error_with_counts() -> None:
    # Each class is in 3 of 7 groups, any two classes share one (the Fano plane): whichever group
    # is the test side, another class is missing there.
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    rows = [(group, stratum) for group, line in enumerate(lines) for stratum in line]
    groups, classes = (np.array(column) for column in zip(*rows, strict=True))
    with pytest.raises(ValueError, match=r"no split found.*label g: 3 clips in 3 groups.*Merge"):
        split_holdout(strata_of(classes), groups, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0}, "test_fraction is 0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "leave nothing to train on"),
        ({"groups": np.array([0, 1] * 6)}, "2 groups cannot fill"),
        ({"groups": np.arange(11)}, "groups has 11 values.*12"),
    ],
)
def test_impossible_wishes_are_errors(options: Any, message: Any) -> None:
    arguments = {"groups": np.arange(12), "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        split_holdout(strata_of(np.arange(12) % 2), **arguments)


# split_from_column


def test_column_is_read_whatever_the_case_and_spelling() -> None:
    column = np.array(["Train", " val", "TEST ", "valid", "dev", "validation"], dtype=object)
    split = split_from_column(column)
    assert split.train.tolist() == [0]
    assert split.validation.tolist() == [1, 3, 4, 5]
    assert split.test.tolist() == [2]


@pytest.mark.parametrize("wrong", ["holdout", "", None, float("nan")])
def test_unknown_or_blank_side_is_an_error(wrong: Any) -> None:
    column = np.array(["train", "val", "test", wrong, wrong], dtype=object)
    with pytest.raises(ValueError, match=r"2 of 5 values.*row 3: .*expected one of train, val"):
        split_from_column(column)


def test_missing_side_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'validation': 0, 'test': 1"):
        split_from_column(np.array(["train", "train", "test"]))


# split_sha256


def test_hash_does_not_depend_on_the_row_order() -> None:
    order = [4, 2, 0, 3, 1]
    shuffled = Split.of(SPLIT.name_of_clip[order])
    assert split_sha256(CLIPS, SPLIT) == split_sha256([CLIPS[i] for i in order], shuffled)


def test_hash_changes_with_the_side_of_a_clip() -> None:
    other = Split(np.array([0, 2]), np.array([1]), np.array([3, 4]))
    assert split_sha256(CLIPS, SPLIT) != split_sha256(CLIPS, other)


def test_hash_is_that_of_the_sorted_json_pairs() -> None:
    split = Split(np.array([1]), np.array([0]), np.array([2]))
    text = json.dumps([["a", "train"], ["b", "validation"], ["c", "test"]])
    assert split_sha256(["b", "a", "c"], split) == hashlib.sha256(text.encode()).hexdigest()


def test_repeated_clip_ids_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"repeat: \['a'\]"):
        split_sha256(["a", "a", "b"], Split(np.array([0]), np.array([1]), np.array([2])))

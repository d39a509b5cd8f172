"""Folds: every clip tested once, groups whole, tests never selected by, imperfect data told."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold, gap_notices, plan_folds, sides_of_clips
from stage2_temporal.splits import Split, split_holdout
from stage2_temporal.strata import Strata, stratify
from stage2_temporal.targets import Target
from stage2_temporal.tested import folds_from_column


def strata_of(classes: Any) -> Strata:
    numbers = np.asarray(classes)
    names = tuple("abcdefghij"[: numbers.max() + 1])
    return stratify(Target("label", "multiclass", names, numbers, np.ones(len(numbers), bool)))


def bins_of(values: Any) -> Strata:
    return stratify(Target("x", "regression", (), np.asarray(values), np.ones(len(values), bool)))


def plan(strata: Any, groups: Any, validation: str = "kfold", **options: Any) -> tuple[Fold, ...]:
    """Plan folds; `split`, `fold_column` and `group_labels` are passed on, others are settings."""
    passed = {k: options.pop(k) for k in ("split", "fold_column", "group_labels") if k in options}
    group = "group" if validation == "leave-one-group-out" else None
    chosen = TrainSettings("label", validation=validation, group=group, **options)
    strata = strata if isinstance(strata, Strata) else strata_of(strata)
    return plan_folds(strata, np.asarray(groups), chosen, **passed)


def data(
    num_clips: int = 300, num_groups: int = 60, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes and groups, of which some hold several classes."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, num_groups, num_clips)
    classes = np.where(rng.random(num_clips) < 0.8, groups % 3, rng.integers(0, 3, num_clips))
    return classes, groups


def names_of(folds: tuple[Fold, ...]) -> list[list[list[str]]]:
    return [[split.name_of_clip.tolist() for split in fold.splits] for fold in folds]


# against scikit-learn


@pytest.mark.parametrize("seed", [0, 3])
def test_grouped_folds_are_those_of_scikit_learn(seed: int) -> None:
    classes, groups = data()
    folds = plan(classes, groups, folds=4, fold_repeats=2, seed=seed)
    for repetition in range(2):
        state = int(np.random.default_rng([seed, repetition]).integers(2**31))
        reference = StratifiedGroupKFold(4, shuffle=True, random_state=state)
        for number, (_, test) in enumerate(reference.split(classes, classes, groups)):
            assert folds[4 * repetition + number].test.tolist() == test.tolist()


def test_ungrouped_folds_are_those_of_scikit_learn() -> None:
    classes = np.sort(data()[0])
    folds = plan(classes, np.arange(300), folds=5)
    state = int(np.random.default_rng([0, 0]).integers(2**31))
    reference = StratifiedKFold(5, shuffle=True, random_state=state)
    for fold, (_, test) in zip(folds, reference.split(classes, classes), strict=True):
        assert fold.test.tolist() == test.tolist()


def test_each_group_is_left_out_as_by_scikit_learn() -> None:
    classes, groups = data(num_groups=12)
    folds = plan(classes, groups, "leave-one-group-out")
    reference = LeaveOneGroupOut().split(classes, groups=groups)
    for fold, (_, test) in zip(folds, reference, strict=True):
        assert fold.test.tolist() == test.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_holdout_is_the_holdout_split(seed: int) -> None:
    classes, groups = data()
    (fold,) = plan(classes, groups, "holdout", seed=seed)
    split = split_holdout(strata_of(classes), groups, seed=seed)
    assert fold.name == "holdout"
    assert names_of((fold,)) == [[split.name_of_clip.tolist()]]


# properties

SCHEMES: list[dict[str, Any]] = [
    {"validation": "holdout", "inner_folds": 3},
    {"validation": "kfold", "folds": 3, "fold_repeats": 2},
    {"validation": "kfold", "folds": 4, "inner_folds": 3},
    {"validation": "leave-one-group-out"},
]


@profile(deadline=None, max_examples=8)
@given(st.sampled_from(SCHEMES), st.integers(0, 1000))
def test_no_group_is_torn_and_tests_are_kept_apart(scheme: Any, seed: int) -> None:
    classes, groups = data(60, 9, seed)
    folds = plan(classes, groups, **scheme, seed=seed)
    for fold in folds:
        assert len(fold.splits) == scheme.get("inner_folds", 1)
        for split in fold.splits:
            assert split.test.tolist() == fold.test.tolist()
            sides = [set(groups[clips].tolist()) for _, clips in split.items()]
            assert all(sides)
            assert sum(map(len, sides)) == len(set(groups.tolist()))
            assert set(classes[split.train]) == set(classes)
    assert len({fold.name for fold in folds}) == len(folds)


@profile(deadline=None, max_examples=8)
@given(st.sampled_from(SCHEMES[1:]), st.integers(0, 1000))
def test_every_clip_is_tested_once_a_repetition(scheme: Any, seed: int) -> None:
    classes, groups = data(60, 9, seed)
    folds = plan(classes, groups, **scheme, seed=seed)
    tested = Counter((fold.repetition, clip) for fold in folds for clip in fold.test.tolist())
    repetitions = scheme.get("fold_repeats", 1)
    assert tested == {(r, clip): 1 for r in range(repetitions) for clip in range(60)}


@profile(deadline=None, max_examples=5)
@given(st.sampled_from(SCHEMES), st.integers(0, 1000))
def test_folds_depend_on_the_seed_alone_and_not_on_the_order_of_clips(
    scheme: Any, seed: int
) -> None:
    classes, groups = data(60, 9, seed)
    order = np.random.default_rng(seed).permutation(60)
    first = names_of(plan(classes, groups, **scheme, seed=seed))
    again = names_of(plan(classes, groups, **scheme, seed=seed))
    shuffled = names_of(plan(classes[order], groups[order], **scheme, seed=seed))
    assert first == again
    in_order = [[[split[clip] for clip in order] for split in fold] for fold in first]
    assert shuffled == in_order


def test_another_seed_and_another_repetition_make_other_folds() -> None:
    classes, groups = data()
    first, other = (plan(classes, groups, folds=3, fold_repeats=2, seed=s) for s in (0, 1))
    tests = {tuple(fold.test.tolist()) for fold in (*first, *other)}
    assert len(tests) == 12
    assert first[4].name == "repetition 1, fold 1"


def test_models_of_a_fold_validate_each_on_another_part() -> None:
    classes, groups = data()
    for fold in plan(classes, groups, folds=3, inner_folds=4):
        validated = np.concatenate([split.validation for split in fold.splits])
        rest = np.setdiff1d(np.arange(300), fold.test)
        assert np.sort(validated).tolist() == rest.tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_validation_has_its_share_of_all_clips_and_of_each_class(fraction: float) -> None:
    classes, groups = data(300, 150)
    for fold in plan(classes, groups, folds=3, validation_fraction=fraction):
        validation = fold.splits[0].validation
        assert len(validation) == pytest.approx(300 * fraction, abs=5)
        shares = np.bincount(classes[validation]) / np.bincount(classes)
        assert shares == pytest.approx(fraction, abs=0.04)


def test_values_are_stratified_by_quantiles() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    for fold in plan(bins_of(values), np.arange(200), folds=4):
        assert np.median(values[fold.test]) == pytest.approx(np.median(values), rel=0.25)


# columns


def test_fold_column_is_followed_in_the_order_of_its_numbers() -> None:
    column = np.array(["10", "2", " 1", "02", "1.0", "10"] * 4, dtype=object)
    folds = plan(np.arange(24) // 6 % 2, np.arange(24), fold_column=column)
    assert [fold.name for fold in folds] == ["fold 1", "fold 2", "fold 10"]
    assert folds[1].test.tolist() == [1, 3, 7, 9, 13, 15, 19, 21]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "", "b"], "1 of 3 values of the fold column are blank, the first in row 1"),
        (["a", "NA", None], "2 of 3 values"),
        (["a", "a", "a"], r"the fold column has \['a'\]; expected two folds or more"),
        (["a", "A", "b"], r"\['A', 'a', 'b'\].*written one way"),
    ],
)
def test_wrong_fold_columns_are_errors(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folds_from_column(np.array(values, dtype=object))


def test_test_side_of_a_split_column_is_kept_by_all_models() -> None:
    classes, groups = data()
    split = split_holdout(strata_of(classes), groups, seed=5)
    (fold,) = plan(classes, groups, "holdout", split=split, inner_folds=3)
    assert fold.test.tolist() == split.test.tolist()
    assert len(fold.splits) == 3


def test_groups_left_out_give_their_names() -> None:
    folds = plan(
        [0, 1] * 6, np.arange(12) // 3, "leave-one-group-out", group_labels=["p", "q", "r", "s"]
    )
    assert [fold.name for fold in folds] == ["p", "q", "r", "s"]


# imperfect data


def test_more_folds_than_groups_are_an_error_with_the_counts_of_each_class() -> None:
    message = r"5 folds need as many groups: there are 4\. label a: 6 clips in 3 groups; label b: "
    with pytest.raises(ValueError, match=message + r"4 clips in 3 groups\. Use --folds 4 or fewer"):
        plan([0, 0, 0, 1, 1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 2, 2, 3, 3, 3])


def test_class_of_few_groups_is_missing_from_tests_with_a_notice() -> None:
    classes, groups = np.repeat([0, 1], [40, 6]), np.r_[np.arange(40), [40, 40, 41, 41, 42, 42]]
    folds = plan(classes, groups)
    without = [fold.name for fold in folds if 1 not in classes[fold.test]]
    assert len(without) == 2
    notices = gap_notices(folds, strata_of(classes).wanted)
    expected = f"no test clip has label b in 2 of the splits: {without[0]}; {without[1]}"
    assert [n for n in notices if " test " in n] == [expected]


def test_class_of_two_groups_trains_always_and_validates_where_it_can() -> None:
    """The fold that tests one of the groups needs the other for training."""
    classes, groups = np.repeat([0, 1], [40, 4]), np.r_[np.arange(40), [40, 40, 41, 41]]
    folds = plan(classes, groups, folds=4)
    for fold in folds:
        split = fold.splits[0]
        assert 1 in classes[split.train]
        assert (1 in classes[split.validation]) == (1 not in classes[fold.test])
    (notice,) = (n for n in gap_notices(folds, strata_of(classes).wanted) if " validation " in n)
    assert notice.startswith("no validation clip has label b in 2 of the splits: fold ")


@pytest.mark.parametrize("validation", ["kfold", "leave-one-group-out"])
def test_class_of_one_group_is_an_error_that_names_fold_class_and_remedy(validation: str) -> None:
    classes, groups = np.repeat([1, 0], [3, 9]), np.r_[[0, 0, 0], np.arange(1, 10)]
    message = r"(fold|group) \d+: no training clip has label b \(3 clips, all elsewhere\).*Merge"
    with pytest.raises(ValueError, match=message):
        plan(classes, groups, validation)


def test_class_that_an_inner_fold_takes_from_training_is_an_error() -> None:
    classes, groups = np.repeat([0, 1], [40, 4]), np.r_[np.arange(40), [40, 40, 41, 41]]
    with pytest.raises(ValueError, match=r"fold \d, model \d: no training clip has label b"):
        plan(classes, groups, folds=4, inner_folds=3)


def test_groups_that_leave_no_validation_side_are_an_error() -> None:
    """Whichever of the two groups left validates, a class is gone."""
    with pytest.raises(ValueError, match=r"fold 0: no validation side can be cut from 2 groups"):
        plan([0, 1, 0, 1], [0, 0, 1, 2], fold_column=np.array([0, 0, 1, 1]))


def test_bin_of_values_that_a_side_lacks_is_a_notice() -> None:
    values = np.r_[np.linspace(0, 1, 20), np.full(5, 9.0)]
    groups = np.r_[np.arange(20), np.full(5, 20)]  # the highest values are one group's
    folds = plan(bins_of(values), groups, folds=3)
    notices = gap_notices(folds, bins_of(values).wanted)
    assert any(n.startswith("no test clip has x 9 in 2 of the splits") for n in notices)


def test_empty_fold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stage2_temporal.tested.fold_of_group",
        lambda table, num_folds, seed: np.arange(len(table)) % (num_folds - 1),
    )
    with pytest.raises(ValueError, match=r"fold 4 is empty: 30 groups .* Use fewer --folds"):
        plan(np.arange(30) % 2, np.arange(30))


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        (np.arange(12) % 2, {"validation": "leave-one-group-out"}, r"3 groups or more.*are 2\."),
        (np.arange(12) % 4, {"folds": 2, "inner_folds": 3}, "3 inner folds need as many groups.*2"),
        (np.arange(12), {"folds": 2, "validation_fraction": 0.5}, r"is 1\.00 of the 6"),
        (np.arange(11), {}, "groups has 11 values: expected one a clip, 12"),
    ],
)
def test_impossible_wishes_are_errors(groups: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(np.arange(12) // 2 % 2, groups, **options)


# Fold and its sides


def test_splits_of_a_fold_must_test_the_same_clips() -> None:
    first = Split(np.array([0]), np.array([1]), np.array([2]))
    other = Split(np.array([0]), np.array([2]), np.array([1]))
    with pytest.raises(ValueError, match="splits of fold 0 test other clips"):
        Fold("fold 0", 0, (first, other))
    with pytest.raises(ValueError, match="fold 0 has no split"):
        Fold("fold 0", 0, ())


def test_sides_of_a_holdout_are_its_own_and_of_folds_the_test_folds() -> None:
    classes, groups = data()
    holdout = plan(classes, groups, "holdout", inner_folds=2)
    assert sides_of_clips(holdout).T.tolist() == names_of(holdout)[0]
    folds = plan(classes, groups, folds=3, fold_repeats=2)
    sides = sides_of_clips(folds)
    assert sides.shape == (300, 2)
    assert (sides[folds[4].test, 1] == "repetition 1, fold 1").all()

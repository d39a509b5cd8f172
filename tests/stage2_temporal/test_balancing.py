"""The balancing that the settings ask for: chosen, checked, described, and blind to other clips."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage2_temporal.balance import density_weights
from stage2_temporal.balancing import BalancePlan, plan_balance
from stage2_temporal.config import TrainSettings
from stage2_temporal.targets import Target

LABELS = [0] * 6 + [1] * 2 + [2]
VALUES = [0.0] * 6 + [1.0] * 2 + [10.0]


def target(task: str, numbers: Any, *, missing: Any = (), name: str = "label") -> Target:
    array = np.array(numbers, np.float64 if task == "regression" else np.int64)
    present = ~np.isin(np.arange(len(array)), missing)
    array[~present] = 0
    width = {"regression": 0, "binary": 2, "multilabel": array.shape[-1]}.get(task, 3)
    return Target(name, task, tuple("abcdefgh"[:width]), array, present)


def plan(targets: Any, train: Any = None, **options: Any) -> BalancePlan:
    several = [targets] if isinstance(targets, Target) else targets
    clips = np.arange(len(several[0].present)) if train is None else np.array(train)
    names = [t.name for t in several]
    return plan_balance(several, clips, TrainSettings(target=names, **options))


def draws(planned: BalancePlan, seed: int = 0) -> NDArray[np.intp]:
    assert planned.draw is not None
    return planned.draw(np.random.default_rng(seed))


def repeats(planned: BalancePlan, num_clips: int, seed: int = 0) -> list[int]:
    return [int(count) for count in np.bincount(draws(planned, seed), minlength=num_clips)]


@pytest.mark.parametrize(
    ("task", "numbers", "options", "after"),
    [
        ("multiclass", LABELS, {"balance": "oversample"}, [6, 6, 6]),
        ("multiclass", LABELS, {"balance": "oversample", "max_repeats": 2}, [6, 4, 2]),
        ("multiclass", LABELS, {"balance": "undersample"}, [1, 1, 1]),
        ("binary", LABELS[:8], {"balance": "oversample", "class_share": ("b=0.4",)}, [6, 4]),
        ("binary", LABELS[:8], {"balance": "undersample", "class_share": ("b=0.4",)}, [3, 2]),
        ("regression", VALUES, {"balance": "uniformize", "bins": 2}, [8, 8]),
        ("regression", VALUES, {"balance": "uniformize", "bins": 2, "max_repeats": 3}, [8, 3]),
        (
            "regression",
            VALUES,
            {"balance": "uniformize", "bins": 2, "bin_kind": "quantile"},
            [6, 6],  # the ties, and the rest
        ),
        ("multilabel", np.eye(3)[[0] * 4 + [1]], {"balance": "oversample"}, [4, 2, 0]),
        ("multiclass", LABELS, {"balance": "weights"}, [3, 3, 3]),
        ("multiclass", LABELS, {}, [6, 2, 1]),
    ],
)
def test_distribution_after_balancing(task: Any, numbers: Any, options: Any, after: Any) -> None:
    planned = plan(target(task, numbers), **options)
    assert planned.distributions[0].after == after
    assert planned.distributions[0].name == "label"
    if planned.draw is not None and task in ("binary", "multiclass"):
        assert np.bincount(np.array(numbers)[draws(planned)]).tolist() == after


def test_nothing_is_drawn_or_weighed_without_balancing() -> None:
    planned = plan(target("multiclass", LABELS))
    assert (planned.draw, planned.weights, planned.notices) == (None, None, ())
    assert planned.description == ""
    assert planned.distributions[0].before == [6, 2, 1]


def test_draws_are_indices_into_the_training_clips_alone() -> None:
    train = [10, 11, 12, 13, 0, 1]
    labels = [1, 1, *[2] * 8, 0, 0, 0, 0]
    planned = plan(target("multiclass", labels), train, balance="oversample")
    assert repeats(planned, 6) == [1, 1, 1, 1, 2, 2]
    assert planned.distributions[0].before == [4, 2, 0]
    assert planned.notices == (
        "1 of 3 classes of label have no training clip, and balancing cannot fill them: c",
    )


@pytest.mark.parametrize(
    ("task", "numbers", "balance"),
    [
        ("multiclass", LABELS, "oversample"),
        ("multiclass", LABELS, "undersample"),
        ("multilabel", np.eye(3)[LABELS], "oversample"),
        ("regression", VALUES, "uniformize"),
    ],
)
def test_missing_labels_are_drawn_once_and_are_a_cell_of_their_own(
    task: Any, numbers: Any, balance: Any
) -> None:
    planned = plan(target(task, numbers, missing=[0, 7]), balance=balance, bins=3)
    for seed in range(5):
        counts = repeats(planned, 9, seed)
        assert [counts[0], counts[7]] == [1, 1]
    found = planned.distributions[0]
    assert (found.labels[-1], found.before[-1], found.after[-1]) == ("(missing)", 2, 2)
    assert sum(found.after[:-1]) == sum(counts) - 2


def test_clips_without_a_label_are_no_class_that_falls_short() -> None:
    planned = plan(
        target("multiclass", [0, 1, 1, 2, 2, 2], missing=[3, 4, 5]), balance="oversample"
    )
    assert planned.description == (
        "oversample label: a 1 -> 2, b 2 -> 2, c 0 -> 0, (missing) 3 -> 3; "
        "6 clips -> 7 draws an epoch"
    )
    assert [notice[:32] for notice in planned.notices] == ["1 of 3 classes of label have no "]


@hypothesis_settings(deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=30),
    st.sets(st.integers(1, 2)),
    st.integers(0, 99),
)
def test_every_clip_is_kept_and_a_seed_fixes_the_draw(labels: Any, missing: Any, seed: Any) -> None:
    planned = plan(
        target("multiclass", labels, missing=list(missing)), balance="oversample", max_repeats=4
    )
    counts = repeats(planned, len(labels), seed)
    assert min(counts) >= 1
    assert max(counts) <= 4
    assert np.array_equal(draws(planned, seed), draws(pickle.loads(pickle.dumps(planned)), seed))  # noqa: S301


def test_classes_are_weighed_by_inverse_frequency_and_missing_ones_not_at_all() -> None:
    planned = plan(target("multiclass", [0, 0, 0, 1, 2], missing=[2]), balance="weights")
    assert planned.draw is None
    assert planned.weights is not None
    assert list(planned.weights) == ["label"]
    np.testing.assert_allclose(planned.weights["label"], [2 / 3, 2 / 3, 0, 4 / 3, 4 / 3])
    assert planned.distributions[0].after == [1, 1, 1, 0]  # 4 / 3 each, rounded; none missing
    assert planned.description == "weights label: weights of 0.667 to 1.33, mean 1"


def test_values_are_weighed_as_the_settings_say() -> None:
    values = np.random.default_rng(0).gamma(2, 2, 50)
    options: Any = {"smoothing_bins": 2.5, "bin_kind": "quantile"}
    planned = plan(target("regression", values), balance="weights", bins=7, **options)
    assert planned.weights is not None
    np.testing.assert_array_equal(
        planned.weights["label"], density_weights(values, num_bins=7, **options)
    )


def test_label_sets_are_weighed_by_having_and_lacking() -> None:
    planned = plan(target("multilabel", [[1, 0], [0, 0], [0, 1], [0, 1]]), balance="weights")
    assert planned.weights is not None  # label a: 2 with, 2/3 without; label b: 1
    np.testing.assert_allclose(planned.weights["label"], [3 / 2, 5 / 6, 5 / 6, 5 / 6])


def test_the_first_target_is_balanced_by_unless_another_is_named() -> None:
    first = target("multiclass", [0, 0, 0, 1], name="first")
    second = target("binary", [1, 0, 0, 1], name="second")
    planned = plan([first, second], balance="oversample")
    assert repeats(planned, 4) == [1, 1, 1, 3]
    assert [d.name for d in planned.distributions] == ["first", "second"]
    assert planned.distributions[1].before == [2, 2]
    assert planned.distributions[1].after == [2, 4]  # what balancing does to it on the way
    named = plan([first, second], balance="undersample", balance_target="second")
    assert repeats(named, 4) == [1, 1, 1, 1]
    assert [d.name for d in named.distributions] == ["second", "first"]


def test_distributions_are_those_of_the_first_epoch() -> None:
    first = target("binary", [0] * 9 + [1] * 4, name="first")
    second = target("multiclass", np.arange(13) % 3, name="second")
    planned = plan([first, second], balance="oversample", seed=5)
    assert planned.draw is not None
    drawn = planned.draw(np.random.default_rng([5, 0]))  # as the batches' generator is seeded
    assert planned.distributions[1].after == np.bincount(second.numbers[drawn]).tolist()


def test_two_targets_are_made_uniform_jointly() -> None:
    first = target("regression", [0, 0, 0, 0, 0, 10, 10, 10, 5], missing=[8], name="x")
    second = target("regression", [1, 1, 1, 2, 2, 1, 2, 2, 1], name="y")
    planned = plan([first, second], balance="uniformize", bins=2, balance_target=("x", "y"))
    counts = np.array(repeats(planned, 9))
    assert [counts[:3].sum(), counts[3:5].sum(), counts[5], counts[6:8].sum()] == [3, 3, 3, 3]
    assert counts[8] == 1
    x, y, joint = planned.distributions
    assert (x.before, x.after) == ([5, 3, 1], [6, 6, 1])
    assert (y.before, y.after) == ([5, 4], [7, 6])
    assert (joint.name, joint.labels[1]) == ("x and y", "0 to 5 and 1.5 to 2")
    assert (joint.before, joint.after) == ([3, 2, 1, 2, 1], [3, 3, 3, 3, 1])


@pytest.mark.parametrize(
    ("task", "numbers", "options", "text"),
    [
        (
            "multiclass",
            LABELS,
            {"balance": "oversample"},
            "oversample label: a 6 -> 6, b 2 -> 6, c 1 -> 6; 9 clips -> 18 draws an epoch",
        ),
        (
            "regression",
            [*range(20), 19.0],
            {"balance": "uniformize"},
            "uniformize label: 10 bins of 2 to 3 clips -> 3 to 3; 21 clips -> 30 draws an epoch",
        ),
    ],
)
def test_plan_says_what_is_done(task: Any, numbers: Any, options: Any, text: Any) -> None:
    assert plan(target(task, numbers), **options).description == text


@pytest.mark.parametrize(
    ("numbers", "options", "notices"),
    [
        (VALUES, {"bins": 4, "max_repeats": 10}, ["2 of 4 bins .*: 2.5 to 5, 5 to 7.5$"]),
        (VALUES, {"bins": 2, "max_repeats": 3}, ["rarer than wanted.* max_repeats 3 .*: 5 to 10$"]),
        (
            VALUES,
            {"bins": 2, "max_repeats": 1},
            ["max_repeats 1 .*: 5 to", "drawn as they are"],
        ),
        (range(50), {"bin_kind": "quantile"}, ["drawn as they are, alike already"]),
    ],
)
def test_what_balancing_cannot_do_is_noticed(numbers: Any, options: Any, notices: Any) -> None:
    found = plan(target("regression", numbers), balance="uniformize", **options).notices
    assert len(found) == len(notices)
    for notice, text in zip(found, notices, strict=True):
        assert re.search(text, notice)


def test_labels_that_repeats_cannot_lift_and_large_weights_are_noticed() -> None:
    sets = np.eye(2, dtype=int)[[0] * 500 + [1]]
    assert "rarer than wanted" in plan(target("multilabel", sets), balance="oversample").notices[0]
    labels = plan(target("binary", [0] * 500 + [1]), balance="weights")
    assert labels.notices[0].startswith("a clip weighs up to 250 times the mean")  # 501 / 2


@pytest.mark.parametrize(
    ("task", "balance", "message"),
    [
        (
            "binary",
            "uniformize",
            "uniformize does not suit the binary target 'label'; use oversample",
        ),
        ("multiclass", "uniformize", "multiclass .*use oversample, undersample, weights or none"),
        ("multilabel", "undersample", "multilabel .*use oversample, weights or none"),
        ("multilabel", "uniformize", "multilabel .*use oversample, weights or none"),
        ("regression", "oversample", "regression .*use uniformize, weights or none"),
        ("regression", "undersample", "regression .*use uniformize, weights or none"),
    ],
)
def test_balancing_must_suit_the_task(task: Any, balance: Any, message: Any) -> None:
    numbers = np.eye(2, dtype=int) if task == "multilabel" else [0, 1]
    with pytest.raises(ValueError, match=message):
        plan(target(task, numbers), balance=balance)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("d=0.3", "the class 'd', which 'label' does not have; .* a class of a, b, c$"),
        ("a", "names the class ''"),
        ("a=some", "'a=some'; expected a share between 0 and 1"),
        ("a=30", "'a=30'; expected a share between 0 and 1"),
        (("a=0.5", "a=0.2"), "names 'a' twice"),
        (("a=0.7", "b=0.6"), "sum to 1.3; expected less than 1"),
        (("a=0.5", "b=0.5"), "sum to 1; expected less than 1: others share the rest"),
        (("a=0.5", "b=0.2", "c=0.2"), "sum to 0.9; expected 1, as all classes are named"),
    ],
)
def test_impossible_class_shares_are_errors(share: Any, message: Any) -> None:
    shares = (share,) if isinstance(share, str) else share
    with pytest.raises(ValueError, match=message):
        plan(target("multiclass", LABELS), balance="oversample", class_share=shares)


@pytest.mark.parametrize(
    "shares", [("a=0.333", "b=0.333", "c=0.333"), ("a = 0.4", "b=0.3", "c=.3")]
)
def test_shares_may_be_rounded_and_spaced(shares: Any) -> None:
    found = plan(target("multiclass", LABELS), balance="oversample", class_share=shares)
    after = found.distributions[0].after
    assert after == ([6, 6, 6] if "a=0.333" in shares else [6, 4, 4])  # 4.5 draws, rounded to even


def test_class_names_may_hold_an_equals_sign() -> None:
    named = Target("grade", "binary", ("x=0", "x=1"), np.array([0, 0, 0, 1]), np.full(4, True))
    found = plan(named, balance="oversample", class_share=("x=1=0.4",))
    assert found.distributions[0].after == [3, 2]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("binary", {"balance_target": "age"}, "'age' is not among the targets .*'label', 'other'"),
        ("binary", {"balance_target": ("label", "other")}, "expected one, or two different ones"),
        ("regression", {"balance_target": ("label", "label")}, "expected one, or two different"),
        ("binary", {"balance": "none", "class_share": ("a=0.3",)}, "nothing is balanced; choose"),
        ("binary", {"balance": "none", "balance_target": "label"}, "leave --balance-target out"),
        ("binary", {"balance": "weights", "class_share": ("a=0.3",)}, "weights .* knows no shares"),
        ("regression", {"class_share": ("a=0.3",)}, "uniformize .* knows no shares"),
    ],
)
def test_settings_that_do_not_fit_together_are_errors(
    task: Any, options: Any, message: Any
) -> None:
    given_ = {"balance": "uniformize" if task == "regression" else "oversample", **options}
    both = [target(task, [0, 1, 1], name=name) for name in ("label", "other")]
    with pytest.raises(ValueError, match=message):
        plan(both, **given_)


def test_a_fold_without_the_target_is_an_error() -> None:
    lacking = target("binary", [0, 1, 0, 0], missing=[2, 3])
    with pytest.raises(ValueError, match=r"none of the 2 training clips has label.*--balance none"):
        plan(lacking, [2, 3], balance="oversample")
    assert plan(lacking, [2, 3]).distributions[0].before == [0, 0, 2]


def test_many_classes_and_clips_are_described_in_short() -> None:
    labels = np.minimum(np.random.default_rng(0).zipf(1.3, 100_000) - 1, 9_999)
    names = tuple(f"class {number}" for number in range(10_000))
    many = Target("species", "multiclass", names, labels, np.full(100_000, True))
    planned = plan(many, balance="oversample")
    assert len(planned.description) < 150
    assert all(len(notice) < 300 for notice in planned.notices)
    with pytest.raises(ValueError, match=r"a class of class 77,.* and 9992 more") as error:
        plan(many, balance="oversample", class_share=("clas 77=0.1",))
    assert len(str(error.value)) < 400

"""Scores of whole runs against scikit-learn and hand-worked values."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from stage2_temporal.folds import Fold
from stage2_temporal.scoring import (
    FoldResult,
    RunScores,
    difference_name,
    fold_scores,
    merge_folds,
    pool_test,
    score_run,
)
from stage2_temporal.splits import Split
from stage2_temporal.targets import Target
from stage2_temporal.units import Predictions, Unit, UnitResult
from tests.stage2_temporal.examples import example
from tests.stage2_temporal.synthetic import quick

MODELS = ("recurrent", "mean_pool", "features")
Table = dict[tuple[str, int, int, int], list[NDArray[np.float64]]]
"""By model, fold, member and repeat: what is predicted for all clips, (N, k) a target."""


def make(task: str, numbers: Any, present: Any = None, name: str = "y") -> Target:
    values = np.asarray(numbers)
    known = np.ones(len(values), bool) if present is None else np.asarray(present, bool)
    count = {"binary": 2, "multiclass": 4, "multilabel": 4, "regression": 0}[task]
    return Target(name, task, tuple("abcd"[:count]), values, known)


def fold_of(test: Sequence[int], validations: Sequence[Sequence[int]], repetition: int = 0) -> Fold:
    """A fold of 60 clips with a model for each list of validation clips."""
    splits = []
    for validation in validations:
        side = np.full(60, "train", "<U10")
        side[list(validation)] = "validation"
        side[list(test)] = "test"
        splits.append(Split.of(side))
    return Fold(f"fold {test[0]}", repetition, tuple(splits))


def two_folds_twice() -> list[Fold]:
    """2 folds x 2 repetitions, with 2 members each; the second repetition is cut differently."""
    folds = []
    for repetition, order in enumerate([np.arange(60), np.random.default_rng(9).permutation(60)]):
        for test, rest in ((order[:30], order[30:]), (order[30:], order[:30])):
            members = [rest[:10], rest[10:25]]
            folds.append(fold_of(test.tolist(), [m.tolist() for m in members], repetition))
    return folds


def predicted(
    targets: Sequence[Target], folds: Sequence[Fold], repeats: int, models: Sequence[str] = MODELS
) -> Table:
    table: Table = {}
    for number, fold in enumerate(folds):
        for member in range(len(fold.splits)):
            for repeat in range(repeats):
                for m, model in enumerate(models):
                    seed = 1000 * m + 100 * number + 10 * member + repeat
                    values = [
                        example(t.task, seed=seed)[1].reshape(len(t.numbers), -1) for t in targets
                    ]
                    table[model, number, member, repeat] = values
    return table


def units_of(folds: Sequence[Fold], table: Table) -> list[UnitResult]:
    """What the runner would have: each unit's predictions for its own clips."""
    models = dict.fromkeys(model for model, *_ in table)
    units = dict.fromkeys(tuple(key) for _, *key in table)
    results = []
    for fold, member, repeat in units:
        split = folds[fold].splits[member]
        validation, test = (
            {m: [v[clips] for v in table[m, fold, member, repeat]] for m in models}
            for clips in (split.validation, split.test)
        )
        results.append(result(Unit(fold, member, repeat), validation, test))
    return results


def result(unit: Unit, validation: Predictions, test: Predictions) -> UnitResult:
    history = pd.DataFrame({"epoch": [0], "val_loss": [1.0]})
    return UnitResult(
        unit, validation, test, history, best_epoch=0, gain_confidence=0.0, notices=()
    )


def scored(
    targets: Sequence[Target],
    folds: Sequence[Fold],
    table: Table,
    groups: Any = None,
    **options: Any,
) -> dict[str, RunScores]:
    repeats = 1 + max(repeat for *_, repeat in table)
    results = merge_folds(folds, units_of(folds, table)[::-1], repeats)
    names = np.arange(60) if groups is None else np.asarray(groups)
    settings = quick(group=None if groups is None else "patient", **options)
    return score_run(targets, folds, results, names, settings)


def pooled_by_hand(
    folds: Sequence[Fold], table: Table, model: str, number: int = 0
) -> list[NDArray[np.float64]]:
    """For each repetition and repeat, (N, k): the members' mean for each fold's test clips."""
    rounds: dict[tuple[int, int], Any] = {}
    for (name, fold, _, repeat), values in table.items():
        if name != model:
            continue
        test = folds[fold].test
        whole = rounds.setdefault(
            (folds[fold].repetition, repeat), np.zeros_like(values[number], np.float64)
        )
        whole[test] += values[number][test] / len(folds[fold].splits)
    return list(rounds.values())


@pytest.mark.parametrize("model", MODELS)
def test_binary_scores_of_repeated_folds_equal_scikit_learns(model: str) -> None:
    target, folds = make("binary", example("binary")[0]), two_folds_twice()
    table = predicted([target], folds, repeats=2)
    found = scored([target], folds, table)["y"].test[model]
    rounds = [values[:, 0] for values in pooled_by_hand(folds, table, model)]
    assert len(rounds) == 4
    for name, expected in {
        "auroc": [sk.roc_auc_score(target.numbers, p) for p in rounds],
        "auprc": [sk.average_precision_score(target.numbers, p) for p in rounds],
        "accuracy": [sk.accuracy_score(target.numbers, p >= 0.5) for p in rounds],
        "brier": [sk.brier_score_loss(target.numbers, p) for p in rounds],
    }.items():
        assert found[name].value == pytest.approx(np.mean(expected))
        assert found[name].spread == pytest.approx(np.std(expected, ddof=1))
        assert found[name].low < found[name].value < found[name].high


def test_other_tasks_equal_scikit_learns() -> None:
    tasks = ("multiclass", "multilabel", "regression")
    targets = [make(task, example(task)[0], name=task) for task in tasks]
    folds = two_folds_twice()
    table = predicted(targets, folds, repeats=2, models=MODELS[:2])
    found = scored(targets, folds, table)
    multiclass, multilabel, values = (
        pooled_by_hand(folds, table, "recurrent", number) for number in range(3)
    )
    truth = [target.numbers for target in targets]
    expected = {
        ("multiclass", "accuracy"): [
            sk.accuracy_score(truth[0], p.argmax(axis=1)) for p in multiclass
        ],
        ("multilabel", "auprc_macro"): [
            sk.average_precision_score(truth[1], p, average="macro") for p in multilabel
        ],
        ("multilabel", "f1_macro"): [
            sk.f1_score(truth[1], p >= 0.5, average="macro") for p in multilabel
        ],
        ("regression", "mae"): [sk.mean_absolute_error(truth[2], p[:, 0]) for p in values],
    }
    for (name, score), of_rounds in expected.items():
        assert found[name].test["recurrent"][score].value == pytest.approx(np.mean(of_rounds))


def test_a_holdout_scores_its_test_clips_alone() -> None:
    target, folds = make("binary", example("binary")[0]), [fold_of(range(40, 60), [range(10)])]
    table = predicted([target], folds, repeats=1)
    found = scored([target], folds, table)["y"]
    truth, p = target.numbers[40:], table["recurrent", 0, 0, 0][0][40:, 0]
    assert found.test["recurrent"]["auroc"].value == pytest.approx(sk.roc_auc_score(truth, p))
    assert np.isnan(found.test["recurrent"]["auroc"].spread)
    truth, p = target.numbers[:10], table["recurrent", 0, 0, 0][0][:10, 0]
    validation = found.validation["recurrent"]["auroc"]
    assert validation.value == pytest.approx(sk.roc_auc_score(truth, p))
    assert np.isnan([validation.low, validation.high, validation.spread]).all()


def test_differences_are_the_recurrent_models_minus_the_others() -> None:
    target, folds = make("regression", example("regression")[0]), two_folds_twice()
    test = scored([target], folds, predicted([target], folds, repeats=2))["y"].test
    assert list(test) == [*MODELS, "difference", "difference_features"]
    for model in MODELS[1:]:
        found = test[difference_name(model)]["mae"].value
        assert found == pytest.approx(test["recurrent"]["mae"].value - test[model]["mae"].value)


def test_clips_without_the_target_change_nothing() -> None:
    """Their predictions are absurd; another target has other blanks."""
    truth = example("binary")[0]
    known = np.arange(60) % 4 > 0
    blank = make("binary", np.where(known, truth, 0), known)
    other = make("regression", example("regression")[0], ~known, name="z")
    folds = two_folds_twice()
    table = predicted([blank, other], folds, repeats=1)
    found = scored([blank, other], folds, table)
    for values, _ in table.values():
        values[~known] = 1 - truth[~known][:, None]
    changed = scored([blank, other], folds, table)
    rounds = [p[known, 0] for p in pooled_by_hand(folds, table, "recurrent")]
    expected = np.mean([sk.roc_auc_score(truth[known], p) for p in rounds])
    assert found["y"].test["recurrent"]["auroc"].value == pytest.approx(expected)
    assert found["y"].test == changed["y"].test
    pd.testing.assert_frame_equal(found["y"].by_fold, changed["y"].by_fold)


# thresholds


def threshold_run() -> tuple[Target, list[Fold], Table]:
    """Two folds whose validation clips are parted at 0.25 and 0.75; test clips lie close by."""
    truth = np.arange(60) % 2
    halves = [list(range(30)), list(range(30, 60))]
    folds = [fold_of(halves[0], [halves[1][:10]]), fold_of(halves[1], [halves[0][:10]])]
    table: Table = {}
    for number, limit in enumerate((0.25, 0.75)):
        p = np.where(truth == 1, limit + 0.01, limit - 0.01)
        validation = folds[number].splits[0].validation
        p[validation] = np.where(truth[validation] == 1, limit + 0.1, limit - 0.1)
        table["recurrent", number, 0, 0] = [p[:, None]]
    return make("binary", truth), folds, table


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.5, [0.5, 0.5]), (0.25, [1, 0.5]), ("validation", [1, 1])]
)
def test_each_fold_has_its_own_threshold(threshold: Any, expected: list[float]) -> None:
    target, folds, table = threshold_run()
    found = scored([target], folds, table, threshold=threshold)["y"]
    assert found.test["recurrent"]["accuracy"].value == pytest.approx(np.mean(expected))
    chosen = found.by_fold.query("split == 'test' and score == 'accuracy'")
    assert chosen["value"].tolist() == expected


def test_thresholds_are_chosen_on_validation_clips_alone() -> None:
    """Test labels that say the opposite leave them as they are; blank ones are left out."""
    target, folds, table = threshold_run()
    settings = quick(threshold="validation")

    def thresholds(target: Target) -> list[list[float]]:
        results = merge_folds(folds, units_of(folds, table), 1)
        return [t.tolist() for t in pool_test(target, 0, results, settings).thresholds["recurrent"]]

    expected = [0.25] * 30 + [0.75] * 30
    assert thresholds(target)[0] == pytest.approx(expected)
    validated = np.zeros(60, bool)
    for fold in folds:
        validated[fold.splits[0].validation] = True
    turned = make("binary", np.where(validated, target.numbers, 1 - target.numbers))
    assert thresholds(turned)[0] == pytest.approx(expected)
    nobody = make("binary", target.numbers, ~validated)
    assert thresholds(nobody)[0] == [0.5] * int((~validated).sum())


def test_each_model_has_its_own_threshold() -> None:
    """The other model's probabilities are the square roots, so that it is right just as often."""
    target, folds, table = threshold_run()
    for number in range(2):
        table["mean_pool", number, 0, 0] = [np.sqrt(table["recurrent", number, 0, 0][0])]
    test = scored([target], folds, table, threshold="validation")["y"].test
    assert [test[model]["accuracy"].value for model in test] == [1, 1, 0]


def test_each_label_has_its_own_threshold() -> None:
    truth = np.arange(60)[:, None] // np.array([1, 2, 3, 4]) % 2
    limits = np.array([0.2, 0.4, 0.6, 0.8])
    table: Table = {("recurrent", 0, 0, 0): [np.where(truth == 1, limits + 0.05, limits - 0.05)]}
    folds = [fold_of(range(30), [range(30, 50)])]
    target = make("multilabel", truth)
    found = scored([target], folds, table, threshold="validation")["y"]
    assert found.test["recurrent"]["exact_match"].value == 1
    at_half = scored([target], folds, table)["y"]
    assert at_half.test["recurrent"]["exact_match"].value < 1


# folds


def test_every_fold_and_repeat_is_scored_by_itself() -> None:
    target, folds = make("regression", example("regression")[0]), two_folds_twice()
    table = predicted([target], folds, repeats=2, models=MODELS[:2])
    results = merge_folds(folds, units_of(folds, table), 2)
    found = fold_scores(target, 0, results, quick())
    assert len(found) == 4 * 2 * 2 * 2 * 4  # folds, repeats, models, sides, scores
    for key, rows in found.query("score == 'mae'").groupby(["fold", "repeat", "model"]):
        fold, repeat, model = cast(tuple[int, int, str], key)
        values = {side: rows.query(f"split == '{side}'")["value"].item() for side in rows["split"]}
        members = [table[model, fold, member, repeat][0][:, 0] for member in range(2)]
        test = folds[fold].test
        expected = sk.mean_absolute_error(target.numbers[test], np.mean(members, axis=0)[test])
        assert values["test"] == pytest.approx(expected)
        assert set(rows["repetition"]) == {fold // 2}
        errors = [
            np.abs(p - target.numbers)[split.validation]
            for p, split in zip(members, folds[fold].splits, strict=True)
        ]
        assert values["validation"] == pytest.approx(np.concatenate(errors).mean())
    validation = scored([target], folds, table)["y"].validation["recurrent"]["mae"]
    chosen = found.query("split == 'validation' and model == 'recurrent' and score == 'mae'")
    assert validation.value == pytest.approx(chosen["value"].mean())
    assert validation.spread == pytest.approx(np.std(chosen["value"], ddof=1))


def test_members_are_averaged_on_test_and_joined_on_validation() -> None:
    fold = fold_of([50, 51], [[3, 4], [0]])
    members = [
        result(Unit(0, m, 5), {"a": [validation]}, {"a": [test]})
        for m, (validation, test) in enumerate(
            [
                (np.array([[0.1], [0.2]]), np.array([[0.2], [0.4]])),
                (np.array([[0.3]]), np.array([[0.6], [1.0]])),
            ]
        )
    ]
    found = FoldResult.of_members(0, fold, members)
    assert found.validation.tolist() == [3, 4, 0]
    assert found.validation_predictions["a"][0].tolist() == [[0.1], [0.2], [0.3]]
    assert found.test.tolist() == [50, 51]
    np.testing.assert_allclose(found.test_predictions["a"][0], [[0.4], [0.7]])
    assert (found.repeat, found.repetition) == (5, 0)


# subjects


def test_subjects_have_the_mean_of_their_clips() -> None:
    """Groups of three clips; one holds both classes and is left out."""
    groups = np.arange(60) // 3
    truth = groups % 2
    truth[0] = 1
    target, folds = make("binary", truth), two_folds_twice()
    table = predicted([target], folds, repeats=2)
    found = scored([target], folds, table, groups)["y"]
    assert (found.num_subjects, found.num_mixed_subjects) == (19, 1)
    assert found.subjects is not None
    means = [p[:, 0].reshape(20, 3).mean(axis=1) for p in pooled_by_hand(folds, table, "recurrent")]
    expected = [sk.roc_auc_score(truth[3::3], p[1:]) for p in means]
    assert found.subjects["recurrent"]["auroc"].value == pytest.approx(np.mean(expected))
    assert set(found.subjects) == set(found.test)


def test_subjects_of_a_regression_have_the_mean_value() -> None:
    groups = np.arange(60) % 7
    target, folds = make("regression", example("regression")[0]), two_folds_twice()
    table = predicted([target], folds, repeats=1)
    found = scored([target], folds, table, groups)["y"].subjects
    assert found is not None

    def means(values: NDArray[np.float64]) -> Any:
        return pd.Series(values).groupby(groups).mean()

    expected = [
        np.abs(means(target.numbers) - means(p[:, 0])).mean()
        for p in pooled_by_hand(folds, table, "recurrent")
    ]
    assert found["recurrent"]["mae"].value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("groups", [None, range(60)])
def test_without_subjects_of_several_clips_there_are_no_such_scores(groups: Any) -> None:
    target, folds = make("binary", example("binary")[0]), two_folds_twice()
    found = scored([target], folds, predicted([target], folds, repeats=1), groups)["y"]
    assert (found.subjects, found.num_subjects, found.num_mixed_subjects) == (None, 0, 0)


def test_subjects_that_are_all_mixed_give_no_scores() -> None:
    target, folds = make("binary", np.arange(60) % 2), two_folds_twice()
    table = predicted([target], folds, repeats=1)
    assert scored([target], folds, table, np.arange(60) // 2)["y"].subjects is None


# regions


def test_regions_are_averaged_over_repeats() -> None:
    """Values near 0 are many, the one at 60 is alone; of two repeats each errs by 1 and 3."""
    values = np.concatenate([np.linspace(0, 1, 59), [60.0]])
    folds = [fold_of(range(50, 60), [range(40, 50)])]
    values[0] = 60.0  # a training clip, so that the range is known
    target = make("regression", values)
    table: Table = {
        ("recurrent", 0, 0, repeat): [values[:, None] + error]
        for repeat, error in enumerate((1.0, -3.0))
    }
    regions = scored([target], folds, table)["y"].regions
    assert regions is not None
    many, medium, few = regions["recurrent"]
    assert [region["region"] for region in (many, medium, few)] == ["many", "medium", "few"]
    assert many["mae"] == pytest.approx(2.0)
    assert sum(region["num_training_clips"] for region in (many, medium, few)) == 40
    assert sum(region["num_clips"] for region in (many, medium, few)) == 10
    assert (
        scored(
            [make("binary", np.arange(60) % 2)],
            folds,
            {("recurrent", 0, 0, 0): [np.full((60, 1), 0.5)]},
        )["y"].regions
        is None
    )


def test_settings_are_passed_on() -> None:
    target, folds = make("binary", example("binary")[0]), two_folds_twice()
    table = predicted([target], folds, repeats=1)
    one, other, same = (
        scored([target], folds, table, resamples=30, seed=seed)["y"].test["recurrent"]["auroc"]
        for seed in (1, 2, 1)
    )
    assert one == same
    assert one.value == other.value
    assert one.low != other.low
    assert one.num_resamples == 30

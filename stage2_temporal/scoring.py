"""From the predictions of all folds and repeats to scores: pooled, by fold, by subject, by region.

Each clip is tested once a repetition of the folds, so a repetition's test predictions are pooled
and scored together; of several repetitions and repeats, scores are averaged and their spread given.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal import metrics
from stage2_temporal.bootstrap import Score, bootstrap, bootstrap_difference
from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold
from stage2_temporal.regions import region_errors
from stage2_temporal.subjects import per_subject
from stage2_temporal.targets import Target
from stage2_temporal.units import Indices, Predictions, UnitResult

CONFIDENCE = 0.95
RECURRENT = "recurrent"

Scores = dict[str, dict[str, Score]]
"""By model, or difference of models, and name of the score."""


@dataclasses.dataclass(frozen=True)
class RunScores:
    """The scores of one target.

    Attributes:
        task: The target's task.
        test: Pooled over folds, with intervals.
        validation: Mean over folds and repeats.
        by_fold: Every fold and repeat; see `fold_scores`.
        subjects: As test, of each subject's mean prediction; None where no subject has two clips.
        num_subjects: How many subjects these are.
        num_mixed_subjects: How many more were left out because their clips differ in label.
        regions: Regression: each model's error where training had many, some and few clips.
    """

    task: str
    test: Scores
    validation: Scores
    by_fold: pd.DataFrame
    subjects: Scores | None
    num_subjects: int
    num_mixed_subjects: int
    regions: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """What one repeat of one fold predicts: its members' mean on test, each's own validation clips.

    Attributes:
        fold: Number of the fold.
        repetition: Which making of the folds it belongs to.
        repeat: Which seed.
        validation: (n,) clips; with several members, each clip once for each that it validated.
        test: (n,) clips.
        validation_predictions, test_predictions: Of these clips.
    """

    fold: int
    repetition: int
    repeat: int
    validation: Indices
    test: Indices
    validation_predictions: Predictions
    test_predictions: Predictions

    @classmethod
    def of_members(cls, number: int, fold: Fold, members: Sequence[UnitResult]) -> "FoldResult":
        """Merge the members of a fold, trained on other parts of the same clips."""
        parts = [split.validation for split in fold.splits]
        models = members[0].test
        return cls(
            fold=number,
            repetition=fold.repetition,
            repeat=members[0].unit.repeat,
            validation=np.concatenate(parts),
            test=fold.splits[0].test,
            validation_predictions={
                model: _merged([m.validation[model] for m in members], np.concatenate)
                for model in models
            },
            test_predictions={
                model: _merged(
                    [m.test[model] for m in members], lambda parts: np.mean(parts, axis=0)
                )
                for model in models
            },
        )


def _merged(members: Sequence[Sequence[NDArray[Any]]], merge: Any) -> list[NDArray[np.float64]]:
    return [merge(of_target) for of_target in zip(*members, strict=True)]


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The test predictions of all folds, for one target.

    Attributes:
        target: (n,) of the tested clips that have the target.
        clips: (n,) sorted.
        predictions: By model, one (n,) or (n, k) array a repetition and repeat.
        thresholds: By model, as many: the least probability that counts as positive.
    """

    target: Target
    clips: Indices
    predictions: dict[str, list[NDArray[np.float64]]]
    thresholds: dict[str, list[NDArray[np.float64]]]


def pool_test(
    target: Target, number: int, results: Sequence[FoldResult], settings: TrainSettings
) -> Pooled:
    """Pool the folds of each repetition and repeat.

    Args:
        target: (N,) the target.
        number: Its number among the targets.
        results: Of all folds and repeats.
        settings: For the threshold.
    """
    rounds: dict[tuple[int, int], list[FoldResult]] = {}
    for result in results:
        rounds.setdefault((result.repetition, result.repeat), []).append(result)
    models = results[0].test_predictions
    predictions: dict[str, list[NDArray[np.float64]]] = {model: [] for model in models}
    thresholds: dict[str, list[NDArray[np.float64]]] = {model: [] for model in models}
    clips = np.empty(0, np.intp)
    for parts in rounds.values():
        tested = np.concatenate([part.test for part in parts])
        order = np.argsort(tested, kind="stable")
        order = order[target.present[tested[order]]]
        clips = tested[order]
        for model in models:
            pooled = [part.test_predictions[model][number] for part in parts]
            limits = [
                _of_clips(thresholds_of(target, number, part, model, settings), values, target.task)
                for part, values in zip(parts, pooled, strict=True)
            ]
            predictions[model].append(scored_shape(target.task, np.concatenate(pooled)[order]))
            thresholds[model].append(scored_shape(target.task, np.concatenate(limits)[order]))
    return Pooled(target.at(clips), clips, predictions, thresholds)


def _of_clips(
    limits: NDArray[np.float64], predicted: NDArray[np.float64], task: str
) -> NDArray[np.float64]:
    """Repeat thresholds (k,) for each clip; a multiclass target has none, so one column will do."""
    width = 1 if task == "multiclass" else predicted.shape[1]
    return np.broadcast_to(limits, (len(predicted), width))


def scored_shape(task: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return predictions (n, k) as scores take them: (n,) for one probability or value."""
    return values if task in {"multiclass", "multilabel"} else values[:, 0]


def thresholds_of(
    target: Target, number: int, result: FoldResult, model: str, settings: TrainSettings
) -> NDArray[np.float64]:
    """Return the threshold (k,) of a fold, chosen on its validation clips if so asked.

    Where no validation clip has the target, it is 0.5.
    """
    if settings.threshold != "validation":
        return np.array([settings.threshold])
    present = target.present[result.validation]
    if not present.any() or target.task not in {"binary", "multilabel"}:
        return np.array([metrics.THRESHOLD])
    truth = target.at(result.validation[present]).encoded()
    predicted = result.validation_predictions[model][number][present]
    return np.array(
        [metrics.choose_threshold(t, p) for t, p in zip(truth.T, predicted.T, strict=True)]
    )


def score_test(pooled: Pooled, groups: Indices, settings: TrainSettings) -> Scores:
    """Score pooled test predictions, and each other model's difference to the recurrent one's."""
    options: dict[str, Any] = {
        "num_resamples": settings.resamples,
        "confidence": CONFIDENCE,
        "seed": settings.seed,
    }
    task, target = pooled.target.task, pooled.target.numbers
    of_clips = groups[pooled.clips]
    found: Scores = {
        model: bootstrap(
            task, target, values, of_clips, threshold=pooled.thresholds[model], **options
        )
        for model, values in pooled.predictions.items()
    }
    for model, values in pooled.predictions.items():
        if model == RECURRENT:
            continue
        found[difference_name(model)] = bootstrap_difference(
            task,
            target,
            pooled.predictions[RECURRENT],
            values,
            of_clips,
            threshold=pooled.thresholds[RECURRENT],
            baseline_threshold=pooled.thresholds[model],
            **options,
        )
    return found


def mean_scores(pooled: Pooled) -> dict[str, dict[str, float]]:
    """Score pooled test predictions without intervals; of several repetitions, their mean.

    Returns:
        By model and name of the score.
    """
    task, target = pooled.target.task, pooled.target.numbers
    found = {}
    for model, rounds in pooled.predictions.items():
        scored = [
            metrics.scores(task, target, values, threshold=threshold)
            for values, threshold in zip(rounds, pooled.thresholds[model], strict=True)
        ]
        found[model] = {name: float(np.mean([s[name] for s in scored])) for name in scored[0]}
    return found


def difference_name(model: str) -> str:
    """Return the key of the recurrent model's scores minus another's."""
    return "difference" if model == "mean_pool" else f"difference_{model}"


def fold_scores(
    target: Target, number: int, results: Sequence[FoldResult], settings: TrainSettings
) -> pd.DataFrame:
    """Score every fold and repeat by itself, without intervals.

    Returns:
        Columns fold, repetition, repeat, target, model, split, score, value.
    """
    rows = [
        (result.fold, result.repetition, result.repeat, target.name, model, side, name, value)
        for result in results
        for side in ("validation", "test")
        for model in result.test_predictions
        for name, value in side_scores(target, number, result, side, model, settings).items()
    ]
    columns = ["fold", "repetition", "repeat", "target", "model", "split", "score", "value"]
    return pd.DataFrame(rows, columns=columns)


def side_scores(
    target: Target,
    number: int,
    result: FoldResult,
    side: str,
    model: str,
    settings: TrainSettings,
) -> dict[str, float]:
    """Score one side of a fold and repeat; nothing where none of its clips has the target.

    Args:
        target: (N,) the target.
        number: Its number among the targets.
        result: Of the fold and repeat.
        side: validation or test.
        model: Whose predictions.
        settings: For the threshold.
    """
    clips = getattr(result, side)
    present = target.present[clips]
    if not present.any():
        return {}
    predicted = getattr(result, f"{side}_predictions")[model][number][present]
    limit = _of_clips(
        thresholds_of(target, number, result, model, settings), predicted, target.task
    )
    return metrics.scores(
        target.task,
        target.numbers[clips[present]],
        scored_shape(target.task, predicted),
        threshold=scored_shape(target.task, limit),
    )


def validation_scores(by_fold: pd.DataFrame) -> Scores:
    """Return the mean over folds and repeats of each validation score, with its spread.

    Without intervals: of a cross-validation, validation clips are training clips of other folds.
    """
    chosen = by_fold[by_fold["split"] == "validation"]
    found: Scores = {}
    for (model, name), values in chosen.groupby(["model", "score"], sort=False)["value"]:
        score = Score(
            value=float(values.mean()),
            low=np.nan,
            high=np.nan,
            num_resamples=0,
            spread=float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        )
        found.setdefault(str(model), {})[str(name)] = score
    return found


def subject_scores(
    pooled: Pooled, groups: Indices, settings: TrainSettings
) -> tuple[Scores, int, int] | None:
    """Score the mean prediction of each subject's clips.

    Returns:
        Scores, the number of subjects, and how many more were left out because their clips differ
        in label; None where no subject has two clips, or all were left out.
    """
    of_clips, task = groups[pooled.clips], pooled.target.task
    if len(np.unique(of_clips)) == len(of_clips):
        return None
    numbers = pooled.target.numbers

    def merged(rounds: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        return [per_subject(task, of_clips, numbers, values).prediction for values in rounds]

    subjects = per_subject(task, of_clips, numbers, numbers)
    count = len(subjects.target)
    if not count:
        return None
    summary = Pooled(
        target=dataclasses.replace(
            pooled.target, numbers=subjects.target, present=np.ones(count, bool)
        ),
        clips=np.arange(count),
        predictions={model: merged(rounds) for model, rounds in pooled.predictions.items()},
        thresholds={model: merged(rounds) for model, rounds in pooled.thresholds.items()},
    )
    return score_test(summary, np.arange(count), settings), count, subjects.num_mixed


def score_regions(
    pooled: Pooled, train_values: NDArray[np.float64]
) -> dict[str, list[dict[str, Any]]]:
    """Return each model's mean error, over repetitions, where training had many and few clips."""
    found = {}
    for model, rounds in pooled.predictions.items():
        errors = [region_errors(train_values, pooled.target.numbers, values) for values in rounds]
        found[model] = [
            {**regions[0], "mae": float(np.mean([region["mae"] for region in regions]))}
            for regions in zip(*errors, strict=True)
        ]
    return found


def merge_folds(
    folds: Sequence[Fold], units: Sequence[UnitResult], num_repeats: int
) -> list[FoldResult]:
    """Merge the members of every fold and repeat."""
    by_place = {(u.unit.fold, u.unit.member, u.unit.repeat): u for u in units}
    return [
        FoldResult.of_members(
            number, fold, [by_place[number, m, repeat] for m in range(len(fold.splits))]
        )
        for number, fold in enumerate(folds)
        for repeat in range(num_repeats)
    ]


def score_run(
    targets: Sequence[Target],
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    groups: Indices,
    settings: TrainSettings,
) -> dict[str, RunScores]:
    """Score every target of a run.

    Args:
        targets: (N,) each.
        folds: Of the run.
        results: Of all folds and repeats.
        groups: (N,) numbers of what belongs together, resampled as a whole.
        settings: Resamples, threshold, seed.

    Returns:
        By target name.
    """
    found = {}
    for number, target in enumerate(targets):
        pooled = pool_test(target, number, results, settings)
        by_fold = fold_scores(target, number, results, settings)
        subjects = subject_scores(pooled, groups, settings) if settings.group else None
        found[target.name] = RunScores(
            task=target.task,
            test=score_test(pooled, groups, settings),
            validation=validation_scores(by_fold),
            by_fold=by_fold,
            subjects=subjects[0] if subjects else None,
            num_subjects=subjects[1] if subjects else 0,
            num_mixed_subjects=subjects[2] if subjects else 0,
            regions=score_regions(pooled, _trained_on(target, folds))
            if target.task == "regression"
            else None,
        )
    return found


def _trained_on(target: Target, folds: Sequence[Fold]) -> NDArray[np.float64]:
    """Return the values that training saw: of several folds, all values."""
    known = target.present.copy()
    if len(folds) == 1 and len(folds[0].splits) == 1:
        known[np.concatenate([folds[0].splits[0].validation, folds[0].test])] = False
    values: NDArray[np.float64] = target.numbers[known]
    return values

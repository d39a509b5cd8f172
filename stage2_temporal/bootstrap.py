"""Bootstrap confidence intervals of scores, over repetitions of the training where there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.metrics import THRESHOLD, Floats, scores
from stage2_temporal.ranking import comparisons
from stage2_temporal.score_inputs import Threshold
from stage2_temporal.weighted import weighted_scores

Predictions = NDArray[Any] | Sequence[NDArray[Any]]
Thresholds = Threshold | Sequence[Threshold]
Model = tuple[NDArray[Any], Threshold]  # a prediction and its threshold

_CELLS_AT_ONCE = 4_000_000  # resamples x clips held in memory together: 32 MB an array
MAX_COMPARISONS = 10**11
"""Of two clips, for macro AUROC and AUPRC of one prediction in all resamples: about a minute of one
core. 20,000 clips of 10,000 classes come to 0.8 * 10**11 in 200 resamples."""


@dataclass(frozen=True)
class Score:
    """A score with its confidence interval; NaN where it is undefined.

    Attributes:
        value: The score; of several repetitions their mean.
        low: Lower bound of the interval.
        high: Upper bound.
        num_resamples: In how many bootstrap resamples the score was defined.
        spread: Standard deviation (n - 1) over the repetitions; NaN for one.
    """

    value: float
    low: float
    high: float
    num_resamples: int
    spread: float = np.nan


def bootstrap(
    task: str,
    target: NDArray[Any],
    predictions: Predictions,
    groups: NDArray[np.integer[Any]],
    *,
    threshold: Thresholds = THRESHOLD,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | Sequence[int],
) -> dict[str, Score]:
    """Score with percentile bootstrap intervals (Efron 1979), resampling whole groups.

    Clips of one patient are not independent, so groups are drawn with replacement, each with all
    its clips (cluster bootstrap; Field & Welsh 2007). Resamples in which a score is undefined are
    left out; its bounds are NaN where fewer than half are left, or where there is only one group.
    The interval of several repetitions is that of their mean: it tells of the clips that were
    drawn, `spread` of the training's own chance.

    Where ranking thousands of classes in every resample would take more than `MAX_COMPARISONS`,
    macro AUROC and AUPRC have a value and no interval.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        predictions: one array as for `scores`, or a list of them, one for each repetition.
        groups: (N,) group numbers; all distinct for independent clips.
        threshold: as for `scores`; one for all repetitions, or a list of one for each.
        num_resamples: how many resamples to draw.
        confidence: the interval's coverage, between 0 and 1.
        seed: fixes the resamples.

    Raises:
        ValueError: as `scores`, or another argument is out of its range.
    """
    models = _models(predictions, threshold)
    _check_bootstrap(target, groups, num_resamples, confidence)
    scored = _scored(task, target, models, groups, num_resamples, seed)
    return {
        name: _score(values, drawn, num_resamples, confidence)
        for name, (values, drawn) in scored.items()
    }


def bootstrap_difference(
    task: str,
    target: NDArray[Any],
    predictions: Predictions,
    baselines: Predictions,
    groups: NDArray[np.integer[Any]],
    *,
    threshold: Thresholds = THRESHOLD,
    baseline_threshold: Thresholds | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | Sequence[int],
) -> dict[str, Score]:
    """Return the scores of `predictions` minus those of `baselines`, with paired intervals.

    Both are scored on the same resamples. What makes a resample hard is then hard for both and
    cancels, so the interval is narrower than two separate ones suggest.

    Args:
        task: one of `TASKS`.
        target: as for `scores`.
        predictions: as for `bootstrap`.
        baselines: as `predictions`, of the other model: as many, or one for all of them.
        groups: as for `bootstrap`.
        threshold: as for `bootstrap`.
        baseline_threshold: the same of the other model; None for the same.
        num_resamples: how many resamples to draw.
        confidence: the interval's coverage, between 0 and 1.
        seed: fixes the resamples.

    Raises:
        ValueError: as `bootstrap`, or there are not as many baselines as predictions.
    """
    ours = _models(predictions, threshold)
    theirs = _models(baselines, threshold if baseline_threshold is None else baseline_threshold)
    if len(theirs) not in {1, len(ours)}:
        raise ValueError(
            f"{len(ours)} predictions and {len(theirs)} baselines: expected as many baselines, or "
            "one for all"
        )
    _check_bootstrap(target, groups, num_resamples, confidence)
    scored = _scored(task, target, ours + theirs, groups, num_resamples, seed)
    count = len(ours)
    return {
        name: _score(
            values[:count] - values[count:],
            drawn[:count] - drawn[count:],
            num_resamples,
            confidence,
        )
        for name, (values, drawn) in scored.items()
    }


def _models(predictions: Predictions, threshold: Thresholds) -> list[Model]:
    """Return each repetition's prediction with its threshold."""
    several = [predictions] if isinstance(predictions, np.ndarray) else list(predictions)
    if not several:
        raise ValueError("predictions is empty: expected an array, or one for each repetition")
    if not isinstance(threshold, Sequence):
        return [(prediction, threshold) for prediction in several]
    if len(threshold) != len(several):
        raise ValueError(
            f"{len(threshold)} thresholds for {len(several)} predictions: expected one, or one for "
            "each"
        )
    return list(zip(several, threshold, strict=True))


def _scored(
    task: str,
    target: NDArray[Any],
    models: list[Model],
    groups: NDArray[Any],
    num_resamples: int,
    seed: int | Sequence[int],
) -> dict[str, tuple[Floats, Floats]]:
    """Return each score of each model (M,), and in every resample (M, R).

    R is 0 where there is one group only, and for scores that take too long.
    """
    values = [scores(task, target, values, threshold=threshold) for values, threshold in models]
    drawn: dict[str, list[Floats]] = {name: [np.empty((len(models), 0))] for name in values[0]}
    rank_classes = _can_rank_classes(task, target, num_resamples)
    num_classes = np.shape(models[0][0])[1] if task == "multiclass" else 1
    rng = np.random.default_rng(seed)
    drawn_clips = resampled_counts(
        np.asarray(groups), num_resamples=num_resamples, rng=rng, num_classes=num_classes
    )
    for weights in drawn_clips:
        found = [
            weighted_scores(
                task, target, values, weights, threshold=threshold, rank_classes=rank_classes
            )
            for values, threshold in models
        ]
        for name in found[0]:
            drawn[name].append(np.stack([of_model[name] for of_model in found]))
    return {
        name: (np.array([of_model[name] for of_model in values]), np.concatenate(parts, axis=1))
        for name, parts in drawn.items()
    }


def _can_rank_classes(task: str, target: NDArray[Any], num_resamples: int) -> bool:
    if task not in {"multiclass", "multilabel"}:
        return True
    return comparisons(np.asarray(target)) * num_resamples <= MAX_COMPARISONS


def resampled_counts(
    groups: NDArray[Any], *, num_resamples: int, rng: np.random.Generator, num_classes: int = 1
) -> Iterator[Floats]:
    """Yield (R, N) how often resamples hold each clip, R bounded so that memory stays small.

    Groups are drawn with replacement, each with all its clips. Yields nothing where there is one
    group only.

    Args:
        groups: (N,) group numbers.
        num_resamples: How many in all.
        rng: What draws.
        num_classes: Arrays of so many columns are made of each row.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return
    at_once = max(1, _CELLS_AT_ONCE // max(len(group), num_classes))
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield drawn[:, group].astype(np.float64)


def _score(values: Floats, drawn: Floats, num_resamples: int, confidence: float) -> Score:
    """Return the mean of values (M,), with the interval of the mean of drawn (M, R)."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    means = drawn.mean(axis=0)
    defined = means[~np.isnan(means)]
    value = float(values.mean())
    if 2 * len(defined) < num_resamples:
        return Score(value, np.nan, np.nan, len(defined), spread)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Score(value, float(low), float(high), len(defined), spread)


def _check_bootstrap(
    target: NDArray[Any], groups: NDArray[Any], num_resamples: int, confidence: float
) -> None:
    if np.shape(groups) != np.shape(target)[:1]:
        raise ValueError(
            f"groups has shape {np.shape(groups)}, target {np.shape(target)}: "
            "give one group number for each clip"
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: expected 1 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected between 0 and 1, such as 0.95")

"""How good a trial is so far, told at the same steps in all trials, so that bad ones can end."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold
from stage2_temporal.scoring import RECURRENT, FoldResult, side_scores
from stage2_temporal.targets import Target
from stage2_temporal.units import Unit, UnitResult

Report = Callable[[int, float], None]


class TrialWatch:
    """Reports a trial's score at epochs 1, 2, 4, ... of each fold's first training and at its end.

    The value at an epoch is the mean of the scores of the folds that ended and of this fold's
    early-stopping clips, by its best weights so far. At the end of a fold the steps that its
    training did not come to are filled with its last value, and the fold's last step is the mean of
    the folds that ended. A score that is undefined, for want of a class, is left out of the mean;
    without any there is nothing to report.

    What was reported is kept in a file: a trial that goes on reports it again.

    Args:
        path: The file.
        target: (N,) the first target.
        folds: What each scores.
        settings: Of the trial.
        metric: The score.
        num_rungs: Steps of a fold.
        report: Called with the step and the value; it may raise.
    """

    def __init__(
        self,
        path: Path,
        target: Target,
        folds: Sequence[Fold],
        settings: TrainSettings,
        *,
        metric: str,
        num_rungs: int,
        report: Report,
    ) -> None:
        self.epochs: Sequence[int] = tuple(2**rung for rung in range(num_rungs - 1))
        self._path = path
        self._target = target
        self._folds = folds
        self._settings = settings
        self._metric = metric
        self._num_rungs = num_rungs
        self._report = report
        self._told: dict[int, float] = {}
        self._ended: list[float] = []
        self._results: list[UnitResult] = []

    def begin(self) -> None:
        """Report again what was reported before the trial was stopped."""
        if self._path.exists():
            steps = json.loads(self._path.read_text("utf-8"))
            self._told = {int(step): value for step, value in steps.items()}
        for step, value in sorted(self._told.items()):
            self._report(step, value)

    def look(self, unit: Unit, epoch: int, predictions: list[NDArray[np.float64]]) -> None:
        """Report the score on the early-stopping clips; see `Watch`."""
        if unit.member or unit.repeat:
            return
        step = unit.fold * self._num_rungs + self.epochs.index(epoch)
        if step not in self._told:
            self._tell(step, [*self._ended, self._early_score(unit, predictions)])

    def finish(self, result: UnitResult) -> None:
        """Note a training that ended; report the fold's score with its last one."""
        self._results.append(result)
        number = result.unit.fold
        fold = self._folds[number]
        if len(self._results) < len(fold.splits) * self._settings.repeats:
            return
        score = fold_score(self._target, number, fold, self._results, self._settings, self._metric)
        self._ended.append(score)
        self._results = []
        self._fill(number)

    def _fill(self, fold: int) -> None:
        """Report the steps of a fold that its training did not come to, and the last one."""
        first, last = fold * self._num_rungs, (fold + 1) * self._num_rungs - 1
        value = np.nan
        for step in range(first, last):
            value = self._told.get(step, value)
            if step not in self._told:
                self._tell(step, [value])
        if last not in self._told:
            self._tell(last, self._ended)

    def _tell(self, step: int, values: Sequence[float]) -> None:
        known = [value for value in values if np.isfinite(value)]
        if not known:
            return
        self._told[step] = float(np.mean(known))
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps(self._told), "utf-8")
        partial.replace(self._path)
        self._report(step, self._told[step])

    def _early_score(self, unit: Unit, predictions: list[NDArray[np.float64]]) -> float:
        clips = self._folds[unit.fold].splits[unit.member].validation
        result = FoldResult(
            fold=unit.fold,
            repetition=0,
            repeat=unit.repeat,
            validation=clips,
            test=clips[:0],
            validation_predictions={RECURRENT: predictions},
            test_predictions={},
        )
        found = side_scores(self._target, 0, result, "validation", RECURRENT, self._settings)
        return found.get(self._metric, np.nan)


def fold_score(
    target: Target,
    number: int,
    fold: Fold,
    results: Sequence[UnitResult],
    settings: TrainSettings,
    metric: str,
) -> float:
    """Return the score of the clips that a fold tests, of several repeats their mean.

    Args:
        target: (N,) the first target.
        number: Of the fold.
        fold: Which clips.
        results: Of all its trainings.
        settings: For the threshold.
        metric: The score; NaN where it is undefined.
    """
    values = []
    for repeat in sorted({result.unit.repeat for result in results}):
        members = [result for result in results if result.unit.repeat == repeat]
        merged = FoldResult.of_members(number, fold, members)
        found = side_scores(target, 0, merged, "test", RECURRENT, settings)
        values.append(found.get(metric, np.nan))
    return float(np.mean(values))

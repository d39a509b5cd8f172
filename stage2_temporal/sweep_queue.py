"""The trials of a sweep: which comes next, and what became of each; all in Optuna's study."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from stage2_temporal.config import TrainSettings
from stage2_temporal.search_space import SearchSpace, apply_parameters, parameters_key
from stage2_temporal.sweep_names import STORE
from stage2_temporal.sweep_optuna import as_stored, load_optuna, sampler_of, suggest
from stage2_temporal.sweep_outcomes import Outcomes
from stage2_temporal.sweep_storage import (
    COMPLETE,
    FAILED,
    PRUNED,
    RUNNING,
    TrialRecord,
    record_of,
    written,
)

_MOST_FAILURES = 5


@dataclasses.dataclass(frozen=True)
class OpenTrial:
    """A trial that is to be run.

    Attributes:
        trial: Optuna's.
        parameters: The searched settings.
        settings: All settings.
        reported: Steps whose score is known; before a stop, for instance.
    """

    trial: Any
    parameters: dict[str, Any]
    settings: TrainSettings
    reported: set[int]

    @property
    def number(self) -> int:
        """The trial's number."""
        return int(self.trial.number)

    @property
    def store(self) -> str | None:
        """The store; None where none compete."""
        store: str | None = self.parameters.get(STORE)
        return store

    @property
    def key(self) -> str:
        """What equal trials have in common."""
        return parameters_key(self.parameters)


class TrialQueue:
    """Begins trials and records their ends; trials of a stopped call are gone on with first.

    Settings that were tried before are not trained again: all trials share seeds and folds, so the
    score would be the same.

    Args:
        study: Optuna's, which nobody else writes to meanwhile.
        space: What is searched.
        base: The settings of all trials.
        sampler: tpe, random or grid.
        limit: How many trials the sweep has in the end.
        on_end: Told of each trial that ended.
    """

    def __init__(
        self,
        study: Any,
        space: SearchSpace,
        base: TrainSettings,
        *,
        sampler: str,
        limit: int,
        on_end: Callable[[TrialRecord], None],
    ) -> None:
        self._study, self._space, self._base = study, space, base
        self._outcomes = Outcomes(study)
        self._sampler, self._limit, self._on_end = sampler, limit, on_end
        self._grid: Iterator[dict[str, Any]] = space.grid() if sampler == "grid" else iter(())
        self._stopped: list[Any] = []
        self._counts: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._done: dict[str, int] = {}
        self._at_work: dict[str, list[Any]] = {}
        self._failures = 0
        for trial in self._trials():
            self._take_in(trial)

    def _trials(self) -> Any:
        return self._study.get_trials(deepcopy=False)

    def _take_in(self, trial: Any) -> None:
        """Count a trial of an earlier call."""
        if trial.state.name == "RUNNING":
            self._stopped.append(trial)
        elif trial.state.is_finished():
            record = record_of(trial)
            self._count(record)

    def _count(self, record: TrialRecord) -> None:
        key = parameters_key(record.parameters)
        self._counts[record.state] += 1
        self._seen.add(key)
        if record.state in (COMPLETE, PRUNED):
            self._done.setdefault(key, record.number)

    @property
    def num_stopped(self) -> int:
        """How many trials an earlier call began and did not end."""
        return len(self._stopped)

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are complete, pruned, failed and running."""
        ended = {state: self._counts[state] for state in (COMPLETE, PRUNED, FAILED)}
        return {**ended, RUNNING: sum(1 + len(twins) for twins in self._at_work.values())}

    @property
    def num_left(self) -> int:
        """How many more trials `next` may begin; if it begins none, there are none left."""
        allowed = max(0, self._limit - sum(self.counts.values()))
        if self._space.size is None:
            return allowed
        waiting = [trial for trial in self._trials() if trial.state.name == "WAITING"]
        unseen = max(0, self._space.size - len(self._seen))
        return min(allowed, len(self._stopped) + len(waiting) + unseen)

    def next(self) -> OpenTrial | None:
        """Begin a trial that is to be run; None when there is none left.

        Raises:
            ValueError: All trials fail.
        """
        while sum(self.counts.values()) < self._limit:
            trial = self._begin()
            if trial is None:
                return None
            opened = self._open(trial)
            if opened is not None:
                return opened
        return None

    def _begin(self) -> Any | None:
        """Return a trial of Optuna's, new or of a stopped call; None if all were tried."""
        if self._stopped:
            stopped = self._stopped.pop(0)
            self._study.sampler = sampler_of(self._sampler, self._base.seed, stopped.number)
            return load_optuna().trial.Trial(self._study, stopped._trial_id)
        trials = self._trials()
        waiting = any(trial.state.name == "WAITING" for trial in trials)
        if not waiting and not self._enqueue():
            return None
        self._study.sampler = sampler_of(self._sampler, self._base.seed, len(trials))
        return self._study.ask()

    def _enqueue(self) -> bool:
        """Have the grid's next point tried; False if nothing new is left to try."""
        if self._space.size is not None and len(self._seen) >= self._space.size:
            return False
        if self._sampler != "grid":
            return True
        for point in self._grid:
            if parameters_key(point) not in self._seen:
                self._study.enqueue_trial({name: as_stored(v) for name, v in point.items()})
                return True
        return False

    def _open(self, trial: Any) -> OpenTrial | None:
        """Return what is to be run; None where the outcome is known, or will be."""
        parameters = {
            dimension.name: written(dimension.name, suggest(trial, dimension))
            for dimension in self._space.dimensions
        }
        key = parameters_key(parameters)
        self._seen.add(key)
        if key in self._done:
            self._repeat(trial, self._done[key])
            return None
        if key in self._at_work:
            self._at_work[key].append(trial)
            return None
        try:
            settings = apply_parameters(self._base, parameters)
        except ValueError as error:
            self._fail(trial, str(error))
            return None
        self._at_work[key] = []
        known = self._trials()[trial.number].intermediate_values
        return OpenTrial(trial, parameters, settings, set(known))

    def report(self, opened: OpenTrial, step: int, value: float) -> bool:
        """Note the score so far; return whether the trial is to end."""
        if step not in opened.reported:
            opened.reported.add(step)
            opened.trial.report(value, step)
        elif step < max(opened.reported):
            return False  # it went on after that, before a stop
        return bool(opened.trial.should_prune())

    def finish(self, opened: OpenTrial, result: dict[str, Any]) -> None:
        """Note the result of a trial."""
        if not math.isfinite(result["value"]):
            self.fail(opened, f"the score is {result['value']}, and no number to compare")
            return
        self._outcomes.complete(opened.trial, result)
        self._end(opened.trial)
        self._release(opened)

    def prune(self, opened: OpenTrial) -> None:
        """Note that a trial ended early."""
        self._outcomes.prune(opened.trial, f"ended early, after {len(opened.reported)} reports")
        self._end(opened.trial)
        self._release(opened)

    def fail(self, opened: OpenTrial, reason: str, *, words: str = "") -> None:
        """Note that a trial failed.

        Args:
            opened: The trial.
            reason: Why, for people.
            words: What its process printed last.
        """
        self._fail(opened.trial, reason, words=words)
        self._release(opened)

    def put_back(self, opened: OpenTrial) -> None:
        """Have a trial that was begun, and lost its process, come next."""
        twins = self._at_work.pop(opened.key)
        trials = self._trials()
        self._stopped[:0] = [
            trials[number] for number in (opened.number, *(t.number for t in twins))
        ]

    def _release(self, opened: OpenTrial) -> None:
        """Give equal trials, begun meanwhile, the same outcome."""
        for twin in self._at_work.pop(opened.key):
            self._repeat(twin, opened.number)

    def _repeat(self, trial: Any, number: int) -> None:
        self._outcomes.repeat(trial, self._trials()[number])
        self._end(trial)

    def _fail(self, trial: Any, reason: str, *, words: str = "") -> None:
        self._outcomes.fail(trial, reason, words=words)
        self._end(trial)

    def _end(self, trial: Any) -> None:
        record = record_of(self._trials()[trial.number])
        self._count(record)
        self._on_end(record)
        self._failures += record.state == FAILED
        if self._failures >= _MOST_FAILURES and not self._done:
            raise ValueError(
                f"the first {self._failures} trials all failed, so the sweep ends here; the last "
                f"one because: {record.reason}"
            )

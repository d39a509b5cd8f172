"""What the sweep's report draws of trials: their values, settings, limits and sampled crowds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from stage2_temporal.leaderboard import is_scored, ranked, value_of
from stage2_temporal.report_words import shown
from stage2_temporal.sweep_figures import Floats, Numbers, Points, Setting
from stage2_temporal.sweep_storage import PRUNED, SweepDocument, TrialRecord

_FENCE = 3.0  # interquartile ranges beyond the quartiles: Tukey's far out values (1977)
_ENOUGH = 8
_MARGIN = 0.05
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SweepView:
    """A sweep, with its trials in order.

    Attributes:
        document: What was asked for.
        records: All trials, by number.
        scored: Complete trials with a value, the best first.
    """

    document: SweepDocument
    records: list[TrialRecord]
    scored: list[TrialRecord]

    @classmethod
    def of(cls, document: SweepDocument, records: Sequence[TrialRecord]) -> "SweepView":
        """Rank the trials of a sweep."""
        placed = ranked(records, higher_is_better=document.higher_is_better)
        scored = [record for _, record in placed if is_scored(record)]
        return cls(document, sorted(records, key=lambda record: record.number), scored)

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best value; None without any."""
        return self.scored[0] if self.scored else None

    @property
    def baseline(self) -> float | None:
        """The mean-pool baseline of the best trial, or else of any trial that has one."""
        first = [self.best] if self.best else []
        found = [r.baseline for r in [*first, *self.records] if r.baseline is not None]
        return found[0] if found and math.isfinite(found[0]) else None

    @property
    def best_baseline(self) -> float | None:
        """The best baseline of any trial: stores and side features may have different ones."""
        found = [r.baseline for r in self.scored if r.baseline is not None]
        found = [value for value in found if math.isfinite(value)]
        if not found:
            return None
        return max(found) if self.document.higher_is_better else min(found)


def best_so_far(numbers: Numbers, values: Floats, *, higher_is_better: bool) -> Points:
    """Return where the best value up to a trial changes, and at the last trial."""
    running = (np.maximum if higher_is_better else np.minimum).accumulate(values)
    if not len(running):
        return numbers, values
    changes = np.flatnonzero(np.diff(running, prepend=np.nan) != 0)
    kept = np.union1d(changes, [len(running) - 1])
    return numbers[kept], running[kept]


def points_of(records: Sequence[TrialRecord]) -> Points:
    """Return the numbers and values of complete trials."""
    numbers = np.array([record.number for record in records], np.int64)
    return numbers, np.array([value_of(record) for record in records], np.float64)


def last_points(records: Sequence[TrialRecord]) -> Points:
    """Return the numbers and last intermediate values of the pruned trials that have some."""
    pruned = [r for r in records if r.state == PRUNED and curve_of(r) is not None]
    last = [float(curve[1][-1]) for curve in map(curve_of, pruned) if curve is not None]
    return np.array([r.number for r in pruned], np.int64), np.array(last, np.float64)


def curve_of(record: TrialRecord) -> Points | None:
    """Return the steps and finite intermediate values of a trial; None where there is none."""
    known = [item for item in sorted(record.intermediate.items()) if math.isfinite(item[1])]
    if not known:
        return None
    steps, values = zip(*known, strict=True)
    return np.array(steps, np.int64), np.array(values, np.float64)


def steps_of_fold(view: SweepView) -> int | None:
    """Return how often a trial reports in a fold; None where no complete trial tells.

    Complete trials report equally often in each fold.
    """
    lasts = {max(r.intermediate) for r in view.scored if r.intermediate}
    steps, rest = divmod(max(lasts, default=0) + 1, view.document.validation_folds)
    return steps if lasts and not rest else None


def near(values: Floats) -> Floats:
    """Return values without those far out.

    Of eight values or more, these lie beyond three interquartile ranges from the quartiles.
    """
    if values.size < _ENOUGH:
        return values
    low, high = np.quantile(values, [0.25, 0.75])
    fence = _FENCE * (high - low)
    kept: Floats = values[(values >= low - fence) & (values <= high + fence)]
    return kept if fence > 0 else values


def limits_of(values: Floats, also: float | None) -> tuple[float, float] | None:
    """Return the ends of an axis for all values but those far out, and for one more if there is.

    None without values.
    """
    known = near(values[np.isfinite(values)])
    if not known.size:
        return None
    ends = [*known, *([] if also is None else [also])]
    margin = _MARGIN * (max(ends) - min(ends)) or 0.01 * max(abs(max(ends)), 1e-6)
    return float(min(ends) - margin), float(max(ends) + margin)


def count_outside(values: Floats, limits: tuple[float, float] | None) -> int:
    """Count finite values that an axis with these ends does not show."""
    if limits is None:
        return 0
    known = values[np.isfinite(values)]
    return int(((known < limits[0]) | (known > limits[1])).sum())


def evenly(items: Sequence[_Item], limit: int) -> list[_Item]:
    """Return at most `limit` items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    places = np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))
    return [items[place] for place in places]


def setting_of(name: str, searched: Any, records: Sequence[TrialRecord]) -> Setting:
    """Return what trials had for a searched setting.

    Args:
        name: Of the setting.
        searched: What sweep.json says of it: a list of choices or a table of a range.
        records: N trials.
    """
    values = [record.parameters.get(name) for record in records]
    if isinstance(searched, list):
        places = [searched.index(v) if v in searched else np.nan for v in values]
        labels = [label_of(choice) for choice in searched]
        return Setting(name, np.array(places, np.float64), labels, is_log=False)
    numbers = [v if isinstance(v, int | float) else np.nan for v in values]
    return Setting(name, np.array(numbers, np.float64), None, is_log=bool(searched.get("log")))


def label_of(value: object) -> str:
    """Return a choice as text; a blank one is `none`."""
    return shown(value) or "none"

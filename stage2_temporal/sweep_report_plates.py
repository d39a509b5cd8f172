"""The figures of the sweep's report with their captions."""

from collections.abc import Mapping

import numpy as np

from stage2_temporal import sweep_figures
from stage2_temporal.picture import embed
from stage2_temporal.report_grid import Plate
from stage2_temporal.report_words import count, score_name
from stage2_temporal.sweep_figures import Floats, ValueAxis
from stage2_temporal.sweep_report_data import (
    SweepView,
    best_so_far,
    count_outside,
    curve_of,
    evenly,
    last_points,
    limits_of,
    points_of,
    setting_of,
    steps_of_fold,
)
from stage2_temporal.sweep_report_importance import Importances
from stage2_temporal.sweep_storage import COMPLETE, FAILED, PRUNED, TrialRecord

MAX_POINTS = 1500
MAX_LINES = 300
MAX_RAILS = 10
MAX_SLICES = 24
MAX_IMPORTANCES = 20
MAX_STRIPS = 20
MAX_CURVES = 60
TOP_TRIALS = 8


def history_plates(view: SweepView) -> list[Plate]:
    """Draw the values in the order of the trials."""
    by_number = sorted(view.scored, key=lambda record: record.number)
    values = points_of(by_number)[1]
    pruned = last_points(view.records)
    failed = [record for record in view.records if record.state == FAILED]
    if not len(values) and not len(pruned[0]):
        return []
    axis = _axis(view, values if len(values) else pruned[1])
    best = best_so_far(*points_of(by_number), higher_is_better=view.document.higher_is_better)
    drawn = {
        "complete": points_of(evenly(by_number, MAX_POINTS)),
        "pruned": _thinned(pruned[0], pruned[1]),
    }
    numbers = np.array([record.number for record in evenly(failed, MAX_POINTS)], np.int64)
    figure = sweep_figures.history_figure(drawn, best, numbers, axis)
    caption = f"{_score(view)} of each trial in the order in which they were begun"
    caption += ", and the best so far." if len(values) else "."
    if len(pruned[0]):
        caption += " Pruned trials are shown with the last value before they were given up."
    caption += _drawn(min(len(by_number), MAX_POINTS), len(by_number), "complete trial")
    return [(embed(figure, caption), caption + _outside(count_outside(values, axis.limits)))]


def _thinned(numbers: sweep_figures.Numbers, values: Floats) -> sweep_figures.Points:
    kept = np.array(evenly(range(len(numbers)), MAX_POINTS), np.intp)
    return numbers[kept], values[kept]


def importance_plates(importances: Importances) -> list[Plate]:
    """Draw the importances, if there are any."""
    if not importances.shares:
        return []
    shown = dict(list(importances.shares.items())[:MAX_IMPORTANCES])
    caption = (
        "Share of the variation between trials that each setting explains, by functional analysis "
        f"of variance of {count(importances.num_trials, 'complete trial')}. It tells what mattered "
        "within the searched values; few trials tell it roughly."
    )
    if len(importances.shares) > len(shown):
        caption += f" The first {len(shown)} of {len(importances.shares)} settings."
    return [(embed(sweep_figures.importance_figure(shown), caption), caption)]


def folds_plates(view: SweepView) -> list[Plate]:
    """Draw the spread over folds of the best trials."""
    top = [record for record in view.scored if len(record.by_fold) > 1][:TOP_TRIALS]
    if not top:
        return []
    rows = {
        f"trial {record.number}": (float(record.value or 0), _floats(record.by_fold))
        for record in top
    }
    figure = sweep_figures.folds_figure(rows, ValueAxis(_score(view), None, view.baseline))
    best = "the best trial" if len(top) == 1 else f"the best {len(top)} trials"
    caption = f"{_score(view)} of single folds of {best}. "
    caption += "Differences between trials that are small beside this spread may be chance."
    return [(embed(figure, caption), caption)]


def parallel_plates(view: SweepView, importances: Importances) -> list[Plate]:
    """Draw each trial as a line through its settings."""
    drawn = evenly(view.scored, MAX_LINES)[::-1]
    names = _names(view, importances)[:MAX_RAILS]
    if len(drawn) < 2 or len(names) < 2:
        return []
    values = points_of(drawn)[1]
    axis = _axis(view, points_of(view.scored)[1])
    shown = np.clip(values, *axis.limits) if axis.limits else values
    settings = [setting_of(name, view.document.search[name], drawn) for name in names]
    figure = sweep_figures.parallel_figure(settings, shown, axis)
    caption = "Each complete trial as a line through its settings, from top to bottom, to its value"
    caption += "; the thick line is the best trial."
    if len(view.document.search) > len(names):
        caption += f" {len(names)} of {len(view.document.search)} settings."
    return [(embed(figure, caption), caption + _drawn(len(drawn), len(view.scored)))]


def slice_plates(view: SweepView, importances: Importances) -> list[Plate]:
    """Draw the values against each searched setting."""
    drawn = evenly(view.scored, MAX_POINTS)[::-1]
    if not drawn:
        return []
    values = points_of(drawn)[1]
    axis = _axis(view, points_of(view.scored)[1])
    outside = _outside(count_outside(values, axis.limits))
    plates = []
    for name in _names(view, importances)[:MAX_SLICES]:
        setting = setting_of(name, view.document.search[name], drawn)
        if not np.isfinite(setting.values).any() or len(setting.labels or ()) > MAX_STRIPS:
            continue
        figure = sweep_figures.slice_figure(setting, values, axis)
        bars = "; bars are medians" if setting.labels is not None else ""
        caption = f"{_score(view)} against {name}{bars}; the star is the best trial."
        caption += _drawn(len(drawn), len(view.scored)) + outside
        plates.append((embed(figure, caption), caption))
    return plates


def steps_plates(view: SweepView) -> list[Plate]:
    """Draw the intermediate values of trials."""
    named = dict(_curves(view.scored[: sweep_figures.MAX_NAMED_CURVES]))
    others = [c for _, c in _curves(evenly(view.scored[len(named) :], MAX_CURVES))]
    pruned = [record for record in view.records if record.state == PRUNED]
    given_up = [c for _, c in _curves(evenly(pruned, MAX_CURVES))]
    curves = [*named.values(), *others, *given_up]
    if not curves:
        return []
    axis = _axis(view, np.concatenate([values for _, values in curves]))
    steps = steps_of_fold(view)
    figure = sweep_figures.steps_figure(named, others, given_up, axis, steps_of_fold=steps)
    caption = (
        f"{_score(view)} while trials go on: the mean of the folds that ended and of the best "
        "validation score so far in the current one. The dashed line is the baseline of all folds."
    )
    if given_up:
        caption += " Crosses: pruned."
    total = sum(r.state in (COMPLETE, PRUNED) for r in view.records)
    return [(embed(figure, caption), caption + _drawn(len(curves), total))]


def _curves(records: list[TrialRecord]) -> list[tuple[str, sweep_figures.Points]]:
    curves = [(f"trial {record.number}", curve_of(record)) for record in records]
    return [(name, curve) for name, curve in curves if curve is not None]


def _names(view: SweepView, importances: Importances) -> list[str]:
    """Return the searched settings, the important ones first."""
    shares: Mapping[str, float] = importances.shares
    return sorted(view.document.search, key=lambda name: -shares.get(name, 0))


def _axis(view: SweepView, values: Floats) -> ValueAxis:
    return ValueAxis(_score(view), limits_of(values, view.baseline), view.baseline)


def _score(view: SweepView) -> str:
    return score_name(view.document.metric)


def _floats(values: list[float]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _drawn(drawn: int, total: int, noun: str = "trial") -> str:
    return f" Drawn: {drawn:,} of {count(total, noun)}." if drawn < total else ""


def _outside(number: int) -> str:
    return f" {count(number, 'value')} far out {'is' if number == 1 else 'are'} not shown." * (
        number > 0
    )

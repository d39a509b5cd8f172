"""Tables of the sweep's report: what was searched, the best trials, the failed ones."""

import math
from collections.abc import Mapping
from typing import Any

from stage2_temporal.leaderboard import LEADERBOARD_NAME, difference_of, ranked
from stage2_temporal.report_grid import Grid
from stage2_temporal.report_words import count, format_number, score_name, shown
from stage2_temporal.sweep_report_data import SweepView, label_of
from stage2_temporal.sweep_report_importance import Importances
from stage2_temporal.sweep_storage import FAILED

MAX_ROWS = 50


def searched_grid(view: SweepView, importances: Importances) -> Grid:
    """Return the searched settings with their values, the best trial's and their importance."""
    best = view.best.parameters if view.best else {}
    head = ["setting", "searched", "best trial"]
    rows: list[list[object]] = [
        [name, searched_text(values), parameter_cell(best.get(name)) if best else ""]
        for name, values in view.document.search.items()
    ]
    if importances.shares:
        head.append("importance")
        rows = [[*row, importances.shares.get(str(row[0]), "")] for row in rows]
    return Grid("What was searched, and what the best trial had.", head, rows)


def searched_text(values: Any) -> str:
    """Return choices or a range as text."""
    if not isinstance(values, Mapping):
        return ", ".join(label_of(value) for value in values)
    text = f"{values['low']:g} to {values['high']:g}"
    if values.get("step") is not None:
        text += f", in steps of {values['step']:g}"
    return text + (", logarithmic" if values.get("log") else "")


def parameter_cell(value: object) -> object:
    """Return a trial's value of a setting as a cell: numbers stay, all else is text."""
    if value is None:
        return ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else label_of(value)


def leaderboard_grid(view: SweepView) -> Grid | None:
    """Return the best trials; None without any."""
    if not view.scored:
        return None
    settings = list(view.document.search)
    head = ["rank", "trial", score_name(view.document.metric), "baseline", "difference"]
    head += ["folds", *settings, "kept baseline", "time"]
    placed = ranked(view.scored, higher_is_better=view.document.higher_is_better)
    rows = [
        [
            *(rank, record.number, record.value, record.baseline, difference_of(record)),
            _span(record.by_fold),
            *(parameter_cell(record.parameters.get(name)) for name in settings),
            f"{record.kept_baseline} of {record.num_trainings}",
            "" if record.seconds is None else f"{record.seconds:,.0f} s",
        ]
        for rank, record in placed[:MAX_ROWS]
    ]
    which = f"The best {MAX_ROWS} of" if len(placed) > MAX_ROWS else "All"
    caption = (
        f"{which} {count(len(placed), 'complete trial')}; folds: the lowest and the highest score "
        f"of a fold; kept baseline: trainings. {LEADERBOARD_NAME} has every trial and fold."
    )
    return Grid(caption, head, rows)


def _span(by_fold: list[float]) -> str:
    known = [value for value in by_fold if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return ""
    return f"{format_number(min(known))} to {format_number(max(known))}"


def failed_grid(view: SweepView) -> Grid | None:
    """Return the trials that failed, and why; None where none did."""
    failed = [record for record in view.records if record.state == FAILED]
    if not failed:
        return None
    rows = [
        [r.number, r.reason or "no reason was recorded", shown(dict(r.parameters))]
        for r in failed[:MAX_ROWS]
    ]
    which = f"The first {MAX_ROWS} of {len(failed):,}" if len(failed) > MAX_ROWS else "The"
    caption = f"{which} trials that failed."
    head, summary = ["trial", "reason", "settings"], f"Failed trials ({len(failed):,})"
    return Grid(caption, head, rows, summary)

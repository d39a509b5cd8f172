"""Render the report page of a sweep: one HTML file, made from the sweep folder only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage2_temporal.report import REPORT_NAME, page_environment, write_page
from stage2_temporal.sweep_report_data import SweepView
from stage2_temporal.sweep_report_facts import asked_facts, provenance_facts
from stage2_temporal.sweep_report_grids import failed_grid, leaderboard_grid, searched_grid
from stage2_temporal.sweep_report_importance import importances_of
from stage2_temporal.sweep_report_plates import (
    folds_plates,
    history_plates,
    importance_plates,
    parallel_plates,
    slice_plates,
    steps_plates,
)
from stage2_temporal.sweep_report_winner import winner_view
from stage2_temporal.sweep_report_words import (
    command_of,
    compared,
    heading,
    kept_baselines,
    scored_how,
    states,
    timing,
)
from stage2_temporal.sweep_storage import open_study, read_sweep, record_of


def write_sweep_report(folder: Path) -> Path:
    """Write `report.html` into a sweep folder and return its path.

    The page appears complete or not at all; an older one is replaced. A sweep at work may go on.

    Raises:
        ValueError: There is no sweep, or a file of it or of its winner is not as it should be.
    """
    trials = [t for t in open_study(folder).get_trials(deepcopy=False) if t.state.name != "WAITING"]
    page = render(folder, SweepView.of(read_sweep(folder), list(map(record_of, trials))), trials)
    return write_page(folder / REPORT_NAME, page)


def render(folder: Path, view: SweepView, trials: Sequence[Any]) -> str:
    """Return the page of a sweep as HTML text; what the sweep holds is escaped.

    Args:
        folder: The sweep folder, for the winner and the command.
        view: The sweep.
        trials: The same trials as `optuna.trial.FrozenTrial`, for the importances.
    """
    importances = importances_of(trials)
    return (
        page_environment()
        .get_template("sweep_report.html.jinja")
        .render(
            view=view,
            heading=heading(view),
            scored_how=scored_how(view),
            compared=compared(view),
            winner=winner_view(folder, view),
            asked=asked_facts(view),
            searched=searched_grid(view, importances),
            why_no_importance=importances.why_missing,
            search_plates=[*history_plates(view), *folds_plates(view), *steps_plates(view)],
            overview_plates=[*parallel_plates(view, importances), *importance_plates(importances)],
            slice_plates=slice_plates(view, importances),
            states=states(view),
            kept_baselines=kept_baselines(view),
            timing=timing(view),
            leaderboard=leaderboard_grid(view),
            failed=failed_grid(view),
            command=command_of(view, folder),
            provenance=provenance_facts(view),
        )
    )

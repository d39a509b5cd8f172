"""Render the report page of a run: one HTML file, made from the files of the run folder only."""

import os
from pathlib import Path

import jinja2

from stage2_temporal.report_data import (
    class_grids,
    distribution_grids,
    distribution_plates,
    fold_grid,
    look_alikes,
)
from stage2_temporal.report_grid import cell, is_number
from stage2_temporal.report_target import target_view
from stage2_temporal.report_training import best_epoch_grid, best_epochs_text, training_plates
from stage2_temporal.report_words import (
    display_name,
    format_number,
    format_spread,
    model_names,
    rounds,
    scheme,
    score_name,
    shown,
)
from stage2_temporal.run_files import Run, read_run

REPORT_NAME = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    The page appears complete or not at all; an older one is replaced.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file of the run is not what a complete run holds.
    """
    page = render(read_run(run_folder))
    path = run_folder / REPORT_NAME
    partial = path.with_name(f".{REPORT_NAME}.{os.getpid()}.tmp")
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def render(run: Run) -> str:
    """Return the page of a run as HTML text; what the run holds is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "name": display_name, "shown": shown}
    environment.filters |= {"score_name": score_name, "spread": format_spread, "cell": cell}
    environment.tests |= {"aligned": is_number}
    return environment.get_template("report.html.jinja").render(
        run=run,
        models=model_names(run),
        heading=heading(run),
        scheme=scheme(run),
        rounds=rounds(run),
        targets=[target_view(run, target) for target in run.data["targets"]],
        folds=fold_grid(run.data),
        look_alikes=look_alikes(run),
        training={
            "plates": training_plates(run),
            "text": best_epochs_text(run),
            "grid": best_epoch_grid(run),
        },
        distributions=distribution_plates(run),
        data_grids=[*class_grids(run), *distribution_grids(run)],
    )


def heading(run: Run) -> str:
    """Return the title of the page."""
    names = [target["name"] for target in run.data["targets"]]
    what = (
        " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more targets"
    )
    first = run.data["folds"][0]
    clips = sum(first[side]["clips"] for side in ("train", "validation", "test"))
    group = f", grouped by {run.data['group']}" if run.data["group"] else ""
    return f"{what} from {clips:,} clips{group}"

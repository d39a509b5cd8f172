"""Render the report page of a run: one HTML file, made from the files of the run folder only."""

import base64
import hashlib
import os
from pathlib import Path

import jinja2
import markupsafe

from stage2_temporal.report_data import (
    class_grids,
    distribution_grids,
    distribution_plates,
    fold_grid,
    look_alikes,
)
from stage2_temporal.report_grid import cell, is_number
from stage2_temporal.report_map import clip_map
from stage2_temporal.report_overview import contents, heading, overview
from stage2_temporal.report_strips import (
    ATTENTION_HEIGHT,
    CURVE_HEIGHT,
    strip_views,
    strips_note,
    strips_text,
)
from stage2_temporal.report_table import clip_table
from stage2_temporal.report_target import target_view
from stage2_temporal.report_training import best_epoch_grid, best_epochs_text, training_plates
from stage2_temporal.report_words import (
    caution,
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
from stage2_temporal.run_shapes import Json
from stage2_temporal.strip_files import FRAME_SIZE

REPORT_NAME = "report.html"
_SCRIPT = "report_script.js.jinja"
_HEIGHTS = {"frame": FRAME_SIZE, "attention": ATTENTION_HEIGHT, "curve": CURVE_HEIGHT}


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    The page appears complete or not at all; an older one is replaced.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file of the run is not what a complete run holds.
    """
    return write_page(run_folder / REPORT_NAME, render(read_run(run_folder)))


def write_page(path: Path, page: str) -> Path:
    """Write a page whole or not at all, and return its path."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def page_environment() -> jinja2.Environment:
    """Return what renders the templates of pages; whatever they are given is escaped.

    Templates know the page's one script as `script`, and its hash for the content security policy
    as `script_hash`.
    """
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
    script = Path(__file__).with_name(_SCRIPT).read_text(encoding="utf-8")
    environment.globals |= {
        "script": markupsafe.Markup(script),  # noqa: S704  # the package's own file
        "script_hash": _policy_hash(script),
    }
    return environment


def _policy_hash(script: str) -> str:
    """Return the hash by which a content security policy allows a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def render(run: Run) -> str:
    """Return the page of a run as HTML text; what the run holds is escaped."""
    names = model_names(run)
    return (
        page_environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            models=names,
            heading=heading(run),
            caution=caution(run),
            overview=overview(run),
            contents=contents(run),
            scheme=scheme(run),
            rounds=rounds(run),
            targets=[_target(run, number, names) for number in range(len(run.data["targets"]))],
            strips_note=strips_note(run),
            strip_heights=_HEIGHTS,
            clip_map=clip_map(run),
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
    )


def _target(run: Run, number: int, names: dict[str, str]) -> Json:
    target = run.data["targets"][number]
    strips = strip_views(run, target["name"])
    return target_view(run, target) | {
        "number": number,
        "table": clip_table(run, target["name"], names),
        "strip_views": strips,
        "strips_text": strips_text(strips, names["recurrent"]),
    }

"""What the commands of stage two print."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stage2_temporal.bootstrap import Score
    from stage2_temporal.exporting import ExportResult
    from stage2_temporal.scoring import Scores
    from stage2_temporal.sweeping import SweepResult
    from stage2_temporal.training import TrainResult

_HEADS = {
    "recurrent": "recurrent",
    "mean_pool": "mean-pool baseline",
    "features": "side features alone",
}


def train_text(result: "TrainResult") -> str:
    """Return what a person wants to read at the end of a run."""
    sides = ", ".join(
        f"{name} {counts['clips']} clips"
        + (f" of {counts['groups']} groups" if result.group else "")
        for name, counts in result.sides.items()
    )
    folds = f"; the first of {result.num_folds} folds" if result.num_folds > 1 else ""
    dropped = [f"left out, {why}: {count} clips" for why, count in result.left_out.items() if count]
    tables = [
        line
        for name, scores in result.targets.items()
        for line in ("", f"{name} ({result.tasks[name]})", *score_table(scores["test"]))
    ]
    return "\n".join(
        [
            f"{sides}{folds}",
            *dropped,
            *([result.balance] if result.balance else []),
            *result.notices,
            *tables,
            "",
            f"Report: {result.folder / 'report.html'}",
        ]
    )


def sweep_text(result: "SweepResult") -> str:
    """Return what a person wants to read at the end of a sweep."""
    best = result.best
    baseline = "" if best.baseline is None else f", mean-pool baseline {best.baseline:.4f}"
    lines = [
        f"{result.num_complete} trials complete, {result.num_pruned} pruned, "
        f"{result.num_failed} failed",
        f"best: trial {best.number}, {best.value:.4f}{baseline}; best of many, so it flatters",
        *(f"  {name} = {value}" for name, value in best.parameters.items()),
        *result.notices,
    ]
    if result.winner is not None:
        lines += ["", "The winner, trained anew and scored once on the test clips:"]
        for name, scores in result.winner.targets.items():
            lines += ["", f"{name} ({result.winner.tasks[name]})", *score_table(scores["test"])]
    return "\n".join([*lines, "", f"Report: {result.folder / 'report.html'}"])


def export_text(result: "ExportResult") -> str:
    """Return what a person wants to know of an exported model."""
    count = result.num_models
    models = {0: "", 1: " (1 model)"}.get(count, f" (mean of {count} models)")
    shapes = [
        f"  {name}: ({', '.join('any' if size is None else str(size) for size in shape)})"
        for name, shape in result.inputs.items()
    ]
    compared = [
        f"  {name}: differs by {found.found:.1e} at most; {found.allowed:.1e} would be an error"
        for name, found in result.differences.items()
    ]
    lines = ["inputs:", *shapes, "outputs, compared with Keras on random input:", *compared]
    return "\n".join([f"{result.path}{models}", *lines, *result.notices])


def score_table(test: "Scores") -> list[str]:
    """Return the lines of a table: a score a row, the models and their differences in columns."""
    models = [model for model in test if not model.startswith("difference")]
    differences = [model for model in test if model.startswith("difference")]
    heads = [_HEADS[model] for model in models]
    heads += [f"minus {_HEADS[model]}" for model in models[1:]]
    rows: list[tuple[str, ...]] = [("test score", *heads)]
    for name in test["recurrent"]:
        rows.append((name, *(_interval(test[model][name]) for model in models + differences)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _interval(score: "Score") -> str:
    spread = "" if math.isnan(score.spread) else f" ± {score.spread:.3f}"
    bounds = "" if math.isnan(score.low) else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{spread}{bounds}"

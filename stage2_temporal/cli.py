"""The command `stage2-temporal`: a thin shell over the library."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stage1_extract.command import (
    EXIT_DONE,
    CommandEntry,
    ManifestPath,
    StorePath,
    run_command,
)
from stage2_temporal.config import TrainSettings
from stage2_temporal.feature_settings import FeatureImportSettings

if TYPE_CHECKING:
    from stage2_temporal.bootstrap import Score
    from stage2_temporal.scoring import Scores
    from stage2_temporal.train import TrainResult

_HEADS = {
    "recurrent": "recurrent",
    "mean_pool": "mean-pool baseline",
    "features": "side features alone",
}
RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a recurrent model on a store, score it on held-out clips, write the run folder."""

    store: StorePath
    """Store of embeddings."""
    manifest: ManifestPath
    """CSV or Parquet with the labels; its videos need not be there."""
    run: RunPath
    """Folder to make for model, scores and report."""
    settings: TrainSettings


@dataclasses.dataclass(frozen=True)
class Features:
    """Turn a table of side features, one row a clip, into a file that training reads."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """CSV or Parquet: a column of ids, the others numbers or texts."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.h5")]
    """File to write."""
    settings: FeatureImportSettings


@dataclasses.dataclass(frozen=True)
class FindRate:
    """Try rising learning rates on the training clips, and say where the loss falls fastest."""

    store: StorePath
    """Store of embeddings."""
    manifest: ManifestPath
    """CSV or Parquet with the labels."""
    settings: TrainSettings


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the report page of a run folder anew."""

    run: RunPath
    """Folder that `train` made."""


def train(arguments: Train) -> int:
    """Train and print the scores."""
    from stage2_temporal.train import train as train_run

    result = train_run(
        arguments.store,
        arguments.manifest,
        arguments.run,
        arguments.settings,
        show_progress=True,
    )
    print(summary(result))
    return EXIT_DONE


def report(arguments: Report) -> int:
    """Render the report."""
    from stage2_temporal.report import write_report

    print(f"Report: {write_report(arguments.run)}")
    return EXIT_DONE


def features(arguments: Features) -> int:
    """Import the table and say what was found."""
    from stage2_temporal.feature_import import import_features

    found = import_features(arguments.table, arguments.out, arguments.settings, show_progress=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    print(
        f"{found.path}: {found.num_rows} rows, {found.num_features} features from columns: {kinds}"
        f"; {found.num_blank} blank values"
    )
    return EXIT_DONE


def find_rate(arguments: FindRate) -> int:
    """Run the range test and print it."""
    from stage2_temporal.rate_finder import find_learning_rate

    found = find_learning_rate(arguments.store, arguments.manifest, arguments.settings)
    print(found.table.iloc[::5].to_string(index=False, float_format="{:.3g}".format))
    print(
        f"\nThe loss falls fastest at --learning-rate {found.suggestion:.1e} "
        f"(now {arguments.settings.learning_rate:g}); stay below, where it still falls."
    )
    return EXIT_DONE


def summary(result: "TrainResult") -> str:
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
        for line in ("", f"{name} ({result.tasks[name]})", *_score_table(scores["test"]))
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


def _score_table(test: "Scores") -> list[str]:
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


COMMANDS = {
    "train": CommandEntry(Train, train),
    "report": CommandEntry(Report, report),
    "features": CommandEntry(Features, features),
    "find-rate": CommandEntry(FindRate, find_rate),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("stage2-temporal", COMMANDS, sys.argv[1:] if argv is None else argv)

"""The command `stage2-temporal`: a thin shell over the library."""

import dataclasses
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

if TYPE_CHECKING:
    from stage2_temporal.bootstrap import Score
    from stage2_temporal.train import TrainResult

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


def summary(result: "TrainResult") -> str:
    """Return what a person wants to read at the end of a run."""
    sides = ", ".join(
        f"{name} {counts['clips']} clips"
        + (f" of {counts['groups']} groups" if result.group else "")
        for name, counts in result.sides.items()
    )
    dropped = [f"left out, {why}: {count} clips" for why, count in result.left_out.items() if count]
    test = result.scores["test"]
    rows: list[tuple[str, ...]] = [("test score", "recurrent", "mean-pool baseline", "difference")]
    for name, score in test["recurrent"].items():
        others = (test[column][name] for column in ("mean_pool", "difference"))
        rows.append((name, _interval(score), *map(_interval, others)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        [
            f"{result.task}: {sides}",
            *dropped,
            *result.notices,
            "",
            *(line.rstrip() for line in table),
            "",
            f"Report: {result.folder / 'report.html'}",
        ]
    )


def _interval(score: "Score") -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


COMMANDS = {"train": CommandEntry(Train, train), "report": CommandEntry(Report, report)}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("stage2-temporal", COMMANDS, sys.argv[1:] if argv is None else argv)

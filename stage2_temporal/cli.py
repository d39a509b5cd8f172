"""The command `stage2-temporal`: a thin shell over the library."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from stage1_extract.command import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    CommandEntry,
    ManifestPath,
    StorePath,
    run_command,
)
from stage1_extract.completion import with_completion
from stage2_temporal.config import TrainSettings
from stage2_temporal.evaluate_settings import EvaluateSettings
from stage2_temporal.export_settings import ExportSettings
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.predict_settings import PredictSettings
from stage2_temporal.sweep_settings import SweepSettings

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a recurrent model on a store, score it on held-out clips, write the run folder.

    Examples:
        stage2-temporal train store videos.csv runs/first --target label --group patient
        stage2-temporal train store videos.csv runs/folds --config train.toml --validation kfold
    """

    store: StorePath
    """Store of embeddings."""
    manifest: ManifestPath
    """CSV or Parquet with the labels; its videos need not be there."""
    run: RunPath
    """Folder to make for model, scores and report."""
    settings: TrainSettings


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Search the settings that validate best; score the winner once on the test clips.

    Examples:
        stage2-temporal sweep store videos.csv sweeps/first --config sweep.toml
        stage2-temporal sweep store videos.csv sweeps/first --config sweep.toml --trials 200
    """

    store: StorePath
    """Store of embeddings."""
    manifest: ManifestPath
    """CSV or Parquet with the labels."""
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SWEEP")]
    """Folder to make, or to go on in."""
    settings: SweepSettings


@dataclasses.dataclass(frozen=True)
class Predict:
    """Say what a trained run predicts for new videos.

    Examples:
        stage2-temporal predict runs/first new.mp4 --out predictions.csv
        stage2-temporal predict runs/first new_videos --out predictions.csv --timeline
        stage2-temporal predict runs/first --store store --out predictions.csv
    """

    run: RunPath
    """Folder that `train` made."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Videos, folders of videos, or manifests."""
    settings: PredictSettings


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a trained run on labelled clips of a store.

    Examples:
        stage2-temporal evaluate runs/first --store other_store --manifest other.csv
    """

    run: RunPath
    """Folder that `train` made."""
    settings: EvaluateSettings


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained run as one ONNX file or TensorFlow SavedModel, and check it.

    Examples:
        stage2-temporal export runs/first first.onnx
        stage2-temporal export runs/first first_head --part head --format savedmodel
    """

    run: RunPath
    """Folder that `train` made."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """File or folder to write."""
    settings: ExportSettings


@dataclasses.dataclass(frozen=True)
class Features:
    """Turn a table of side features, one row a clip, into a file that training reads.

    Examples:
        stage2-temporal features measurements.csv measurements.h5
    """

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """CSV or Parquet: a column of ids, the others numbers or texts."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.h5")]
    """File to write."""
    settings: FeatureImportSettings


@dataclasses.dataclass(frozen=True)
class FindRate:
    """Try rising learning rates on the training clips, and say where the loss falls fastest.

    Examples:
        stage2-temporal find-rate store videos.csv --target label --group patient
    """

    store: StorePath
    """Store of embeddings."""
    manifest: ManifestPath
    """CSV or Parquet with the labels."""
    settings: TrainSettings


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the report page of a run, or of a sweep, anew.

    Examples:
        stage2-temporal report runs/first
    """

    run: RunPath
    """Folder that `train` or `sweep` made."""


def train(arguments: Train) -> int:
    """Train and print the scores."""
    from stage2_temporal.printing import train_text
    from stage2_temporal.training import train as train_run

    result = train_run(
        arguments.store,
        arguments.manifest,
        arguments.run,
        arguments.settings,
        show_progress=True,
    )
    print(train_text(result))
    return EXIT_DONE


def sweep(arguments: Sweep) -> int:
    """Search and print the best settings and the winner's scores."""
    from stage2_temporal.printing import sweep_text
    from stage2_temporal.sweeping import sweep as search

    try:
        result = search(
            arguments.store,
            arguments.manifest,
            arguments.sweep,
            arguments.settings,
            show_progress=True,
        )
    except KeyboardInterrupt:
        print("What was finished is kept; give the command again to go on.", file=sys.stderr)
        raise
    print(sweep_text(result))
    return EXIT_DONE


def predict(arguments: Predict) -> int:
    """Predict and print where the table is, and what failed."""
    from stage2_temporal.predicting import predict as predict_clips
    from stage2_temporal.predicting import prediction_text

    result = predict_clips(arguments.run, arguments.inputs, arguments.settings, show_progress=True)
    print(prediction_text(result))
    return EXIT_SOME_FAILED if result.failures else EXIT_DONE


def evaluate(arguments: Evaluate) -> int:
    """Score and print the scores."""
    from stage2_temporal.evaluating import evaluate as evaluate_run
    from stage2_temporal.evaluating import evaluation_text

    result = evaluate_run(arguments.run, arguments.settings, show_progress=True)
    print(evaluation_text(result))
    return EXIT_DONE


def export(arguments: Export) -> int:
    """Export and print what was checked."""
    from stage2_temporal.exporting import export as export_run
    from stage2_temporal.printing import export_text

    print(export_text(export_run(arguments.run, arguments.out, arguments.settings)))
    return EXIT_DONE


def report(arguments: Report) -> int:
    """Render the report."""
    from stage2_temporal.report import write_report
    from stage2_temporal.sweep_report import write_sweep_report
    from stage2_temporal.sweep_storage import DOCUMENT

    write = write_sweep_report if (arguments.run / DOCUMENT).exists() else write_report
    print(f"Report: {write(arguments.run)}")
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


COMMANDS = with_completion(
    "stage2-temporal",
    {
        "train": CommandEntry(Train, train),
        "sweep": CommandEntry(Sweep, sweep),
        "predict": CommandEntry(Predict, predict),
        "evaluate": CommandEntry(Evaluate, evaluate),
        "export": CommandEntry(Export, export),
        "report": CommandEntry(Report, report),
        "features": CommandEntry(Features, features),
        "find-rate": CommandEntry(FindRate, find_rate),
    },
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("stage2-temporal", COMMANDS, sys.argv[1:] if argv is None else argv)

"""One training run, from store and manifest to a run folder with model, scores and report."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.manifest import Manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.bootstrap import bootstrap, bootstrap_difference
from stage2_temporal.config import TrainSettings
from stage2_temporal.documents import (
    CONFIDENCE,
    Scores,
    data_description,
    metrics_document,
    predictions_table,
    provenance,
    split_table,
)
from stage2_temporal.partition import TrainingData, count_sides, load_data
from stage2_temporal.report import write_report
from stage2_temporal.run_folder import check_free, new_run_folder, write_json

Predictions = dict[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run found.

    Attributes:
        folder: The run folder.
        task: binary, multiclass or regression.
        sides: Clips and groups of train, validation and test.
        scores: By side (validation, test), model (recurrent, mean_pool, or their
            difference) and name of the score.
        group: The group column.
        left_out: How many clips were dropped, by reason.
        notices: Remarks worth reading.
    """

    folder: Path
    task: str
    sides: dict[str, dict[str, int]]
    scores: Scores
    group: str | None
    left_out: dict[str, int]
    notices: tuple[str, ...]


def train(
    store: EmbeddingStore | Path | str,
    manifest: Manifest | Path | str,
    run: Path | str,
    settings: TrainSettings,
    *,
    show_progress: bool = False,
) -> TrainResult:
    """Train a recurrent model and the mean-pool baseline, score both on test, write the run folder.

    Args:
        store: A store or its path.
        manifest: A manifest or its path.
        run: The run folder to make.
        settings: What to learn, and how.
        show_progress: Whether to show a progress bar.

    Raises:
        FileExistsError: The run folder exists.
        ValueError: Data or settings are wrong; the message says what to do. No folder is left.
    """
    folder = Path(run)
    check_free(folder, overwrite=settings.overwrite)
    data = load_data(store, manifest, settings)
    with new_run_folder(folder, overwrite=settings.overwrite) as partial:
        return _train_into(partial, folder, data, settings, show_progress=show_progress)


def _train_into(
    partial: Path,
    folder: Path,
    data: TrainingData,
    settings: TrainSettings,
    *,
    show_progress: bool,
) -> TrainResult:
    load_keras(settings.backend)
    # These build on Keras when they are imported, so the backend is chosen first.
    from stage2_temporal import fitting

    fit = fitting.fit_recurrent(
        data.store,
        data.clips.positions,
        data.target,
        data.partition.split,
        settings,
        show_progress=show_progress,
    )
    predictions = {
        "recurrent": fitting.predict_sequences(
            fit.model, data.store, data.clips.positions, data.target.task
        ),
        "mean_pool": _baseline(data),
    }
    scores = _all_scores(data, predictions, settings)
    draw = fitting.training_draw(data.target, data.partition.split.train, settings)
    description = data_description(data, draw, settings)
    documents = {
        "settings.json": provenance(data, folder, settings),
        "data.json": {**description, "best_epoch": fit.best_epoch},
        "metrics.json": metrics_document(data, scores, settings),
    }
    tables = {
        "split.csv": split_table(data),
        "history.csv": fit.history.assign(learning_rate=settings.learning_rate),
        "predictions.csv": predictions_table(data, predictions),
    }
    for name, document in documents.items():
        write_json(partial / name, document)
    for name, table in tables.items():
        table.to_csv(partial / name, index=False)
    fit.model.save(partial / "model.keras")
    write_report(partial)
    return TrainResult(
        folder=folder,
        task=data.target.task,
        sides=count_sides(data.partition),
        scores=scores,
        group=settings.group,
        left_out=data.clips.left_out,
        notices=data.partition.notices,
    )


def _baseline(data: TrainingData) -> NDArray[np.float64]:
    from stage2_temporal.baseline import mean_embeddings, mean_pool_predictions

    return mean_pool_predictions(
        mean_embeddings(data.store, data.clips.positions),
        data.target.numbers,
        data.target.task,
        train=data.partition.split.train,
        validation=data.partition.split.validation,
    )


def _all_scores(data: TrainingData, predictions: Predictions, settings: TrainSettings) -> Scores:
    options: dict[str, Any] = {
        "num_resamples": settings.resamples,
        "confidence": CONFIDENCE,
        "seed": settings.seed,
    }
    task = data.target.task
    found: Scores = {}
    for side, clips in data.partition.split.items():
        if side == "train":
            continue
        target, groups = data.target.numbers[clips], data.partition.groups[clips]
        model, baseline = (predictions[name][clips] for name in ("recurrent", "mean_pool"))
        found[side] = {
            "recurrent": bootstrap(task, target, model, groups, **options),
            "mean_pool": bootstrap(task, target, baseline, groups, **options),
            "difference": bootstrap_difference(task, target, model, baseline, groups, **options),
        }
    return found

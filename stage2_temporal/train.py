"""One training run, from store and manifest to a run folder with model, scores and report."""

import dataclasses
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras, software_versions
from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal import balance, metrics
from stage2_temporal.bootstrap import Score, bootstrap
from stage2_temporal.config import TrainSettings
from stage2_temporal.partition import Partition, count_sides, partition_clips
from stage2_temporal.report import write_report
from stage2_temporal.run_folder import RUN_FORMAT, check_free, new_run_folder, write_json
from stage2_temporal.splits import split_sha256
from stage2_temporal.targets import LabelledClips, Target, join_targets

RUN_FORMAT_VERSION = 1
CONFIDENCE = 0.95
_MODELS = ("recurrent", "mean_pool")

Predictions = dict[str, NDArray[np.float64]]
Scores = dict[str, dict[str, dict[str, Score]]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run found.

    Attributes:
        folder: The run folder.
        task: binary, multiclass or regression.
        sides: Clips and groups of train, validation and test.
        scores: By side (validation, test), model (recurrent, mean_pool) and name of the score.
        notices: Remarks worth reading.
    """

    folder: Path
    task: str
    sides: dict[str, dict[str, int]]
    scores: Scores
    notices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Data:
    """Everything that is known before training."""

    store: EmbeddingStore
    manifest: Manifest
    clips: LabelledClips
    partition: Partition

    @property
    def target(self) -> Target:
        return self.clips.target


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
    data = _load(store, manifest, settings)
    load_keras(settings.backend)
    # These build on Keras when they are imported, so the backend is chosen first.
    from stage2_temporal import fitting

    draw = fitting.training_draw(data.target, data.partition.split.train, settings)
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
    with new_run_folder(folder, overwrite=settings.overwrite) as partial:
        write_json(partial / "settings.json", _provenance(data, folder, settings))
        description = _description(data, draw, settings)
        write_json(partial / "data.json", {**description, "best_epoch": fit.best_epoch})
        write_json(partial / "metrics.json", _metrics_document(data, scores, settings))
        _write_split(partial / "split.csv", data)
        fit.history.assign(learning_rate=settings.learning_rate).to_csv(
            partial / "history.csv", index=False
        )
        _predictions_table(data, predictions).to_csv(partial / "predictions.csv", index=False)
        fit.model.save(partial / "model.keras")
        write_report(partial)
    return TrainResult(
        folder=folder,
        task=data.target.task,
        sides=count_sides(data.partition),
        scores=scores,
        notices=data.partition.notices,
    )


def _load(
    store: EmbeddingStore | Path | str, manifest: Manifest | Path | str, settings: TrainSettings
) -> _Data:
    store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), files_must_exist=False)
    clips = join_targets(
        store,
        manifest,
        settings.target,
        task=settings.task,
        positive=settings.positive,
        unmatched=settings.unmatched,
        blank_target=settings.blank_target,
    )
    return _Data(store, manifest, clips, partition_clips(clips, manifest, store, settings))


def _baseline(data: _Data) -> NDArray[np.float64]:
    from stage2_temporal.baseline import mean_embeddings, mean_pool_predictions

    return mean_pool_predictions(
        mean_embeddings(data.store, data.clips.positions),
        data.target.numbers,
        data.target.task,
        train=data.partition.split.train,
        validation=data.partition.split.validation,
    )


def _all_scores(data: _Data, predictions: Predictions, settings: TrainSettings) -> Scores:
    return {
        side: {
            model: bootstrap(
                data.target.task,
                data.target.numbers[clips],
                predictions[model][clips],
                data.partition.groups[clips],
                num_resamples=settings.resamples,
                confidence=CONFIDENCE,
                seed=settings.seed,
            )
            for model in _MODELS
        }
        for side, clips in data.partition.split.items()
        if side != "train"
    }


def _metrics_document(data: _Data, scores: Scores, settings: TrainSettings) -> dict[str, Any]:
    as_numbers = {
        side: {
            model: {name: dataclasses.asdict(score) for name, score in of_model.items()}
            for model, of_model in of_side.items()
        }
        for side, of_side in scores.items()
    }
    return {
        "task": data.target.task,
        "primary": metrics.PRIMARY[data.target.task],
        "confidence": CONFIDENCE,
        "resampled_by": settings.group or "clip",
        "num_resamples": settings.resamples,
        **as_numbers,
    }


def _provenance(data: _Data, folder: Path, settings: TrainSettings) -> dict[str, Any]:
    store, manifest = data.store, data.manifest
    return {
        "format": RUN_FORMAT,
        "format_version": RUN_FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(store.path, manifest.path, folder, settings),
        "software": software_versions(),
        "settings": dataclasses.asdict(settings),
        "store": {
            "path": str(store.path.absolute()),
            "fingerprint": store.fingerprint,
            "num_sequences": store.num_sequences,
            "embedding_dim": store.embedding_dim,
            "dtype": str(store.dtype),
            "settings": store.settings,
            "execution": store.execution,
        },
        "manifest": {
            "path": str(manifest.path.absolute()),
            "sha256": manifest.sha256,
            "num_clips": len(manifest.clips),
        },
    }


def command_line(store: Path, manifest: Path, run: Path, settings: TrainSettings) -> str:
    """Return the command that repeats a run, ready to paste into a shell."""
    words = ["stage2-temporal", "train", str(store), str(manifest), str(run)]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def _description(data: _Data, draw: Any, settings: TrainSettings) -> dict[str, Any]:
    target, split = data.target, data.partition.split
    lengths = data.store.lengths[data.clips.positions]
    return {
        "task": target.task,
        "target": target.name,
        "classes": list(target.classes) or None,
        "group": settings.group,
        "split_sha256": split_sha256(data.clips.video_ids, split),
        "split": count_sides(data.partition),
        "left_out": data.clips.left_out,
        "balance": settings.balance,
        "distribution": _distribution(target, split.train, draw, settings),
        "notices": list(data.partition.notices),
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
    }


def _distribution(
    target: Target, train: NDArray[np.intp], draw: Any, settings: TrainSettings
) -> Mapping[str, list[Any]]:
    """Count training clips before balancing and draws of the first epoch after it."""
    rng = np.random.default_rng([settings.seed, 0])
    draws = draw(rng) if draw else np.arange(len(train))
    values = target.numbers[train]
    if target.task == "regression":
        found = balance.value_distribution(values, draws, num_bins=settings.bins)
    else:
        found = balance.class_distribution(values, draws, target.classes)
    return dataclasses.asdict(found)


def _write_split(path: Path, data: _Data) -> None:
    pd.DataFrame(
        {
            "video_id": data.clips.video_ids,
            "split": data.partition.split.name_of_clip,
            "group": data.partition.group_names,
        }
    ).to_csv(path, index=False)


def _predictions_table(data: _Data, predictions: Predictions) -> pd.DataFrame:
    target = data.target
    columns: dict[str, Any] = {
        "video_id": data.clips.video_ids,
        "split": data.partition.split.name_of_clip,
        "group": data.partition.group_names,
        "target": _named(target, target.numbers),
    }
    for model, prefix in zip(_MODELS, ("", "baseline_"), strict=True):
        values = predictions[model]
        if target.task == "regression":
            columns[f"{prefix}prediction"] = values
            continue
        if target.task == "binary":
            values = np.stack([1 - values, values], axis=1)
        # At equal probabilities the last class, as the scores' threshold of 0.5 has it.
        chosen = values.shape[1] - 1 - values[:, ::-1].argmax(axis=1)
        columns[f"{prefix}prediction"] = _named(target, chosen)
        for number, name in enumerate(target.classes):
            columns[f"{prefix}probability_{name}"] = values[:, number]
    return pd.DataFrame(columns)


def _named(target: Target, values: NDArray[Any]) -> NDArray[Any]:
    return np.array(target.classes)[values] if target.classes else values

"""What the files of a run folder say: provenance, data, scores, split and predictions."""

import dataclasses
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.keras_setup import software_versions
from stage2_temporal import balance, metrics
from stage2_temporal.bootstrap import Score
from stage2_temporal.config import TrainSettings
from stage2_temporal.partition import TrainingData, count_sides
from stage2_temporal.run_folder import RUN_FORMAT
from stage2_temporal.splits import split_sha256
from stage2_temporal.targets import Target

RUN_FORMAT_VERSION = 1
CONFIDENCE = 0.95

Scores = dict[str, dict[str, dict[str, Score]]]
"""By side (validation, test), model (recurrent, mean_pool, difference) and name of the score."""


def metrics_document(data: TrainingData, scores: Scores, settings: TrainSettings) -> dict[str, Any]:
    """Return metrics.json."""
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


def provenance(data: TrainingData, folder: Path, settings: TrainSettings) -> dict[str, Any]:
    """Return settings.json: everything needed to repeat the run, and to know what made it."""
    store, manifest = data.store, data.manifest
    return {
        "format": RUN_FORMAT,
        "format_version": RUN_FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(
            store.path.absolute(), manifest.path.absolute(), folder.absolute(), settings
        ),
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
        words.append(flag if value is True else f"{flag}={value}")
    return shlex.join(words)


def data_description(
    data: TrainingData, draw: balance.Draw | None, settings: TrainSettings
) -> dict[str, Any]:
    """Return data.json: what was learned from, and what was left out."""
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
    target: Target, train: NDArray[np.intp], draw: balance.Draw | None, settings: TrainSettings
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


def split_table(data: TrainingData) -> pd.DataFrame:
    """Return split.csv: video_id, split and group of every clip."""
    return pd.DataFrame(
        {
            "video_id": data.clips.video_ids,
            "split": data.partition.split.name_of_clip,
            "group": data.partition.group_names,
        }
    )


def predictions_table(
    data: TrainingData, predictions: Mapping[str, NDArray[np.float64]]
) -> pd.DataFrame:
    """Return predictions.csv: target, prediction and probabilities of every clip, both models'."""
    target = data.target
    columns: dict[str, Any] = {
        "video_id": data.clips.video_ids,
        "split": data.partition.split.name_of_clip,
        "group": data.partition.group_names,
        "target": _named(target, target.numbers),
    }
    for model, prefix in (("recurrent", ""), ("mean_pool", "baseline_")):
        values = predictions[model]
        if target.task == "regression":
            columns[f"{prefix}prediction"] = values
            continue
        if target.task == "binary":
            values = np.stack([1 - values, values], axis=1)
            chosen = (values[:, 1] >= metrics.THRESHOLD).astype(int)
        else:
            chosen = values.argmax(axis=1)
        columns[f"{prefix}prediction"] = _named(target, chosen)
        for number, name in enumerate(target.classes):
            columns[f"{prefix}probability_{name}"] = values[:, number]
    return pd.DataFrame(columns)


def _named(target: Target, values: NDArray[Any]) -> NDArray[Any]:
    return np.array(target.classes)[values] if target.classes else values

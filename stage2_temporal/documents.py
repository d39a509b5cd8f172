"""What the files of a run folder say: provenance, data, scores, splits, history and predictions."""

import dataclasses
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.addresses import Location
from stage1_extract.keras_setup import software_versions
from stage2_temporal import metrics
from stage2_temporal.balancing import BalancePlan
from stage2_temporal.clip_table import (
    CLIPS_NAME,
    Map,
    clip_table,
    label_texts,
    named,
    principal_map,
)
from stage2_temporal.config import TrainSettings
from stage2_temporal.file_hashes import write_file_hashes
from stage2_temporal.leakage import NearDuplicate
from stage2_temporal.partition import TrainingData, count_sides
from stage2_temporal.run_folder import PREFIXES, RUN_FORMAT, RUN_VERSION, write_json
from stage2_temporal.scoring import (
    CONFIDENCE,
    RECURRENT,
    FoldResult,
    RunScores,
    Scores,
    thresholds_of,
)
from stage2_temporal.splits import split_sha256
from stage2_temporal.targets import Target
from stage2_temporal.units import UnitResult


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that a finished run knows.

    Attributes:
        data: What was learned from.
        settings: How.
        units: Every training.
        folds: Every fold and repeat, members merged.
        scores: Of every target.
        balance: What was done to the distribution of the first fold's training clips.
        near_duplicates: Clips on two sides that look alike.
        mean_embeddings: (N, D) of the clips.
        notices: Remarks worth reading.
    """

    data: TrainingData
    settings: TrainSettings
    units: Sequence[UnitResult]
    folds: Sequence[FoldResult]
    scores: dict[str, RunScores]
    balance: BalancePlan
    near_duplicates: Sequence[NearDuplicate]
    mean_embeddings: NDArray[np.float32]
    notices: tuple[str, ...]


def write_documents(partial: Path, folder: Path, found: Findings) -> None:
    """Write all files but models, strips and report into an unfinished run folder.

    Args:
        partial: Where to write.
        folder: The name that it will have.
        found: What to write.
    """
    shown = principal_map(found.mean_embeddings, seed=found.settings.seed)
    documents = {
        "settings.json": _provenance(found.data, folder, found.settings),
        "data.json": _data_description(found, shown),
        "metrics.json": _metrics_document(found),
    }
    for name, document in documents.items():
        write_json(partial / name, document)
    tables = {
        "split.csv": _split_table(found.data),
        CLIPS_NAME: clip_table(found.data, shown.places),
        "history.csv": _history_table(found.units),
        "scores_by_fold.csv": pd.concat([s.by_fold for s in found.scores.values()]),
    }
    for number, target in enumerate(found.data.clips.targets):
        tables[_predictions_name(number)] = _predictions_table(found, number, target)
    for name, table in tables.items():
        table.to_csv(partial / name, index=False)
    write_file_hashes(partial)


def _predictions_name(number: int) -> str:
    """The first target has predictions.csv; data.json names the files of all."""
    return f"predictions-{number}.csv" if number else "predictions.csv"


def _provenance(data: TrainingData, folder: Path, settings: TrainSettings) -> dict[str, Any]:
    """Return settings.json: everything needed to repeat the run, and to know what made it."""
    store, manifest = data.store, data.manifest
    return {
        "format": RUN_FORMAT,
        "format_version": RUN_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(
            store.path.absolute(), manifest.path.absolute(), folder.absolute(), settings
        ),
        "software": software_versions(),
        "settings": _plain(dataclasses.asdict(settings)),
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


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain_value(value) for key, value in values.items()}


def _plain_value(value: Any) -> Any:
    """Return a path as text that means the same file from every folder."""
    return str(value.absolute()) if isinstance(value, Path) else value


def command_line(store: Path, manifest: Location, run: Path, settings: TrainSettings) -> str:
    """Return the command that repeats a run, ready to paste into a shell."""
    words = ["stage2-temporal", "train", str(store), str(manifest), str(run)]
    return shlex.join([*words, *_flags(settings)])


def _flags(settings: Any) -> list[str]:
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        default = field.default
        if dataclasses.is_dataclass(value):
            words += _flags(value)
        elif value != default:
            flag = "--" + field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                several = value if isinstance(value, tuple) else (value,)
                words += [f"{flag}={_plain_value(one)}" for one in several]
    return words


def _data_description(found: Findings, shown: Map) -> dict[str, Any]:
    """Return data.json: what was learned from, and what was left out."""
    data = found.data
    lengths = data.store.lengths[data.clips.positions]
    splits = [split for fold in data.partition.folds for split in fold.splits]
    return {
        "targets": [
            {
                "name": target.name,
                "task": target.task,
                "classes": list(target.classes) or None,
                "labelled": int(target.present.sum()),
                "predictions": _predictions_name(number),
                "class_counts": _class_counts(target, splits[0]),
                "thresholds": _mean_thresholds(found, number, target),
            }
            for number, target in enumerate(data.clips.targets)
        ],
        "group": found.settings.group,
        "validation": found.settings.validation,
        "repeats": found.settings.repeats,
        "folds": [
            {"name": fold.name, "repetition": fold.repetition, "members": len(fold.splits)}
            | count_sides(fold.splits[0], data.partition.groups)
            for fold in data.partition.folds
        ],
        "split_sha256": [split_sha256(data.clips.video_ids, split) for split in splits],
        "left_out": data.clips.left_out,
        "balance": {
            "kind": found.settings.balance,
            "description": found.balance.description,
            "distributions": [dataclasses.asdict(d) for d in found.balance.distributions],
        },
        "best_epochs": {result.unit.name: result.best_epoch for result in found.units},
        "gain_confidence": {result.unit.name: result.gain_confidence for result in found.units},
        "near_duplicates": [dataclasses.asdict(pair) for pair in found.near_duplicates],
        "notices": list(found.notices),
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "map_variance": list(shown.variance),
    }


def _mean_thresholds(found: Findings, number: int, target: Target) -> list[float] | None:
    """Return the probability from which each output is positive, for clips of no fold."""
    if target.task not in {"binary", "multilabel"}:
        return None
    chosen = [
        np.broadcast_to(
            thresholds_of(target, number, result, RECURRENT, found.settings), target.num_outputs
        )
        for result in found.folds
    ]
    means: list[float] = np.mean(chosen, axis=0).tolist()
    return means


def _class_counts(target: Target, split: Any) -> dict[str, dict[str, int]] | None:
    """Count the clips of each class or label on each side of the first split."""
    if not target.classes:
        return None
    return {
        side: dict(
            zip(
                target.classes,
                _count(target.at(clips)).tolist(),
                strict=True,
            )
        )
        for side, clips in split.items()
    }


def _count(target: Target) -> NDArray[np.intp]:
    numbers = target.numbers[target.present]
    if target.task == "multilabel":
        return np.asarray(numbers.sum(axis=0), np.intp)
    return np.bincount(numbers, minlength=len(target.classes))


def _metrics_document(found: Findings) -> dict[str, Any]:
    """Return metrics.json."""
    return {
        "confidence": CONFIDENCE,
        "resampled_by": found.settings.group or "clip",
        "num_resamples": found.settings.resamples,
        "targets": {
            name: {
                "task": scores.task,
                "primary": metrics.PRIMARY[scores.task],
                "validation": _as_numbers(scores.validation),
                "test": _as_numbers(scores.test),
                "subjects": None
                if scores.subjects is None
                else {
                    "count": scores.num_subjects,
                    "left_out": scores.num_mixed_subjects,
                    "test": _as_numbers(scores.subjects),
                },
                "regions": scores.regions,
            }
            for name, scores in found.scores.items()
        },
    }


def _as_numbers(scores: Scores) -> dict[str, Any]:
    return {
        model: {name: dataclasses.asdict(score) for name, score in of_model.items()}
        for model, of_model in scores.items()
    }


def _split_table(data: TrainingData) -> pd.DataFrame:
    """Return split.csv: id and group of every clip, and its side in every split."""
    columns: dict[str, Any] = {
        "video_id": data.clips.video_ids,
        "group": data.partition.group_names,
    }
    folds = data.partition.folds
    for number, fold in enumerate(folds):
        for member, split in enumerate(fold.splits):
            several = len(folds) > 1 or len(fold.splits) > 1
            columns[f"fold{number}-member{member}" if several else "split"] = split.name_of_clip
    return pd.DataFrame(columns)


def _history_table(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Return history.csv: one row an epoch of every training."""
    return pd.concat(
        [
            result.history.assign(
                fold=result.unit.fold, member=result.unit.member, repeat=result.unit.repeat
            )
            for result in units
        ],
        ignore_index=True,
    )


def _predictions_table(found: Findings, number: int, target: Target) -> pd.DataFrame:
    """Return predictions.csv: target, predictions and probabilities of validation and test clips.

    A clip has one row for each fold and repeat that validated or tested it.
    """
    parts = [
        _side_table(found, result, side, number, target)
        for result in found.folds
        for side in ("validation", "test")
    ]
    return pd.concat(parts, ignore_index=True)


def _side_table(
    found: Findings, result: FoldResult, side: str, number: int, target: Target
) -> pd.DataFrame:
    clips = getattr(result, side)
    of_clips = target.at(clips)
    columns: dict[str, Any] = {
        "fold": result.fold,
        "repeat": result.repeat,
        "video_id": found.data.clips.video_ids[clips],
        "split": side,
        "group": found.data.partition.group_names[clips],
        "target": label_texts(of_clips),
    }
    for model, predictions in getattr(result, f"{side}_predictions").items():
        values = predictions[number]
        limit = thresholds_of(target, number, result, model, found.settings)
        columns |= _model_columns(target, values, limit, PREFIXES[model])
    return pd.DataFrame(columns)


def _model_columns(
    target: Target, values: NDArray[np.float64], limit: NDArray[np.float64], prefix: str
) -> dict[str, Any]:
    if target.task == "regression":
        return {f"{prefix}prediction": values[:, 0]}
    if target.task == "binary":
        chosen = (values[:, 0] >= limit[0]).astype(int)
        values = np.concatenate([1 - values, values], axis=1)
    elif target.task == "multilabel":
        chosen = (values >= limit).astype(int)
    else:
        chosen = values.argmax(axis=1)
    names = {f"{prefix}prediction": named(target, chosen)}
    return names | {
        f"{prefix}probability_{name}": values[:, i] for i, name in enumerate(target.classes)
    }

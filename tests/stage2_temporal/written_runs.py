"""Run folders written by hand, for the tests of the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stage2_temporal.strip_files import (
    FRAME_SIZE,
    MAX_STRIPS,
    NUM_SHOWN,
    Curve,
    Strip,
    Strips,
    save_strips,
)
from stage2_temporal.strip_frames import as_jpegs

FILES = [
    *("settings.json", "data.json", "metrics.json"),
    *("history.csv", "scores_by_fold.csv", "predictions.csv", "clips.csv"),
]
PRIMARY = {
    **{"binary": "auroc", "multiclass": "balanced_accuracy"},
    **{"multilabel": "auprc_macro", "regression": "mae"},
}
SIDES = ("train", "validation", "test")
NUM_CLIPS = 8


def score(
    value: float | None, low: float | None = None, high: float | None = None, **more: Any
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "spread": None, "num_resamples": 9} | more


def target_of(task: str, classes: Sequence[str] | None, name: str = "abnormal") -> dict[str, Any]:
    classes = None if task == "regression" else list(classes or ["0", "1"])
    counts = (
        {side: dict.fromkeys(classes, 21 + i) for i, side in enumerate(SIDES)} if classes else 0
    )
    return {
        **{"name": name, "task": task, "classes": classes, "labelled": 130},
        **{"predictions": f"predictions{'' if name == 'abnormal' else '-1'}.csv"},
        "class_counts": counts or None,
        "thresholds": None if classes is None else [0.5],
    }


def target_scores(task: str, *, features: bool = False) -> dict[str, Any]:
    primary = PRIMARY[task]
    test = {
        "recurrent": {primary: score(0.9123, 0.8432, 0.9644), "brier": score(None)},
        "mean_pool": {primary: score(0.8765, 0.7901, 0.9402), "brier": score(float("nan"), 0, 1)},
        "difference": {primary: score(0.0358, -0.0211, 0.0933), "brier": score(None)},
    }
    if features:
        test["features"] = {primary: score(0.7123, 0.6, 0.8), "brier": score(0.3)}
        test["difference_features"] = {primary: score(0.2, 0.1, 0.3), "brier": score(0.1)}
    region = {"region": "many", "num_training_clips": 77, "num_clips": 5, "mae": 0.456}
    empty = {"region": "few", "num_training_clips": 3, "num_clips": 0, "mae": None}
    return {
        **{"task": task, "primary": primary, "test": test},
        "validation": {"recurrent": {primary: score(0.8, spread=0.05)}, "mean_pool": {}},
        "subjects": {"count": 13, "left_out": 2, "test": test},
        "regions": {"recurrent": [region, empty], "mean_pool": [region, empty]}
        if task == "regression"
        else None,
    }


def data_of(
    targets: list[dict[str, Any]], folds: int, members: int, repeats: int
) -> dict[str, Any]:
    sides = {
        "train": {"clips": 90, "groups": 51},
        "validation": {"clips": 21, "groups": 11},
        "test": {"clips": 19, "groups": 13},
    }
    units = [(f, m, r) for f in range(folds) for m in range(members) for r in range(repeats)]
    return {
        "targets": targets,
        "group": "patient",
        "validation": "holdout" if folds == 1 else "kfold",
        "repeats": repeats,
        "folds": [
            {"name": f"fold {i}", "repetition": 0, "members": members} | sides for i in range(folds)
        ],
        "split_sha256": ["5plit5ha"],
        "left_out": {"blank target": 7},
        "balance": {
            **{"kind": "oversample", "description": "oversample abnormal: 31 -> 59"},
            "distributions": [
                {"name": "abnormal", "labels": ["lo", "hi"], "before": [31, 59], "after": [59, 59]}
            ],
        },
        "best_epochs": {"fold{}-member{}-repeat{}".format(*unit): 2 for unit in units},
        "gain_confidence": {"fold{}-member{}-repeat{}".format(*unit): 0.99 for unit in units},
        "near_duplicates": [],
        "notices": ["clip_8 ended early"],
        "lengths": {"min": 12, "median": 48.5, "max": 96},
        "map_variance": [0.375, 0.125],
    }


def settings_of(**settings: Any) -> dict[str, Any]:
    return {
        "format": "stage2-run",
        "format_version": 3,
        "created": "2025-11-21T10:12:31+00:00",
        "software": {"keras": "3.12.7"},
        "settings": {"head": "lstm", "units": 64, "duplicate_cosine": 0.999, "threshold": 0.5}
        | {"skip": True, "positive": None}
        | settings,
        "command": "stage2-temporal train S M R --target abnormal",
        "store": {"path": "/s", "fingerprint": "f1nger", "num_sequences": 137}
        | {"embedding_dim": 1280, "dtype": "float16", "settings": {"backbone": "MobileNetV2"}},
        "manifest": {"path": "/m.csv", "sha256": "mani5ha", "num_clips": 137},
    }


def history_of(data: dict[str, Any]) -> pd.DataFrame:
    tables = []
    for unit in data["best_epochs"]:
        fold, member, repeat = (int("".join(filter(str.isdigit, w))) for w in unit.split("-"))
        rows = {"epoch": [0, 1, 2, 3], "loss": [np.nan, 0.7, 0.5, 0.4]}
        rows |= {"val_loss": [0.8, 0.7, 0.6, 0.65], "learning_rate": [np.nan, 1e-3, 1e-3, 1e-3]}
        tables.append(pd.DataFrame(rows).assign(fold=fold, member=member, repeat=repeat))
    return pd.concat(tables)


def predictions_of(
    target: dict[str, Any], models: Sequence[str], folds: int, repeats: int
) -> pd.DataFrame:
    """The first class gets 0.7; clip i is of class i; other repeats predict the last class."""
    tables = []
    for fold in range(folds):
        for repeat in range(repeats):
            ids = [f"clip_{fold}_{i}" if fold else f"clip_{i}" for i in range(NUM_CLIPS)]
            split = ["validation", *["test"] * (NUM_CLIPS - 1)]
            columns: dict[str, Any] = {"fold": fold, "repeat": repeat, "video_id": ids}
            columns |= {"split": split, "group": [f"p0{i}" for i in range(NUM_CLIPS)]}
            table = pd.DataFrame(columns)
            tables.append(table.join(_predicted(target, models, repeat)))
    return pd.concat(tables)


def _predicted(target: dict[str, Any], models: Sequence[str], repeat: int) -> pd.DataFrame:
    prefixes = {"recurrent": "", "mean_pool": "baseline_", "features": "features_"}
    classes = target["classes"]
    if classes is None:
        columns: dict[str, Any] = {"target": [10.0 * (i + 1) for i in range(NUM_CLIPS)]}
        columns |= {
            f"{prefixes[m]}prediction": [44.5 + i] * NUM_CLIPS for i, m in enumerate(models)
        }
        return pd.DataFrame(columns)
    columns = {"target": [classes[i % len(classes)] for i in range(NUM_CLIPS)]}
    for model in models:
        named = classes[0] if model == "recurrent" and repeat == 0 else classes[-1]
        columns[f"{prefixes[model]}prediction"] = [named] * NUM_CLIPS
        for label in classes:
            value = 0.7 if label == classes[0] else 0.3 / (len(classes) - 1)
            columns[f"{prefixes[model]}probability_{label}"] = [value] * NUM_CLIPS
    return pd.DataFrame(columns)


def clips_of(targets: list[dict[str, Any]], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The clips that a target's table names, on a line, and one that trains."""
    first = tables[targets[0]["predictions"]].drop_duplicates("video_id")
    columns: dict[str, Any] = {name: [*first[name], "train"] for name in ("video_id", "group")}
    number = np.arange(len(first) + 1)
    columns |= {"frames": 12 + number, "seconds": [*number[:-1] / 4, np.nan]}
    columns |= {"x": number * 2.0, "y": number * -1.0}
    for target in targets:
        labels = tables[target["predictions"]].drop_duplicates("video_id")["target"]
        columns[f"target_{target['name']}"] = [*labels, labels.iloc[0]]
    return pd.DataFrame(columns)


def write_clips(folder: Path) -> None:
    """Write clips.csv anew, for predictions that were changed."""
    targets = json.loads((folder / "data.json").read_text())["targets"]
    tables = {
        target["predictions"]: pd.read_csv(
            folder / target["predictions"], dtype=str, keep_default_na=False
        )
        for target in targets
    }
    clips_of(targets, tables).to_csv(folder / "clips.csv", index=False)


def by_fold_of(metrics: dict[str, Any], folds: int, repeats: int) -> pd.DataFrame:
    rows = [
        (fold, 0, repeat, name, model, side, scores["primary"], 0.5 + fold / 100)
        for name, scores in metrics["targets"].items()
        for model in ("recurrent", "mean_pool", "features")
        if model in scores["test"]
        for side in ("validation", "test")
        for fold in range(folds)
        for repeat in range(repeats)
    ]
    columns = ["fold", "repetition", "repeat", "target", "model", "split", "score", "value"]
    return pd.DataFrame(rows, columns=columns)


def make_run(
    folder: Path,
    task: str = "binary",
    classes: Sequence[str] | None = None,
    *,
    second: str | None = None,
    features: bool = False,
    folds: int = 1,
    members: int = 1,
    repeats: int = 1,
    **changes: Any,
) -> Path:
    """Write a complete run of a target, and of a second one of that task; change data.json."""
    targets = [target_of(task, classes)] + ([target_of(second, None, "other")] if second else [])
    data = data_of(targets, folds, members, repeats) | changes
    metrics = {
        **{"confidence": 0.95, "resampled_by": "patient", "num_resamples": 1000},
        "targets": {
            target["name"]: target_scores(target["task"], features=features) for target in targets
        },
    }
    documents = {"settings.json": settings_of(), "data.json": data, "metrics.json": metrics}
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    tables = {
        "history.csv": history_of(data),
        "scores_by_fold.csv": by_fold_of(metrics, folds, repeats),
    }
    models = ["recurrent", "mean_pool", *(["features"] if features else [])]
    for target in targets:
        tables[target["predictions"]] = predictions_of(target, models, folds, repeats)
    tables["clips.csv"] = clips_of(targets, tables)
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
    return folder


def make_many(folder: Path, num_clips: int) -> Path:
    """Write a run of so many test clips with long names, and twelve strips of noise."""
    run = make_run(folder, "multiclass", ["covid", "pneumonia", "healthy"])
    table = pd.read_csv(run / "predictions.csv", dtype=str).query("split == 'test'")
    table = pd.concat([table] * (num_clips // len(table) + 1), ignore_index=True)[:num_clips]
    table["video_id"] = [f"hospital/ward {'of a day, ' * 9} {i}" for i in range(num_clips)]
    table.to_csv(run / "predictions.csv", index=False)
    write_clips(run)
    rng = np.random.default_rng(0)
    place = rng.normal(size=(num_clips + 1, 2))
    clips = pd.read_csv(run / "clips.csv", dtype=str).assign(x=place[:, 0], y=place[:, 1])
    clips.to_csv(run / "clips.csv", index=False)
    noise = rng.integers(0, 256, (MAX_STRIPS, NUM_SHOWN, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    images = zip(table["video_id"], as_jpegs(list(noise)), strict=False)
    save_strips(run, Strips(tuple(_strip(name, image) for name, image in images)))
    return run


def _strip(video_id: str, image: bytes) -> Strip:
    curves = tuple(
        Curve(name, role, (*np.linspace(0.1, 0.9, 64).tolist(),))
        for name, role in (("covid", "target"), ("healthy", "prediction"))
    )
    return Strip(
        "abnormal",
        video_id,
        num_frames=64,
        shown=tuple(range(4, 64, 8)),
        seconds=tuple(float(second) for second in range(NUM_SHOWN)),
        attention=(1 / 64,) * 64,
        prefixes=tuple(range(1, 65)),
        curves=curves,
        image=image,
    )


def edit(path: Path, *keys: str | int, value: object) -> None:
    """Change a place in a JSON file."""
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(document))

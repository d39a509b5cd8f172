"""Whether defaults lose to the average: recurrent models against the mean-pool baseline."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage2_temporal.bootstrap import Score
from stage2_temporal.config import TrainSettings
from stage2_temporal.metrics import PRIMARY
from stage2_temporal.training import train
from tests.benchmarks.results import record

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
LUNG, DRONE = SHARED / "data/lung_ultrasound", SHARED / "data/drone_infrared"
WEIGHTS = SHARED / "weights/mobilenet_7_5_224_tf_no_top.rebuilt.h5"

PLAIN: dict[str, Any] = {
    "skip": False,
    "projection": 0,
    "layer_norm": False,
    "units": 64,
    "input_dropout": 0.5,
    "dropout": 0.5,
}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "best epoch anyway": {"gain_confidence": 0.0},
    "without skip": {"skip": False},
    "plain GRU(64)": PLAIN,
    "plain LSTM(64)": {**PLAIN, "head": "lstm"},
    "plain GRU(64), attention": {**PLAIN, "pooling": "attention"},
    "LSTM": {"head": "lstm"},
    "attention": {"pooling": "attention"},
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A question to real or generated clips."""

    name: str
    store: str
    target: str
    group: str
    excluded: str | None = None
    """Class that is left out."""


TASKS = (
    Task("lung, abnormal", "lung", "abnormal", "patient"),
    Task("lung, 3 classes", "lung", "label", "patient", excluded="viral_pneumonia"),
    Task("drone, 4 classes", "drone", "label", "scene"),
    Task("drone, log2 area", "drone", "log2_target_area", "scene"),
    Task("demo, motion", "demo", "motion", "digit_image"),
    Task("demo, speed", "demo", "speed", "digit_image"),
)


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--stores", type=Path, help="folder that keeps the stores for a next time")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["default"])
    parser.add_argument("--tasks", nargs="+", default=[task.name for task in TASKS])
    parser.add_argument("--fold-repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.stores or Path(name)
        for task in TASKS:
            if task.name not in arguments.tasks:
                continue
            store, manifest = prepared(folder, task)
            for way in arguments.ways:
                settings = TrainSettings(
                    task.target,
                    group=task.group,
                    blank_target="drop",
                    unmatched="drop",
                    validation="kfold",
                    fold_repeats=arguments.fold_repeats,
                    seed=arguments.seed,
                    **WAYS[way],
                )
                rows.append(row_of(task, way, store, manifest, settings, Path(name) / "run"))
                print(rows[-1], flush=True)
    head = "| data | way | score | recurrent | mean-pool | difference | trained models kept |"
    record(
        "Recurrent models against the mean-pool baseline",
        f"`python -m tests.benchmarks.bench_defaults`: {arguments.fold_repeats} x 5 grouped folds, "
        f"seed {arguments.seed}; frozen MobileNet alpha 0.75, `uniform:32` (demo: random "
        "MobileNetV2). Pooled test scores, mean over the repetitions, 95 % intervals by group; the "
        "difference is paired, and mae is better when lower.",
        [head, "|---|---|---|---|---|---|---|", *rows],
        append=not arguments.dry,
    )


def row_of(
    task: Task, way: str, store: Path, manifest: Path, settings: TrainSettings, run: Path
) -> str:
    """Train and return the table's row."""
    settings = dataclasses.replace(settings, overwrite=True)
    result = train(store, manifest, run, settings)
    name = PRIMARY[next(iter(result.tasks.values()))]
    test = result.scores["test"]
    epochs = json.loads((run / "data.json").read_text())["best_epochs"].values()
    kept = sum(epoch > 0 for epoch in epochs)
    scores = " | ".join(
        interval(test[model][name]) for model in ("recurrent", "mean_pool", "difference")
    )
    return f"| {task.name} | {way} | {name} | {scores} | {kept} of {len(epochs)} |"


def interval(score: Score) -> str:
    """Return a score with its interval as text."""
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def prepared(folder: Path, task: Task) -> tuple[Path, Path]:
    """Return a task's store and manifest; what is missing is made."""
    source = {"lung": LUNG, "drone": DRONE, "demo": folder / "demo_videos"}[task.store]
    if task.store == "demo":
        if not source.exists():
            subprocess.run([sys.executable, ROOT / "data/demo.py", source], check=True)
        settings = ExtractSettings(
            "MobileNetV2",
            alpha=0.35,
            weights="random",
            input_size=96,
            sampling="all",
            dtype="float32",
        )
    else:
        settings = ExtractSettings(
            "MobileNet", alpha=0.75, weights=str(WEIGHTS), sampling="uniform:32"
        )
    extract(source / "manifest.csv", folder / task.store, settings)
    if task.excluded is None:
        return folder / task.store, source / "manifest.csv"
    table = pd.read_csv(source / "manifest.csv", dtype=str, keep_default_na=False)
    manifest = folder / f"{task.store} without {task.excluded}.csv"
    table[table[task.target] != task.excluded].to_csv(manifest, index=False)
    return folder / task.store, manifest


if __name__ == "__main__":
    main()

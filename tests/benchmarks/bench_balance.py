"""Balancing on imbalanced data made from the drone clips: does it help, and whom?"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage2_temporal.bootstrap import Score, bootstrap, bootstrap_difference
from stage2_temporal.config import TrainSettings
from stage2_temporal.regions import REGIONS, regions_of
from stage2_temporal.training import train
from tests.benchmarks.bench_defaults import DRONE, WEIGHTS, interval
from tests.benchmarks.results import record

FEW_SCENES = {"bird": 10, "helicopter": 10}
"""Scenes that are left of a class; the other classes keep all."""
NUM_RESAMPLES = 2000


def main() -> None:
    """Measure, print and append both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--stores", type=Path, help="folder that keeps the store for a next time")
    parser.add_argument("--fold-repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = (arguments.stores or folder) / "drone"
        settings = ExtractSettings(
            "MobileNet", alpha=0.75, weights=str(WEIGHTS), sampling="uniform:32"
        )
        extract(DRONE / "manifest.csv", store, settings)
        classes = class_table(store, folder, arguments.fold_repeats)
        values = value_table(store, folder, arguments.fold_repeats)
    how = (
        "`python -m tests.benchmarks.bench_balance`: drone clips, "
        f"{arguments.fold_repeats} x 5 folds by scene, default settings; 95 % intervals by scene, "
        "differences paired. "
    )
    record(
        "Balancing classes",
        how + f"Four classes, with the clips of {FEW_SCENES} scenes only.",
        classes,
        append=not arguments.dry,
    )
    record(
        "Balancing values",
        how + "MAE of log2_target_area on all clips, and on those in the third of the label range "
        "that has the fewest clips.",
        values,
        append=not arguments.dry,
    )


def class_table(store: Path, folder: Path, fold_repeats: int) -> list[str]:
    """Return the rows on balanced accuracy."""
    table = pd.read_csv(DRONE / "manifest.csv", dtype=str, keep_default_na=False)
    for label, count in FEW_SCENES.items():
        scenes = table.loc[table["label"] == label, "scene"].unique()
        kept = np.random.default_rng(0).permutation(scenes)[:count]
        table = table[(table["label"] != label) | table["scene"].isin(kept)]
    manifest = folder / "imbalanced.csv"
    table.to_csv(manifest, index=False)
    counts = table["label"].value_counts().to_dict()
    rows = [f"Clips: {counts}.", "", "| balance | model | balanced accuracy | minus none |"]
    rows += ["|---|---|---|---|"]
    none: dict[str, list[NDArray[np.float64]]] = {}
    for way in ("none", "oversample", "weights"):
        found = tested(store, manifest, "label", way, folder / "run", fold_repeats)
        classes = sorted(map(str, counts))
        for model, prefix in (("recurrent", ""), ("mean-pool", "baseline_")):
            names = [f"{prefix}probability_{label}" for label in classes]
            rounds = by_repetition(found, names)
            first = found[found["repetition"] == 0].sort_values("video_id")
            target = np.searchsorted(classes, first["target"].to_numpy(str))
            groups = np.unique(first["group"], return_inverse=True)[1]
            none.setdefault(model, rounds)
            rows.append(compared("multiclass", target, rounds, none[model], groups, way, model))
    return rows


def value_table(store: Path, folder: Path, fold_repeats: int) -> list[str]:
    """Return the rows on the error of a continuous target."""
    rows = ["| balance | model | clips | MAE | minus none |", "|---|---|---|---|---|"]
    none: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for way in ("none", "uniformize", "weights"):
        manifest = DRONE / "manifest.csv"
        found = tested(store, manifest, "log2_target_area", way, folder / "run", fold_repeats)
        first = found[found["repetition"] == 0].sort_values("video_id")
        target = first["target"].to_numpy(float)
        groups = np.unique(first["group"], return_inverse=True)[1]
        few = regions_of(target, target) == REGIONS.index("few")
        for model, column in (("recurrent", "prediction"), ("mean-pool", "baseline_prediction")):
            rounds = [values[:, 0] for values in by_repetition(found, [column])]
            for clips, chosen in (("all", np.ones(len(target), bool)), ("rarest third", few)):
                parts = [values[chosen] for values in rounds]
                none.setdefault((model, clips), parts)
                row = compared(
                    "regression",
                    target[chosen],
                    parts,
                    none[model, clips],
                    groups[chosen],
                    way,
                    f"{model} | {clips}, {chosen.sum()}",
                )
                rows.append(row)
    return rows


def tested(
    store: Path, manifest: Path, target: str, way: str, run: Path, fold_repeats: int
) -> pd.DataFrame:
    """Train and return the test rows of predictions.csv, with their repetition."""
    settings = TrainSettings(
        target,
        group="scene",
        blank_target="drop",
        unmatched="drop",
        validation="kfold",
        fold_repeats=fold_repeats,
        balance=way,
        resamples=10,
        overwrite=True,
    )
    train(store, manifest, run, settings)
    table = pd.read_csv(run / "predictions.csv", keep_default_na=False)
    table = table[table["split"] == "test"]
    return table.assign(repetition=table["fold"] // settings.num_folds)


def by_repetition(found: pd.DataFrame, columns: list[str]) -> list[NDArray[np.float64]]:
    """Return the columns (N, k) of each repetition, clips sorted by id."""
    return [
        part.sort_values("video_id")[columns].to_numpy(float)
        for _, part in found.groupby("repetition")
    ]


def compared(
    task: str,
    target: NDArray[Any],
    rounds: list[NDArray[np.float64]],
    none: list[NDArray[np.float64]],
    groups: NDArray[np.intp],
    way: str,
    model: str,
) -> str:
    """Return a row: the score, and its difference to no balancing."""
    score = "mae" if task == "regression" else "balanced_accuracy"
    options: dict[str, Any] = {"num_resamples": NUM_RESAMPLES, "seed": 0}
    own: Score = bootstrap(task, target, rounds, groups, **options)[score]
    difference = ""
    if way != "none":
        paired = bootstrap_difference(task, target, rounds, none, groups, **options)
        difference = interval(paired[score])
    return f"| {way} | {model} | {interval(own)} | {difference} |"


if __name__ == "__main__":
    main()

"""Data for whole runs, and how their files are read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stage2_temporal import cli
from stage2_temporal.training import TrainResult, train
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store

NUM_CLIPS = 40
IDS = [f"{i:03d}" for i in range(NUM_CLIPS)]
SAME = ("predictions.csv", "metrics.json", "history.csv", "split.csv", "scores_by_fold.csv")
"""Files that equal runs have byte for byte."""
FOLDS_TOML = """
target = ["label", "ef"]
task = ["binary", "regression"]
group = "patient"
validation = "kfold"
folds = 2
fold_repeats = 2
threshold = "validation"
pooling = "attention"
gain_confidence = 0
blank_target = "drop"
units = 4
epochs = 2
batch_size = 8
resamples = 20
"""
HOLDOUT: dict[str, Any] = {
    "target": ["grade", "a+b"],
    "group": "patient",
    "split_column": "side",
    "blank_target": "drop",
    "gain_confidence": 0.0,
}


@dataclasses.dataclass(frozen=True)
class WholeRun:
    """A run that the command made: its folder, exit code and what it printed."""

    folder: Path
    code: int
    printed: str


def columns() -> dict[str, Any]:
    """Return the manifest by clip: of 20 patients with two clips each, two differ in label."""
    number = np.arange(NUM_CLIPS)
    patient = number % 20
    patient[18], patient[19] = 19, 18
    return {
        "label": np.where(number % 2, "Rising", "None"),  # None: a word, not a blank
        "grade": ["" if i in (3, 16) else ("low", "mid", "high")[i // 2 % 3] for i in number],
        "ef": ["" if i in (7, 24) else 30.25 + 1.5 * i for i in number],
        "a": ["" if i == 5 else int(i % 3 == 0) for i in number],
        "b": number % 2,
        "patient": [f"{i:03d}" for i in patient],
        "site": [f"S{i // 2 % 4}" for i in patient],
        "part": [f"part {i // 2 % 3}" for i in patient],
        "side": np.select([patient < 12, patient < 16], ["train", "val"], "test"),
    }


def write_data(folder: Path) -> None:
    """Write store, manifest.csv with shuffled rows, and table.csv with side features."""
    sequences, _ = ordered(NUM_CLIPS, lengths=(8, 8))
    write_store(folder / "store", dict(zip(IDS, sequences.values(), strict=True)))
    order = np.random.default_rng(0).permutation(NUM_CLIPS)
    shuffled = {name: np.asarray(values)[order] for name, values in columns().items()}
    write_manifest(folder / "m.csv", [IDS[i] for i in order], **shuffled)
    side_features().to_csv(folder / "table.csv", index=False)


def side_features() -> pd.DataFrame:
    """Return features of the clips and of others: `tells` is the label, blank in five clips."""
    number = np.arange(NUM_CLIPS + 3)[::-1]
    tells = np.where(number % 2, 1.5, -1.5)
    tells[::9] = np.nan
    return pd.DataFrame(
        {
            "video_id": [f"{i:03d}" for i in number],
            "tells": tells,
            "scanner": np.where(number % 3, "GE", "Philips"),
            "note": [f"text {i}" for i in number],
        }
    )


def import_table(folder: Path) -> None:
    """Import table.csv by the command."""
    argv = ["features", str(folder / "table.csv"), str(folder / "table.h5"), "--drop", "note"]
    assert cli.main(argv) == 0


def arguments(data: Path, run: Path, *flags: str, manifest: str = "m.csv") -> list[str]:
    """Return the command that trains across folds, with side features."""
    where = [str(data / "store"), str(data / manifest), str(run)]
    options = ["--config", str(data / "folds.toml"), "--feature-table", str(data / "table.h5")]
    return ["train", *where, *options, *flags]


def command(data: Path, run: Path, *flags: str, manifest: str = "m.csv") -> int:
    """Train across folds, with side features, by the command; returns its exit code."""
    return cli.main(arguments(data, run, *flags, manifest=manifest))


def holdout(data: Path, run: Path, manifest: str = "m.csv", **changes: Any) -> TrainResult:
    """Train on one split."""
    return train(data / "store", data / manifest, run, quick(**{**HOLDOUT, **changes}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path, files: tuple[str, ...] = SAME) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_texts(path: Path) -> pd.DataFrame:
    """Read a CSV file as it is written: texts, no blanks turned into NaN."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def predictions(folder: Path, number: int = 0) -> pd.DataFrame:
    """Read the predictions of a target; probabilities are numbers."""
    table = read_texts(folder / (f"predictions-{number}.csv" if number else "predictions.csv"))
    numeric = [name for name in table.columns if "probability_" in str(name)]
    return table.astype(dict.fromkeys(numeric, float) | {"fold": int, "repeat": int})


def values(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of numbers, NaN where blank."""
    found: pd.Series = pd.to_numeric(table[column])
    return found

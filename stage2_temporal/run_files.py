"""Reading a run folder: every file checked before it is used."""

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stage2_temporal.metrics import higher_is_better

MODELS = {"recurrent": "recurrent model", "mean_pool": "mean-pool baseline"}

Json = dict[str, Any]

# What a complete run holds: key to type, alternative types, or the shape of the object below.
_NUMBER = (int, float)


_NULL = type(None)


_SPLIT = {"clips": int, "groups": int}


SCORE_KEYS = ("value", "low", "high")


_SCORES = {"recurrent": dict, "mean_pool": dict, "difference": dict}


_SHAPES: dict[str, Json] = {
    "settings.json": {
        **dict.fromkeys(("format", "created", "command"), str),
        **dict.fromkeys(("software", "settings"), dict),
        "store": {"path": str, "fingerprint": str, "settings": dict, "dtype": str}
        | {"num_sequences": int, "embedding_dim": int},
        "manifest": {"path": str, "sha256": str, "num_clips": int},
    },
    "data.json": {
        **dict.fromkeys(("task", "target", "split_sha256", "balance"), str),
        **{"classes": (list, _NULL), "group": (str, _NULL), "left_out": dict, "notices": list},
        "split": dict.fromkeys(("train", "validation", "test"), _SPLIT),
        "distribution": dict.fromkeys(("labels", "before", "after"), list),
        "lengths": dict.fromkeys(("min", "median", "max"), _NUMBER),
    },
    "metrics.json": {
        **{"primary": str, "confidence": _NUMBER, "resampled_by": str, "num_resamples": int},
        **{"test": _SCORES, "validation": _SCORES},
    },
}


@dataclass(frozen=True)
class Run:
    """The files of a run folder, read and checked.

    Attributes:
        settings: `settings.json`.
        data: `data.json`.
        metrics: `metrics.json`.
        history: `history.csv`, one row an epoch.
        test: The test rows of `predictions.csv`: labels are text, numbers are finite floats.
    """

    settings: Json
    data: Json
    metrics: Json
    history: pd.DataFrame
    test: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """Class labels in the order of `data.json`; empty for regression."""
        return list(self.data["classes"] or [])


def read_run(run_folder: Path) -> Run:
    """Read and check the files of a run folder; errors say which file is wrong.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file is not what a complete run holds.
    """
    settings, data, metrics = (_read_json(run_folder / name) for name in _SHAPES)
    if (settings["format"], settings.get("format_version")) != ("stage2-run", 1):
        got = f"format {settings['format']!r}, version {settings.get('format_version')!r}"
        raise _incomplete(
            run_folder / "settings.json", f"expected stage2-run, version 1, got {got}"
        )
    if len({len(part) for part in data["distribution"].values()}) > 1:
        raise _incomplete(run_folder / "data.json", "distribution: its lists differ in length")
    _check_scores(metrics, run_folder / "metrics.json")
    history = _read_history(run_folder / "history.csv", data.get("best_epoch"))
    test = _read_test(run_folder / "predictions.csv", data["classes"])
    return Run(settings, data, metrics, history, test)


def _incomplete(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path}: {problem}. This folder is not a complete run: train it again.")


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. This folder is not a complete run.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _incomplete(path, f"not UTF-8 text ({error})") from error


def _read_json(path: Path) -> Json:
    text = _read_text(path)
    try:
        document: Json = json.loads(text)
    except ValueError as error:
        raise _incomplete(path, f"not JSON ({error})") from error
    problem = next(_problems(document, _SHAPES[path.name]), None)
    if problem:
        raise _incomplete(path, problem)
    return document


def _problems(document: object, shape: Json, where: str = "") -> Iterator[str]:
    if not isinstance(document, dict):
        yield f"expected an object at {where or 'the top'}, got {document!r}"
        return
    for key, expected in shape.items():
        name = f"{where}.{key}".lstrip(".")
        if key not in document:
            yield f"{name} is missing"
        elif isinstance(expected, dict):
            yield from _problems(document[key], expected, name)
        elif not isinstance(document[key], expected):
            yield f"{name} is {document[key]!r}, expected {expected}"


def _check_scores(metrics: Json, path: Path) -> None:
    if metrics["primary"] not in metrics["test"]["recurrent"]:
        raise _incomplete(path, f"no test score of the primary metric {metrics['primary']!r}")
    try:
        higher_is_better(metrics["primary"])
    except ValueError as error:
        raise _incomplete(path, f"primary: {error}") from error
    for split, who in itertools.product(("test", "validation"), _SCORES):
        for name, score in metrics[split][who].items():
            values = [score.get(k) for k in SCORE_KEYS] if isinstance(score, dict) else [score]
            if len(values) == 1 or not all(isinstance(v, (*_NUMBER, _NULL)) for v in values):
                problem = f"{split}.{who}.{name} is {score!r}, expected value, low and high"
                raise _incomplete(path, problem)


def _read_csv(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    text = _read_text(path)
    try:
        # Everything as text: a class named "NA" or "01" is not a missing value or the number 1.
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise _incomplete(path, f"not a CSV table ({error})") from error
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        problem = f"missing columns {missing}" if missing else "no rows"
        raise _incomplete(path, f"{problem}; the columns are {list(table.columns)}")
    return table


def _numbers(table: pd.DataFrame, columns: Iterable[str], path: Path) -> pd.DataFrame:
    try:
        return table.assign(**{name: pd.to_numeric(table[name]) for name in columns})
    except ValueError as error:
        raise _incomplete(path, f"a number was expected: {error}") from error


def _read_history(path: Path, best_epoch: int | None) -> pd.DataFrame:
    table = _read_csv(path, ["epoch", "loss", "val_loss"])
    history = _numbers(table, table.columns, path)
    if not np.isfinite(history["epoch"].to_numpy(float)).all():
        raise _incomplete(path, "the column epoch holds blank or infinite values")
    if best_epoch is not None and best_epoch not in set(history["epoch"]):
        raise _incomplete(path, f"data.json chose epoch {best_epoch!r}, which has no row here")
    return history


def _read_test(path: Path, classes: list[str] | None) -> pd.DataFrame:
    labels = ["target", "prediction", "baseline_prediction"]
    scores = [f"{who}probability_{label}" for who in ("", "baseline_") for label in classes or []]
    table = _read_csv(path, ["video_id", "split", "group", *labels, *scores])
    test = table[table["split"] == "test"].reset_index(drop=True)
    if test.empty:
        raise _incomplete(path, f"no row of split 'test', only {sorted(set(table['split']))}")
    if classes is not None:
        unknown = sorted(set(test[labels].to_numpy().ravel()) - set(classes))
        if unknown:
            raise _incomplete(path, f"labels {unknown} are not among the classes {classes}")
    numeric = labels if classes is None else scores
    test = _numbers(test, numeric, path)
    if not np.isfinite(test[numeric].to_numpy(float)).all():
        raise _incomplete(path, f"the test rows of {numeric} hold blank or infinite values")
    return test

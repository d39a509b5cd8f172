"""Render the report page of a run: one HTML file, made from the files of the run folder only."""

import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from stage2_temporal import figures
from stage2_temporal.figures import Picture
from stage2_temporal.metrics import higher_is_better

REPORT_NAME = "report.html"
MODELS = {"recurrent": "recurrent model", "mean_pool": "mean-pool baseline"}
NUM_MISTAKES = 10
NUM_CONFUSED_PAIRS = 20

_Json = dict[str, Any]
_Figures = list[tuple[Picture, str]]  # with captions

# What a complete run holds: key to type, alternative types, or the shape of the object below.
_NUMBER, _NULL = (int, float), type(None)
_SPLIT = {"clips": int, "groups": int}
_SCORE_KEYS = ("value", "low", "high")
_SCORES = {"recurrent": dict, "mean_pool": dict}
_SHAPES: dict[str, _Json] = {
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

    settings: _Json
    data: _Json
    metrics: _Json
    history: pd.DataFrame
    test: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """Class labels in the order of `data.json`; empty for regression."""
        return list(self.data["classes"] or [])


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    The page appears complete or not at all; an older one is replaced.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file of the run is not what a complete run holds.
    """
    page = render(read_run(run_folder))
    path = run_folder / REPORT_NAME
    partial = path.with_name(f".{REPORT_NAME}.{os.getpid()}.tmp")
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_run(run_folder: Path) -> Run:
    """Read and check the files of a run folder; raises like `write_report`."""
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


def _read_json(path: Path) -> _Json:
    text = _read_text(path)
    try:
        document: _Json = json.loads(text)
    except ValueError as error:
        raise _incomplete(path, f"not JSON ({error})") from error
    problem = next(_problems(document, _SHAPES[path.name]), None)
    if problem:
        raise _incomplete(path, problem)
    return document


def _problems(document: object, shape: _Json, where: str = "") -> Iterator[str]:
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


def _check_scores(metrics: _Json, path: Path) -> None:
    if metrics["primary"] not in metrics["test"]["recurrent"]:
        raise _incomplete(path, f"no test score of the primary metric {metrics['primary']!r}")
    try:
        higher_is_better(metrics["primary"])
    except ValueError as error:
        raise _incomplete(path, f"primary: {error}") from error
    for split, who in itertools.product(("test", "validation"), MODELS):
        for name, score in metrics[split][who].items():
            values = [score.get(k) for k in _SCORE_KEYS] if isinstance(score, dict) else [score]
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


def render(run: Run) -> str:
    """Return the page of a run as HTML text; what the run holds is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "name": display_name, "shown": _shown}
    results = _classification(run) if run.classes else _regression(run)
    return environment.get_template("report.html.jinja").render(
        run=run,
        models=MODELS,
        verdict=verdict(run.metrics),
        headline=_headline(run.metrics),
        curves=_curves(run),
        distribution=_distribution(run.data),
        mistakes=most_wrong(run.test, run.classes),
        **results,
    )


def format_number(value: float | None) -> str:
    """Return a score as text: three decimals, or four digits where those would mislead."""
    if value is None or not math.isfinite(value):
        return "undefined"
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 100 else f"{value:.4g}"


def display_name(name: str) -> str:
    """Return the usual spelling of a score's or column's name: `auroc` is AUROC."""
    special = {"auroc": "AUROC", "auprc": "AUPRC", "mae": "MAE", "rmse": "RMSE", "mse": "MSE"}
    special |= {"r2": "R²", "f1": "F1", "brier": "Brier"}
    return " ".join(special.get(word, word) for word in name.split("_"))


def verdict(metrics: _Json) -> str:
    """Say in one sentence whether the order of frames helped, from the test intervals."""
    model, baseline = (_interval(metrics, who) for who in MODELS)
    if model is None or baseline is None:
        return "Undecided: the test score or its interval is undefined for at least one model."
    if model[1] <= baseline[2] and baseline[1] <= model[2]:
        return (
            "No clear difference: the intervals overlap, so this test set does not show whether "
            "the order of frames helps."
        )
    if (model[0] > baseline[0]) == higher_is_better(metrics["primary"]):
        return (
            "The order of frames appears to help: the recurrent model scores better than the "
            "average of the frames, and the intervals do not overlap."
        )
    return (
        "The order of frames did not help: the plain average of the frames scores better, and the "
        "intervals do not overlap."
    )


def _interval(metrics: _Json, who: str) -> tuple[float, float, float] | None:
    score = metrics["test"][who].get(metrics["primary"], {})
    value, low, high = (score.get(key) for key in _SCORE_KEYS)
    if any(x is None or not math.isfinite(x) for x in (value, low, high)):
        return None
    return value, low, high


def most_wrong(test: pd.DataFrame, classes: list[str], count: int = NUM_MISTAKES) -> list[_Json]:
    """Return the test clips that the model got most wrong, worst first.

    Wrongly classified clips by the probability left for their true class; for regression (no
    classes) clips by the size of the error. `confidence` is the probability of the predicted
    class, `error` the predicted minus the true value.
    """
    if not classes:
        test = test.assign(error=test["prediction"] - test["target"])
        worst = test["error"].abs().sort_values(ascending=False, kind="stable").index
        return _rows(test.loc[worst[:count]])
    probability = test[[f"probability_{label}" for label in classes]].to_numpy(float)
    rows, order = np.arange(len(test)), pd.Index(classes)
    truth = probability[rows, order.get_indexer(pd.Index(test["target"]))]
    confidence = probability[rows, order.get_indexer(pd.Index(test["prediction"]))]
    shown = test[["video_id", "group", "target", "prediction", "baseline_prediction"]]
    shown = shown.assign(truth=truth, confidence=confidence)
    wrong = shown[shown["target"] != shown["prediction"]]
    return _rows(wrong.sort_values("truth", kind="stable").head(count))


def _rows(table: pd.DataFrame) -> list[_Json]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _headline(metrics: _Json) -> Picture | None:
    found = {name: _interval(metrics, who) for who, name in MODELS.items()}
    scores = {name: interval for name, interval in found.items() if interval is not None}
    if not scores:
        return None
    name = display_name(metrics["primary"])
    words = [f"{who} {v:.3g}, interval {lo:.3g} to {hi:.3g}" for who, (v, lo, hi) in scores.items()]
    figure = figures.interval_figure(scores, name=f"{name} on the test clips")
    return figures.embed(figure, f"{name} with intervals: {'; '.join(words)}.")


def _curves(run: Run) -> _Figures:
    history, best = run.history, run.data.get("best_epoch")
    epochs = history["epoch"].to_numpy(np.int64)
    names = [name for name in history.columns if f"val_{name}" in history.columns]
    pictures = []
    for name in names:
        both = {"training": history[name], "validation": history[f"val_{name}"]}
        curves = {label: values.to_numpy(float) for label, values in both.items()}
        figure = figures.curve_figure(epochs, curves, name=display_name(name), best_epoch=best)
        alt = f"{display_name(name)} of the training and validation clips against epochs."
        pictures.append((figures.embed(figure, alt), display_name(name)))
    return pictures


def _distribution(data: _Json) -> Picture:
    labels, before, after = (data["distribution"][key] for key in ("labels", "before", "after"))
    figure = figures.distribution_figure(
        [str(label) for label in labels], before, None if data["balance"] == "none" else after
    )
    return figures.embed(figure, "Training clips per label; the numbers are in the table below.")


def _classification(run: Run) -> _Json:
    """Confusion matrix, ROC curves and what tables say in their place where classes are many."""
    targets, predictions = (list(run.test[name]) for name in ("target", "prediction"))
    counts = figures.confusion_counts(targets, predictions, run.classes)
    rocs = {prefix: _rocs(run, prefix) for prefix in ("", "baseline_")}
    pictures = []
    if len(run.classes) <= figures.MAX_MATRIX_CLASSES:
        figure = figures.confusion_figure(counts, run.classes)
        caption = "Confusion matrix of the recurrent model: test clips, and their share of the row."
        pictures.append((figures.embed(figure, f"{caption} Rows: {counts.tolist()}."), caption))
    curves, caption = _roc_curves(run, rocs)
    if curves:
        words = ", ".join(f"{label} {curve.area:.3f}" for label, curve in curves.items())
        pictures.append((figures.embed(figures.roc_figure(curves), f"{caption} {words}."), caption))
    areas = [
        (c, *(roc[c].area if c in roc else None for roc in rocs.values())) for c in run.classes
    ]
    return {
        "pictures": pictures,
        "confused": []
        if len(run.classes) <= figures.MAX_MATRIX_CLASSES
        else _confused(counts, run),
        "areas": areas if len(run.classes) > 2 else [],
    }


def _rocs(run: Run, prefix: str) -> dict[str, figures.Roc]:
    found = {
        label: figures.roc_points(
            run.test["target"].to_numpy() == label,
            run.test[f"{prefix}probability_{label}"].to_numpy(float),
        )
        for label in run.classes
    }
    return {label: curve for label, curve in found.items() if curve is not None}


def _roc_curves(run: Run, rocs: dict[str, dict[str, figures.Roc]]) -> tuple[Any, str]:
    if len(run.classes) > 2:
        return rocs[""], "ROC curves of the recurrent model, each class against the rest."
    positive = run.classes[-1]
    curves = {
        name: roc[positive]
        for name, roc in zip(MODELS.values(), rocs.values(), strict=True)
        if positive in roc
    }
    return curves, f"ROC curves of both models, test clips; “{positive}” is the positive class."


def _confused(counts: figures.Counts, run: Run) -> list[tuple[str, str, int]]:
    """The most frequent (target, prediction, clips) among the wrong ones."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSED_PAIRS]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(run.classes[r], run.classes[c], int(wrong[r, c])) for r, c in places if wrong[r, c]]


def _regression(run: Run) -> _Json:
    """Predicted against true values of both models, on the same axes."""
    values = run.test[["target", "prediction", "baseline_prediction"]].to_numpy(float)
    limits = (float(values.min()), float(values.max()))
    pictures = []
    colours = (figures.MODEL_COLOUR, figures.BASELINE_COLOUR)
    for index, (name, colour) in enumerate(zip(MODELS.values(), colours, strict=True), start=1):
        figure = figures.scatter_figure(
            values[:, 0], values[:, index], limits=limits, colour=colour
        )
        caption = f"Predicted against true {run.data['target']} of the test clips: {name}."
        pictures.append((figures.embed(figure, caption), caption))
    return {"pictures": pictures, "confused": [], "areas": []}

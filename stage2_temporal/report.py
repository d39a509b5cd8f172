"""Render the report page of a run: one HTML file, made from the files of the run folder only."""

import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from stage2_temporal import figures
from stage2_temporal.figures import Picture
from stage2_temporal.metrics import higher_is_better
from stage2_temporal.run_files import MODELS, SCORE_KEYS, Json, Run, read_run

REPORT_NAME = "report.html"
NUM_MISTAKES = 10
NUM_CONFUSED_PAIRS = 20

_Figures = list[tuple[Picture, str]]  # with captions


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
    special |= {"pearson": "Pearson r", "r2": "R²", "f1": "F1", "brier": "Brier"}
    return " ".join(special.get(word, word) for word in name.split("_"))


def verdict(metrics: Json) -> str:
    """Say in one sentence whether the order of frames helped, from the paired difference."""
    found = _interval(metrics, "difference")
    if found is None:
        return "Undecided: the test score or its interval is undefined for at least one model."
    value, low, high = map(format_number, found)
    difference = (
        f"the recurrent model minus the average of the frames is {value} (paired interval {low} "
        f"to {high})"
    )
    if found[1] <= 0 <= found[2]:
        return (
            f"No clear difference: {difference}, so this test set does not show whether the order "
            "of frames helps."
        )
    if (found[0] > 0) == higher_is_better(metrics["primary"]):
        return f"The order of frames appears to help: {difference}."
    return f"The order of frames did not help: {difference}."


def _interval(metrics: Json, who: str) -> tuple[float, float, float] | None:
    score = metrics["test"][who].get(metrics["primary"], {})
    value, low, high = (score.get(key) for key in SCORE_KEYS)
    if any(x is None or not math.isfinite(x) for x in (value, low, high)):
        return None
    return value, low, high


def most_wrong(test: pd.DataFrame, classes: list[str], count: int = NUM_MISTAKES) -> list[Json]:
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


def _rows(table: pd.DataFrame) -> list[Json]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _headline(metrics: Json) -> Picture | None:
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


def _distribution(data: Json) -> Picture:
    labels, before, after = (data["distribution"][key] for key in ("labels", "before", "after"))
    figure = figures.distribution_figure(
        [str(label) for label in labels], before, None if data["balance"] == "none" else after
    )
    return figures.embed(figure, "Training clips per label; the numbers are in the table below.")


def _classification(run: Run) -> Json:
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


def _regression(run: Run) -> Json:
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

"""Figures and tables of a target's test clips."""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from stage2_temporal import prediction_figures
from stage2_temporal.picture import BASELINE_COLOUR, LINES, MODEL_COLOUR, embed, shorten
from stage2_temporal.prediction_figures import MAX_MATRIX_CLASSES, Roc
from stage2_temporal.report_grid import MAX_ROWS, Grid, Plate
from stage2_temporal.shown_clips import ShownClips

NUM_CONFUSED_PAIRS = 20


def clip_plates(clips: ShownClips, names: dict[str, str], threshold: str) -> list[Plate]:
    """Draw confusion matrix and ROC curves, or predicted against true values.

    Args:
        clips: The test clips.
        names: What to call the models.
        threshold: What the caption says about the threshold.
    """
    if clips.task == "regression":
        return _scatters(clips, names)
    plates = _confusion(clips, names, threshold)
    curves, caption = _roc_curves(clips, names)
    if curves:
        words = ", ".join(
            f"{shorten(label, 40)} {curve.area:.3f}" for label, curve in list(curves.items())[:20]
        )
        figure = prediction_figures.roc_figure(curves)
        plates.append((embed(figure, f"{caption} {words}."), caption))
    return plates


def _scatters(clips: ShownClips, names: dict[str, str]) -> list[Plate]:
    """Predicted against true values of each model, on the same axes."""
    values = np.concatenate([clips.target, *clips.predictions.values()])
    limits = (float(values.min()), float(values.max()))
    colours = (MODEL_COLOUR, BASELINE_COLOUR, LINES[2]["color"])
    plates = []
    for (model, predicted), colour in zip(clips.predictions.items(), colours, strict=False):
        figure = prediction_figures.scatter_figure(
            clips.target, predicted, limits=limits, colour=colour
        )
        caption = f"Predicted against true values of the test clips: {names[model]}."
        plates.append((embed(figure, caption), caption))
    return plates


def _confusion(clips: ShownClips, names: dict[str, str], threshold: str) -> list[Plate]:
    if clips.task == "multilabel" or len(clips.classes) > MAX_MATRIX_CLASSES:
        return []
    predicted = clips.predictions["recurrent"].tolist()
    counts = prediction_figures.confusion_counts(clips.target.tolist(), predicted, clips.classes)
    caption = f"Confusion matrix of the {names['recurrent']}: test clips, and share of the row."
    figure = prediction_figures.confusion_figure(counts, clips.classes)
    return [(embed(figure, f"{caption} Rows: {counts.tolist()}."), caption + threshold)]


def _roc_curves(clips: ShownClips, names: dict[str, str]) -> tuple[dict[str, Roc], str]:
    if clips.task != "binary":
        rest = "label" if clips.task == "multilabel" else "class against the rest"
        caption = f"ROC curves of the {names['recurrent']}, each {rest}."
        if len(clips.classes) > MAX_ROWS:
            caption += f" Of {len(clips.classes):,}, the {MAX_ROWS} most frequent in the test."
        return _rocs(clips, "recurrent"), caption
    positive = clips.is_of(len(clips.classes) - 1)
    found = {
        names[model]: prediction_figures.roc_points(positive, values[:, -1])
        for model, values in clips.probabilities.items()
    }
    curves = {name: curve for name, curve in found.items() if curve is not None}
    shown = shorten(clips.classes[-1], 40)
    return curves, f"ROC curves of all models, test clips; “{shown}” is the positive class."


def _frequent(clips: ShownClips) -> list[int]:
    """Return the numbers of the classes or labels that are shown: of many the most frequent."""
    numbers = np.arange(len(clips.classes))
    if len(numbers) <= MAX_ROWS:
        return list(numbers.tolist())
    counts = clips.counts()
    return sorted(np.argsort(-counts, kind="stable")[:MAX_ROWS].tolist())


def _rocs(clips: ShownClips, model: str) -> dict[str, Roc]:
    values = clips.probabilities[model]
    found = {
        clips.classes[c]: prediction_figures.roc_points(clips.is_of(c), values[:, c])
        for c in _frequent(clips)
    }
    return {label: curve for label, curve in found.items() if curve is not None}


def label_grids(clips: ShownClips, names: dict[str, str]) -> list[Grid]:
    """Return tables of each class or label, and of what is confused most where they are many."""
    if clips.task in ("binary", "regression"):
        return []
    several = clips.task == "multilabel"
    rocs = {model: _rocs(clips, model) for model in clips.probabilities}
    counts = clips.counts()
    rows = []
    for number in _frequent(clips):
        label = clips.classes[number]
        areas = [rocs[m][label].area if label in rocs[m] else None for m in rocs]
        extra = [*_found(clips, number), *areas, *_precisions(clips, number)] if several else areas
        rows.append([label, int(counts[number]), *extra])
    kinds = ["AUROC", "AUPRC"] if several else ["AUROC"]
    head = ["label", "test clips", "predicted", "right"] if several else ["class", "test clips"]
    head += [f"{kind} {names[model]}" for kind in kinds for model in rocs]
    what = "label" if several else "class against the rest"
    caption = f"Each {what}, test clips."
    if len(clips.classes) > MAX_ROWS:
        caption += f" Of {len(clips.classes):,}, the {MAX_ROWS} most frequent in the test."
    grids = [Grid(caption, head, rows, "" if several else "AUROC of every class")]
    if several or len(clips.classes) <= MAX_MATRIX_CLASSES:
        return grids
    return [grid for grid in (_confused(clips, names), *grids) if grid.rows]


def _found(clips: ShownClips, number: int) -> list[object]:
    """Return how many clips the recurrent model gives a label to, and how many of them have it."""
    predicted = clips.predictions["recurrent"][:, number] == 1
    return [int(predicted.sum()), int((predicted & clips.is_of(number)).sum())]


def _precisions(clips: ShownClips, number: int) -> list[float | None]:
    positive = clips.is_of(number)
    if positive.all() or not positive.any():
        return [None for _ in clips.probabilities]
    return [
        float(average_precision_score(positive, values[:, number]))
        for values in clips.probabilities.values()
    ]


def _confused(clips: ShownClips, names: dict[str, str]) -> Grid:
    """Return the most frequent pairs of target and prediction among the wrong ones."""
    pairs = pd.DataFrame({"target": clips.target, "predicted": clips.predictions["recurrent"]})
    wrong = pairs[pairs["target"] != pairs["predicted"]]
    counts = wrong.value_counts(sort=False).sort_values(ascending=False, kind="stable")
    rows = counts.head(NUM_CONFUSED_PAIRS).reset_index().to_numpy(object).tolist()
    caption = (
        f"Most frequent confusions of the {names['recurrent']}, test clips. With "
        f"{len(clips.classes):,} classes a full matrix would not be readable."
    )
    return Grid(caption, ["target", "predicted", "clips"], rows)

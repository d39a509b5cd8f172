"""Figures and tables of the test clips of a target with classes or labels."""

import pandas as pd

from stage2_temporal import prediction_figures
from stage2_temporal.picture import embed
from stage2_temporal.prediction_figures import MAX_MATRIX_CLASSES
from stage2_temporal.report_curves import (
    Drawing,
    calibration_plates,
    ranking_plates,
    shown_numbers,
)
from stage2_temporal.report_grid import MAX_ROWS, Grid, Plate
from stage2_temporal.shown_clips import ShownClips

MAX_PAIRED_CLASSES = 8
NUM_CONFUSED_PAIRS = 20


def clip_plates(drawing: Drawing, threshold: str) -> list[Plate]:
    """Draw confusion matrices, and how well probabilities rank clips and keep their promise.

    Args:
        drawing: Test clips of a target with classes or labels, and how to draw them.
        threshold: What the caption says about the threshold.
    """
    plates = _confusion(drawing, threshold)
    return [*plates, *ranking_plates(drawing), *calibration_plates(drawing)]


def _confusion(drawing: Drawing, threshold: str) -> list[Plate]:
    """Draw the recurrent model's matrix, and beside small ones that of the mean-pool baseline."""
    clips, names = drawing.clips, drawing.names
    if clips.task == "multilabel" or len(clips.classes) > MAX_MATRIX_CLASSES:
        return []
    small = len(clips.classes) <= MAX_PAIRED_CLASSES
    models = [m for m in ("recurrent", "mean_pool") if m in names][: 2 if small else 1]
    plates = []
    for model in models:
        predicted = clips.predictions[model].tolist()
        counts = prediction_figures.confusion_counts(
            clips.target.tolist(), predicted, clips.classes
        )
        caption = f"Confusion matrix of the {names[model]}: test clips, and share of the row."
        alt = f"{caption} Rows: {counts.tolist()}."
        if model != "recurrent":
            alt = f"Test clips by target and prediction of the {names[model]}: {counts.tolist()}."
        figure = prediction_figures.confusion_figure(counts, clips.classes)
        plates.append((embed(figure, alt), caption + threshold))
    return plates


def label_grids(drawing: Drawing) -> list[Grid]:
    """Return tables of each class or label, and of what is confused most where they are many."""
    clips, names = drawing.clips, drawing.names
    if clips.task in ("binary", "regression"):
        return []
    several = clips.task == "multilabel"
    counts = clips.counts()
    kinds = ["AUROC", "AUPRC"]
    rows = []
    for number in shown_numbers(clips):
        label = clips.classes[number]
        found = [of.get(label) for of in drawing.rankings.values()]
        areas = [None if one is None else one.roc.area for one in found]
        areas += [None if one is None else one.precision_recall.area for one in found]
        extra = _found(clips, number) if several else []
        rows.append([label, int(counts[number]), *extra, *areas])
    head = ["label", "test clips", "predicted", "right"] if several else ["class", "test clips"]
    head += [f"{kind} {names[model]}" for kind in kinds for model in drawing.rankings]
    what = "label" if several else "class against the rest"
    caption = f"Each {what}, test clips."
    if len(clips.classes) > MAX_ROWS:
        caption += f" Of {len(clips.classes):,}, the {MAX_ROWS} most frequent in the test."
    grids = [Grid(caption, head, rows, "" if several else "AUROC and AUPRC of every class")]
    if several or len(clips.classes) <= MAX_MATRIX_CLASSES:
        return grids
    return [grid for grid in (_confused(clips, names), *grids) if grid.rows]


def _found(clips: ShownClips, number: int) -> list[object]:
    """Return how many clips the recurrent model gives a label to, and how many of them have it."""
    predicted = clips.predictions["recurrent"][:, number] == 1
    return [int(predicted.sum()), int((predicted & clips.is_of(number)).sum())]


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

"""What the report shows of a regression: scatter, errors along the true value and by density."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal import error_figures, prediction_figures
from stage2_temporal.clip_table import TARGET_COLUMN
from stage2_temporal.picture import BASELINE_COLOUR, LINES, MODEL_COLOUR, embed
from stage2_temporal.report_curves import Drawing
from stage2_temporal.report_grid import Plate
from stage2_temporal.report_words import count, format_number
from stage2_temporal.residuals import (
    MIN_RUNNING_CLIPS,
    Agreement,
    BinErrors,
    agreement,
    bin_errors,
    running,
)
from stage2_temporal.run_files import Run

Floats = NDArray[np.float64]

_COLOURS = (MODEL_COLOUR, BASELINE_COLOUR, LINES[2]["color"])
_MAX_BINS = 20
_USUAL_BINS = 10


def scatter_plates(drawing: Drawing) -> list[Plate]:
    """Draw predicted against true values of each model, on the same axes."""
    clips = drawing.clips
    values = np.concatenate([clips.target, *clips.predictions.values()])
    limits = (float(values.min()), float(values.max()))
    plates = []
    for model, predicted, colour in _models(drawing):
        figure = prediction_figures.scatter_figure(
            clips.target, predicted, limits=limits, colour=colour
        )
        caption = f"Predicted against true values of the test clips: {drawing.names[model]}."
        words = (
            f"{count(len(predicted), 'clip')}, true {_range(clips.target)}, predicted "
            f"{_range(predicted)}, mean absolute error "
            f"{format_number(float(np.abs(predicted - clips.target).mean()))}."
        )
        plates.append((embed(figure, f"{caption} {words}"), caption))
    return plates


def _range(values: Floats) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def residual_plates(drawing: Drawing) -> list[Plate]:
    """Draw each model's errors against the true value, on the same axes."""
    true = drawing.clips.target
    each = {model: predicted - true for model, predicted, _ in _models(drawing)}
    every = np.concatenate(list(each.values()))
    limits = ((float(true.min()), float(true.max())), (float(every.min()), float(every.max())))
    plates = []
    for (model, errors), colour in zip(each.items(), _COLOURS, strict=False):
        agreed = agreement(errors, drawing.groups, seed=drawing.seed)
        along = running(true, errors)
        figure = error_figures.residual_figure(
            true, errors, agreed, along, limits=limits, colour=colour
        )
        caption = f"Errors of the test clips against the true value: {drawing.names[model]}."
        caption += "" if agreed is None else f" {_agreed(agreed, drawing)}"
        if along is None:
            caption += f" No running median: it needs {MIN_RUNNING_CLIPS} clips that differ."
        else:
            caption += (
                " A running median that falls means that predictions are drawn to the middle."
            )
        plates.append((embed(figure, caption), caption))
    return plates


def _models(drawing: Drawing) -> Iterator[tuple[str, Floats, str]]:
    """Yield each model, its predictions and colour."""
    for (model, predicted), colour in zip(
        drawing.clips.predictions.items(), _COLOURS, strict=False
    ):
        yield model, predicted, colour


def _agreed(agreed: Agreement, drawing: Drawing) -> str:
    """Return bias and limits of agreement in words."""
    low, bias, high = (
        format_number(value) + _bounds(interval)
        for value, interval in zip(
            (agreed.low, agreed.bias, agreed.high), agreed.intervals.tolist(), strict=True
        )
    )
    known = np.isfinite(agreed.intervals).all()
    by = f" Brackets: 95% bootstrap intervals by {drawing.group or 'clip'}." if known else ""
    return (
        f"Bias {bias}, limits of agreement (1.96 standard deviations) {low} and {high}; "
        f"{agreed.share:.0%} of the clips lie between them.{by}"
    )


def _bounds(interval: list[float]) -> str:
    low, high = interval
    return f" [{format_number(low)}, {format_number(high)}]" if np.isfinite(interval).all() else ""


def density_plates(drawing: Drawing, run: Run, target: str) -> list[Plate]:
    """Draw the mean absolute error by bin of the true value beside the clips to learn from."""
    known, whose = _learnt(run, target, drawing)
    edges = _edges(known, int(run.settings["settings"].get("bins", _USUAL_BINS)))
    if edges is None:
        return []
    labels, training, bins = _binned(known, drawing.clips.target, edges)
    models = {
        drawing.names[model]: bin_errors(
            bins, len(labels), predicted - drawing.clips.target, drawing.groups, seed=drawing.seed
        )
        for model, predicted, _ in _models(drawing)
    }
    figure = error_figures.density_figure(labels, training, models)
    caption = (
        f"Mean absolute error by bin of the true value, beside {whose}. Bars: 95% bootstrap "
        f"intervals of the {drawing.names['recurrent']} by {drawing.group or 'clip'}, where a bin "
        f"has clips of several {drawing.group or 'clip'}s."
    )
    words = _spoken(labels, training, models)
    return [(embed(figure, f"{caption} {words}"), caption)]


def _learnt(run: Run, target: str, drawing: Drawing) -> tuple[Floats, str]:
    """Return the values that models learn from, and what they are."""
    texts = run.clips[f"{TARGET_COLUMN}{target}"]
    is_tested = texts.index.isin(pd.Index(drawing.clips.video_ids))
    folds = [fold for fold in run.data["folds"] if fold["repetition"] == 0]
    if len(folds) == 1:
        texts, whose = texts[~is_tested], "how many training and validation clips it has"
    else:
        whose = f"how many clips it has (each of {count(len(folds), 'fold')} trains on most)"
    return texts[texts != ""].to_numpy(np.float64), whose


def _edges(known: Floats, num_bins: int) -> Floats | None:
    """Return edges of bins of equal width; None where the values have no range."""
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    edges = np.linspace(known.min(), known.max(), min(num_bins, _MAX_BINS) + 1)
    return edges if (np.diff(edges) > 0).all() else None


def _binned(
    known: Floats, tested: Floats, edges: Floats
) -> tuple[list[str], list[int], NDArray[np.intp]]:
    """Return names of the bins, clips to learn from in each, and the bin of each tested clip.

    Values below the first or above the last edge have bins of their own, if there are any.
    """
    inside = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    counts = np.histogram(known, edges)[0]
    labels = [f"below {edges[0]:.4g}", *inside, f"above {edges[-1]:.4g}"]
    training = [0, *counts.tolist(), 0]
    last = len(inside)
    bins = np.minimum(np.searchsorted(edges, tested, side="right"), last)
    bins = np.where(tested > edges[-1], last + 1, bins)
    first, end = int(bins.min() > 0), len(labels) - int(bins.max() <= last)
    return labels[first:end], training[first:end], bins - first


def _spoken(labels: list[str], training: list[int], models: dict[str, BinErrors]) -> str:
    texts = []
    for row, (label, number) in enumerate(zip(labels, training, strict=True)):
        errors = [f"{name} {format_number(found.mae[row])}" for name, found in models.items()]
        texts.append(f"{label}: {number:,} clips, {', '.join(errors)}")
    return f"{'; '.join(texts)}."

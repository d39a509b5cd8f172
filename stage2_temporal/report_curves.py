"""What the report shows of probabilities: ROC, precision-recall and reliability diagrams."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage2_temporal import calibration_figures, ranking_figures
from stage2_temporal.curve_bands import NUM_RESAMPLES, Band, group_numbers, ranking_bands
from stage2_temporal.picture import embed, shorten
from stage2_temporal.ranking_curves import Curve, Ranking, rank
from stage2_temporal.ranking_figures import PRECISION_RECALL, ROC, Axis, Panel
from stage2_temporal.reliability import Reliability, reliability
from stage2_temporal.report_grid import MAX_ROWS, Plate
from stage2_temporal.report_words import count
from stage2_temporal.shown_clips import ShownClips

MAX_PANELS = 6
_MIN_CALIBRATED = 5
_NUM_SPOKEN = 20

Rankings = dict[str, dict[str, Ranking]]
"""By model and name of the class or label, those that some clips have and some have not."""


@dataclass(frozen=True)
class Drawing:
    """What figures of a target are drawn from.

    Attributes:
        clips: The test clips.
        names: What to call the models.
        group: What groups are; None without.
        seed: Fixes the resamples.
    """

    clips: ShownClips
    names: dict[str, str]
    group: str | None
    seed: int

    @functools.cached_property
    def groups(self) -> NDArray[np.intp]:
        """(n,) group numbers; each clip its own without a group column."""
        return group_numbers(self.clips.groups)

    @functools.cached_property
    def rankings(self) -> Rankings:
        """How each model ranks the clips by each class or label that is shown."""
        shown = shown_numbers(self.clips)
        found = {
            model: {self.clips.classes[c]: rank(self.clips.is_of(c), values[:, c]) for c in shown}
            for model, values in self.clips.probabilities.items()
        }
        return {
            model: {label: one for label, one in of.items() if one is not None}
            for model, of in found.items()
        }


def shown_numbers(clips: ShownClips) -> list[int]:
    """Return the numbers of the classes or labels that are shown: of many the most frequent.

    Of a binary target that is the positive class.
    """
    if clips.task == "binary":
        return [len(clips.classes) - 1]
    if len(clips.classes) <= MAX_ROWS:
        return list(range(len(clips.classes)))
    counts = clips.counts()
    return sorted(np.argsort(-counts, kind="stable")[:MAX_ROWS].tolist())


def ranking_plates(drawing: Drawing) -> list[Plate]:
    """Draw ROC and precision-recall curves of all models, or of many classes of the first one."""
    found = drawing.rankings["recurrent"]
    if not found:
        return []
    if drawing.clips.task != "binary" and len(found) > MAX_PANELS:
        return [_overlay(drawing, ROC), _overlay(drawing, PRECISION_RECALL)]
    bands = _bands(drawing)
    return [_panels(drawing, bands, axis) for axis in (ROC, PRECISION_RECALL)]


def _bands(drawing: Drawing) -> dict[str, tuple[Band, Band] | None]:
    clips = drawing.clips
    values = clips.probabilities["recurrent"]
    return {
        clips.classes[c]: ranking_bands(
            clips.is_of(c), values[:, c], drawing.groups, seed=drawing.seed
        )
        for c in shown_numbers(clips)
        if clips.classes[c] in drawing.rankings["recurrent"]
    }


def _curve(ranking: Ranking, axis: Axis) -> Curve:
    return ranking.roc if axis is ROC else ranking.precision_recall


def _panels(drawing: Drawing, bands: dict[str, tuple[Band, Band] | None], axis: Axis) -> Plate:
    names, panels = drawing.names, []
    for label, ranking in drawing.rankings["recurrent"].items():
        of_label = {names[model]: _curve(of[label], axis) for model, of in drawing.rankings.items()}
        both = bands[label]
        band = None if both is None else both[0 if axis is ROC else 1]
        chance = None if axis is ROC else ranking.share
        panels.append(Panel(label, of_label, band, chance))
    caption = _ranking_caption(drawing, panels, axis)
    figure = ranking_figures.ranking_figure(panels, axis)
    return embed(figure, f"{caption} {_spoken_panels(panels, axis)}"), caption


def _ranking_caption(drawing: Drawing, panels: list[Panel], axis: Axis) -> str:
    what = "ROC" if axis is ROC else "Precision-recall"
    task, first = drawing.clips.task, panels[0]
    if task == "binary":
        text = (
            f"{what} curves of all models, test clips; “{shorten(first.title, 40)}” is the "
            f"positive class. {axis.area}: {_areas(first)}."
        )
    else:
        each = "label" if task == "multilabel" else "class against the rest"
        text = f"{what} curves of all models, each {each}, test clips; {axis.area} above each."
    if axis is PRECISION_RECALL:
        text += " Dotted: the share of positive clips, which chance reaches."
        if task == "binary" and first.chance is not None:
            text = text.replace("the share", f"{first.chance:.3f}, the share")
    if all(panel.band is None for panel in panels):
        return f"{text} No interval: too few {drawing.group or 'clip'}s of both kinds."
    return (
        f"{text} Shaded: where the curve of the {drawing.names['recurrent']} lies at each "
        f"{axis.x} in 95% of {NUM_RESAMPLES} bootstrap resamples by {drawing.group or 'clip'}."
    )


def _areas(panel: Panel) -> str:
    return ", ".join(f"{name} {curve.area:.3f}" for name, curve in panel.curves.items())


def _spoken_panels(panels: list[Panel], axis: Axis) -> str:
    """Say the areas, and where the band of an only panel is."""
    if len(panels) > 1:
        texts = [f"{shorten(p.title, 40)}: {_areas(p)}" for p in panels]
        return f"{axis.area} of {'; '.join(texts)}."
    band = panels[0].band
    if band is None:
        return ""
    at = [f"{x:g}: {low:.2f} to {high:.2f}" for x in (0.1, 0.5, 0.9) for low, high in [band.at(x)]]
    return f"{axis.y.capitalize()} by {axis.x}, interval at {', at '.join(at)}."


def _overlay(drawing: Drawing, axis: Axis) -> Plate:
    clips = drawing.clips
    found = drawing.rankings["recurrent"]
    curves = {label: _curve(ranking, axis) for label, ranking in found.items()}
    what = "ROC" if axis is ROC else "Precision-recall"
    rest = "label" if clips.task == "multilabel" else "class against the rest"
    caption = f"{what} curves of the {drawing.names['recurrent']}, each {rest}."
    if len(clips.classes) > MAX_ROWS:
        caption += f" Of {len(clips.classes):,}, the {MAX_ROWS} most frequent in the test."
    areas = np.array([curve.area for curve in curves.values()])
    caption += (
        f" {axis.area} from {areas.min():.3f} to {areas.max():.3f}, median {np.median(areas):.3f}."
    )
    words = [f"{shorten(label, 40)} {curve.area:.3f}" for label, curve in curves.items()]
    alt = f"{caption} {', '.join(words[:_NUM_SPOKEN])}."
    return embed(ranking_figures.overlay_figure(curves, axis), alt), caption


def calibration_plates(drawing: Drawing) -> list[Plate]:
    """Draw how often what probabilities promise comes true: of all models, and of each class."""
    clips = drawing.clips
    if len(clips.target) < _MIN_CALIBRATED:
        return []
    models = {drawing.names[m]: _reliability(drawing, m) for m in clips.probabilities}
    x, y, unit, what = _calibrated(clips)
    caption = (
        f"Calibration, test clips: {what}, in bins of equal width, against the mean of what was "
        f"predicted; on the dotted line probabilities are what they say. ECE: "
        f"{', '.join(f'{name} {found.ece:.3f}' for name, found in models.items())}. Bars: 95% "
        f"intervals (Wilson{_worth(drawing)}). Below: how many {unit} each bin has."
    )
    figure = calibration_figures.calibration_figure(models, x=x, y=y, unit=unit)
    spoken = _spoken_bins(next(iter(models.values())))
    plates = [(embed(figure, f"{caption} {spoken}"), caption)]
    return [*plates, *_calibration_of_each(drawing)]


def _calibrated(clips: ShownClips) -> tuple[str, str, str, str]:
    """Return the names of the axes and of what is counted, and what is observed in words."""
    if clips.task == "binary":
        label = f"“{shorten(clips.classes[-1], 20)}”"
        words = f"how many clips are {label}"
        return f"predicted probability of {label}", "observed share", "clips", words
    if clips.task == "multiclass":
        words = "how many predicted classes are right"
        return "probability of the predicted class", "share right", "clips", words
    many = len(clips.classes) > MAX_ROWS
    which = f"the {MAX_ROWS} most frequent labels" if many else "all labels"
    words = f"how many labels are there, {which} together"
    return "predicted probability of a label", "observed share", "predictions", words


def _reliability(drawing: Drawing, model: str) -> Reliability:
    clips, values = drawing.clips, drawing.clips.probabilities[model]
    if clips.task == "binary":
        return reliability(clips.is_of(len(clips.classes) - 1), values[:, -1], drawing.groups)
    if clips.task == "multiclass":
        classes = np.array(clips.classes, object)
        right = np.asarray(classes[values.argmax(axis=1)] == clips.target, np.bool_)
        return reliability(right, values.max(axis=1), drawing.groups)
    shown = shown_numbers(clips)
    is_there = np.asarray(clips.target[:, shown] == 1, np.bool_)
    groups = np.repeat(drawing.groups, len(shown))
    return reliability(is_there.ravel(), values[:, shown].ravel(), groups)


def _calibration_of_each(drawing: Drawing) -> list[Plate]:
    clips, values = drawing.clips, drawing.clips.probabilities["recurrent"]
    if clips.task == "binary" or not 2 <= len(clips.classes) <= MAX_PANELS:
        return []
    found = {
        label: reliability(clips.is_of(c), values[:, c], drawing.groups)
        for c, label in enumerate(clips.classes)
    }
    each = "label" if clips.task == "multilabel" else "class against the rest"
    caption = (
        f"Calibration of the {drawing.names['recurrent']}, each {each}, as in the figure before: "
        "how many clips have it against its predicted probability."
    )
    words = [f"{shorten(label, 40)} {one.ece:.3f}" for label, one in found.items()]
    figure = calibration_figures.calibration_panels(found)
    return [(embed(figure, f"{caption} ECE: {', '.join(words)}."), caption)]


def _worth(drawing: Drawing) -> str:
    """Say what intervals take groups for."""
    return f", as if clips of one {drawing.group} were all alike" if drawing.group else ""


def _spoken_bins(found: Reliability) -> str:
    rows = zip(found.predicted, found.observed, found.low, found.high, strict=True)
    texts = [f"{p:.2f}: {o:.2f} ({low:.2f} to {high:.2f})" for p, o, low, high in rows]
    return f"First model, predicted and observed with interval: {'; '.join(texts)}."


def missing_curves(drawing: Drawing) -> str:
    """Say which curves are left out and why; blank if none is."""
    clips, sentences = drawing.clips, []
    found, shown = drawing.rankings["recurrent"], shown_numbers(clips)
    if not found:
        which = "has every label or none" if clips.task == "multilabel" else "is of one class"
        sentences.append(f"No ROC and precision-recall curves: every test clip {which}.")
    elif len(found) < len(shown):
        kind = "label" if clips.task == "multilabel" else "class"
        number = len(shown) - len(found)
        kind += "" if number == 1 else "es" if kind == "class" else "s"
        sentences.append(f"No curves of {number:,} {kind} that no test clip or every one has.")
    if len(clips.target) < _MIN_CALIBRATED:
        sentences.append(
            f"No calibration diagram: {count(len(clips.target), 'test clip')}, expected "
            f"{_MIN_CALIBRATED} or more."
        )
    return " ".join(sentences)

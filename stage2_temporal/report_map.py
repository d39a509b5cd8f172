"""The map of a run's clips: a scatter of their mean embeddings, drawn as SVG paths.

Each way to colour the points is a view of its own; the page shows the one whose radio button is
chosen, by style sheet alone. A point tells its category by colour and by shape.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.clip_table import TARGET_COLUMN
from stage2_temporal.picture import GREY, LINES, shorten
from stage2_temporal.report_table import spoken, wrong_clips
from stage2_temporal.report_words import format_number
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import Json

MAX_POINTS = 2000
MAX_VIEWS = 7
WIDTH, HEIGHT = 720, 440
_MARGIN = 12
_NUM_BINS = 5
_LABEL_LENGTH = 40
_NOT_TESTED = "not a test clip"

_SHAPES = (
    "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0-8,0z",
    "m-3.5-3.5h7v7h-7z",
    "m0-4.8l4.5 8h-9z",
    "m0-5.2l4.4 5.2-4.4 5.2-4.4-5.2z",
    "m0 4.8l4.5-8h-9z",
    "m-1.6-4.7h3.2v3.1h3.1v3.2h-3.1v3.1h-3.2v-3.1h-3.1v-3.2h3.1z",
    "m-5.2-1.8h10.4v3.6h-10.4z",
    "m-1.8-5.2h3.6v10.4h-3.6z",
)
_COLOURS = [str(look["color"]) for look in LINES]
_SCALE = ("#440154", "#3b528b", "#21918c", "#4aa83d", "#b08d00")  # of values, from low to high

Texts = NDArray[np.object_]


@dataclass(frozen=True)
class Layer:
    """The points of one category.

    Attributes:
        label: The category.
        num_clips: How many points it has.
        colour: Of fill and edge.
        marker: SVG path of one marker at the origin.
        tested: SVG path of the test clips' markers.
        others: The same of training and validation clips.
    """

    label: str
    num_clips: int
    colour: str
    marker: str
    tested: str
    others: str


@dataclass(frozen=True)
class View:
    """One way to colour the points: its name and its categories."""

    name: str
    layers: Sequence[Layer]


@dataclass(frozen=True)
class ClipMap:
    """What the page draws.

    Attributes:
        views: Ways to colour the points.
        points: x, y and title of each point.
        width, height: Of the drawing.
        axes: What the horizontal and the vertical axis are.
        caption: What is shown, and how far to trust it.
    """

    views: Sequence[View]
    points: Sequence[tuple[float, float, str]]
    width: int
    height: int
    axes: tuple[str, str]
    caption: str


def clip_map(run: Run) -> ClipMap:
    """Return the map of a run's clips; of many, 2,000 that were drawn by chance."""
    clips = _drawn(run)
    places = _fitted(clips[["x", "y"]].to_numpy(np.float64))
    views = list(_views(run, clips, places))[:MAX_VIEWS]
    points = zip(places.tolist(), _titles(run, clips), strict=True)
    across, up = (f"{share:.0%} of the variance" for share in run.data["map_variance"])
    return ClipMap(
        views=views,
        points=[(x, y, title) for (x, y), title in points],
        width=WIDTH,
        height=HEIGHT,
        axes=(f"first component, {across}", f"second component, {up}"),
        caption=_caption(run, len(clips)),
    )


def _drawn(run: Run) -> pd.DataFrame:
    clips = run.clips
    if len(clips) <= MAX_POINTS:
        return clips
    rng = np.random.default_rng(0)
    return clips.iloc[np.sort(rng.choice(len(clips), MAX_POINTS, replace=False))]


def _fitted(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, 2) pixels: both axes have one scale, so that distances mean the same."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * _MARGIN
    spread = high - low
    scale = float((room[spread > 0] / spread[spread > 0]).min(initial=np.inf))
    scale = scale if np.isfinite(scale) else 0.0  # all clips are in one place
    centred = (places - (low + high) / 2) * scale * np.array([1, -1])  # y points down
    pixels: NDArray[np.float64] = np.round(centred + np.array([WIDTH, HEIGHT]) / 2, 1)
    return pixels


def _views(run: Run, clips: pd.DataFrame, places: NDArray[np.float64]) -> Iterator[View]:
    targets = run.data["targets"]
    is_tested = clips.index.isin(next(iter(run.tested.values())).video_ids)

    def view(name: str, texts: Texts, order: Sequence[str], colours: Sequence[str]) -> View:
        return View(name, list(_layers(texts, order, colours, places, is_tested)))

    several = len(targets) > 1
    for target in targets:
        name = target["name"] if several else "label"
        yield view(name, *_labels(clips[f"{TARGET_COLUMN}{target['name']}"], target))
        if target is targets[0] and run.data["group"]:
            yield view(run.data["group"], *_frequent(clips["group"]))
    for target in targets:
        name = f"error of {target['name']}" if several else "error"
        yield view(name, *_errors(run, clips, target))


def _labels(column: pd.Series, target: Json) -> tuple[Texts, list[str], Sequence[str]]:
    if target["task"] != "regression":
        return _frequent(column, target["classes"])
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    return _binned(values, "no label", "")


def _errors(run: Run, clips: pd.DataFrame, target: Json) -> tuple[Texts, list[str], Sequence[str]]:
    """Return right and wrong, or, for regression, the size of the error in parts."""
    shown = run.tested[target["name"]]
    if target["task"] == "regression":
        size = pd.Series(np.abs(shown.predictions["recurrent"] - shown.target), shown.video_ids)
        return _binned(size.reindex(clips.index).to_numpy(np.float64), _NOT_TESTED, "error ")
    said = np.where(wrong_clips(shown), "wrong", "right")
    texts = pd.Series(said, shown.video_ids, dtype=object).reindex(clips.index)
    order = ["right", "wrong", _NOT_TESTED]
    return texts.fillna(_NOT_TESTED).to_numpy(object), order, (*_COLOURS[:2], GREY)


def _frequent(
    column: pd.Series, known: Sequence[str] = ()
) -> tuple[Texts, list[str], Sequence[str]]:
    """Return categories; of more than there are markers, the most frequent and the rest."""
    texts = column.where(column != "", "none")
    counts = texts.value_counts(sort=True).sort_index().sort_values(ascending=False, kind="stable")
    place = {name: number for number, name in enumerate(known)}
    if len(counts) <= len(_SHAPES):
        order = sorted(counts.index, key=lambda name: (place.get(name, len(place)), name))
        return texts.to_numpy(object), order, _COLOURS
    order = counts.index[: len(_SHAPES) - 1].tolist()
    rest = f"{len(counts) - len(order)} others"
    kept = texts.where(texts.isin(order), rest)
    return kept.to_numpy(object), [*order, rest], (*_COLOURS[: len(order)], GREY)


def _binned(
    values: NDArray[np.float64], missing: str, prefix: str
) -> tuple[Texts, list[str], Sequence[str]]:
    """Return equally filled bins of values."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.full(len(values), missing, object), [missing], [GREY]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _NUM_BINS + 1)))
    number = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    ends = [format_number(float(edge)) for edge in edges]
    pairs = itertools.pairwise(ends) if len(ends) > 1 else [(ends[0], ends[0])]
    labels = [f"{prefix}{low} to {high}" for low, high in pairs]
    texts = np.array(labels, object)[number]
    texts[~np.isfinite(values)] = missing
    colours = [
        _SCALE[round(i * (_NUM_BINS - 1) / max(1, len(labels) - 1))] for i in range(len(labels))
    ]
    return texts, [*labels, missing], (*colours, GREY)


def _layers(
    texts: Texts,
    order: Sequence[str],
    colours: Sequence[str],
    places: NDArray[np.float64],
    is_tested: NDArray[np.bool_],
) -> Iterator[Layer]:
    for number, label in enumerate(order):
        here = texts == label
        if here.any():
            marker = _SHAPES[number % len(_SHAPES)]
            yield Layer(
                shorten(label, _LABEL_LENGTH),
                int(here.sum()),
                colours[number],
                marker,
                _path(places[here & is_tested], marker),
                _path(places[here & ~is_tested], marker),
            )


def _path(places: NDArray[np.float64], marker: str) -> str:
    return "".join(f"M{x:g},{y:g}{marker}" for x, y in places.tolist())


def _titles(run: Run, clips: pd.DataFrame) -> list[str]:
    """Return what each point says when the pointer rests on it."""
    name, shown = next(iter(run.tested.items()))
    said = [_words(spoken(shown, value)) for value in shown.predictions["recurrent"]]
    predicted = dict(zip(shown.video_ids.tolist(), said, strict=True))
    titles = []
    for video_id, label in zip(clips.index, clips[f"{TARGET_COLUMN}{name}"], strict=True):
        end = f", predicted {predicted[video_id]}" if video_id in predicted else ""
        start = shorten(str(video_id), 60)
        titles.append(f"{start}: {shorten(label, _LABEL_LENGTH) or 'no label'}{end}")
    return titles


def _words(value: object) -> str:
    return format_number(value) if isinstance(value, float) else shorten(str(value), _LABEL_LENGTH)


def _caption(run: Run, num_points: int) -> str:
    total, shares = len(run.clips), run.data["map_variance"]
    which = f"{num_points:,} of {total:,} clips, drawn by chance" if num_points < total else "Clips"
    return (
        f"{which} by the first two principal components of their mean embeddings: the plane in "
        f"which clips differ most. It shows {sum(shares):.0%} of the variance, so clips that lie "
        "close together here may still differ in what it leaves out, and the model sees more: all "
        "of each embedding, and the order of frames. Filled markers are test clips, hollow ones "
        "train or validate."
    )

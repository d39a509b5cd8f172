"""The most wrong clips as the page shows them: frames, attention, prediction after each frame."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stage2_temporal.picture import LINES, shorten
from stage2_temporal.report_table import spoken, target_probability
from stage2_temporal.report_words import count, format_number
from stage2_temporal.run_files import Run
from stage2_temporal.shown_clips import ShownClips
from stage2_temporal.strip_files import FRAME_SIZE, NUM_SHOWN, Curve, Strip

CURVE_HEIGHT, ATTENTION_HEIGHT = 96, 44
_EDGE = 6  # above and below curves, so that lines at 0 and 1 are seen whole


@dataclass(frozen=True)
class Line:
    """A curve as drawn: its name in words, SVG points, colour and dashes."""

    name: str
    points: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Tick:
    """A level of the vertical axis, or a shown frame on the horizontal one."""

    at: float
    text: str


@dataclass(frozen=True)
class StripView:
    """One clip.

    Attributes:
        title: Its id.
        facts: What it is and was predicted to be.
        image: `data:` URI of its frames, or blank.
        problem: Why there is none.
        width: Of frames and drawing, in pixels.
        bars: SVG path of the attention weights; blank without.
        lines: Predictions after each frame.
        levels: Of the vertical axis of the lines.
        frames: Where the shown frames lie on the time axis.
        words: The same as the lines, in words.
    """

    title: str
    facts: str
    image: str
    problem: str
    width: int
    bars: str
    lines: Sequence[Line]
    levels: Sequence[Tick]
    frames: Sequence[Tick]
    words: str


def strip_views(run: Run, target: str) -> list[StripView]:
    """Return the strips of a target, the most wrong clip first."""
    strips = run.strips.clips if run.strips else ()
    clips = run.tested[target]
    row_of = {video_id: row for row, video_id in enumerate(clips.video_ids.tolist())}
    return [
        _view(clips, row_of[strip.video_id], strip, run.data["group"])
        for strip in strips
        if strip.target == target
    ]


def strips_text(views: Sequence[StripView], model: str) -> str:
    """Say what the strips of a target show; blank where there are none.

    Args:
        views: The strips.
        model: What to call the recurrent model.
    """
    if not views:
        return ""
    parts = [f"{count(len(views), 'test clip')} that the {model} got most wrong, the worst first."]
    if any(view.image for view in views):
        parts.append(
            "The frames are spread evenly over each sequence, fitted as for the backbone. They are "
            "parts of the videos; a run with --no-strips keeps none."
        )
    below = ["the weight that attention gives to each frame"] if any(v.bars for v in views) else []
    below += ["what the model predicts after each frame"] if any(v.lines for v in views) else []
    if below:
        parts.append(f"Drawn over the same time: {' and '.join(below)}.")
    return " ".join(parts)


def strips_note(run: Run) -> str:
    """Say why a run has no strips or frames; blank where it has."""
    if run.strips is None:
        return "This run kept neither frames nor predictions of single clips over time."
    return run.strips.note


def _view(clips: ShownClips, row: int, strip: Strip, group: str | None) -> StripView:
    width = FRAME_SIZE * (len(strip.shown) or NUM_SHOWN)
    lines, levels = _lines(clips, row, strip, width)
    image = "" if strip.image is None else base64.b64encode(strip.image).decode("ascii")
    return StripView(
        title=shorten(strip.video_id, 120),
        facts=_facts(clips, row, group),
        image=image and f"data:image/jpeg;base64,{image}",
        problem=strip.problem,
        width=width,
        bars=_bars(strip.attention, width),
        lines=lines,
        levels=levels,
        frames=_frames(strip, width),
        words=_words(strip, lines),
    )


def _facts(clips: ShownClips, row: int, group: str | None) -> str:
    truth, predicted = clips.target[row], clips.predictions["recurrent"][row]
    parts = [f"{group} {shorten(str(clips.groups[row]), 40)}"] if group else []
    parts += [f"target {_text(clips, truth)}", f"predicted {_text(clips, predicted)}"]
    if clips.task in ("binary", "multiclass"):
        value = format_number(float(target_probability(clips)[row]))
        parts.append(f"probability of the target {value}")
    return ", ".join(parts)


def _text(clips: ShownClips, value: object) -> str:
    said = spoken(clips, value)
    return format_number(said) if isinstance(said, float) else shorten(str(said), 60)


def _frames(strip: Strip, width: int) -> list[Tick]:
    return [
        Tick(
            round((position + 0.5) / strip.num_frames * width, 1),
            f"frame {position + 1}"
            if seconds is None
            else f"{seconds:.{1 if seconds >= 10 else 2}f} s",
        )
        for position, seconds in zip(strip.shown, strip.seconds, strict=True)
    ]


def _bars(weights: Sequence[float], width: int) -> str:
    """Return one bar for each part of the sequence, the largest weight as high as there is room."""
    if not weights or not max(weights) > 0:
        return ""
    step, unit = width / len(weights), ATTENTION_HEIGHT / max(weights)
    return "".join(
        f"M{step * i + 0.1 * step:.1f},{ATTENTION_HEIGHT}v{-weight * unit:.1f}h{0.8 * step:.1f}"
        f"v{weight * unit:.1f}z"
        for i, weight in enumerate(weights)
    )


def _lines(clips: ShownClips, row: int, strip: Strip, width: int) -> tuple[list[Line], list[Tick]]:
    if not strip.curves:
        return [], []
    low, high, marks = 0.0, 1.0, [0.0, 0.5, 1.0]
    if clips.task == "regression":
        truth = float(clips.target[row])
        values = np.array([*strip.curves[0].values, truth])
        low, high = float(values.min()), float(values.max())
        marks = [low, high]
    room = CURVE_HEIGHT - 2 * _EDGE

    def down(value: float) -> float:
        part = (value - low) / (high - low) if high > low else 0.5
        return round(_EDGE + room * (1 - min(1.0, max(0.0, part))), 1)

    lines = [
        _line(curve, look, strip, width, [down(value) for value in curve.values])
        for curve, look in zip(strip.curves, _looks(strip.curves), strict=True)
    ]
    if clips.task == "regression":
        y = down(truth)
        colour, dashes = _look(1)
        lines.append(Line("the target", f"0,{y:g} {width},{y:g}", colour, dashes))
    return lines, [Tick(down(mark), f"{mark:.3g}") for mark in marks]


def _looks(curves: Sequence[Curve]) -> Iterator[tuple[str, str]]:
    return (_look(number) for number in range(len(curves)))


def _look(number: int) -> tuple[str, str]:
    """Return colour and dashes, so that lines differ by both."""
    dashes = ("", "6 3", "2 3", "8 3 2 3")
    return str(LINES[number]["color"]), dashes[number % len(dashes)]


def _line(
    curve: Curve, look: tuple[str, str], strip: Strip, width: int, heights: Sequence[float]
) -> Line:
    """Return a curve whose values stand at the middle of the last frame that was seen."""
    places = [(length - 0.5) / strip.num_frames * width for length in strip.prefixes]
    points = " ".join(f"{x:.1f},{y:g}" for x, y in zip(places, heights, strict=True))
    name = f"probability of “{shorten(curve.name, 40)}”"
    ends = {"target": ", the target", "prediction": ", the prediction"}
    text = "the predicted value" if curve.role == "value" else name + ends.get(curve.role, "")
    return Line(text, points, *look)


def _words(strip: Strip, lines: Sequence[Line]) -> str:
    parts = [
        f"{line.name} is {format_number(curve.values[0])} after the first frame and "
        f"{format_number(curve.values[-1])} after all {strip.num_frames}"
        for curve, line in zip(strip.curves, lines, strict=False)
    ]
    return f"Over time: {'; '.join(parts)}." if parts else ""

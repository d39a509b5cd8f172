"""Strips of the clips that a run got most wrong: frames, attention, prediction after each frame.

They are made once, at the end of training, where videos and models are at hand; the report is then
made from the run folder alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.sampling import spread_evenly
from stage2_temporal.documents import Findings
from stage2_temporal.inputs import ClipInputs
from stage2_temporal.mistakes import wrongness
from stage2_temporal.scoring import RECURRENT, FoldResult, thresholds_of
from stage2_temporal.strip_curves import predict_prefixes, prefix_lengths
from stage2_temporal.strip_files import MAX_STRIPS, NUM_SHOWN, Curve, Strip, Strips, save_strips
from stage2_temporal.strip_frames import WantedFrames, as_jpegs, read_frames
from stage2_temporal.targets import Target

MAX_TARGETS = 3
_MAX_WEIGHTS = 128
_MAX_LABELS = 3

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class WrongClip:
    """A test clip that was predicted wrongly.

    Attributes:
        target: Number of the target.
        fold: The fold that tests it.
        clip: Its number.
        prediction: (k,) probabilities, or the value.
        wrongness: See `mistakes.wrongness`.
        confidence: Probability of the predicted class; elsewhere the wrongness.
    """

    target: int
    fold: int
    clip: int
    prediction: Floats
    wrongness: float
    confidence: float


def write_strips(folder: Path, found: Findings, inputs: ClipInputs) -> None:
    """Write the folder strips/ into an unfinished run folder.

    What cannot be had (videos, time) is left out, and the strips say why.

    Args:
        folder: The unfinished run folder, with its models.
        found: What the run found.
        inputs: What its models read.
    """
    wrong = most_wrong_clips(found)
    members = [len(fold.splits) for fold in found.data.partition.folds]
    clips = list(dict.fromkeys((one.fold, one.clip) for one in wrong))
    curves = predict_prefixes(folder, inputs, clips, members) if clips else {}
    strips = [_strip(folder, found, one, curves.get(one.clip)) for one in wrong]
    note = "Frames were not kept (--no-strips)."
    if found.settings.strips:
        strips, note = _with_frames(strips, found, wrong), ""
    save_strips(folder, Strips(tuple(strips), note))


def most_wrong_clips(found: Findings) -> list[WrongClip]:
    """Return up to 12 clips, an equal part for each of up to three targets, worst first.

    See `mistakes.wrongness`; of three classes or more the most confident mistakes are among them.
    As in the report, the first seed counts in the first making of the folds.
    """
    targets = found.data.clips.targets[:MAX_TARGETS]
    results = [one for one in found.folds if one.repeat == one.repetition == 0]
    chosen = []
    for number, target in enumerate(targets):
        wrong = [one for result in results for one in _wrong(found, number, target, result)]
        chosen += worst_and_most_confident(wrong, MAX_STRIPS // len(targets))
    return chosen


def worst_and_most_confident(wrong: Sequence[WrongClip], number: int) -> list[WrongClip]:
    """Return some wrong clips, taken in turn from the worst and the most confident; worst first."""
    worst = sorted(wrong, key=lambda one: -one.wrongness)
    confident = sorted(wrong, key=lambda one: -one.confidence)
    in_turn = [one for pair in zip(worst, confident, strict=True) for one in pair]
    clips = list({one.clip: one for one in in_turn})[:number]
    return [one for one in worst if one.clip in clips]


def _wrong(found: Findings, number: int, target: Target, result: FoldResult) -> Iterator[WrongClip]:
    """Yield the wrong ones of the clips that a fold tests and that have the target."""
    here = target.present[result.test]
    clips, predictions = result.test[here], result.test_predictions[RECURRENT][number][here]
    values, decided = predictions, predictions.astype(np.intp)
    if target.task in ("binary", "regression"):
        values = predictions[:, 0]
    if target.task == "multiclass":
        decided = predictions.argmax(axis=1)
    elif target.task != "regression":
        limit = thresholds_of(target, number, result, RECURRENT, found.settings)
        limit = limit if target.task == "multilabel" else limit[0]
        decided = (values >= limit).astype(np.intp)
    badness = wrongness(target.task, target.numbers[clips], decided, values)
    confidence = predictions.max(axis=1) if target.task == "multiclass" else badness
    for row in np.flatnonzero(badness > 0).tolist():
        yield WrongClip(
            number,
            result.fold,
            int(clips[row]),
            predictions[row],
            float(badness[row]),
            float(confidence[row]),
        )


def _strip(folder: Path, found: Findings, wrong: WrongClip, curves: list[Floats] | None) -> Strip:
    """Return what the strip says without its frames."""
    clips, store = found.data.clips, found.data.store
    target, position = clips.targets[wrong.target], int(clips.positions[wrong.clip])
    num_frames = int(store.lengths[position])
    shown = spread_evenly(num_frames, NUM_SHOWN)
    times = store.frame_times(position)[shown].tolist()
    video_id = str(clips.video_ids[wrong.clip])
    strip = Strip(
        target=target.name,
        video_id=video_id,
        num_frames=num_frames,
        shown=tuple(shown.tolist()),
        seconds=tuple(None if np.isnan(t) else round(t, 3) for t in times),
        attention=_attention(folder / f"attention-fold{wrong.fold}.npz", video_id),
    )
    if curves is None:
        return strip
    return dataclasses.replace(
        strip,
        prefixes=tuple(prefix_lengths(num_frames).tolist()),
        curves=tuple(_curves(target, wrong, curves[wrong.target])),
    )


def _attention(path: Path, video_id: str) -> tuple[float, ...]:
    """Return a clip's attention weights, or their sums over equal parts of a long clip."""
    if not path.exists():
        return ()
    with np.load(path, allow_pickle=False) as file:
        (row,) = np.flatnonzero(file["video_id"] == video_id).tolist()
        ends = np.cumsum(file["length"])
        weights = file["weight"][ends[row] - file["length"][row] : ends[row]].astype(np.float64)
    parts = np.array_split(weights, min(len(weights), _MAX_WEIGHTS))
    return tuple(round(float(part.sum()), 5) for part in parts)


def _curves(target: Target, wrong: WrongClip, values: Floats) -> Iterator[Curve]:
    """Yield the value, or the probabilities of the classes or labels that the error is about."""
    truth = target.numbers[wrong.clip]
    if target.task == "regression":
        yield Curve("", "value", _rounded(values[:, 0]))
    elif target.task == "binary":
        of_truth = values[:, 0] if truth else 1 - values[:, 0]
        yield Curve(target.classes[truth], "target", _rounded(of_truth))
    elif target.task == "multiclass":
        predicted = int(wrong.prediction.argmax())
        yield Curve(target.classes[truth], "target", _rounded(values[:, truth]))
        yield Curve(target.classes[predicted], "prediction", _rounded(values[:, predicted]))
    else:
        worst = np.argsort(-np.abs(wrong.prediction - truth), kind="stable")[:_MAX_LABELS]
        for label in worst.tolist():
            yield Curve(target.classes[label], "label", _rounded(values[:, label]))


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _with_frames(
    strips: Sequence[Strip], found: Findings, wrong: Sequence[WrongClip]
) -> list[Strip]:
    """Return the strips with their images, where the videos can be read."""
    wanted = _wanted(found, np.array(sorted({one.clip for one in wrong}), np.intp))
    frames = read_frames(wanted, found.data.store.settings)
    had = [frames[strip.video_id] for strip in strips]
    images = iter(as_jpegs([one for one in had if not isinstance(one, str)]))
    return [
        dataclasses.replace(strip, problem=one)
        if isinstance(one, str)
        else dataclasses.replace(strip, image=next(images))
        for strip, one in zip(strips, had, strict=True)
    ]


def _wanted(found: Findings, clips: Indices) -> list[WantedFrames]:
    data, store = found.data, found.data.store
    positions = data.clips.positions[clips]
    hashes = store.column("source_hash")[positions].tolist()
    rows = data.clips.rows[clips].tolist()
    return [
        WantedFrames(
            data.manifest.clips[row],
            store.frame_indices(position)[spread_evenly(int(store.lengths[position]), NUM_SHOWN)],
            str(source_hash),
        )
        for row, position, source_hash in zip(rows, positions.tolist(), hashes, strict=True)
    ]

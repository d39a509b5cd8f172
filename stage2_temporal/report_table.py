"""The table of all test clips of a target, which a reader can sort and search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.run_files import Run
from stage2_temporal.shown_clips import ShownClips

MAX_TABLE_ROWS = 5000
"""Of all targets together."""


@dataclass(frozen=True)
class ClipTable:
    """A table of test clips.

    Attributes:
        caption: What it shows.
        head: Names of the columns.
        rows: Texts, whole numbers and floats, the most wrong clip first.
        is_wrong: Whether each clip was predicted wrongly; empty where there is no right and wrong.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    is_wrong: Sequence[bool]


def clip_table(run: Run, target: str, names: dict[str, str]) -> ClipTable:
    """Return the table of the test clips of a target.

    Args:
        run: The run.
        target: The target's name.
        names: What to call the models.
    """
    clips, group = run.tested[target], run.data["group"]
    wrong, measure = wrong_clips(clips), _measures(clips)
    order = _worst_first(clips, wrong, measure)[: MAX_TABLE_ROWS // len(run.data["targets"])]
    frames = run.clips["frames"].reindex(pd.Index(clips.video_ids)).to_numpy(np.float64)
    rows = []
    for row in order.tolist():
        start = [str(clips.video_ids[row]), *([str(clips.groups[row])] if group else [])]
        said = [spoken(clips, values[row]) for values in clips.predictions.values()]
        value = int(measure[row]) if clips.task == "multilabel" else float(measure[row])
        truth = spoken(clips, clips.target[row])
        rows.append([*start, truth, said[0], value, *said[1:], int(frames[row])])
    others = [names[model] for model in clips.predictions if model != "recurrent"]
    head = ["clip", *([group] if group else []), "target", "predicted", _measure_name(clips.task)]
    is_wrong = [] if clips.task == "regression" else wrong[order].tolist()
    caption = _caption(len(order), len(clips.target)) + (" ✗: wrong." if any(is_wrong) else "")
    return ClipTable(caption, [*head, *others, "frames"], rows, is_wrong)


def wrong_clips(clips: ShownClips) -> NDArray[np.bool_]:
    """Return (n,) whether the recurrent model errs; for regression, at all."""
    differs = np.asarray(clips.predictions["recurrent"] != clips.target, bool)
    return np.asarray(differs.any(axis=1) if differs.ndim > 1 else differs, bool)


def target_probability(clips: ShownClips) -> NDArray[np.float64]:
    """Return (n,) the probability that the recurrent model gives to each clip's class."""
    column = pd.Index(clips.classes).get_indexer(pd.Index(clips.target))
    found: NDArray[np.float64] = clips.probabilities["recurrent"][np.arange(len(column)), column]
    return found


def spoken(clips: ShownClips, value: object) -> object:
    """Return a target or prediction of one clip as a table's cell."""
    if clips.task == "regression":
        return float(np.float64(value))  # type: ignore[arg-type]
    if clips.task == "multilabel":
        labels = [clips.classes[number] for number in np.flatnonzero(value)]  # type: ignore[arg-type]
        return " + ".join(labels) or "none"
    return str(value)


def _measures(clips: ShownClips) -> NDArray[np.float64]:
    """Return (n,) error, number of wrong labels, or probability of the target."""
    predicted = clips.predictions["recurrent"]
    if clips.task == "regression":
        return np.asarray(predicted - clips.target, np.float64)
    if clips.task == "multilabel":
        return np.asarray((predicted != clips.target).sum(axis=1), np.float64)
    return target_probability(clips)


def _measure_name(task: str) -> str:
    names = {"regression": "error", "multilabel": "wrong labels"}
    return names.get(task, "probability of the target")


def _worst_first(
    clips: ShownClips, wrong: NDArray[np.bool_], measure: NDArray[np.float64]
) -> NDArray[np.intp]:
    if clips.task in ("regression", "multilabel"):
        return np.argsort(-np.abs(measure), kind="stable")
    return np.lexsort((measure, ~wrong))


def _caption(num_rows: int, num_clips: int) -> str:
    if num_rows == num_clips:
        return "Every test clip, the most wrong first."
    return (
        f"The {num_rows:,} most wrong of {num_clips:,} test clips; predictions of all are in the "
        "run folder."
    )

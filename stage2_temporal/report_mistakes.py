"""The test clips that a model got most wrong."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.report_grid import Grid
from stage2_temporal.shown_clips import ShownClips

NUM_MISTAKES = 10


def mistakes_grid(clips: ShownClips, group: str | None, names: dict[str, str]) -> Grid | None:
    """Return the test clips that the recurrent model got most wrong; None if all were right."""
    order = most_wrong(clips)
    if not len(order):
        return None
    others = [model for model in clips.predictions if model != "recurrent"]
    measures = {"regression": "error", "multilabel": "wrong labels"}
    head = ["clip", *([group] if group else []), "target", "predicted"]
    head += [measures.get(clips.task, "confidence"), *(names[model] for model in others)]
    rows = []
    for row in order.tolist():
        start = [str(clips.video_ids[row]), *([str(clips.groups[row])] if group else [])]
        said = [_said(clips, values[row]) for values in clips.predictions.values()]
        rows.append(
            [*start, _said(clips, clips.target[row]), said[0], _measure(clips, row), *said[1:]]
        )
    captions = {
        "regression": "The test clips with the largest errors.",
        "multilabel": "The test clips with the most wrong labels.",
    }
    usual = "The most wrong test clips: those whose true class got the smallest probability."
    return Grid(captions.get(clips.task, usual), head, rows)


def most_wrong(clips: ShownClips, num_clips: int = NUM_MISTAKES) -> NDArray[np.intp]:
    """Return the rows of the test clips that the recurrent model got most wrong, worst first.

    Wrongly classified clips by the probability left for their true class, or by the number of
    wrong labels; for regression clips by the size of the error.
    """
    predicted = clips.predictions["recurrent"]
    if clips.task == "regression":
        return np.argsort(-np.abs(predicted - clips.target), kind="stable")[:num_clips]
    if clips.task == "multilabel":
        wrong = (predicted != clips.target).sum(axis=1)
        badness = -wrong.astype(np.float64)
    else:
        wrong = np.asarray(predicted != clips.target, bool)
        badness = _probability_of(clips, clips.target)
    order = np.argsort(badness, kind="stable")
    found: NDArray[np.intp] = order[wrong[order] > 0][:num_clips]
    return found


def _probability_of(clips: ShownClips, labels: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) Probability that the recurrent model gives to one class of each clip."""
    column = pd.Index(clips.classes).get_indexer(pd.Index(labels))
    found: NDArray[np.float64] = clips.probabilities["recurrent"][np.arange(len(labels)), column]
    return found


def _measure(clips: ShownClips, row: int) -> object:
    predicted, target = clips.predictions["recurrent"], clips.target
    if clips.task == "regression":
        return float(predicted[row] - target[row])
    if clips.task == "multilabel":
        return int((predicted[row] != target[row]).sum())
    column = clips.classes.index(predicted[row])
    return float(clips.probabilities["recurrent"][row, column])


def _said(clips: ShownClips, value: Any) -> object:
    """Return a target or prediction of one clip as a table's cell."""
    if clips.task == "regression":
        return float(value)
    if clips.task == "multilabel":
        labels = [clips.classes[number] for number in np.flatnonzero(value)]
        return " + ".join(labels) or "none"
    return str(value)

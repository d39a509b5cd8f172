"""The test clips that a model got most wrong."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal import mistakes
from stage2_temporal.report_grid import Grid
from stage2_temporal.shown_clips import ShownClips

NUM_MISTAKES = 10


def confident_grid(clips: ShownClips, group: str | None, names: dict[str, str]) -> Grid | None:
    """Return the wrong clips whose predicted class was the most probable, of three classes or more.

    None where these are the clips of `most_wrong`, as they always are of two classes.
    """
    if clips.task != "multiclass":
        return None
    order = most_confident_wrong(clips)
    if set(order.tolist()) == set(most_wrong(clips).tolist()):
        return None
    caption = (
        "The most confident mistakes: wrong test clips whose predicted class got the highest "
        "probability. Look at their labels first."
    )
    said = [values.tolist() for values in clips.predictions.values()]
    others = [names[model] for model in clips.predictions if model != "recurrent"]
    head = ["clip", *([group] if group else []), "target", "predicted", "confidence", *others]
    rows = [
        [
            *(str(clips.video_ids[row]), *([str(clips.groups[row])] if group else [])),
            *(str(clips.target[row]), said[0][row], _confidence(clips)[row].item()),
            *(values[row] for values in said[1:]),
        ]
        for row in order.tolist()
    ]
    return Grid(caption, head, rows, "Most confident mistakes")


def most_wrong(clips: ShownClips, num_clips: int = NUM_MISTAKES) -> NDArray[np.intp]:
    """Return the rows of the test clips that the recurrent model got most wrong, worst first.

    See `mistakes.wrongness`; of regression clips the largest errors, however small.
    """
    predicted = clips.predictions["recurrent"]
    if clips.task == "regression":
        return np.argsort(-np.abs(predicted - clips.target), kind="stable")[:num_clips]
    probabilities = clips.probabilities["recurrent"]
    if clips.task == "multilabel":
        found = mistakes.wrongness("multilabel", clips.target, predicted, probabilities)
    else:
        true, said = _numbers(clips, clips.target), _numbers(clips, predicted)
        found = mistakes.wrongness("multiclass", true, said, probabilities)
    return mistakes.worst_first(found)[:num_clips]


def most_confident_wrong(clips: ShownClips, num_clips: int = NUM_MISTAKES) -> NDArray[np.intp]:
    """Return the wrong rows whose predicted class got the highest probability, highest first."""
    predicted = clips.predictions["recurrent"]
    is_wrong = np.asarray(predicted != clips.target, bool)
    return mistakes.most_confident_wrong(is_wrong, _confidence(clips))[:num_clips]


def _confidence(clips: ShownClips) -> NDArray[np.float64]:
    """Return (n,) the probability of each clip's predicted class."""
    probabilities = clips.probabilities["recurrent"]
    columns = _numbers(clips, clips.predictions["recurrent"])
    found: NDArray[np.float64] = probabilities[np.arange(len(columns)), columns]
    return found


def _numbers(clips: ShownClips, labels: NDArray[Any]) -> NDArray[np.intp]:
    return np.asarray(pd.Index(clips.classes).get_indexer(pd.Index(labels)), np.intp)

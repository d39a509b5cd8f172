from typing import Any

import numpy as np
import pytest

from stage2_temporal.mistakes import most_confident_wrong, worst_first, wrongness
from stage2_temporal.report_mistakes import confident_grid, most_wrong
from stage2_temporal.shown_clips import ShownClips
from tests.stage2_temporal.shown import NAMES, shown_clips

CASES: list[tuple[str, Any, Any, Any, list[int]]] = [
    # Right, slightly wrong, very wrong.
    ("binary", [0, 1, 0], [0.1, 0.4, 0.95], 0.5, [2, 1]),
    ("binary", [0, 1, 0], [0.1, 0.4, 0.95], 0.3, [2]),
    ("multiclass", [0, 1], [[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]], 0.5, [1, 0]),
    # One wrong label, two, none, and one that is further off.
    (
        "multilabel",
        [[1, 1], [0, 0], [1, 0], [1, 1]],
        [[0.9, 0.4], [0.6, 0.6], [0.9, 0.1], [0.9, 0.1]],
        0.5,
        [1, 3, 0],
    ),
    ("regression", [1.0, 2.0, 3.0, 4.0], [1.5, -8.0, 5.0, 4.0], 0.5, [1, 2, 0]),
]


def wrong_order(task: str, target: Any, prediction: Any, threshold: float = 0.5) -> Any:
    decided = prediction >= threshold
    if task == "multiclass":
        decided = prediction.argmax(axis=1)
    return worst_first(wrongness(task, target, decided, prediction))


@pytest.mark.parametrize(("task", "target", "prediction", "threshold", "rows"), CASES)
def test_the_worst_come_first(
    task: str, target: Any, prediction: Any, threshold: float, rows: list[int]
) -> None:
    found = wrong_order(task, np.array(target), np.array(prediction), threshold)
    assert found.tolist() == rows


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_the_page_has_the_order_of_the_arrays(task: str) -> None:
    clips = shown_clips(task, 60, 2 if task == "binary" else 4)
    target: Any = clips.target
    values = clips.predictions["recurrent"]
    if task != "regression":
        values = clips.probabilities["recurrent"]
        if task != "multilabel":
            target = np.array([clips.classes.index(name) for name in clips.target])
        values = values[:, 1] if task == "binary" else values
    order = wrong_order(task, target, values)
    assert len(order) > 10
    assert most_wrong(clips, 60).tolist() == order.tolist()


def confused(probabilities: list[list[float]]) -> ShownClips:
    values = np.array(probabilities)
    said = np.array(["a", "b", "c"], object)[values.argmax(axis=1)]
    ids, target = np.array([f"clip {i}" for i in range(len(values))], object), said.copy()
    target[:] = "a"
    return ShownClips(
        "multiclass", ("a", "b", "c"), ids, ids, target, {"recurrent": said},
        {"recurrent": values}, 0,
    )  # fmt: skip


def test_confident_mistakes_are_told_where_they_are_other_clips() -> None:
    # Ten clips leave almost nothing for the true class, one is the surest of all.
    spread, sure = [0.01, 0.5, 0.49], [0.05, 0.95, 0.0]
    grid = confident_grid(confused([spread] * 10 + [sure, [0.9, 0.1, 0]]), None, NAMES)
    assert grid is not None
    assert grid.rows[0][0] == "clip 10"
    assert len(grid.rows) == 10
    assert confident_grid(confused([spread] * 5), None, NAMES) is None
    assert confident_grid(shown_clips("binary", 60), None, NAMES) is None


def test_confidence_is_that_of_the_wrong_class() -> None:
    is_wrong, confidence = np.array([True, False, True]), np.array([0.5, 0.99, 0.8])
    assert most_confident_wrong(is_wrong, confidence).tolist() == [2, 0]

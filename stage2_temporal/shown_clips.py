"""The test clips of one target, as predictions.csv has them: one row a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.run_folder import PREFIXES
from stage2_temporal.run_tables import Table, incomplete, read_table


@dataclass(frozen=True)
class ShownClips:
    """What was predicted for n test clips, by the first seed in the first making of the folds.

    Attributes:
        task: binary, multiclass, multilabel or regression.
        classes: Class or label names; empty for regression.
        video_ids: (n,) texts.
        groups: (n,) texts; blank without a group column.
        target: (n,) class names, (n,) float64 values, or (n, L) int64 0/1 of a multilabel target.
        predictions: As `target`, by model.
        probabilities: (n, C), by model; empty for regression.
        num_without: Test clips that were left out because they lack the target, or, multilabel,
            because the file does not tell which labels they have.
    """

    task: str
    classes: tuple[str, ...]
    video_ids: NDArray[Any]
    groups: NDArray[Any]
    target: NDArray[Any]
    predictions: dict[str, NDArray[Any]]
    probabilities: dict[str, NDArray[np.float64]]
    num_without: int

    def is_of(self, number: int) -> NDArray[np.bool_]:
        """(n,) Whether a clip is of the class, or has the label, of that number."""
        if self.task == "multilabel":
            return np.asarray(self.target[:, number] == 1, np.bool_)
        return np.asarray(self.target == self.classes[number], np.bool_)

    def counts(self) -> NDArray[np.intp]:
        """(C,) test clips of each class or label."""
        if self.task == "multilabel":
            return np.asarray(self.target.sum(axis=0), np.intp)
        number = pd.Index(self.classes).get_indexer(pd.Index(self.target))
        return np.bincount(number, minlength=len(self.classes))


def read_shown_clips(
    path: Path,
    task: str,
    classes: Sequence[str],
    *,
    models: Sequence[str],
    folds: Sequence[int],
    all_labelled: bool,
) -> ShownClips:
    """Read the test rows of repeat 0 and of some folds, which test each clip once.

    Args:
        path: predictions.csv of the target.
        task: Its task.
        classes: Its class or label names; empty for regression.
        models: Models whose predictions are there.
        folds: Numbers of the folds.
        all_labelled: Whether no clip lacks the target.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It is not what a complete run holds.
    """
    predicted = [f"{PREFIXES[model]}prediction" for model in models]
    labels = ["target", *predicted]
    scores = [f"{PREFIXES[model]}probability_{name}" for model in models for name in classes]
    table = read_table(
        path,
        texts=["video_id", "group", *labels],
        numbers=scores,
        where={"split": {"test"}, "repeat": {"0"}, "fold": {str(number) for number in folds}},
    )
    ids = table.texts["video_id"]
    if ids.duplicated().any():
        twice = sorted(set(ids[ids.duplicated()]))[:5]
        raise incomplete(path, f"clips {twice} have several test rows of one repeat")
    values = [_values(path, task, classes, table.texts[name]) for name in labels]
    known = _known(task, table, values[0], all_labelled=all_labelled)
    if not known.any():
        raise incomplete(path, "no test clip has the target")
    _check_finite(path, task, table, values, known)
    probabilities = table.numbers.to_numpy(np.float64)[known]
    parts = np.split(probabilities, len(models), axis=1) if scores else []
    return ShownClips(
        task=task,
        classes=tuple(classes),
        video_ids=ids.to_numpy(object)[known],
        groups=table.texts["group"].to_numpy(object)[known],
        target=values[0][known],
        predictions={m: v[known] for m, v in zip(models, values[1:], strict=True)},
        probabilities=dict(zip(models, parts, strict=True)) if scores else {},
        num_without=int((~known).sum()),
    )


def _values(path: Path, task: str, classes: Sequence[str], texts: pd.Series) -> NDArray[Any]:
    """Return floats, class names, or (n, L) 0, 1 and, where labels cannot be told, -1."""
    if task == "regression":
        try:
            return texts.replace("", "nan").to_numpy(np.float64)
        except ValueError as error:
            raise incomplete(path, f"a number was expected in {texts.name}: {error}") from error
    if task == "multilabel":
        return _label_matrix(path, classes, texts)
    unknown = sorted(set(texts) - {*classes, ""})
    if unknown:
        shown = f"labels {unknown[:10]} are not among the classes {list(classes)[:30]}"
        raise incomplete(path, f"{texts.name}: {shown}")
    return texts.to_numpy(object)


def _known(
    task: str, table: Table, target: NDArray[Any], *, all_labelled: bool
) -> NDArray[np.bool_]:
    """(n,) Whether a row has the target; a blank multilabel one may be a clip without labels."""
    blank = table.texts["target"].to_numpy(object) == ""
    if task != "multilabel":
        return ~np.asarray(blank, bool)
    told = (target >= 0).all(axis=1)
    return np.asarray(told if all_labelled else told & ~blank, bool)


def _check_finite(
    path: Path, task: str, table: Table, values: Sequence[NDArray[Any]], known: NDArray[np.bool_]
) -> None:
    numbers = table.numbers.to_numpy(np.float64)[known]
    if task == "regression":
        numbers = np.stack(values, axis=1)[known]
    elif task != "multilabel" and any((value[known] == "").any() for value in values):
        raise incomplete(path, "a prediction of the test rows is blank")
    if not np.isfinite(numbers).all():
        raise incomplete(path, "the numbers of its test rows hold blank or infinite values")


def _label_matrix(path: Path, classes: Sequence[str], texts: pd.Series) -> NDArray[np.int64]:
    """Read texts such as "cough+fever", whose labels stand in the order of `classes`."""
    number_of = {name: number for number, name in enumerate(classes)}

    @cache
    def row_of(text: str) -> NDArray[np.int64]:
        found = _readings(text.split("+") if text else [], number_of)
        if not found:
            shown = f"{text!r} is not made of the labels {list(classes)[:30]}"
            raise incomplete(path, f"{texts.name}: {shown}")
        row = np.zeros(len(classes), np.int64)
        row[found[0]] = 1
        return row if len(found) == 1 else np.full(len(classes), -1)

    return np.stack([row_of(text) for text in texts])


def _readings(pieces: Sequence[str], number_of: dict[str, int]) -> list[list[int]]:
    """Return up to two ways to read pieces as labels; a label's own name may hold a +."""
    ways: list[list[list[int]]] = [[[]]]  # to read no piece, the first, the first two, ...
    for end in range(1, len(pieces) + 1):
        found: list[list[int]] = []
        for start in range(end):
            label = number_of.get("+".join(pieces[start:end]), -1)
            found += [[*way, label] for way in ways[start] if label > max(way, default=-1)]
        ways.append(found[:2])
    return ways[-1]

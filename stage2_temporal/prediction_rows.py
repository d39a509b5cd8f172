"""Rows of a table of predictions: columns, cells, and texts that no spreadsheet runs."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.texts import is_writable_character
from stage2_temporal.bundle import Prediction
from stage2_temporal.run_facts import BundleTarget

_MARKS = ("=", "+", "-", "@", "\t", "\r", "'")
"""A spreadsheet takes a cell that begins so for a formula (the apostrophe is the mark itself)."""
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|inf)")
_PREDICTION = "prediction"


def prediction_columns(targets: Sequence[BundleTarget], *, several_models: bool) -> list[str]:
    """Return the columns of predictions; those of several targets begin with the target's name."""
    return [
        _prefix(target, targets) + name
        for target in targets
        for name in _names(target, several_models)
    ]


def prediction_cells(
    targets: Sequence[BundleTarget], predictions: Sequence[Prediction], *, several_models: bool
) -> Iterator[list[str]]:
    """Yield the cells of each clip, in the order of `prediction_columns`.

    Args:
        targets: What is predicted.
        predictions: (B, k) of each target.
        several_models: Whether there is a spread.
    """
    parts = [
        list(_target_cells(target, prediction, several_models))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    for row in zip(*parts, strict=True):
        yield [cell for part in row for cell in part]


def named_predictions(target: BundleTarget, mean: NDArray[np.float64]) -> list[str]:
    """Return the predicted class of each clip, labels joined by +, or the value as text.

    Args:
        target: What is predicted.
        mean: (B, k).
    """
    if target.task == "regression":
        return [repr(value) for value in mean[:, 0].tolist()]
    classes = np.array(target.classes, object)
    if target.task == "multiclass":
        return [str(name) for name in classes[mean.argmax(axis=1)]]
    positive = mean >= np.array(target.thresholds)
    if target.task == "binary":
        return [str(name) for name in classes[positive[:, 0].astype(int)]]
    return ["+".join(classes[row]) for row in positive]


def csv_line(cells: Iterable[str]) -> str:
    """Return a row of a CSV file with its line end; no cell holds one."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def safe_text(text: str) -> str:
    r"""Return a text as a cell: no formula to a spreadsheet, no character that ends a row.

    A text that begins with = + - @ or ' and is no plain number gets an apostrophe in front, as
    OWASP recommends against CSV injection; control characters and such that are not UTF-8 are
    written out (\n). `plain_text` takes the apostrophe away.
    """
    marked = text.startswith(_MARKS) and not _NUMBER.fullmatch(text)
    readable = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    shown = "".join(
        c if is_writable_character(c) else c.encode("unicode_escape").decode() for c in readable
    )
    return f"'{shown}" if marked else shown


def plain_text(cell: str) -> str:
    """Return the text that `safe_text` made a cell of."""
    return cell.removeprefix("'")


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Read a table of predictions: texts without their marks, what is predicted as numbers.

    Probabilities and spreads are numbers (float64), and of a regression the prediction and, in the
    table of an evaluation, the target (NaN where it is blank). All else is text.

    Args:
        path: The CSV of a prediction or an evaluation, its timeline, or its failures.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    table.columns = pd.Index([plain_text(str(name)) for name in table.columns])
    numbers = set(_number_columns([str(name) for name in table.columns]))
    for name in table.columns:
        texts = table[name].map(plain_text)
        table[name] = pd.to_numeric(texts).astype(np.float64) if name in numbers else texts
    return table


def _number_columns(names: Sequence[str]) -> Iterator[str]:
    """Yield the columns that hold numbers; a target without probabilities is a regression."""
    for name in names:
        if name != _PREDICTION and not name.endswith(f":{_PREDICTION}"):
            continue
        prefix = name.removesuffix(_PREDICTION)
        kinds = (f"{prefix}probability_", f"{prefix}spread")
        yield from (other for other in names if other.startswith(kinds))
        if not any(other.startswith(kinds[0]) for other in names):
            yield from {name, f"{prefix}target"}.intersection(names)


def _prefix(target: BundleTarget, targets: Sequence[BundleTarget]) -> str:
    return f"{target.name}:" if len(targets) > 1 else ""


def _names(target: BundleTarget, several_models: bool) -> list[str]:
    if target.task == "regression":
        return [_PREDICTION, *(["spread"] if several_models else [])]
    kinds = ("probability", "spread") if several_models else ("probability",)
    return [_PREDICTION, *(f"{kind}_{name}" for kind in kinds for name in target.classes)]


def _target_cells(
    target: BundleTarget, prediction: Prediction, several_models: bool
) -> Iterator[list[str]]:
    mean, spread = prediction.mean, prediction.spread
    names = named_predictions(target, mean)
    shown = [] if target.task == "regression" else [_of_classes(target, mean, 1 - mean)]
    if several_models:
        shown.append(_of_classes(target, spread, spread))
    for name, *numbers in zip(names, *(part.tolist() for part in shown), strict=True):
        yield [safe_text(name), *(repr(value) for part in numbers for value in part)]


def _of_classes(
    target: BundleTarget, values: NDArray[np.float64], of_other: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return one value a class: a binary model gives that of the last class alone."""
    return np.concatenate([of_other, values], axis=1) if target.task == "binary" else values

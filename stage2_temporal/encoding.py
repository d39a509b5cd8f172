"""Columns without blanks turned into class numbers, values or labels."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MAX_CLASS_VALUES = 10
_NUM_EXAMPLES = 5
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}
_LARGEST_EXACT = 2.0**53  # float64 tells whole numbers apart up to here


class TargetError(ValueError):
    """The target column cannot be learned from, or does not fit the store."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A column as numbers: task, classes and numbers as in `targets.Target`."""

    task: str
    classes: tuple[str, ...]
    numbers: NDArray[Any]


def encode(
    table: pd.DataFrame,
    *,
    task: str = "auto",
    separator: str | None = None,
    positive: str | None = None,
) -> Encoding:
    """Turn a column without blanks, or several of 0 and 1, into numbers.

    Args:
        table: One column, or one for each label of a multilabel target.
        task: binary, multiclass, multilabel, regression, or auto. Several columns are multilabel,
            and so is a column that holds the separator in some text; else see `encode_column`.
        separator: Splits the texts of a multilabel column.
        positive: The class that is number 1 of a binary column, where it has that class.

    Raises:
        TargetError: The column cannot be learned from; the message says why.
    """
    if len(table.columns) > 1:
        return _encode_flags(table, task=task)
    column = table.iloc[:, 0]
    if task == "multilabel" or (task == "auto" and _holds(column, separator)):
        return _encode_lists(column, separator)
    found = encode_column(column, task=task)
    if found.task == "binary" and found.classes[0] == positive:
        return Encoding(found.task, found.classes[::-1], 1 - found.numbers)
    return found


def encode_column(column: "pd.Series[Any]", *, task: str = "auto") -> Encoding:
    """Turn a column without blanks into class numbers or values.

    `auto` takes two distinct values for binary, texts for multiclass, up to ten distinct whole
    numbers for multiclass, and other numbers for regression. 1, 1.0 and 01 are one value.

    Raises:
        TargetError: One distinct value only, infinite or non-numeric values for regression, names
            that differ only in case, or another number of classes than two for binary.
    """
    name = str(column.name)
    texts = column.astype("string").str.strip()
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    num_values = len(np.unique(numbers)) if _exact(numbers) else texts.nunique()
    if num_values < 2:
        raise TargetError(
            f"column {name!r} has the single value {texts.iloc[0]!r} in {len(texts)} clips; there "
            "is nothing to tell apart"
        )
    task = _infer_task(num_values, numbers) if task == "auto" else task
    if task == "regression":
        return Encoding(task, (), _finite(name, texts, numbers))
    of_clip, classes = _class_names(name, texts, numbers)
    if task == "binary" and len(classes) != 2:
        raise TargetError(
            f"column {name!r} has {len(classes)} classes ({classes[:_NUM_EXAMPLES]}); a binary "
            "task has 2, use --task multiclass"
        )
    return Encoding(task, tuple(classes), of_clip)


def _encode_flags(table: pd.DataFrame, *, task: str) -> Encoding:
    """Turn columns of 0 and 1, or false and true, into labels (N, L)."""
    names = [str(name) for name in table.columns]
    if task not in {"auto", "multilabel"}:
        raise TargetError(
            f"the columns {names} are one target of several labels, but its task is {task}; use "
            "--task multilabel, or give each column with its own --target"
        )
    numbers = np.stack([_flags(table.iloc[:, i]) for i in range(len(names))], axis=1)
    return Encoding("multilabel", tuple(names), _varied(names, numbers))


def _encode_lists(column: "pd.Series[Any]", separator: str | None) -> Encoding:
    """Split texts into labels (N, L), in sorted order; a lone separator is a list of none."""
    name = str(column.name)
    if not separator:
        raise TargetError(
            f"column {name!r} is one column, but its task is multilabel; say at what sign its "
            "texts are split with --label-separator, or name several columns of 0 and 1 as a+b+c"
        )
    texts = column.reset_index(drop=True).astype("string")
    labels = texts.str.split(separator, regex=False).explode().str.strip()
    labels = labels[labels != ""]  # its index is the clip
    if labels.empty:
        raise TargetError(f"column {name!r} has no label, only separators {separator!r}")
    _check_case(name, labels)
    number, names = pd.factorize(labels, sort=True)
    numbers = np.zeros((len(column), len(names)), np.int64)
    numbers[labels.index.to_numpy(), number] = 1
    classes = [str(label) for label in names]
    return Encoding("multilabel", tuple(classes), _varied(classes, numbers))


def _holds(column: "pd.Series[Any]", separator: str | None) -> bool:
    if not separator:
        return False
    return bool(column.astype("string").str.contains(separator, regex=False).any())


def _flags(column: "pd.Series[Any]") -> NDArray[np.int64]:
    texts = column.astype("string").str.strip().str.lower()
    numbers = texts.str.replace(r"\.0*$", "", regex=True).map(_FLAGS)
    bad = column[numbers.isna().to_numpy()].unique().tolist()
    if bad:
        raise TargetError(
            f"column {str(column.name)!r} holds {bad[:_NUM_EXAMPLES]}; each label of a multilabel "
            "target is 0 or 1 (or false or true)"
        )
    return numbers.to_numpy().astype(np.int64)


def _varied(names: list[str], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels (N, L), none of them the same for all clips."""
    share = numbers.mean(axis=0)
    constant = [name for name, mean in zip(names, share, strict=True) if mean in (0, 1)]
    if constant:
        raise TargetError(
            f"labels {constant[:_NUM_EXAMPLES]} are the same for all {len(numbers)} clips; there "
            "is nothing to tell apart: leave them out"
        )
    return numbers


def _exact(numbers: NDArray[np.float64]) -> bool:
    """Whether all values are numbers that float64 tells apart."""
    return bool((np.abs(numbers) < _LARGEST_EXACT).all())


def _infer_task(num_values: int, numbers: NDArray[np.float64]) -> str:
    if num_values == 2:
        return "binary"
    whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
    few = num_values <= _MAX_CLASS_VALUES
    return "multiclass" if np.isnan(numbers).any() or (whole and few) else "regression"


def _finite(
    name: str, texts: "pd.Series[str]", numbers: NDArray[np.float64]
) -> NDArray[np.float64]:
    in_range = np.abs(numbers) <= np.finfo(np.float32).max  # a model's output is float32
    bad = texts[~in_range].unique().tolist()
    if bad:
        raise TargetError(
            f"column {name!r} holds values that are no finite float32 numbers: "
            f"{bad[:_NUM_EXAMPLES]}; correct them, blank them and use --blank-target drop, "
            "or choose --task multiclass"
        )
    return numbers


def _class_names(
    name: str, texts: "pd.Series[str]", numbers: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return each clip's class and the classes in order; 1, 1.0 and 01 are one class."""
    if _exact(numbers):
        values, inverse = np.unique(numbers, return_inverse=True)
        classes = [str(int(v)) if v.is_integer() else str(v) for v in values.tolist()]
        return inverse.astype(np.int64), classes
    _check_case(name, texts)
    of_clip, names = pd.factorize(texts, sort=True)
    return of_clip.astype(np.int64), [str(label) for label in names]


def _check_case(name: str, texts: "pd.Series[str]") -> None:
    spellings = pd.Series(texts.unique(), dtype="string")
    folded = spellings.str.casefold()
    doubled = spellings[folded.duplicated(keep=False)]
    if len(doubled):
        found = [list(variants) for _, variants in doubled.groupby(folded)]
        raise TargetError(
            f"column {name!r} has classes that differ only in case: {found[:_NUM_EXAMPLES]}; "
            "write each class one way"
        )

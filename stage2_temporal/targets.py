"""Labels joined to stored sequences by video_id, with nothing lost or shifted unnoticed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing
from stage1_extract.store import EmbeddingStore

_MAX_CLASS_VALUES = 10
_NUM_EXAMPLES = 5


class TargetError(ValueError):
    """The target column cannot be learned from, or does not fit the store."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A target column turned into numbers.

    Attributes:
        name: The column.
        task: binary, multiclass or regression.
        classes: Class names by class number; empty for regression.
        numbers: (N,) int64 class numbers, or float64 values.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    numbers: NDArray[Any]

    @property
    def num_outputs(self) -> int:
        """Width of a model's output: one probability a class, one value otherwise."""
        return len(self.classes) if self.task == "multiclass" else 1


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Clips with a sequence in the store and a target, sorted by video_id.

    Sorted, so that the order of the manifest's rows changes no split and no result.

    Attributes:
        rows: (N,) rows of the manifest.
        positions: (N,) sequences in the store.
        video_ids: (N,) ids.
        target: What is to be predicted.
        left_out: How many clips were dropped, by reason.
    """

    rows: NDArray[np.intp]
    positions: NDArray[np.intp]
    video_ids: NDArray[np.str_]
    target: Target
    left_out: dict[str, int]


def join_targets(
    store: EmbeddingStore,
    manifest: Manifest,
    target: str,
    *,
    task: str = "auto",
    positive: str | None = None,
    unmatched: str = "error",
    blank_target: str = "error",
) -> LabelledClips:
    """Match manifest rows and stored sequences (view 0) by video_id, and read the target.

    Args:
        store: Embeddings.
        manifest: Labels.
        target: The column to predict.
        task: binary, multiclass, regression, or auto.
        positive: The class that counts as 1 in a binary task; None for the last in sorted order.
        unmatched: error, or drop clips that only one side has.
        blank_target: error, or drop clips without a target.

    Raises:
        ManifestError: There is no such column.
        TargetError: Clips do not match, or the column cannot be learned from.
    """
    column = manifest.column(target)
    position_of = {
        video_id: i for i, video_id in enumerate(store.video_ids.tolist()) if store.views[i] == 0
    }
    ids = manifest.table["video_id"].tolist()
    blank = is_missing(column).to_numpy()
    left_out = {
        "not in the store": _allow(
            [i for i in ids if i not in position_of],
            unmatched == "drop",
            f"clips of {manifest.path} are not in {store.path} (failed or not extracted yet?)",
            "run `stage1-extract run` for them, or leave them out with --unmatched drop",
        ),
        "not in the manifest": _allow(
            sorted(position_of.keys() - set(ids)),
            unmatched == "drop",
            f"sequences of {store.path} are not in {manifest.path}",
            "add them to the manifest, or leave them out with --unmatched drop",
        ),
        "blank target": _allow(
            [i for i, is_blank in zip(ids, blank, strict=True) if is_blank and i in position_of],
            blank_target == "drop",
            f"clips have no {target!r}",
            "fill the column in, or leave them out with --blank-target drop",
        ),
    }
    used = [row for row, i in enumerate(ids) if i in position_of and not blank[row]]
    used.sort(key=ids.__getitem__)
    if not used:
        raise TargetError(f"no clip of {manifest.path} has both a sequence and a {target!r}")
    return LabelledClips(
        rows=np.array(used, np.intp),
        positions=np.array([position_of[ids[row]] for row in used], np.intp),
        video_ids=np.array([ids[row] for row in used]),
        target=encode_target(column.iloc[used], task=task, positive=positive),
        left_out=left_out,
    )


def _allow(ids: Sequence[str], allowed: bool, what: str, remedy: str) -> int:
    if ids and not allowed:
        raise TargetError(f"{len(ids)} {what}, e.g. {list(ids[:_NUM_EXAMPLES])}; {remedy}")
    return len(ids)


def encode_target(
    column: "pd.Series[str]", *, task: str = "auto", positive: str | None = None
) -> Target:
    """Turn a column without blanks into class numbers or values.

    `auto` takes two distinct values for binary, texts for multiclass, up to ten distinct whole
    numbers for multiclass, and other numbers for regression. 1, 1.0 and 01 are one value.

    Raises:
        TargetError: One distinct value only, infinite or non-numeric values for regression, names
            that differ only in case, more classes than the task has, or a positive class for
            another task than binary.
    """
    name = str(column.name)
    texts = column.astype("string").str.strip()
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    num_values = len(np.unique(numbers)) if np.isfinite(numbers).all() else texts.nunique()
    if num_values < 2:
        raise TargetError(
            f"column {name!r} has the single value {texts.iloc[0]!r} in {len(texts)} clips; there "
            "is nothing to tell apart"
        )
    task = _infer_task(num_values, numbers) if task == "auto" else task
    if positive is not None and task != "binary":
        raise TargetError(
            f"a positive class {positive!r} was given, but the task of column {name!r} is {task}; "
            "leave it out, or use --task binary"
        )
    if task == "regression":
        return Target(name, task, (), _finite(name, texts, numbers))
    names, classes = _class_names(name, texts, numbers)
    if task == "binary":
        classes = _binary_order(name, classes, positive)
    order = {label: number for number, label in enumerate(classes)}
    return Target(name, task, tuple(classes), np.array([order[n] for n in names], np.int64))


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
) -> tuple[list[str], list[str]]:
    """Return each clip's class and the classes in order; 1, 1.0 and 01 are one class."""
    if np.isfinite(numbers).all():
        values, inverse = np.unique(numbers, return_inverse=True)
        classes = [str(int(v)) if v.is_integer() else str(v) for v in values.tolist()]
        return [classes[i] for i in inverse], classes
    folded = texts.groupby(texts.str.casefold()).unique()
    doubled = [list(variants) for variants in folded if len(variants) > 1]
    if doubled:
        raise TargetError(
            f"column {name!r} has classes that differ only in case: {doubled[:_NUM_EXAMPLES]}; "
            "write each class one way"
        )
    return texts.tolist(), sorted(texts.unique().tolist())


def _binary_order(name: str, classes: list[str], positive: str | None) -> list[str]:
    if len(classes) != 2:
        raise TargetError(
            f"column {name!r} has {len(classes)} classes ({classes[:_NUM_EXAMPLES]}); a binary "
            "task has 2, use --task multiclass"
        )
    if positive is not None and positive not in classes:
        raise TargetError(f"positive class {positive!r} is not in {name!r}: {classes}")
    return sorted(classes, key=lambda label: label == positive)

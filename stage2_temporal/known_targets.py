"""Labels of new clips as numbers that a trained run knows: its classes, in its order."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing
from stage2_temporal.encoding import TargetError
from stage2_temporal.run_facts import BundleTarget
from stage2_temporal.targets import Target, encode_target

_NUM_EXAMPLES = 5
_PLUS = "+"


def target_columns(manifest: Manifest, name: str) -> pd.DataFrame:
    """Return the column of a target or, of a+b+c, the columns a, b and c.

    Raises:
        ManifestError: There is no such column.
    """
    if name in manifest.table.columns or _PLUS not in name:
        return manifest.column(name).to_frame()
    return pd.concat([manifest.column(part.strip()) for part in name.split(_PLUS)], axis=1)


def present_labels(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return (N,) whether no column is blank."""
    blank = pd.DataFrame({name: is_missing(table[name]) for name in table})
    return ~blank.any(axis=1).to_numpy(bool)


def encode_known(table: pd.DataFrame, known: BundleTarget, *, separator: str | None) -> Target:
    """Turn the labels of clips into the numbers that a run gives its classes; blanks are missing.

    Args:
        table: (N rows) the target's column, or one for each label.
        known: The target as the run knows it.
        separator: Splits the texts of a multilabel column.

    Raises:
        TargetError: A label is no class of the run, or no number.
    """
    # Clips that have each class, so that the column is read as in training though some lack here.
    examples = pd.DataFrame(_examples(known, len(table.columns), separator), columns=table.columns)
    both = pd.concat([table, examples], ignore_index=True)
    task = "multiclass" if known.task == "binary" else known.task
    found = encode_target(both, name=known.name, task=task, separator=separator)
    of_clips = found.at(np.arange(len(table)))
    if known.task == "regression":
        return of_clips
    order = _order(found.classes, known)
    numbers = (
        of_clips.numbers[:, np.argsort(order)]
        if known.task == "multilabel"
        else np.where(of_clips.present, np.array(order)[of_clips.numbers], 0)
    )
    return Target(known.name, known.task, known.classes, numbers, of_clips.present)


def _order(classes: tuple[str, ...], known: BundleTarget) -> list[int]:
    """Return the run's number of each class that was found."""
    if unknown := [name for name in classes if name not in known.classes]:
        raise TargetError(
            f"column {known.name!r} has {unknown[:_NUM_EXAMPLES]}, which the run does not know; it "
            f"was trained on {list(known.classes)}. Leave these clips out, blank their labels and "
            "give --blank-target drop, or correct them"
        )
    return [known.classes.index(name) for name in classes]


def _examples(known: BundleTarget, num_columns: int, separator: str | None) -> list[list[Any]]:
    if known.task == "regression":
        return [["0"], ["1"]]
    if known.task != "multilabel":
        return [[name] for name in known.classes]
    if num_columns > 1:
        return [["0"] * num_columns, ["1"] * num_columns]
    return [[separator], *([name] for name in known.classes)]

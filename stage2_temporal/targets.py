"""Labels joined to stored sequences by video_id, with nothing lost or shifted unnoticed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.encoding import TargetError, encode

_NUM_EXAMPLES = 5
_PLUS = "+"  # between the columns of one multilabel target


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be predicted, as numbers.

    Attributes:
        name: As it was asked for: a column, or several, a+b+c.
        task: binary, multiclass, multilabel or regression.
        classes: Class or label names by number; empty for regression.
        numbers: (N,) int64 class numbers, (N,) float64 values, or (N, L) int64 0 or 1 for each
            label; 0 where the target is missing.
        present: (N,) False where the target is missing.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    numbers: NDArray[Any]
    present: NDArray[np.bool_]

    @property
    def num_outputs(self) -> int:
        """Width k of a model's output: one probability a class or label, otherwise one value."""
        return len(self.classes) if self.task in {"multiclass", "multilabel"} else 1

    def encoded(self) -> NDArray[np.float32]:
        """Return (N, k) what a model's output is compared with; zeros where missing.

        Class number or value (N, 1), one-hot (N, C), or labels (N, L). With many classes, encode
        some clips at a time: `target.at(clips).encoded()`.
        """
        if self.task != "multiclass":
            return self.numbers.reshape(-1, self.num_outputs).astype(np.float32)
        one_hot = np.zeros((len(self.numbers), self.num_outputs), np.float32)
        clips = np.flatnonzero(self.present)
        one_hot[clips, self.numbers[clips]] = 1
        return one_hot

    def at(self, clips: NDArray[Any]) -> "Target":
        """Return the target of some clips: indices, or (N,) booleans."""
        return dataclasses.replace(self, numbers=self.numbers[clips], present=self.present[clips])


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Clips with a sequence in the store and a target, sorted by video_id.

    Sorted, so that the order of the manifest's rows changes no split and no result.

    Attributes:
        rows: (N,) rows of the manifest.
        positions: (N,) sequences in the store, of view 0.
        video_ids: (N,) ids.
        targets: What is to be predicted, in the order asked for; every clip has one of them.
        left_out: How many clips were dropped, by reason.
    """

    rows: NDArray[np.intp]
    positions: NDArray[np.intp]
    video_ids: NDArray[np.str_]
    targets: tuple[Target, ...]
    left_out: dict[str, int]


def join_targets(
    store: EmbeddingStore, manifest: Manifest, settings: TrainSettings
) -> LabelledClips:
    """Match manifest rows and stored sequences (view 0) by video_id, and read the targets.

    Args:
        store: Embeddings.
        manifest: Labels.
        settings: Which targets, their tasks, and whether clips may be dropped that only one side
            has, or that have no target.

    Raises:
        ManifestError: There is no such column.
        TargetError: Clips do not match, or a column cannot be learned from.
    """
    tables = [_columns(manifest, name) for name in settings.target]
    present = np.stack([_present(table) for table in tables], axis=1)
    ids = manifest.table["video_id"].tolist()
    position_of = {
        video_id: i for i, video_id in enumerate(store.video_ids.tolist()) if store.views[i] == 0
    }
    left_out = _check_matched(store, manifest, set(position_of), settings)
    stored = np.array([i in position_of for i in ids])
    left_out["blank target"] = _check_present(ids, present, stored, settings)
    used = np.flatnonzero(stored & present.any(axis=1)).tolist()
    used.sort(key=ids.__getitem__)
    if not used:
        raise TargetError(
            f"no clip of {manifest.path} has both a sequence and a "
            f"{' or '.join(map(repr, settings.target))}"
        )
    return LabelledClips(
        rows=np.array(used, np.intp),
        positions=np.array([position_of[ids[row]] for row in used], np.intp),
        video_ids=np.array([ids[row] for row in used]),
        targets=_read_targets([table.iloc[used] for table in tables], settings),
        left_out=left_out,
    )


def _columns(manifest: Manifest, name: str) -> pd.DataFrame:
    """Return the column of that name or else, of a+b+c, the columns a, b and c."""
    if name in manifest.table.columns or _PLUS not in name:
        return manifest.column(name).to_frame()
    parts = [part.strip() for part in name.split(_PLUS)]
    if len(set(parts)) < len(parts):
        raise TargetError(f"target {name!r} names a column twice; name each once")
    return pd.concat([manifest.column(part) for part in parts], axis=1)


def _present(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return (N,) whether no column is blank: a label that nobody judged is no 0."""
    blank = pd.DataFrame({name: is_missing(table[name]) for name in table})
    return ~blank.any(axis=1).to_numpy(bool)


def _check_matched(
    store: EmbeddingStore, manifest: Manifest, stored: set[str], settings: TrainSettings
) -> dict[str, int]:
    """Return how many clips only one side has; refuse them unless they may be dropped."""
    ids = manifest.table["video_id"].tolist()
    allowed = settings.unmatched == "drop"
    return {
        "not in the store": _allow(
            [i for i in ids if i not in stored],
            allowed,
            f"clips of {manifest.path} are not in {store.path} (failed or not extracted yet?)",
            "run `stage1-extract run` for them, or leave them out with --unmatched drop",
        ),
        "not in the manifest": _allow(
            sorted(stored - set(ids)),
            allowed,
            f"sequences of {store.path} are not in {manifest.path}",
            "add them to the manifest, or leave them out with --unmatched drop",
        ),
    }


def _check_present(
    ids: Sequence[str],
    present: NDArray[np.bool_],
    stored: NDArray[np.bool_],
    settings: TrainSettings,
) -> int:
    """Return how many stored clips lack all targets; unless it is allowed, none may lack one."""
    allowed = settings.blank_target == "drop"
    for name, has_it in zip(settings.target, present.T, strict=True):
        _allow(
            [ids[row] for row in np.flatnonzero(stored & ~has_it).tolist()],
            allowed,
            f"clips have no {name!r}",
            "fill the column in, or leave them out with --blank-target drop",
        )
    return int((stored & ~present.any(axis=1)).sum())


def _allow(ids: Sequence[str], allowed: bool, what: str, remedy: str) -> int:
    if ids and not allowed:
        raise TargetError(f"{len(ids)} {what}, e.g. {list(ids[:_NUM_EXAMPLES])}; {remedy}")
    return len(ids)


def _read_targets(tables: Sequence[pd.DataFrame], settings: TrainSettings) -> tuple[Target, ...]:
    targets = tuple(
        encode_target(
            table,
            name=name,
            task=settings.task_of(number),
            separator=settings.label_separator,
            positive=settings.positive,
        )
        for number, (name, table) in enumerate(zip(settings.target, tables, strict=True))
    )
    _check_separator(tables, targets, settings.label_separator)
    _check_positive(targets, settings.positive)
    return targets


def encode_target(
    table: pd.DataFrame,
    *,
    name: str,
    task: str = "auto",
    separator: str | None = None,
    positive: str | None = None,
) -> Target:
    """Turn a column, or several columns of 0 and 1, into a target; blanks are missing.

    Args:
        table: (N rows) one column, or one for each label of a multilabel target.
        name: What to call the target.
        task: binary, multiclass, multilabel, regression, or auto; see `encoding.encode`.
        separator: Splits the texts of a multilabel column.
        positive: The class that is number 1 of a binary target, where it has that class.

    Raises:
        TargetError: The column cannot be learned from; the message says why.
    """
    present = _present(table)
    if not present.any():
        raise TargetError(f"no clip has a {name!r}; fill the column in, or leave the target out")
    found = encode(table[present], task=task, separator=separator, positive=positive)
    numbers = np.zeros((len(table), *found.numbers.shape[1:]), found.numbers.dtype)
    numbers[present] = found.numbers
    return Target(name, found.task, found.classes, numbers, present)


def _check_separator(
    tables: Sequence[pd.DataFrame], targets: Sequence[Target], separator: str | None
) -> None:
    """Refuse a separator that nothing was split at: it is a slip, not a multilabel target."""
    split = [
        target.task == "multilabel" and len(table.columns) == 1
        for target, table in zip(targets, tables, strict=True)
    ]
    if separator is not None and not any(split):
        raise TargetError(
            f"--label-separator {separator!r} was given, but no text of "
            f"{[target.name for target in targets]} holds it; correct it, or leave it out"
        )


def _check_positive(targets: Sequence[Target], positive: str | None) -> None:
    if positive is None or any(t.task == "binary" and positive in t.classes for t in targets):
        return
    known = [f"{t.name} ({t.task}) {list(t.classes[:_NUM_EXAMPLES])}" for t in targets]
    raise TargetError(
        f"positive class {positive!r} is in no binary target: {', '.join(known)}; correct it, or "
        "leave it out"
    )

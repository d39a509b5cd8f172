"""Which clips a run has seen: those that it trained on, or chose its models by."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore, StoreError
from stage2_temporal.run_facts import RunFacts

_SEEN_SIDES = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class SeenClips:
    """The clips of a run's training and validation sides, in any of its folds.

    Attributes:
        ids: Their ids.
        groups: Their groups; none if the run had none.
        checksums: Hashes of their embeddings, as far as they could be looked up.
        sources: Hashes of the files that they were cut from, likewise.
        notices: What could not be.
    """

    ids: frozenset[str]
    groups: frozenset[str]
    checksums: frozenset[str]
    sources: frozenset[str]
    notices: tuple[str, ...]

    @classmethod
    def of(cls, facts: RunFacts, store: EmbeddingStore) -> "SeenClips":
        """Read `split.csv`, and the clips' contents from the run's store if it is still there.

        Args:
            facts: The run.
            store: The store that is evaluated; it may hold clips of the run, too.

        Raises:
            FileNotFoundError: There is no `split.csv`.
            ValueError: It is not what a run holds.
        """
        path = _split_path(facts)
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path}, so nobody can tell which clips the run has seen; copy the whole run "
                "folder, or give --seen keep if you know that it saw none of these"
            )
        seen = _seen_rows(path)
        ids = frozenset(seen["video_id"])
        recorded, notices = _own_store(facts)
        stores = [store, *recorded]
        return cls(
            ids,
            frozenset(seen["group"]) - {""},
            _column(stores, "checksum", ids),
            _column(stores, "source_hash", ids),
            notices,
        )

    def among(self, store: EmbeddingStore, positions: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return (N,) which clips were seen: by id, by content, or by others of their recording."""
        return (
            np.isin(store.video_ids[positions], list(self.ids))
            | np.isin(store.column("checksum")[positions], list(self.checksums))
            | np.isin(store.column("source_hash")[positions], list(self.sources))
        )


def seen_ids(facts: RunFacts) -> frozenset[str]:
    """Return the ids of the clips that a run has seen; none if its folder does not tell.

    Raises:
        ValueError: `split.csv` is not what a run holds.
    """
    path = _split_path(facts)
    return frozenset(_seen_rows(path)["video_id"]) if path.is_file() else frozenset()


def _split_path(facts: RunFacts) -> Path:
    return facts.folder / "split.csv"


def _seen_rows(path: Path) -> pd.DataFrame:
    table = _read(path)
    sides = table.drop(columns=["video_id", "group"])
    return table[sides.isin(_SEEN_SIDES).any(axis=1).to_numpy()]


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:
        raise ValueError(
            f"{path} is not a CSV table: {error}; copy the run folder again"
        ) from error
    if not {"video_id", "group"} < set(table.columns):
        raise ValueError(
            f"{path} has the columns {list(table.columns)}; expected video_id, group and sides: "
            "copy the run folder again"
        )
    return table


def _own_store(facts: RunFacts) -> tuple[list[EmbeddingStore], tuple[str, ...]]:
    path = Path(facts.settings["store"]["path"])
    try:
        return [EmbeddingStore(path)], ()
    except (OSError, StoreError):
        notice = (
            f"the run's own store is not at {path}, so a clip that it has seen under another id, "
            "or another part of a recording that it has seen, would not be noticed"
        )
        return [], (notice,)


def _column(stores: Sequence[EmbeddingStore], name: str, ids: frozenset[str]) -> frozenset[str]:
    found: set[str] = set()
    for store in stores:
        wanted = np.isin(store.video_ids, list(ids)) & (store.views == 0)
        found.update(store.column(name)[wanted].tolist())
    return frozenset(found)

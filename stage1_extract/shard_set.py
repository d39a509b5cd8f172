"""Opening all shards of a store: unchanged ones from its index, others from themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage1_extract.provenance import StoreError, describe_difference, merge_settings
from stage1_extract.shard_format import SHARD_SUFFIX, damaged, shard_paths
from stage1_extract.shard_index import (
    Entry,
    ShardState,
    is_worth_writing,
    read_index,
    write_index,
)
from stage1_extract.shard_reading import SequenceIds, Shard, open_shard

_OPENING_ATTEMPTS = 10


def open_shards(path: Path) -> tuple[list[Shard], SequenceIds, dict[str, Any]]:
    """Open the shards of a store, also while a compaction replaces some by others.

    Returns:
        The shards, the sequences of all, one shard after the other, and the settings of all.

    Raises:
        StoreError: There is none, one is damaged, or they do not belong together.
    """
    known = read_index(path) if path.is_dir() else {}
    entries = _open_listed(path, known)
    shards = [entry.shard for entry in entries]
    settings = common_settings(shards)
    if path.is_dir() and is_worth_writing(e for e in entries if known.get(_name(e)) is not e):
        write_index(path, entries)
    return shards, SequenceIds.joined([entry.ids for entry in entries]), settings


def _name(entry: Entry) -> str:
    return entry.shard.path.name


def _open_listed(path: Path, known: dict[str, Entry]) -> list[Entry]:
    missing: FileNotFoundError | None = None
    for _ in range(_OPENING_ATTEMPTS):
        paths = shard_paths(path)
        if not paths:
            raise StoreError(f"{path} holds no shards (*{SHARD_SUFFIX}); is it a store?")
        # A folder that changes while it is listed may show neither the old shard nor the new.
        if shard_paths(path) != paths:
            continue
        try:
            return [_open(shard, known.get(shard.name)) for shard in paths]
        except FileNotFoundError as error:
            missing = error
    raise StoreError(
        f"{path} lists shards that cannot be opened: they come and go, or are broken links"
    ) from missing


def _open(path: Path, known: Entry | None) -> Entry:
    state = ShardState.of(path)
    if known is not None and known.state == state:
        return known
    return Entry(*open_shard(path), state)


def common_settings(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the settings of all shards together, after checking that they fit.

    Raises:
        StoreError: They do not; both sides of each difference are shown.
    """
    common = dict(shards[0].provenance.settings)
    seen = [shards[0].provenance.settings]
    for number, shard in enumerate(shards):
        settings = shard.provenance.settings
        if settings not in seen:
            try:
                common = merge_settings(common, settings)
            except StoreError as error:
                other = _first_differing(shards[:number], shard)
                raise StoreError(
                    f"{other.path} and {shard.path} were made with different settings: {error}; "
                    "keep them in separate folders"
                ) from error
            seen.append(settings)
        if (shard.dtype, shard.shape[1]) != (shards[0].dtype, shards[0].shape[1]):
            raise damaged(
                shard.path,
                f"it holds {shard.dtype} of dimension {shard.shape[1]}, the store "
                f"{shards[0].dtype} of dimension {shards[0].shape[1]}",
            )
    return common


def _first_differing(shards: Sequence[Shard], shard: Shard) -> Shard:
    settings = shard.provenance.settings
    return next(s for s in shards if describe_difference(s.provenance.settings, settings))

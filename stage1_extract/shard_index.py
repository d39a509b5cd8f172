"""The index of a store of many shards: what opening needs of each, in one file that loads fast.

It is never trusted over the shards. An entry counts for a shard of the same name, size and time of
change alone; an index that is damaged, cut or of another version is passed over, and written anew.
"""

import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.provenance import Provenance
from stage1_extract.shard_format import EMBEDDING_DTYPES, ID_COLUMNS, PARTIAL_SUFFIX, TOLD
from stage1_extract.shard_reading import SequenceIds, Shard

INDEX_NAME = ".shard-index"
_MAGIC = b"shard index 1\n\0\0"
_DIGEST_BYTES = 32
_ALIGNMENT = 8
_WORTH_SHARDS = 32
_WORTH_SEQUENCES = 100_000
_SETTLED_NS = 2 * 10**9
"""A file system's clock may tick this slowly: a younger shard could change and keep its time."""


@dataclasses.dataclass(frozen=True)
class ShardState:
    """By what a shard is known again: shards never change, they are replaced.

    Neither the inode's number nor the time of its change count: they are others after a copy that
    keeps times, on another machine, or at each mount of some network file systems.
    """

    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "ShardState":
        """Ask the file system; before the shard is read, lest a change meanwhile be missed."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)

    @property
    def settled(self) -> bool:
        """Whether any later change would show in the time."""
        return time.time_ns() - self.modified_ns > _SETTLED_NS


@dataclasses.dataclass(frozen=True)
class Entry:
    """A shard that was opened, and the state of its file before."""

    shard: Shard
    ids: SequenceIds
    state: ShardState


def read_index(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder's index by the shard's file name; none if it is unusable."""
    try:
        content = memoryview((folder / INDEX_NAME).read_bytes())
    except OSError:
        return {}
    start = len(_MAGIC) + _DIGEST_BYTES
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : start] != _digest(content[start:]):
        return {}
    try:
        return _entries(folder, content[start:])
    except (ValueError, LookupError, TypeError):  # written by something else
        return {}


def is_worth_writing(opened_anew: Iterable[Entry]) -> bool:
    """Whether so much was read from shards that an index would spare the next one time."""
    settled = [entry.shard.num_sequences for entry in opened_anew if entry.state.settled]
    return len(settled) >= _WORTH_SHARDS or sum(settled) >= _WORTH_SEQUENCES


def write_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the index of all shards that will not change unnoticed, whole or not at all.

    Where it cannot be written (a folder that is read-only, a full disk) nothing happens: the store
    can be read without.
    """
    partial = folder / f"{INDEX_NAME}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    with suppress(OSError):
        try:
            with partial.open("xb") as file:
                payload = _payload([entry for entry in entries if entry.state.settled])
                file.writelines([_MAGIC, _digest(*payload), *payload])
            partial.replace(folder / INDEX_NAME)
        finally:
            partial.unlink(missing_ok=True)


def _digest(*parts: Any) -> bytes:
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


class _Numbered:
    """Numbers distinct values in the order of their first appearance."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._number: dict[str, int] = {}

    def number(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self._number:
            self._number[key] = len(self.values)
            self.values.append(value)
        return self._number[key]


def _payload(entries: Sequence[Entry]) -> list[Any]:
    origins = _Numbered()
    rows = [_row(entry, origins) for entry in entries]
    ids = SequenceIds.joined([entry.ids for entry in entries])
    columns = {name: np.ascontiguousarray(getattr(ids, name)) for name in ID_COLUMNS}
    header = {
        "shards": rows,
        "origins": origins.values,
        "columns": {name: [c.dtype.str, len(c)] for name, c in columns.items()},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    parts: list[Any] = [len(text).to_bytes(8, "little"), text]
    for column in columns.values():
        parts += [column.view(np.uint8).data, bytes(-column.nbytes % _ALIGNMENT)]
    return parts


def _row(entry: Entry, origins: _Numbered) -> dict[str, Any]:
    shard = entry.shard
    return {
        "name": shard.path.name,
        **dataclasses.asdict(entry.state),
        "origin": origins.number({name: getattr(shard.provenance, name) for name in TOLD}),
        "created": shard.created,
        "dtype": shard.dtype.name,
        "shape": list(shard.shape),
        "offset_bytes": shard.offset_bytes,
        "num_sequences": shard.num_sequences,
    }


def _entries(folder: Path, payload: memoryview) -> dict[str, Entry]:
    start = 8 + int.from_bytes(payload[:8], "little")
    header = json.loads(bytes(payload[8:start]))
    columns: dict[str, NDArray[Any]] = {}
    for name in ID_COLUMNS:
        dtype, count = header["columns"][name]
        columns[name] = np.frombuffer(payload, dtype, count, start)
        start += columns[name].nbytes + -columns[name].nbytes % _ALIGNMENT
    ids = SequenceIds(**columns)
    origins = [Provenance(**told) for told in header["origins"]]
    entries, row = {}, 0
    for told in header["shards"]:
        end = row + told["num_sequences"]
        entry = _entry(folder, told, origins[told["origin"]], ids[row:end])
        entries[told["name"]] = entry
        row = end
    return entries


def _entry(
    folder: Path, told: Mapping[str, Any], provenance: Provenance, ids: SequenceIds
) -> Entry:
    shard = Shard(
        path=folder / told["name"],
        provenance=provenance,
        created=told["created"],
        dtype=np.dtype(told["dtype"]),
        shape=(told["shape"][0], told["shape"][1]),
        offset_bytes=told["offset_bytes"],
        num_sequences=told["num_sequences"],
    )
    state = ShardState(told["size_bytes"], told["modified_ns"])
    if (
        shard.dtype.name not in EMBEDDING_DTYPES
        or shard.end_bytes > state.size_bytes
        or len(ids) != shard.num_sequences
        or len(ids.beyond(shard.shape[0]))
    ):
        raise ValueError(f"{told['name']} is no entry of a sound shard")
    return Entry(shard, ids, state)

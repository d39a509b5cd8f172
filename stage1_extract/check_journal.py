"""What a verification that was broken off had found sound, so that the next one goes on."""

import dataclasses
import json
import time
from contextlib import suppress
from pathlib import Path

from stage1_extract.shard_index import ShardState

JOURNAL_NAME = ".verified.jsonl"
_KEPT_SECONDS = 7 * 24 * 3600
"""Disks decay: what was read longer ago is read again."""


@dataclasses.dataclass(frozen=True)
class SoundShard:
    """A line of the journal: a shard that was read without finding anything wrong."""

    name: str
    size_bytes: int
    modified_ns: int
    checked: float
    """When, in seconds since 1970."""

    @property
    def state(self) -> ShardState:
        """State of the file then."""
        return ShardState(self.size_bytes, self.modified_ns)


class CheckJournal:
    """The journal of a store's folder; nothing happens where it cannot be written.

    Args:
        store: The store's folder; one shard has no journal.
    """

    def __init__(self, store: Path) -> None:
        self._path = store / JOURNAL_NAME

    def read(self) -> dict[str, SoundShard]:
        """Return the shards that were found sound within the last week, by name."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return {}
        found = (_parsed(line) for line in lines)
        youngest = time.time() - _KEPT_SECONDS
        return {shard.name: shard for shard in found if shard and shard.checked > youngest}

    def add(self, name: str, state: ShardState) -> None:
        """Add a sound shard; a single write, so that a crash cuts at most this line."""
        if not state.settled:  # it could change again and not show it
            return
        shard = SoundShard(name, state.size_bytes, state.modified_ns, time.time())
        line = json.dumps(dataclasses.asdict(shard)).encode() + b"\n"
        with suppress(OSError), self._path.open("ab") as file:
            file.write(line)

    def remove(self) -> None:
        """Forget everything."""
        with suppress(OSError):
            self._path.unlink()


def _parsed(line: bytes) -> SoundShard | None:
    try:
        shard = SoundShard(**json.loads(line))
    except (ValueError, TypeError):  # cut short, or damaged
        return None
    numbers = isinstance(shard.size_bytes, int) and isinstance(shard.modified_ns, int)
    return shard if numbers and isinstance(shard.checked, float) else None

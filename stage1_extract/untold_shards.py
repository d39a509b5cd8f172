"""Shards that workers wrote and could not tell of, because they were lost right afterwards."""

from collections.abc import Callable, Iterator

from stage1_extract.clip_ledger import SequenceKey
from stage1_extract.store import EmbeddingStore, StoreError, shard_paths
from stage1_extract.targets import Target


class UntoldShards:
    """Finds the shards of a store that nobody told of.

    Args:
        target: Where the workers write.
        write: Shows a message.
    """

    def __init__(self, target: Target, write: Callable[[str], None]) -> None:
        self._target, self._write = target, write
        self._known = {path.name for path in shard_paths(target.folder)}

    def tell_of(self, name: str) -> None:
        """Take note of a shard that a worker told of."""
        self._known.add(name)

    def find(self) -> Iterator[list[SequenceKey]]:
        """Yield the sequences of each shard that came since and that no worker told of."""
        try:
            self._target.renew_shards()
        except (StoreError, OSError) as error:
            self._write(f"what a lost worker stored at last is done again: {error}")
        for path in shard_paths(self._target.folder):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            try:
                store = EmbeddingStore(path)
            except (StoreError, OSError) as error:  # torn with its machine, or just merged
                self._write(f"a shard is taken for empty: {error}")
                continue
            columns = store.video_ids.tolist(), store.views.tolist(), store.lengths.tolist()
            yield list(zip(*columns, strict=True))

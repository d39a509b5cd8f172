"""Where a run's shards go: a folder, or an address whose store is seen through a mirror."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from stage1_extract.address_lease import address_lease
from stage1_extract.addresses import Location
from stage1_extract.compact import compact_store
from stage1_extract.mirrors import Mirror
from stage1_extract.remote_calls import check_scheme
from stage1_extract.run_lease import run_lease
from stage1_extract.scratch import ScratchFolder
from stage1_extract.store import EmbeddingStore, StoreError, remove_stale_partials, shard_paths

_MANY_SHARDS = 8


class Target(Protocol):
    """A store that a run writes into."""

    @property
    def store(self) -> Location:
        """Where it is."""

    @property
    def folder(self) -> Path:
        """A folder on this machine that tells what it holds; frames may be missing there."""

    def begin(self) -> None:
        """Make it ready to be written into, and remove what killed runs left."""

    def keep_failures(self) -> None:
        """Keep failures.jsonl as it is in `folder` now."""

    def renew(self) -> None:
        """Have `folder` tell what was written since: shards, and failures in place of its own."""

    def renew_shards(self) -> object:
        """Have `folder` tell which shards were written since."""

    def lease(
        self, manifest_sha256: str, tell: Callable[[str], None]
    ) -> AbstractContextManager[list[str]]:
        """Return a context in which no other run embeds the same manifest into the store.

        Its value are notes for the user; there is one if the lease is lost.

        Args:
            manifest_sha256: Of the manifest.
            tell: Shows a message, if there is something to wait for long.

        Raises:
            StoreError: Another run does.
        """

    def merge_small_shards(self, shard_bytes: int) -> list[str]:
        """Merge the small shards of a long run, and remove copies; returns a remark if they stay.

        Args:
            shard_bytes: Wanted size of a shard.
        """


@contextmanager
def open_target(store: Location, scratch: Path | None) -> Iterator[Target]:
    """Yield the store that a run writes into; errors name it, and not its mirror.

    Raises:
        MissingPackageError: What reaches the address is not installed.
        StoreError: A shard at the address is damaged.
        OSError: The address cannot be reached.
    """
    if isinstance(store, Path):
        yield _FolderTarget(store)
        return
    check_scheme(store)
    with ScratchFolder(scratch) as folder:
        target = _AddressTarget(store, folder.path)
        try:
            target.renew()
            yield target
        except StoreError as error:
            raise StoreError(str(error).replace(str(folder.path), str(store))) from error


class _FolderTarget:
    def __init__(self, folder: Path) -> None:
        self.store = folder
        self.folder = folder

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(self.folder)

    def keep_failures(self) -> None:
        pass  # they are where they belong

    def renew(self) -> None:
        pass

    def renew_shards(self) -> None:
        pass

    def lease(
        self, manifest_sha256: str, tell: Callable[[str], None]
    ) -> AbstractContextManager[list[str]]:
        del tell  # on one machine, a run that was killed is seen at once
        return run_lease(self.folder, manifest_sha256)

    def merge_small_shards(self, shard_bytes: int) -> list[str]:
        few = len(shard_paths(self.folder)) < _MANY_SHARDS
        # A cluster's worker that was lost, or another run, may leave copies.
        if few and not EmbeddingStore(self.folder).num_duplicates:
            return []
        try:
            compact_store(self.folder, shard_bytes=shard_bytes)
        except (StoreError, OSError) as error:  # which loses nothing
            return [f"all is stored, but its shards were not merged: {error}"]
        return []


class _AddressTarget(Mirror):
    def begin(self) -> None:
        self.remove_stale_partials()

    def lease(
        self, manifest_sha256: str, tell: Callable[[str], None]
    ) -> AbstractContextManager[list[str]]:
        return address_lease(self.store, manifest_sha256, tell)

    def merge_small_shards(self, shard_bytes: int) -> list[str]:
        del shard_bytes  # nothing is merged there
        number = len(shard_paths(self.folder))
        if number < _MANY_SHARDS:
            return []
        return [
            f"{self.store} holds {number} shards, which are merged on the disk alone: "
            f"`stage1-extract fetch {self.store} FOLDER`, then `stage1-extract compact FOLDER`"
        ]

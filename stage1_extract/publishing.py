"""Putting finished shards where the store is, once they are complete on this machine."""

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stage1_extract.addresses import Address, Location
from stage1_extract.failures import FILE_NAME
from stage1_extract.remote import upload
from stage1_extract.scratch import ScratchFolder

_FAILURES_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Outbox:
    """Where a `ShardWriter` writes, and what becomes of that.

    Attributes:
        folder: On this machine.
        publish: Called with each complete shard, and with failures.jsonl whenever it has grown.
    """

    folder: Path
    publish: Callable[[Path], None]


@contextmanager
def open_outbox(store: Location, scratch: Path | None) -> Iterator[Outbox]:
    """Yield where to write the shards of a store: its folder, or a scratch folder for an address.

    Args:
        store: A folder that is there, or an address.
        scratch: Where scratch folders are made; None for the system's temporary folder.

    Raises:
        OSError: Something cannot be put to the address, also after several attempts.
    """
    if isinstance(store, Path):
        yield Outbox(store, lambda _: None)
        return
    with ScratchFolder(scratch) as folder:
        publisher = _Publisher(store)
        try:
            yield Outbox(folder.path, publisher.publish)
        finally:
            publisher.send_failures()


class _Publisher:
    """Uploads shards, and the failures of this writer as a file of its own.

    Files at an address are replaced as a whole: of several writers' one file would be the last's.
    """

    def __init__(self, store: Address) -> None:
        self._store = store
        self._failures_name = f"failures-{secrets.token_hex(4)}.jsonl"
        self._unsent: Path | None = None
        self._sent = time.monotonic()

    def publish(self, path: Path) -> None:
        """Put a shard to the address and remove it here, or take note of failures.

        Raises:
            OSError: It cannot be put there; what is not there is not kept here either.
        """
        if path.name == FILE_NAME:
            self._unsent = path
            if time.monotonic() - self._sent > _FAILURES_SECONDS:
                self.send_failures()
            return
        try:
            self._upload(path, path.name)
        finally:
            path.unlink(missing_ok=True)

    def send_failures(self) -> None:
        """Put the failures to the address, if there are new ones."""
        if self._unsent is not None:
            self._upload(self._unsent, self._failures_name)
        self._unsent, self._sent = None, time.monotonic()

    def _upload(self, path: Path, name: str) -> None:
        try:
            upload(path, self._store.child(name))
        except OSError as error:
            raise OSError(
                f"cannot write into {self._store}: {error}. Finished shards are kept; see to the "
                "network or to what you may write, and run the same command again"
            ) from error

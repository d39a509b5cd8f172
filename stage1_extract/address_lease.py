"""A lease at an address: one run at a time for a manifest and a store in a bucket.

Few file systems behind addresses can create a file only if it is not there. So who wants the lease
writes a record, waits, and reads again: it is held by whose record stands there, the last writer's.
"""

import json
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stage1_extract.addresses import Address
from stage1_extract.provenance import StoreError
from stage1_extract.remote import read_bytes, remove, upload
from stage1_extract.run_lease import already_embedded

STALE_SECONDS = 60.0
"""A record that was not renewed for so long is that of a run which was killed."""
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 5.0
"""Two who saw no record write theirs within so long of each other."""
_POLL_SECONDS = 1.0


@contextmanager
def address_lease(
    store: Address, manifest_sha256: str, tell: Callable[[str], None] = lambda _: None
) -> Iterator[list[str]]:
    """Hold the lease of a manifest on a store at an address for the time of the block.

    The record that a killed run leaves behind is waited for a sign of life; clocks are not
    compared.

    Args:
        store: The store.
        manifest_sha256: Of the manifest.
        tell: Shows a message, if there is something to wait for.

    Yields:
        Notes for the user; there is one if the lease is lost, as by a machine that sleeps.

    Raises:
        StoreError: Another run embeds the same manifest into this store.
        OSError: The address cannot be reached, or not be written.
    """
    record = _Record(store.child(f".run-{manifest_sha256[:16]}.lease"))
    _wait_until_free(store, record, tell)
    record.write()
    time.sleep(SETTLE_SECONDS)
    if not record.is_ours():
        raise _refusal(store, record)
    notes: list[str] = []
    ended = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(store, record, ended, notes), name="lease", daemon=True
    )
    beating.start()
    try:
        yield notes
    finally:
        ended.set()
        beating.join()
        if record.is_ours():
            remove(record.address)


class _Record:
    """A file that says who holds the lease, and that changes as long as its run goes on."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._token = secrets.token_hex(16)
        self._beats = 0

    def read(self) -> bytes | None:
        try:
            return read_bytes(self.address)
        except FileNotFoundError:
            return None

    def is_ours(self) -> bool:
        content = self.read()
        return content is not None and self._token.encode() in content

    def write(self) -> None:
        self._beats += 1
        content = {"pid": os.getpid(), "host": platform.node(), "run": self._token}
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(json.dumps({**content, "beats": self._beats}))
            file.flush()
            upload(Path(file.name), self.address)


def _holder(content: bytes | None) -> str:
    """Say whose a record is."""
    try:
        found = json.loads(content or b"")
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):  # gone, or written by something else
        return "a process on an unknown machine"


def _wait_until_free(store: Address, record: _Record, tell: Callable[[str], None]) -> None:
    before = record.read()
    if before is not None:
        tell(
            f"waiting up to {STALE_SECONDS:.0f} s for a sign of life of {_holder(before)},"
            " whose run of the same manifest did not give its lease back"
        )
    deadline = time.monotonic() + STALE_SECONDS
    while before is not None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        now = record.read()
        if now is None:
            return
        if now != before:
            raise _refusal(store, record)


def _beat(store: Address, record: _Record, ended: threading.Event, notes: list[str]) -> None:
    """Renew the record until the run ends, or finds that another took the lease."""
    while not ended.wait(BEAT_SECONDS):
        try:
            if not record.is_ours():
                notes.append(_loss_note(store))
                return
            record.write()
        except OSError:  # the network is away; whether the lease was lost meanwhile will show
            continue


def _refusal(store: Address, record: _Record) -> StoreError:
    return already_embedded(store, _holder(record.read()), record.address)


def _loss_note(store: Address) -> str:
    return (
        f"the lease of {store} was lost: this run was not heard of for {STALE_SECONDS:.0f} "
        "seconds, and another may have embedded the same manifest meanwhile; after `stage1-extract "
        "fetch`, `stage1-extract compact` removes what is stored twice"
    )

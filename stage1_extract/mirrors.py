"""What a store at an address holds, without its frames: a local folder that readers take for it.

Each shard is there with all its bytes but those of the embeddings, frame times and numbers: it is a
sparse file, of which only what the index needs was fetched. `EmbeddingStore` opens it as any store.
"""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from stage1_extract.addresses import Address
from stage1_extract.failures import FILE_NAME
from stage1_extract.provenance import StoreError
from stage1_extract.remote import (
    RemoteState,
    list_folder,
    read_bytes,
    remove,
    upload,
)
from stage1_extract.shard_format import PARTIAL_SUFFIX, SHARD_SUFFIX, STALE_SECONDS
from stage1_extract.shard_reading import read_index

_BLOCK_BYTES = 256 * 1024
_NUM_THREADS = 16


class Mirror:
    """A local folder that shows what a store at an address holds, and its failures.

    Args:
        store: The store; one that is not there yet holds nothing.
        folder: An empty folder.
    """

    def __init__(self, store: Address, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self._merged: list[str] = []

    def renew(self) -> None:
        """Fetch what came to the store since.

        Raises:
            StoreError: A shard is damaged.
            OSError: The store cannot be reached, or not be read.
        """
        listed = self.renew_shards()
        self._merged = failure_files(listed)
        (self.folder / FILE_NAME).write_bytes(failures_at(self.store, listed))

    def renew_shards(self) -> dict[str, RemoteState]:
        """Fetch the shards that came to the store since, and return all its files.

        Raises:
            StoreError: A shard is damaged.
            OSError: The store cannot be reached, or not be read.
        """
        listed = list_folder(self.store)
        for path in self.folder.glob(f"*{SHARD_SUFFIX}"):
            if path.name not in listed:
                path.unlink()
        wanted = {
            name: state
            for name, state in shards_of(listed).items()
            if not (self.folder / name).exists()
        }
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            for _ in threads.map(self._fetch_index, wanted, wanted.values()):
                pass
        return listed

    def keep_failures(self) -> None:
        """Put failures.jsonl, as it is here now, to the store in place of those it was made of.

        Raises:
            OSError: It cannot be written there.
        """
        path = self.folder / FILE_NAME
        kept = path.read_bytes() if path.exists() else b""
        if self._merged == [FILE_NAME] and kept == read_bytes(self.store.child(FILE_NAME)):
            return
        if kept:
            upload(path, self.store.child(FILE_NAME))
        for name in self._merged:
            if name != FILE_NAME or not kept:
                remove(self.store.child(name))
        self._merged = [FILE_NAME] * bool(kept)

    def remove_stale_partials(self) -> None:
        """Remove what killed runs left half-uploaded, where that shows in the folder at all.

        Raises:
            OSError: It cannot be removed.
        """
        for name, state in list_folder(self.store).items():
            age_seconds = time.time() - state.modified_ns / 1e9
            is_old = state.modified_ns and age_seconds > STALE_SECONDS
            if name.startswith(".") and name.endswith(PARTIAL_SUFFIX) and is_old:
                remove(self.store.child(name))

    def _fetch_index(self, name: str, state: RemoteState) -> None:
        address = self.store.child(name)
        if state.size_bytes is None:
            raise StoreError(f"{address}: its file system does not tell its size")
        partial = self.folder / f".{name}{PARTIAL_SUFFIX}"
        with partial.open("w+b") as local:
            local.truncate(state.size_bytes)
            parts = _PartsOf(address, state.size_bytes, local)
            try:
                read_index(parts, str(address))
            except StoreError:
                if parts.error is not None:  # h5py tells of a lost connection as of damage
                    raise parts.error from None
                raise
        partial.replace(self.folder / name)


def shards_of(listed: dict[str, RemoteState]) -> dict[str, RemoteState]:
    """Return the shards among the files of a folder."""
    return {
        name: state
        for name, state in sorted(listed.items())
        if name.endswith(SHARD_SUFFIX) and not name.startswith(".") and not state.is_folder
    }


def failure_files(listed: dict[str, RemoteState]) -> list[str]:
    """Return the names of the files of failures: the common one first, then those of writers."""
    found = [name for name in listed if name.startswith("failures-") and name.endswith(".jsonl")]
    return [FILE_NAME] * (FILE_NAME in listed) + sorted(found)


def failures_at(store: Address, listed: dict[str, RemoteState]) -> bytes:
    """Return the lines of all files of failures, the later ones last.

    Raises:
        OSError: One cannot be read.
    """
    return b"".join(read_bytes(store.child(name)) for name in failure_files(listed))


class _PartsOf(io.RawIOBase):
    """A remote file to read from; the blocks that are asked for come once, into a local file."""

    def __init__(self, address: Address, size_bytes: int, local: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._address = address
        self._size = size_bytes
        self._local = local
        self._position = 0
        self._there: set[int] = set()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        try:
            self._fetch(self._position, self._position + count)
        except OSError as error:
            self.error = error
            raise
        self._local.seek(self._position)
        buffer[:count] = self._local.read(count)
        self._position += count
        return count

    def _fetch(self, start: int, end: int) -> None:
        for first, last in _runs(_missing(start, end, self._there)):
            offset = first * _BLOCK_BYTES
            stop = min((last + 1) * _BLOCK_BYTES, self._size)
            content = read_bytes(self._address, offset, stop)
            if len(content) != stop - offset:
                raise OSError(f"{self._address}: {len(content)} of {stop - offset} bytes came")
            self._local.seek(offset)
            self._local.write(content)
            self._there.update(range(first, last + 1))


def _missing(start: int, end: int, there: set[int]) -> Iterator[int]:
    """Yield the numbers of the blocks that hold bytes from `start` to before `end`, if missing."""
    blocks = range(start // _BLOCK_BYTES, -(-end // _BLOCK_BYTES))
    return (block for block in blocks if block not in there)


def _runs(blocks: Iterator[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of neighbours: 1, 2, 3, 7 are (1, 3) and (7, 7)."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block - 1:
            runs[-1] = runs[-1][0], block
        else:
            runs.append((block, block))
    return runs

"""Files at addresses: looked up, listed, downloaded, uploaded, whatever their file system."""

import dataclasses
import hashlib
import inspect
import math
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from stage1_extract import remote_calls
from stage1_extract.addresses import Address
from stage1_extract.remote_calls import open_system, retried
from stage1_extract.shard_format import PARTIAL_SUFFIX
from stage1_extract.sources import Beat

_BLOCK_BYTES = 2**20
_NUM_THREADS = 16
_LISTED_FROM = 10
"""As many files of a folder are looked up one by one; of more, the folder is listed."""
_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "Last-Modified", "modified")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""There an upload is listed once it is complete, and a rename would be a copy."""


@dataclasses.dataclass(frozen=True)
class RemoteState:
    """What a file system says of a file.

    Attributes:
        size_bytes: None where it does not say.
        modified_ns: When it was written; 0 where it does not say.
        is_folder: Whether it is a folder.
    """

    size_bytes: int | None
    modified_ns: int
    is_folder: bool = False


def remote_state(address: Address, *, beat: Beat = lambda: None) -> RemoteState:
    """Return what is known of a file without reading it.

    Raises:
        OSError: It is not there, may not be read, or cannot be reached.
    """
    fs, path = open_system(address)
    return retried(lambda: _state(fs.info(path)), address, beat)


def remote_states(addresses: Sequence[Address]) -> dict[Address, RemoteState | None]:
    """Return what is known of many files, None of those that are gone.

    Folders that hold many of them are listed once, the others are asked for side by side.

    Raises:
        OSError: A file system cannot be reached, or refuses.
    """
    of_folder: dict[Address, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        of_folder.setdefault(address.folder, []).append(address)
    listed: dict[Address, RemoteState | None] = {}
    for folder, files in of_folder.items():
        if len(files) > _LISTED_FROM:
            found = list_folder(folder)
            listed |= {f: found[f.name] for f in files if _tells_all(found.get(f.name))}
    rest = [address for files in of_folder.values() for address in files if address not in listed]
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        asked = dict(zip(rest, threads.map(_state_if_there, rest), strict=True))
    return listed | asked


def _tells_all(state: RemoteState | None) -> bool:
    return state is not None and state.size_bytes is not None and state.modified_ns != 0


def _state_if_there(address: Address) -> RemoteState | None:
    try:
        return remote_state(address)
    except FileNotFoundError:
        return None


def list_folder(folder: Address) -> dict[str, RemoteState]:
    """Return the files and folders in a folder by name; empty where there is no such folder.

    Raises:
        OSError: It may not be listed, or cannot be reached.
    """
    fs, path = open_system(folder)

    def entries() -> list[dict[str, Any]]:
        fs.invalidate_cache()
        found: list[dict[str, Any]] = fs.ls(path, detail=True)
        return found

    try:
        found = retried(entries, folder)
    except FileNotFoundError:
        return {}
    return {entry["name"].rstrip("/").rpartition("/")[2]: _state(entry) for entry in found}


def download(address: Address, target: Path, *, beat: Beat = lambda: None) -> RemoteState:
    """Copy a file to a local path, which stays absent unless it came whole.

    Args:
        address: Where it is.
        target: Where it goes.
        beat: Called whenever a piece has come, from any thread.

    Returns:
        What the file system says of it, and said before.

    Raises:
        OSError: It is not there, is a folder, may not be read, or did not come whole.
    """
    fs, path = open_system(address)
    partial = target.with_name(f".{target.name}.partial")

    def copy() -> RemoteState:
        before = _state(fs.info(path))
        if before.is_folder:
            raise IsADirectoryError(f"{address} is a folder; expected a file")
        fs.get_file(path, str(partial), callback=_beating(beat), **_one_stream(fs.get_file))
        size = partial.stat().st_size
        if before.size_bytes not in (None, size):
            raise OSError(f"{size} of {before.size_bytes} bytes came")
        if _state(fs.info(path)) != before:
            raise OSError("it changed while it was downloaded")
        return dataclasses.replace(before, size_bytes=size)

    try:
        state = retried(copy, address, beat)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return state


def upload(source: Path, address: Address) -> None:
    """Copy a local file to an address, where it is listed only when it is complete.

    Object stores do that by themselves. Elsewhere it is written under a hidden name, and renamed.

    Raises:
        OSError: It cannot be written, or did not arrive whole.
    """
    fs, path = open_system(address)
    size = source.stat().st_size
    # Of its own, for several writers may put the same file at once.
    name = f".{address.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    hidden = open_system(address.folder.child(name))[1]

    def copy() -> None:
        if address.scheme in _OBJECT_STORES:
            fs.put_file(str(source), path)
        else:
            fs.put_file(str(source), hidden)
            fs.mv(hidden, path)
        fs.invalidate_cache()
        arrived = _state(fs.info(path)).size_bytes
        if arrived not in (None, size):
            raise OSError(f"{arrived} of {size} bytes arrived")

    retried(copy, address, waits_seconds=remote_calls.UPLOAD_WAITS_SECONDS)


def remove(address: Address) -> None:
    """Remove a file, if it is there.

    Raises:
        OSError: It cannot be removed.
    """
    fs, path = open_system(address)
    try:
        retried(lambda: fs.rm_file(path), address)
    except FileNotFoundError:
        return


def read_bytes(address: Address, start: int | None = None, end: int | None = None) -> bytes:
    """Return the content of a small file, or its bytes from `start` to before `end`.

    Raises:
        OSError: It is not there, may not be read, or cannot be reached.
    """
    fs, path = open_system(address)
    content: bytes = retried(lambda: fs.cat_file(path, start=start, end=end), address)
    return content


def hash_remote(address: Address) -> str:
    """Return blake2b-128 of a file's bytes, as `hash_source` does of a local file; nothing is kept.

    Raises:
        OSError: It is not there, may not be read, or cannot be reached.
    """
    fs, path = open_system(address)

    def read() -> str:
        hasher = hashlib.blake2b(digest_size=16)
        with fs.open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                hasher.update(block)
        return hasher.hexdigest()

    return retried(read, address)


def _beating(beat: Beat) -> Any:
    from fsspec.callbacks import Callback

    return Callback(hooks={"beat": lambda *_, **__: beat()})


def _one_stream(get_file: Any) -> dict[str, int]:
    """Ask for one stream: of several, each of large parts, nothing is heard for a long time."""
    known = inspect.signature(get_file).parameters
    return {"max_concurrency": 1} if "max_concurrency" in known else {}


def _state(info: Mapping[str, Any]) -> RemoteState:
    size = info.get("size")
    times = (_nanoseconds(info.get(key)) for key in _TIME_KEYS)
    return RemoteState(
        size_bytes=None if size is None else int(size),
        modified_ns=next(filter(None, times), 0),
        is_folder=info.get("type") == "directory",
    )


def _nanoseconds(moment: object) -> int:
    """Return a time as file systems tell it (seconds, a datetime, or a text), 0 for none."""
    if isinstance(moment, int | float):
        return round(moment * 1e6) * 1000 if math.isfinite(moment) else 0
    if isinstance(moment, str) and moment:
        try:
            parsed = datetime.fromisoformat(moment)
        except ValueError:
            try:
                parsed = parsedate_to_datetime(moment)
            except ValueError:
                return 0
        moment = parsed
    if not isinstance(moment, datetime):
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6) * 1000

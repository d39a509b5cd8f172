"""A local copy of a store at an address: made, gone on with after a break, and renewed."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from stage1_extract.addresses import Address
from stage1_extract.failures import FILE_NAME
from stage1_extract.mirrors import failures_at, shards_of
from stage1_extract.remote import RemoteState, download, list_folder
from stage1_extract.store import StoreError, shard_paths

RECORD_NAME = ".fetched.json"
"""Beside the shards: the address, and the names of the shards that came from there."""
_NUM_THREADS = 4


@dataclasses.dataclass(frozen=True)
class FetchResult:
    """What fetching did.

    Attributes:
        num_shards: Shards of the store.
        num_fetched: Shards that came now.
        num_bytes: Their bytes.
        num_removed: Shards that were removed here, because the store holds them no more.
    """

    num_shards: int
    num_fetched: int
    num_bytes: int
    num_removed: int


def fetch_store(store: Address, folder: Path, *, show_progress: bool = False) -> FetchResult:
    """Copy what a folder lacks of a store at an address, and remove what the store lost since.

    Shards never change: one that is here in its full size is not fetched again.

    Args:
        store: Where the store is.
        folder: Where the copy goes; made if it is not there.
        show_progress: Whether to show a bar on stderr.

    Raises:
        FileNotFoundError: There is no store.
        StoreError: The folder holds shards that did not come from there.
        OSError: Something cannot be read there, or written here; what came is kept.
    """
    listed = list_folder(store)
    shards = shards_of(listed)
    if not shards:
        raise FileNotFoundError(f"no store at {store}: there are no shards (*.h5)")
    folder.mkdir(parents=True, exist_ok=True)
    recorded = _recorded(folder, store)
    here = {path.name: path.stat().st_size for path in shard_paths(folder)}
    if foreign := sorted(here.keys() - recorded - shards.keys()):
        raise StoreError(
            f"{folder} holds {len(foreign)} shards that did not come from {store} (compacted, "
            f"repaired or extracted here): {foreign[:3]}. Fetch into another folder, or remove "
            "them if they are in the store too"
        )
    wanted = {name: state for name, state in shards.items() if here.get(name) != state.size_bytes}
    _record(folder, store, recorded | shards.keys())
    _download_all(store, folder, wanted, show_progress=show_progress)
    lost = here.keys() - shards.keys()
    for name in lost:
        (folder / name).unlink()
    _record(folder, store, shards.keys())
    _keep_failures(folder, failures_at(store, listed))
    return FetchResult(
        num_shards=len(shards),
        num_fetched=len(wanted),
        num_bytes=sum((folder / name).stat().st_size for name in wanted),
        num_removed=len(lost),
    )


def _download_all(
    store: Address, folder: Path, wanted: Mapping[str, RemoteState], *, show_progress: bool
) -> None:
    bar = tqdm(total=len(wanted), unit="shard", desc="fetch", disable=not show_progress)
    with bar, ThreadPoolExecutor(_NUM_THREADS) as threads:

        def fetch(name: str) -> None:
            download(store.child(name), folder / name)
            bar.update()

        try:
            for _ in threads.map(fetch, wanted):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _recorded(folder: Path, store: Address) -> set[str]:
    path = folder / RECORD_NAME
    if not path.exists():
        return set()
    try:
        record = json.loads(path.read_text("utf-8"))
        address, names = str(record["address"]), set(map(str, record["shards"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no record of a fetch; remove it to begin anew") from error
    if address != str(store):
        raise StoreError(f"{folder} is a copy of {address}; fetch {store} into another folder")
    return names


def _record(folder: Path, store: Address, names: Iterable[str]) -> None:
    partial = folder / f"{RECORD_NAME}.partial"
    record = {"address": str(store), "shards": sorted(names)}
    partial.write_text(json.dumps(record), "utf-8")
    partial.replace(folder / RECORD_NAME)


def _keep_failures(folder: Path, lines: bytes) -> None:
    if lines:
        (folder / FILE_NAME).write_bytes(lines)
    else:
        (folder / FILE_NAME).unlink(missing_ok=True)

"""Looking after a store: what it holds, and whether it still holds what was written."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stage1_extract.failures import read_failures
from stage1_extract.store import EmbeddingStore, StoreError, embedding_hasher, shard_paths


def describe_store(path: Path) -> dict[str, Any]:
    """Return totals, lengths, settings and provenance of a store, ready for JSON.

    Raises:
        StoreError: The store cannot be trusted.
    """
    store = EmbeddingStore(path)
    shards = shard_paths(path)
    lengths = store.lengths
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="nearest")
    names = ("min", "q25", "median", "q75", "max")
    stated = store.column("source_stated_frame_count")
    found = store.column("source_frame_count")
    return {
        "path": str(path),
        "num_sequences": store.num_sequences,
        "num_videos": len(np.unique(store.video_ids)),
        "num_frames": int(lengths.sum()),
        "num_shards": len(shards),
        "num_duplicates": store.num_duplicates,
        "num_failures": len(read_failures(path)) if path.is_dir() else 0,
        "num_wrong_headers": int(((stated > 0) & (stated != found)).sum()),
        "num_equal_sources": num_repeated(store.column("source_hash").tolist()),
        "size_bytes": sum(shard.stat().st_size for shard in shards),
        "embedding_dim": store.embedding_dim,
        "dtype": str(store.dtype),
        "lengths": dict(zip(names, map(int, quantiles), strict=True)),
        "fingerprint": store.fingerprint,
        "settings": store.settings,
        "software": store.software,
        "execution": store.execution,
    }


def num_repeated(values: list[str]) -> int:
    """Return how many entries equal an earlier one."""
    return sum(count - 1 for count in Counter(values).values())


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What `verify` found: shards that cannot be read, sequences whose bytes changed."""

    num_sequences: int
    bad_shards: tuple[str, ...]
    bad_sequences: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad_shards and not self.bad_sequences


def verify_store(path: Path) -> VerifyResult:
    """Read every embedding and compare its checksum; one bad shard does not hide the others.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: There are no shards, or they do not belong together.
    """
    if not path.exists():
        raise FileNotFoundError(f"no store at {path}")
    if not shard_paths(path):
        raise StoreError(f"{path} holds no shards; is it a store?")
    num_sequences = 0
    bad_shards: list[str] = []
    bad_sequences: list[str] = []
    for shard_path in shard_paths(path):
        try:
            shard = EmbeddingStore(shard_path)
            changed = list(_changed_sequences(shard))
        except (StoreError, OSError) as error:
            bad_shards.append(str(error))
            continue
        num_sequences += shard.num_sequences
        bad_sequences += changed
    if not bad_shards:
        EmbeddingStore(path)  # do the shards belong together?
    return VerifyResult(num_sequences, tuple(bad_shards), tuple(bad_sequences))


def _changed_sequences(shard: EmbeddingStore) -> Iterator[str]:
    checksums = shard.column("checksum")
    for i, video_id in enumerate(shard.video_ids.tolist()):
        hasher = embedding_hasher()
        hasher.update(np.ascontiguousarray(shard.read(i)).tobytes())
        if hasher.hexdigest() != checksums[i]:
            yield f"{video_id} (view {shard.views[i]}) in {shard.path}"

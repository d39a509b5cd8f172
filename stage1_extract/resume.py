"""Continuing a store: what it holds of a manifest already, and what failed before."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stage1_extract.clips import Clip
from stage1_extract.failures import Failure, read_failures, write_failures
from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    StoreError,
    describe_difference,
    shard_paths,
)


def present_ids(folder: Path, provenance: Provenance, clips: Sequence[Clip]) -> set[str]:
    """Return the manifest's ids that the store holds, after checking that it may be continued."""
    if folder.is_file():
        raise StoreError(f"{folder} is a file; the store to write into must be a folder")
    if not shard_paths(folder):
        return set()
    store = EmbeddingStore(folder)
    if store.fingerprint != provenance.fingerprint:
        raise StoreError(
            f"{folder} was made with other settings (store against now): "
            f"{describe_difference(store.settings, provenance.settings)}. "
            "Give these settings, or another folder"
        )
    stored = dict(zip(store.video_ids.tolist(), range(store.num_sequences), strict=True))
    _check_same_sources(store, stored, clips)
    return {clip.video_id for clip in clips if clip.video_id in stored}


def _check_same_sources(
    store: EmbeddingStore, stored: Mapping[str, int], clips: Sequence[Clip]
) -> None:
    """Refuse ids that now name another file or another part of it than when they were embedded."""
    sizes = store.column("source_size_bytes")
    bounds = np.stack([store.column("clip_start_seconds"), store.column("clip_end_seconds")])
    changed = []
    for clip in clips:
        i = stored.get(clip.video_id)
        if i is None:
            continue
        now = [math.nan if s is None else s for s in (clip.start_seconds, clip.end_seconds)]
        same_part = np.array_equal(bounds[:, i], now, equal_nan=True)
        if not same_part or clip.path.stat().st_size != sizes[i]:
            changed.append(clip.video_id)
    if changed:
        raise StoreError(
            f"{len(changed)} clips of the manifest have the id of a stored sequence, but another "
            f"file size or other start/end times: {changed[:5]}. Give changed videos a new "
            "video_id, or extract into another folder"
        )


def standing_failures(folder: Path, present: set[str], *, retry: bool) -> dict[str, Failure]:
    """Return the failures that still stand; the record is rewritten without the others."""
    failures = {
        video_id: failure
        for video_id, failure in read_failures(folder).items()
        if video_id not in present and not retry
    }
    write_failures(folder, failures.values())
    return failures

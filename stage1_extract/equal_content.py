"""Videos whose sources have equal content: copies under two names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore

SOURCE_COLUMNS = ("source_hash", "clip_start_seconds", "clip_end_seconds")


def equal_sources(
    video_ids: NDArray[Any],
    source_hash: NDArray[Any],
    start_seconds: NDArray[np.float64],
    end_seconds: NDArray[np.float64],
) -> list[list[str]]:
    """Return the video_ids that share content, group by group: two parts of a file are not equal.

    Args:
        video_ids: (N,) texts; a video may occur several times, as with views.
        source_hash: (N,) of the whole file.
        start_seconds: (N,) where its part begins; NaN for the file's start.
        end_seconds: (N,) where it ends; NaN for the file's end.
    """
    keys = (np.nan_to_num(end_seconds, nan=np.inf), np.nan_to_num(start_seconds, nan=-np.inf))
    order = np.lexsort((video_ids, *keys, source_hash))
    new_source = changes(source_hash[order])
    for key in keys:
        new_source |= changes(key[order])
    first = new_source | changes(video_ids[order])  # of each video with each source
    chosen, number = order[first], np.cumsum(new_source)[first]
    shared = np.bincount(number)[number] > 1
    chosen, number = chosen[shared], number[shared]
    groups = np.split(video_ids[chosen], np.flatnonzero(np.diff(number)) + 1)
    return sorted(group.tolist() for group in groups if len(group))


def equal_sources_of(store: EmbeddingStore) -> list[list[str]]:
    """Return the video_ids of a store that share content."""
    columns = store.columns(SOURCE_COLUMNS)
    return equal_sources(store.video_ids, *(columns[name] for name in SOURCE_COLUMNS))


def changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (N,) which values differ from the one before; the first does."""
    return np.concatenate([np.ones(min(1, len(values)), bool), values[1:] != values[:-1]])

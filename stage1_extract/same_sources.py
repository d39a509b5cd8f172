"""Whether the sources of stored sequences are still what they were when they were embedded."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from stage1_extract.addresses import Address, Location
from stage1_extract.content import hash_source, source_state
from stage1_extract.remote import RemoteState, hash_remote, remote_states
from stage1_extract.sources import Clip
from stage1_extract.store import EmbeddingStore, StoreError

_SOURCE_COLUMNS = (
    "source_size_bytes",
    "source_modified_ns",
    "source_hash",
    "clip_start_seconds",
    "clip_end_seconds",
)


def check_same_sources(
    store: EmbeddingStore, stored: Mapping[str, int], clips: Sequence[Clip]
) -> None:
    """Refuse ids that now name another file or another part of it than when they were embedded.

    Size and time of writing decide, and where the times differ, as a copy's do, the content. At an
    address, equal size is enough where its file system tells no times, and what is gone cannot
    differ: its embedding stays.

    Args:
        store: The store.
        stored: Where it holds the clips, by video_id.
        clips: The manifest's; those that are not stored are not looked at.

    Raises:
        StoreError: Some differ.
        OSError: A source cannot be looked at.
    """
    clips = [clip for clip in clips if clip.video_id in stored]
    columns = store.columns(_SOURCE_COLUMNS)
    # Lists: taking a million values one by one from arrays takes ten times as long.
    sizes, modified, hashes, starts, ends = (columns[name].tolist() for name in _SOURCE_COLUMNS)
    is_same = _comparison([clip.path for clip in clips])
    changed = []
    for clip in clips:
        i = stored[clip.video_id]
        same_part = _same(clip.start_seconds, starts[i]) and _same(clip.end_seconds, ends[i])
        if not (same_part and is_same(clip.path, sizes[i], modified[i], hashes[i])):
            changed.append(clip.video_id)
    if changed:
        raise StoreError(
            f"{len(changed)} clips of the manifest have the id of a stored sequence, but another "
            f"file content or other start/end times: {changed[:5]}. Give changed videos a new "
            "video_id, or extract into another folder"
        )


def _same(seconds: float | None, stored: float) -> bool:
    return math.isnan(stored) if seconds is None else seconds == stored


def _comparison(paths: Sequence[Location]) -> Callable[[Location, int, int, str], bool]:
    """Return what tells whether a source is still of that size, time (ns) and hash."""
    far = remote_states([path for path in paths if isinstance(path, Address)])
    state_of, hash_of = functools.cache(source_state), functools.cache(hash_source)
    far_hash_of = functools.cache(hash_remote)

    def is_same(path: Location, size_bytes: int, modified_ns: int, content_hash: str) -> bool:
        if isinstance(path, Address):
            return _same_far(
                far[path], size_bytes, modified_ns, lambda: far_hash_of(path) == content_hash
            )
        state = state_of(path)
        return state.size_bytes == size_bytes and (
            state.modified_ns == modified_ns or hash_of(path) == content_hash
        )

    return is_same


def _same_far(
    state: RemoteState | None, size_bytes: int, modified_ns: int, same_content: Callable[[], bool]
) -> bool:
    if state is None:
        return True
    if state.size_bytes not in (None, size_bytes):
        return False
    times = state.modified_ns, modified_ns
    return 0 in times or times[0] == times[1] or same_content()

"""Stored sequences as clips to be predicted."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from stage1_extract.store import EmbeddingStore
from stage2_temporal.head_batches import ClipSequence
from stage2_temporal.side_rows import FeaturesOf


def plain_positions(store: EmbeddingStore) -> dict[str, int]:
    """Return the positions of the clips themselves, without augmented views, by id."""
    plain = np.flatnonzero(store.views == 0)
    return dict(zip(store.video_ids[plain].tolist(), plain.tolist(), strict=True))


def content_hash(store: EmbeddingStore, positions: Sequence[int]) -> str:
    """Return the hash of the embeddings of some sequences, in their order."""
    checksums = store.column("checksum")[np.asarray(positions, np.intp)]
    return hashlib.sha256(b"\0".join(c.encode() for c in checksums.tolist())).hexdigest()


def stored_sequences(
    store: EmbeddingStore,
    positions: Iterable[int],
    features_of: FeaturesOf,
    *,
    with_times: bool = False,
) -> Iterator[ClipSequence]:
    """Yield stored sequences, read one at a time and not mapped.

    Args:
        store: The embeddings.
        positions: Which.
        features_of: Side features of a clip.
        with_times: Whether the frames' times and numbers are wanted; they are empty otherwise.
    """
    for i in positions:
        video_id = str(store.video_ids[i])
        embedding = np.empty((int(store.lengths[i]), store.embedding_dim), store.dtype)
        store.read_into(i, embedding)
        yield ClipSequence(
            video_id,
            embedding,
            store.frame_times(i) if with_times else np.empty(0),
            store.frame_indices(i) if with_times else np.empty(0, np.int64),
            features_of(video_id),
        )

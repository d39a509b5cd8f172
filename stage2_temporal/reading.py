"""Reading whole sequences one after the other, without mapping files into memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore


def read_each(store: EmbeddingStore, positions: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """Yield sequences (T, D) in turn; each is overwritten by the next.

    Raises:
        StoreError: A file became shorter, or was removed, since the store was opened; of a mapped
            file the system would end the process.
    """
    longest = int(store.lengths[positions].max(initial=0))
    buffer = np.empty((longest, store.embedding_dim), store.dtype)
    for position in positions.tolist():
        sequence = buffer[: int(store.lengths[position])]
        store.read_into(position, sequence)
        yield sequence

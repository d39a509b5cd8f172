"""Predictions in the order of the clips, whatever is prepared ahead."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore, StoreError
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.prediction import predict_batches, predict_frames, prefetched
from tests.stage2_temporal.synthetic import planted, write_store

LENGTHS = [5, 1, 17, 8, 3, 30, 2, 9, 4, 6, 7, 12, 1]
ORDER = np.array([7, 0, 12, 3, 5, 1, 9, 11, 2, 10, 4])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return write_store(tmp_path_factory.mktemp("store"), planted(LENGTHS), dtype="float16")


class Uneven(EmbeddingSequence):
    """The first batches take the longest."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.02 * max(0, 3 - index))
        return super().__getitem__(index)


class Numbers:
    """In place of a model: the planted number, and its square; of frames, the number itself."""

    def predict_on_batch(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        number = inputs["embedding"][:, :1, 0].astype(np.float32)
        return {"a": number, "b": np.concatenate([number, number**2], axis=1)}


class Frames:
    """In place of a model: frame t of clip n has the value 100 n + t, padding included."""

    def predict_on_batch(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        number = inputs["embedding"][:, :1, 0].astype(np.float32)
        return 100 * number + np.arange(inputs["mask"].shape[1])


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("full_batches", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 50])
def test_predictions_keep_the_order(
    store: EmbeddingStore, batch_size: int, full_batches: bool, workers: int
) -> None:
    options: dict[str, Any] = {"full_batches": full_batches, "workers": workers}
    data = Uneven(store, ORDER, batch_size=batch_size, **options)
    found = predict_batches(Numbers(), data)
    assert found["a"].tolist() == ORDER[:, None].tolist()
    assert found["b"].tolist() == np.stack([ORDER, ORDER**2], axis=1).tolist()
    assert found["a"].dtype == np.float64
    frames = predict_frames(Frames(), data)
    expected = [(100 * n + np.arange(LENGTHS[n])).tolist() for n in ORDER]
    assert [values.tolist() for values in frames] == expected


def test_batches_wait_in_bounded_number(store: EmbeddingStore) -> None:
    read: list[int] = []

    class Counted(EmbeddingSequence):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    batches = prefetched(Counted(store, ORDER, batch_size=1))
    next(batches)
    time.sleep(0.05)
    assert len(read) < len(ORDER)
    batches.close()
    assert len(read) < len(ORDER)


def test_an_error_while_reading_ahead_is_raised(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", planted([3000] * 9))
    with store.shards[0].path.open("r+b") as file:
        file.truncate(store.shards[0].offset_bytes + 7 * 3000 * store.shards[0].row_bytes)
    data = EmbeddingSequence(store, np.arange(9), batch_size=1, workers=2)
    batches = prefetched(data)
    for _ in range(7):
        next(batches)
    with pytest.raises(StoreError, match="ends within v007"):
        next(batches)

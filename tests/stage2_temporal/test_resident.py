"""Embeddings on the device: the same batches as from the store, and the same training."""

from pathlib import Path

import numpy as np
import pytest

from stage1_extract.store import EmbeddingStore
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.inputs import stored_views
from stage2_temporal.resident import ResidentFrames, ResidentSequence
from stage2_temporal.training import train
from tests.stage2_temporal.synthetic import (
    ordered,
    planted,
    quick,
    write_manifest,
    write_store,
    write_views,
)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return write_store(tmp_path / "s", planted([3, 9, 1, 16, 5]), dtype="float16")


def test_gathered_rows_are_the_embeddings(store: EmbeddingStore) -> None:
    positions = np.array([4, 1, 0, 3])
    resident = ResidentFrames.load(store, positions)
    assert len(resident.frames) == store.lengths[positions].sum()
    for seed in (None, 3):
        rows = ResidentSequence(resident, store, positions, batch_size=3, seed=seed)
        plain = EmbeddingSequence(store, positions, batch_size=3, seed=seed)
        for index in range(len(plain)):
            found, expected = rows[index][0], plain[index][0]
            np.testing.assert_array_equal(found["mask"], expected["mask"])
            gathered = resident.frames[found["rows"]] * found["mask"][..., None]
            np.testing.assert_array_equal(gathered, expected["embedding"])


def test_stored_views_are_gathered_too(tmp_path: Path) -> None:
    sequences = planted([4, 6])
    views = write_views(
        tmp_path / "s", {0: sequences, 1: {k: v + 100 for k, v in sequences.items()}}
    )
    positions = stored_views(views, np.flatnonzero(views.views == 0))
    resident = ResidentFrames.load(views, positions)
    rows = ResidentSequence(resident, views, positions, batch_size=2, seed=0)
    plain = EmbeddingSequence(views, positions, batch_size=2, seed=0)
    for _ in range(4):
        found, expected = rows[0][0], plain[0][0]
        gathered = resident.frames[found["rows"]] * found["mask"][..., None]
        np.testing.assert_array_equal(gathered, expected["embedding"])
        rows.on_epoch_end()
        plain.on_epoch_end()


def test_augmentation_is_refused(store: EmbeddingStore) -> None:
    resident = ResidentFrames.load(store, np.arange(5))
    with pytest.raises(ValueError, match="--resident"):
        ResidentSequence(
            resident, store, np.arange(5), seed=0, augmentation=AugmentSettings(noise=0.1)
        )


@pytest.mark.slow
def test_training_is_the_same(tmp_path: Path) -> None:
    sequences, classes = ordered(40)
    write_store(tmp_path / "s", sequences, dtype="float16")
    manifest = write_manifest(tmp_path / "m.csv", list(sequences), label=classes)
    found = []
    for resident in (False, True):
        run = tmp_path / f"run-{resident}"
        train(tmp_path / "s", manifest, run, quick(resident=resident, gain_confidence=0.0))
        found.append([(run / name).read_bytes() for name in ("history.csv", "predictions.csv")])
    assert found[0] == found[1]

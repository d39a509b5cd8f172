"""The cause of a loss that is no number: the clip and the remedy are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.inputs import stored_views
from stage2_temporal.nan_cause import nan_cause
from stage2_temporal.statistics import FeatureStatistics
from tests.stage2_temporal.synthetic import quick, write_store, write_views

STATISTICS = FeatureStatistics(np.array([0.0, 2000.0, 0.0]), np.array([1.0, 4.0, 1.0]))


def clips(**changes: tuple[int, float]) -> dict[str, Any]:
    """Clips a, b, c of small values; of some, a value (feature, value) is changed in one frame."""
    rng = np.random.default_rng(0)
    made = {name: rng.normal(STATISTICS.mean, 1, (6, 3)).astype(np.float32) for name in "abc"}
    for name, (feature, value) in changes.items():
        made[name][4, feature] = value
    return made


def cause(sequences: Any, tmp_path: Path, batch: int, **options: Any) -> str:
    store = write_store(tmp_path / "s", sequences)
    training = EmbeddingSequence(store, np.arange(3), np.zeros(3), batch_size=1, seed=0)
    return nan_cause(training, batch, STATISTICS, quick(**options))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_the_clip_of_the_batch_is_named(tmp_path: Path, value: float, batch: int) -> None:
    """Clips come in this epoch's order, not in the store's."""
    message = cause(clips(a=(1, value), b=(1, value), c=(1, value)), tmp_path, batch)
    training = EmbeddingSequence(
        write_store(tmp_path / "t", clips()), np.arange(3), batch_size=1, seed=0
    )
    name = "abc"[int(training.plan[batch][0])]
    assert message.startswith(f"the embeddings of '{name}' hold NaN or infinity")
    assert "stage1-extract verify" in message


def test_other_batches_are_not_blamed(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", clips(b=(0, np.nan)))
    training = EmbeddingSequence(store, np.array([0, 1, 2]), batch_size=1)
    assert "'b'" in nan_cause(training, 1, STATISTICS, quick())
    assert "are sound" in nan_cause(training, 2, STATISTICS, quick())


def test_an_extreme_value_names_clip_feature_and_distance(tmp_path: Path) -> None:
    message = cause(clips(**dict.fromkeys("abc", (1, -6000.0))), tmp_path, 0)
    assert "feature 1 of '" in message
    assert "is 4e+03 standard deviations off the mean" in message  # 8000 off, of deviation 2
    assert "--learning-rate" in message


@pytest.mark.parametrize("batch", [0, 99])
@pytest.mark.parametrize(
    ("precision", "shown"),
    [
        ("mixed_float16", "float16 overflowed; use --precision mixed_bfloat16"),
        ("float32", "lower --learning-rate 0.02"),
        ("mixed_bfloat16", "--clip-norm 1"),
    ],
)
def test_sound_embeddings_leave_the_settings(
    tmp_path: Path, batch: int, precision: str, shown: str
) -> None:
    assert shown in cause(clips(), tmp_path, batch, precision=precision, learning_rate=0.02)


def test_views_are_looked_at_too(tmp_path: Path) -> None:
    store = write_views(tmp_path / "s", {0: clips(), 1: {"b": clips(b=(2, np.nan))["b"]}})
    positions = stored_views(store, np.flatnonzero(store.views == 0))
    training = EmbeddingSequence(store, positions, batch_size=3)
    assert "'b' hold NaN" in nan_cause(training, 0, STATISTICS, quick())

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage2_temporal import clip_table
from stage2_temporal.clip_table import label_texts, principal_map, seconds_shown
from stage2_temporal.training import TrainResult
from tests.stage2_temporal.synthetic import planted, write_store
from tests.stage2_temporal.trainings import a_target
from tests.stage2_temporal.whole_runs import IDS, columns, read_json, read_texts


def clouds(num_clips: int = 60, dim: int = 7) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    spread = np.linspace(5, 0.1, dim)
    return (rng.normal(size=(num_clips, dim)) * spread + 3).astype(np.float32)


def test_map_is_the_singular_value_decomposition() -> None:
    means = clouds()
    found = principal_map(means, seed=0)
    centred = means - means.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    signs = np.sign((expected * found.places).sum(axis=0))
    np.testing.assert_allclose(found.places, expected * signs, atol=1e-4)
    assert found.variance == pytest.approx((values**2 / (values**2).sum())[:2], rel=1e-4)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_small_and_large_embeddings_have_the_same_map(scale: float) -> None:
    means = clouds()
    found = principal_map((means * np.float32(scale)).astype(np.float32), seed=0)
    usual = principal_map(means, seed=0)
    np.testing.assert_allclose(found.places / scale, usual.places, atol=1e-3)
    assert found.variance == pytest.approx(usual.variance, rel=1e-3)


def test_the_largest_weight_of_a_component_is_positive() -> None:
    for sign in (1, -1):
        means = np.zeros((9, 3), np.float32)
        means[:, 1] = np.arange(9) * sign
        x = principal_map(means, seed=0).places[:, 0]
        assert np.array_equal(np.argsort(x), np.argsort(means[:, 1]))


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (5, 1), (4, 3)])
def test_few_or_equal_clips_have_a_map(shape: tuple[int, int]) -> None:
    for means in (np.full(shape, 7, np.float32), clouds(*shape)):
        found = principal_map(means, seed=0)
        assert found.places.shape == (shape[0], 2)
        assert np.isfinite(found.places).all()
        assert 0 <= sum(found.variance) <= 1 + 1e-6


def test_a_sample_of_many_clips_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    means = clouds(5000)
    whole = principal_map(means, seed=0)
    monkeypatch.setattr(clip_table, "_MAX_FITTED", 500)
    part = principal_map(means, seed=0)
    for axis in (0, 1):
        assert np.corrcoef(whole.places[:, axis], part.places[:, axis])[0, 1] > 0.99
    assert np.array_equal(part.places, principal_map(means, seed=0).places)


def test_memory_does_not_grow_with_the_clips(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clip_table, "_MAX_FITTED", 200)
    monkeypatch.setattr(clip_table, "_BLOCK", 100)
    means = np.lib.format.open_memmap(tmp_path / "m.npy", "w+", np.float32, (20_000, 64))
    means[:] = np.random.default_rng(0).normal(size=means.shape)
    tracemalloc.start()
    principal_map(means, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < means.nbytes / 3


def test_seconds_are_from_the_first_to_the_last_frame(tmp_path: Path) -> None:
    store = write_store(tmp_path, planted([5, 1, 26]))  # 25 frames a second
    found = seconds_shown(store, np.array([2, 0, 1]))
    assert found.tolist() == pytest.approx([1.0, 0.16, 0.0])


@pytest.mark.parametrize(
    ("task", "numbers", "texts"),
    [
        ("binary", [0, 1, 0], ["c0", "c1", ""]),
        ("multilabel", [[1, 1], [0, 0], [0, 1]], ["c0+c1", "", ""]),
        ("regression", [1.5, 2.5, 0.0], [1.5, 2.5, ""]),
    ],
)
def test_labels_are_written_as_predictions_are(task: str, numbers: Any, texts: list[Any]) -> None:
    target = a_target(task, numbers, present=np.array([True, True, False]))
    assert label_texts(target).tolist() == texts


def test_a_run_has_a_row_for_each_clip(holdout_run: TrainResult) -> None:
    table = read_texts(holdout_run.folder / "clips.csv")
    split = read_texts(holdout_run.folder / "split.csv")
    assert table["video_id"].tolist() == split["video_id"].tolist() == IDS
    assert table["group"].tolist() == columns()["patient"]
    assert table["target_grade"].tolist() == columns()["grade"]
    assert set(table["frames"]) == {"8"}
    assert table["seconds"].astype(float).tolist() == pytest.approx([7 / 25] * len(IDS))
    shares = read_json(holdout_run.folder / "data.json")["map_variance"]
    x, y = (table[name].astype(float) for name in ("x", "y"))
    assert y.var() / x.var() == pytest.approx(shares[1] / shares[0], rel=1e-3)

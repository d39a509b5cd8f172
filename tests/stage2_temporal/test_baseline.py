"""The baseline: a pipeline anyone could write with scikit-learn, blind to the test side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from stage2_temporal.baseline import mean_embeddings, mean_pool_predictions
from tests.stage2_temporal.synthetic import write_store

TRAIN, VALIDATION, TEST = np.arange(0, 40), np.arange(40, 60), np.arange(60, 80)
PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4]


def data(task: str, *, seed: int = 0, noise: float = 2.0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, [1, 10, 0.1, 5, 1, 1], size=(80, 6)).astype(np.float32)
    signal = (features[:, 0] - 3) + rng.normal(0, noise, 80)
    if task == "regression":
        return features, 50 + 10 * signal
    cuts = [0.0] if task == "binary" else [-1.0, 1.0]
    return features, np.digitize(signal, cuts)


def by_hand(task: str, features: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """z-scores of the training clips, and the penalty that suits the validation clips best."""
    x = features.astype(np.float64)
    x = (x - x[TRAIN].mean(axis=0)) / x[TRAIN].std(axis=0)
    found = []
    for penalty in PENALTIES:
        if task == "regression":
            out = Ridge(alpha=penalty).fit(x[TRAIN], target[TRAIN]).predict(x)
            loss = float(((out - target)[VALIDATION] ** 2).mean())
        else:
            model = LogisticRegression(C=1 / penalty, max_iter=5000)
            out = model.fit(x[TRAIN], target[TRAIN]).predict_proba(x)
            loss = -float(np.log(out[VALIDATION, target[VALIDATION]]).mean())
        found.append((loss, out))
    best = min(found, key=lambda pair: pair[0])[1]
    return np.asarray(best[:, 1] if task == "binary" else best)


def predict(task: str, features: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    return mean_pool_predictions(features, target, task, train=TRAIN, validation=VALIDATION)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_pipeline_by_hand(task: str, seed: int) -> None:
    features, target = data(task, seed=seed)
    found = predict(task, features, target)
    assert found.shape == ((80, 3) if task == "multiclass" else (80,))
    np.testing.assert_allclose(found, by_hand(task, features, target), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_test_clips_influence_nothing(task: str) -> None:
    features, target = data(task)
    before = predict(task, features, target)
    features[TEST] = np.random.default_rng(9).normal(100, 50, (20, 6))
    target[TEST] = target[TEST][::-1]
    rest = np.concatenate([TRAIN, VALIDATION])
    np.testing.assert_array_equal(predict(task, features, target)[rest], before[rest])


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_validation_chooses_the_penalty(task: str) -> None:
    """Validation targets that follow the features want a low penalty, noise wants a high one."""
    features, target = data(task, noise=0.1)
    spread = predict(task, features, target)[TEST].std()
    target[VALIDATION] = target[VALIDATION][np.random.default_rng(0).permutation(20)]
    assert predict(task, features, target)[TEST].std() < 0.5 * spread


def test_scaling_comes_from_training_clips(tmp_path: Path) -> None:
    features, target = data("binary")
    before = predict("binary", features, target)
    features[:, 3] = features[:, 3] * 1000 + 7
    np.testing.assert_allclose(predict("binary", features, target), before, atol=1e-3)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_many_separable_features_fit_without_a_warning(task: str) -> None:
    rng = np.random.default_rng(0)
    target = data(task, noise=0.0)[1]
    features = rng.normal(size=(80, 640)).astype(np.float32)
    features[:, 0] += target * 10
    features[:, 1] = 5.0  # constant, as a dead unit of a backbone
    assert np.isfinite(predict(task, features, target)).all()


def test_mean_is_over_the_frames_of_each_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = {f"v{n}": rng.normal(size=(n, 4)) for n in (1, 3, 90)}
    store = write_store(tmp_path / "s", sequences)
    positions = np.array([store.find("v90"), store.find("v1"), store.find("v3")])
    expected = [sequences[i].mean(axis=0) for i in ("v90", "v1", "v3")]
    np.testing.assert_allclose(mean_embeddings(store, positions), expected, rtol=1e-4, atol=1e-6)


def test_mean_of_large_float16_values_does_not_overflow(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"a": np.full((1000, 1), 60000.0)}, dtype="float16")
    assert mean_embeddings(store, np.array([0]))[0, 0] == pytest.approx(60000, rel=1e-5)

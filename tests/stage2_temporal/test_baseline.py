"""Linear models: pipelines anyone could write with scikit-learn, blind to the test side."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stage2_temporal import baseline
from stage2_temporal.baseline import LinearModel, fit_linear, mean_embeddings, refit
from stage2_temporal.encoding import TargetError
from stage2_temporal.targets import Target
from tests.stage2_temporal.synthetic import write_store

TASKS = ["binary", "multiclass", "multilabel", "regression"]
TRAIN, VALIDATION, TEST = np.arange(0, 40), np.arange(40, 60), np.arange(60, 80)
PENALTIES = [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4]


def make_target(task: str, numbers: Any, *, num_classes: int = 0) -> Target:
    numbers = np.asarray(numbers)
    count = {"binary": 2, "regression": 0}.get(task, num_classes)
    present = np.ones(len(numbers), bool)
    return Target("y", task, tuple(f"c{i}" for i in range(count)), numbers, present)


def data(task: str, *, seed: int = 0, noise: float = 2.0) -> tuple[NDArray[Any], Target]:
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, [1, 10, 0.1, 5, 1, 1], size=(80, 6)).astype(np.float32)
    signal = (features[:, 0] - 3) + rng.normal(0, noise, 80)
    other = (features[:, 1] - 3) / 10 + rng.normal(0, noise, 80)
    if task == "regression":
        return features, make_target(task, 50 + 10 * signal)
    if task == "multilabel":
        labels = np.stack([signal > 0, other > 0.5], axis=1).astype(np.int64)
        return features, make_target(task, labels, num_classes=2)
    cuts = [0.0] if task == "binary" else [-1.0, 1.0]
    return features, make_target(task, np.digitize(signal, cuts), num_classes=3)


def fit(features: NDArray[Any], target: Target) -> LinearModel:
    return fit_linear(features, target, train=TRAIN, validation=VALIDATION)


def pipeline(task: str, penalty: float) -> Any:
    if task == "regression":
        return make_pipeline(StandardScaler(), Ridge(alpha=penalty))
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=5000))


def by_pipeline(task: str, features: NDArray[Any], target: Target) -> NDArray[np.float64]:
    """Predictions of the pipeline whose penalty suits the validation clips best."""
    x, y = features.astype(np.float64), target.numbers
    columns = y.T if task == "multilabel" else [y]
    found = []
    for penalty in PENALTIES:
        fits = [pipeline(task, penalty).fit(x[TRAIN], column[TRAIN]) for column in columns]
        if task == "regression":
            out = fits[0].predict(x)
            loss = mean_squared_error(y[VALIDATION], out[VALIDATION])
        else:
            outs = [one.predict_proba(x) for one in fits]
            pairs = zip(columns, outs, strict=True)
            loss = np.mean([log_loss(c[VALIDATION], o[VALIDATION]) for c, o in pairs])
            out = outs[0] if task == "multiclass" else np.stack([o[:, 1] for o in outs], axis=1)
        found.append((loss, out))
    best = min(found, key=lambda pair: pair[0])[1]
    return np.asarray(best[:, 0] if task == "binary" else best)


# The models


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(2))
def test_it_is_the_pipeline_of_scikit_learn(task: str, seed: int) -> None:
    features, target = data(task, seed=seed)
    model = fit(features, target)
    assert model.coefficients.shape == (6, target.num_outputs)
    assert model.intercept.shape == (target.num_outputs,)
    expected = by_pipeline(task, features, target)
    np.testing.assert_allclose(model.predict(features), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_coefficients_times_raw_features(task: str) -> None:
    features, target = data(task)
    model = fit(features, target)
    logits = features.astype(np.float64) @ model.coefficients + model.intercept
    link: Any = {"multiclass": lambda z: softmax(z, axis=1), "regression": lambda z: z}
    expected = link.get(task, expit)(logits)
    np.testing.assert_array_equal(model.predict(features), expected.reshape(80, -1).squeeze())


@pytest.mark.parametrize("task", TASKS)
def test_test_clips_influence_nothing(task: str) -> None:
    features, target = data(task)
    before = fit(features, target)
    features[TEST] = np.random.default_rng(9).normal(100, 50, (20, 6))
    target.numbers[TEST] = target.numbers[TEST][::-1]
    np.testing.assert_array_equal(fit(features, target).coefficients, before.coefficients)


@pytest.mark.parametrize("task", TASKS)
def test_clips_without_the_target_are_skipped(task: str) -> None:
    features, target = data(task)
    kept = np.setdiff1d(np.arange(80), [1, 5, 41, 44])
    numbers = [np.searchsorted(kept, np.intersect1d(side, kept)) for side in (TRAIN, VALIDATION)]
    alone = fit_linear(features[kept], target.at(kept), train=numbers[0], validation=numbers[1])
    target.present[[1, 5, 41, 44]] = False
    target.numbers[[1, 5, 41, 44]] = 0
    np.testing.assert_array_equal(fit(features, target).coefficients, alone.coefficients)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_validation_chooses_the_penalty(task: str) -> None:
    """Validation targets that follow the features want a low penalty, noise wants a high one."""
    features, target = data(task, noise=0.1)
    before = fit(features, target)
    target.numbers[VALIDATION] = np.random.default_rng(0).permutation(target.numbers[VALIDATION])
    after = fit(features, target)
    assert after.penalty > before.penalty
    assert after.predict(features)[TEST].std() < 0.5 * before.predict(features)[TEST].std()


@pytest.mark.parametrize("task", TASKS)
def test_without_validation_the_penalty_is_1_and_it_says_so(task: str) -> None:
    features, target = data(task)
    target.present[VALIDATION] = False
    model = fit(features, target)
    assert model.penalty == 1
    assert "no validation clip has a 'y'" in model.notices[0]
    assert fit(*data(task)).notices == ()


def test_without_a_training_clip_it_is_an_error() -> None:
    features, target = data("binary")
    target.present[TRAIN] = False
    with pytest.raises(TargetError, match="none of 40 training clips has a 'y'"):
        fit(features, target)


def test_scaling_comes_from_training_clips() -> None:
    features, target = data("binary")
    before = fit(features, target).predict(features)
    features[:, 3] = features[:, 3] * 1024 + 7
    np.testing.assert_allclose(fit(features, target).predict(features), before, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_many_separable_features_fit_without_a_warning(task: str) -> None:
    rng = np.random.default_rng(0)
    target = data(task, noise=0.0)[1]
    features = rng.normal(size=(80, 320)).astype(np.float32)
    features[:, 0] += target.numbers.reshape(80, -1)[:, 0] * 10
    features[:, 1] = 5.0  # constant, as a dead unit of a backbone
    model = fit(features, target)
    assert np.isfinite(model.predict(features)).all()
    np.testing.assert_allclose(model.coefficients[1], 0, atol=1e-12)


# Once more


@pytest.mark.parametrize("task", TASKS)
def test_refit_is_the_same_pipeline_on_other_clips(task: str) -> None:
    features, target = data(task)
    model = fit(features, target)
    assert model.can_refit
    clips = np.r_[0:30, 65:80]
    again = refit(model, features, target, clips)
    assert (again.penalty, again.task) == (model.penalty, task)
    x, y = features.astype(np.float64), target.numbers
    columns = y.T if task == "multilabel" else [y]
    fits = [pipeline(task, model.penalty).fit(x[clips], column[clips]) for column in columns]
    if task == "regression":
        expected = fits[0].predict(x)
    elif task == "multiclass":
        expected = fits[0].predict_proba(x)
    else:
        expected = np.stack([one.predict_proba(x)[:, 1] for one in fits], axis=1).squeeze()
    np.testing.assert_allclose(again.predict(features), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_refit_to_the_same_clips_is_the_same_model(task: str) -> None:
    features, target = data(task)
    model = fit(features, target)
    again = refit(model, features, target, TRAIN)
    np.testing.assert_array_equal(again.coefficients, model.coefficients)
    np.testing.assert_array_equal(again.intercept, model.intercept)


@pytest.mark.parametrize("task", TASKS)
def test_logits_are_those_of_the_predictions(task: str) -> None:
    features, target = data(task)
    model = fit(features, target)
    logits = model.logits(features)
    assert logits.shape == (80, target.num_outputs)
    link: Any = {"multiclass": lambda z: softmax(z, axis=1), "regression": lambda z: z}
    expected = link.get(task, expit)(logits).reshape(80, -1).squeeze()
    np.testing.assert_allclose(model.predict(features), expected, rtol=1e-12)


# Classes and labels that training clips lack


@pytest.mark.parametrize("absent", [0, 2])
def test_an_absent_class_has_a_column_of_no_probability(absent: int) -> None:
    features, target = data("multiclass")
    others = [c for c in range(3) if c != absent]
    target.numbers[TRAIN] = np.where(target.numbers[TRAIN] == others[0], others[0], others[1])
    model = fit(features, target)
    far = features.copy()
    far[:, 0] *= 1e6
    for rows in (features, far):
        probabilities = model.predict(rows)
        assert probabilities.shape == (80, 3)
        assert (probabilities[:, absent] < 1e-12).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    reference = pipeline("binary", model.penalty).fit(
        features[TRAIN].astype(np.float64), target.numbers[TRAIN]
    )
    expected = reference.predict_proba(features.astype(np.float64))
    np.testing.assert_allclose(model.predict(features)[:, others], expected, atol=1e-6)


def test_a_single_training_class_is_certain() -> None:
    features, target = data("multiclass")
    target.numbers[TRAIN] = 1
    np.testing.assert_allclose(fit(features, target).predict(features)[:, 1], 1)


@pytest.mark.parametrize("value", [0, 1])
def test_a_constant_label_gets_its_share(value: int) -> None:
    features, target = data("multilabel")
    target.numbers[TRAIN, 1] = value
    model = fit(features, target)
    probabilities = model.predict(features)
    np.testing.assert_allclose(probabilities[:, 1], (40.5 if value else 0.5) / 41)
    x = features.astype(np.float64)
    other = pipeline("binary", model.penalty).fit(x[TRAIN], target.numbers[TRAIN, 0])
    np.testing.assert_allclose(probabilities[:, 0], other.predict_proba(x)[:, 1], atol=1e-6)


# Very many clips and classes


def crowd(
    task: str, num_classes: int, num_clips: int, dim: int = 4
) -> tuple[NDArray[Any], Target, NDArray[np.float64]]:
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 3, (num_classes, dim))
    if task == "multilabel":
        labels = (rng.random((num_clips, num_classes)) < 0.4).astype(np.int64)
        features = labels @ centres + rng.normal(0, 1, (num_clips, dim))
        return features, make_target(task, labels, num_classes=num_classes), centres
    numbers = rng.permutation(np.arange(num_clips) % num_classes)
    features = 7 + centres[numbers] + rng.normal(0, 1, (num_clips, dim))
    return features, make_target(task, numbers, num_classes=num_classes), centres


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_a_sample_of_many_clips_is_fitted(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_VALUES", 6 * 30)
    monkeypatch.setattr(baseline, "MIN_CLIPS_PER_CLASS", 1)
    features, target = data(task, noise=0.5)
    model = fit(features, target)
    assert "fitted to 30 of 40 training clips" in model.notices[0]
    assert not model.can_refit
    assert fit(features, target).notices == model.notices
    np.testing.assert_array_equal(fit(features, target).coefficients, model.coefficients)


def test_a_sample_keeps_shares_and_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_WORK", 5 * 4 * 100)
    numbers = np.repeat([0, 1, 2, 3, 4], [700, 200, 97, 2, 1])
    target = make_target("multiclass", numbers, num_classes=5)
    chosen = baseline._sample(target, np.arange(1000), 4)
    counts = np.bincount(numbers[chosen], minlength=5)
    assert counts.sum() == 100
    assert len(set(chosen.tolist())) == 100
    np.testing.assert_allclose(counts, [69, 20, 9, 1, 1], atol=1)


@pytest.mark.parametrize("penalty", [1e-4, 0.1, 1.0])
def test_many_classes_are_scikit_learns_discriminant_analysis(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_WORK", 4 * 10)
    monkeypatch.setattr(baseline._Discriminant, "penalties", (penalty,))
    features, target, _ = crowd("multiclass", 10, 300)
    train = np.arange(200)
    model = fit_linear(features, target, train=train, validation=np.arange(200, 250))
    assert "discriminant analysis" in model.notices[-1]
    assert not model.can_refit
    reference = make_pipeline(
        StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=penalty)
    ).fit(features[train], target.numbers[train])
    expected = reference.predict_proba(features)
    np.testing.assert_allclose(model.predict(features), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("penalty", [1e-4, 0.1, 0.6])
def test_many_labels_are_discriminant_analyses_one_by_one(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_WORK", 4 * 10)
    monkeypatch.setattr(baseline._Discriminant, "penalties", (penalty,))
    features, target, _ = crowd("multilabel", 10, 300)
    target.numbers[:, 3] = 0
    model = fit_linear(features, target, train=np.arange(300), validation=np.arange(300))
    assert model.penalty == penalty
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    trace = np.trace(np.cov(x.T, bias=True)) / 4
    for label in range(10):
        inside = target.numbers[:, label] == 1
        probability = model.predict(features)[:, label]
        if label == 3:
            np.testing.assert_allclose(probability, 0.5 / 301)
            continue
        share = inside.mean()
        groups = [x[inside], x[~inside]]
        within = sum(len(g) * np.cov(g.T, bias=True) for g in groups) / 300
        within = (1 - penalty) * within + penalty * trace * np.eye(4)
        means = [g.mean(axis=0) for g in groups]
        direction = np.linalg.solve(within, means[0] - means[1])
        expected = expit((x - (means[0] + means[1]) / 2) @ direction + logit(share))
        np.testing.assert_allclose(probability, expected, rtol=1e-6, atol=1e-9)


def test_discriminant_analysis_of_one_clip_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_WORK", 1)
    features, target, _ = crowd("multiclass", 50, 51)
    target = make_target("multiclass", target.numbers, num_classes=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit_linear(features, target, train=np.arange(50), validation=np.arange(50, 51))
    probabilities = model.predict(features[:50])
    assert (probabilities.argmax(axis=1) == target.numbers[:50]).mean() > 0.9
    assert (probabilities[:, 50:] < 1e-9).all()


# Mean embeddings


def test_mean_is_over_the_frames_of_each_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = {f"v{n}": rng.normal(size=(n, 4)) for n in (1, 3, 90)}
    store = write_store(tmp_path / "s", sequences)
    positions = np.array([store.find("v90"), store.find("v1"), store.find("v3")])
    means = mean_embeddings(store, positions)
    assert means.dtype == np.float32
    expected = [sequences[i].mean(axis=0) for i in ("v90", "v1", "v3")]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-6)


def test_mean_of_large_float16_values_does_not_overflow(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"a": np.full((1000, 1), 60000.0)}, dtype="float16")
    assert mean_embeddings(store, np.array([0]))[0, 0] == pytest.approx(60000, rel=1e-5)

"""Cross-fitted logits: each clip's from scikit-learn's fit of the clips of other groups."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stage2_temporal import baseline
from stage2_temporal.baseline import LinearModel, fit_linear, refit
from stage2_temporal.crossfit import cross_fitted_logits
from stage2_temporal.targets import Target

TRAIN, VALIDATION = np.arange(10, 70), np.arange(70, 90)
# Groups of two and of four clips; as many clips are in each of five parts.
GROUPS = np.repeat(np.arange(40), np.resize([2, 2, 4], 40))[:90][::-1].copy()


def data(task: str, *, seed: int = 0) -> tuple[NDArray[np.float32], Target]:
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, [1, 10, 0.1, 5], size=(90, 4)).astype(np.float32)
    signal = features[:, 0] - 3 + rng.normal(0, 0.5, 90)
    numbers: dict[str, Any] = {
        "binary": (signal > 0).astype(int),
        "multiclass": np.digitize(signal, [-0.7, 0.7]),
        "multilabel": np.stack([signal > 0, signal < 0.3], axis=1).astype(int),
        "regression": 50 + 10 * signal,
    }
    count = {"binary": 2, "multiclass": 3, "multilabel": 2, "regression": 0}[task]
    classes = tuple(f"c{i}" for i in range(count))
    return features, Target("y", task, classes, numbers[task], np.ones(90, bool))


def fit(features: NDArray[Any], target: Target) -> LinearModel:
    return fit_linear(features, target, train=TRAIN, validation=VALIDATION)


def crossed(
    features: NDArray[Any], target: Target, groups: NDArray[Any] = GROUPS
) -> NDArray[np.float64]:
    model = fit(features, target)
    return cross_fitted_logits(model, features, target, train=TRAIN, groups=groups)


def outputs(task: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities or values (n, k); softmax tells logits but for their mean."""
    link: Any = {"regression": lambda z: z, "multiclass": lambda z: softmax(z, axis=1)}
    return np.asarray(link.get(task, expit)(logits))


def by_scikit_learn(
    task: str, x: NDArray[Any], y: NDArray[Any], rest: NDArray[Any], penalty: float
) -> NDArray[np.float64]:
    if task == "regression":
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(x, y)
        return np.asarray(ridge.predict(rest))[:, None]
    columns = y.T if task == "multilabel" else [y]
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=5000))
    found = [logistic.fit(x, column).predict_proba(rest) for column in columns]
    if task == "multiclass":
        return np.asarray(found[0])
    return np.stack([each[:, 1] for each in found], axis=1)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_each_clip_is_predicted_by_a_fit_without_its_group(task: str) -> None:
    features, target = data(task)
    found = outputs(task, crossed(features, target))
    penalty = fit(features, target).penalty
    x, y, part = features[TRAIN].astype(np.float64), target.numbers[TRAIN], parts()
    for number in range(5):
        rest, others = part == number, part != number
        assert not set(GROUPS[TRAIN[rest]]) & set(GROUPS[TRAIN[others]])
        expected = by_scikit_learn(task, x[others], y[others], x[rest], penalty)
        np.testing.assert_allclose(found[rest], expected, rtol=1e-5, atol=1e-5)


def parts() -> NDArray[np.intp]:
    """The part of each training clip."""
    found = np.empty(len(TRAIN), np.intp)
    for number, (_, rest) in enumerate(GroupKFold(5).split(TRAIN, groups=GROUPS[TRAIN])):
        found[rest] = number
    return found


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_own_label_and_those_of_the_group_do_not_matter(task: str) -> None:
    features, target = data(task)
    model, group = fit(features, target), GROUPS[TRAIN[30]]
    changed = target.numbers.copy()
    own = group == GROUPS
    changed[own] = 1 - changed[own] if task == "binary" else changed[own] + 100
    other = Target("y", task, target.classes, changed, target.present)
    first, second = (
        cross_fitted_logits(model, features, each, train=TRAIN, groups=GROUPS)
        for each in (target, other)
    )
    np.testing.assert_array_equal(first[own[TRAIN]], second[own[TRAIN]])
    assert (first[~own[TRAIN]] != second[~own[TRAIN]]).any()


def test_a_model_flatters_only_the_clips_that_it_was_fitted_to() -> None:
    """Labels of chance, more features than clips: known by heart, and no better than chance."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 200)).astype(np.float32)
    labels = rng.permutation(np.arange(90) % 2)
    target = Target("y", "binary", ("a", "b"), labels, np.ones(90, bool))
    eager = dataclasses.replace(fit(features, target), penalty=1e-3)
    model = refit(eager, features, target, TRAIN)
    truth = labels[TRAIN] == 1
    assert ((model.logits(features[TRAIN])[:, 0] > 0) == truth).all()
    honest = cross_fitted_logits(eager, features, target, train=TRAIN, groups=np.arange(90))
    assert 0.3 < ((honest[:, 0] > 0) == truth).mean() < 0.7


def test_clips_without_the_target_change_nothing() -> None:
    features, target = data("regression")
    target.present[TRAIN[:7]] = False
    found = crossed(features, target)
    target.numbers[TRAIN[:7]] = 1e6
    np.testing.assert_array_equal(crossed(features, target), found)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_class_of_one_group_cannot_be_left_out(task: str) -> None:
    """Without that group no fit would know the class: the model's own logits are taken."""
    features, target = data(task)
    last = {"binary": 1, "multiclass": 2, "multilabel": [0, 1]}[task]
    first = {"binary": 0, "multiclass": np.arange(90) % 2, "multilabel": [1, 0]}[task]
    target.numbers[:] = first
    if task == "multilabel":
        target.numbers[::2] = [0, 0]
    target.numbers[GROUPS[40] == GROUPS] = last
    model = fit(features, target)
    np.testing.assert_array_equal(crossed(features, target), model.logits(features[TRAIN]))


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_few_groups_make_few_parts(num_groups: int) -> None:
    features, target = data("binary")
    groups = np.arange(90) % num_groups
    found = crossed(features, target, groups)
    own = fit(features, target).logits(features[TRAIN])
    assert (found == own).all() == (num_groups == 1)


def test_a_fit_to_a_sample_of_the_clips_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_FIT_VALUES", 4 * 30)
    features, target = data("binary")
    model = fit(features, target)
    assert not model.can_refit
    np.testing.assert_array_equal(crossed(features, target), model.logits(features[TRAIN]))

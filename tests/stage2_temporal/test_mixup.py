"""Mixup: one share for a clip's frames, features and targets; what is missing does not leak."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from stage2_temporal.mixup import Batch, mix, mixup

lengths_of_clips = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch(lengths: list[int], *, dtype: Any = np.float32, seed: int = 0) -> Batch:
    """Clips of random frames; the target "clip" is one-hot by their number in the batch."""
    num_clips, generator = len(lengths), rng(seed)
    mask = np.arange(max(lengths) + 2) < np.array(lengths)[:, None]
    embedding = generator.normal(3, 1, (*mask.shape, 4)).astype(dtype) * mask[..., None]
    inputs = {
        "embedding": embedding.astype(dtype),
        "mask": mask,
        "features": generator.normal(size=(num_clips, 5)).astype(np.float32),
    }
    targets = {"clip": np.eye(num_clips, dtype=np.float32)}
    return inputs, targets, {"clip": np.ones(num_clips, np.float32)}


def mixed_pair(
    share: float, values: tuple[float, float], weights: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """Mix two one-frame clips with each other: their targets and weights."""
    inputs = {"embedding": np.zeros((2, 1, 1), np.float16), "mask": np.ones((2, 1), bool)}
    _, targets, mixed_weights = mix(
        inputs,
        {"a": np.array(values, np.float32)[:, None]},
        {"a": np.array(weights, np.float32)},
        partner=np.array([1, 0]),
        share=np.array([share, share]),
    )
    return targets["a"][:, 0].tolist(), mixed_weights["a"].tolist()


def means(embedding: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the frames of each clip."""
    total = (embedding.astype(float) * mask[..., None]).sum(axis=1)
    return np.asarray(total / mask.sum(axis=1)[:, None])


def test_a_pair_worked_by_hand() -> None:
    inputs = {
        "embedding": np.array([[[1.0], [3], [5], [0]], [[10], [20], [0], [0]]], np.float32),
        "mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool),
        "features": np.array([[0.0], [4]], np.float32),
    }
    targets = {"a": np.array([[1.0, 0], [0, 1]], np.float32), "b": np.array([[8.0], [0]])}
    weights = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    found, labels, _ = mix(
        inputs, targets, weights, partner=np.array([1, 0]), share=np.array([0.75, 0.5])
    )
    # The second clip goes on as its mean, 15; the fourth step is padding of both.
    assert found["embedding"][0, :, 0].tolist() == [3.25, 7.25, 7.5, 0]
    assert found["embedding"][1, :, 0].tolist() == [5.5, 11.5, 10, 0]
    assert found["mask"].tolist() == [[True, True, True, False]] * 2
    assert found["features"].tolist() == [[1.0], [2.0]]
    assert labels["a"].tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert labels["b"].tolist() == [[6.0], [4.0]]


@settings(deadline=None)
@given(lengths_of_clips, st.floats(0.05, 5), st.integers(0, 1000))
def test_one_share_mixes_frames_features_and_targets(
    lengths: list[int], alpha: float, seed: int
) -> None:
    inputs, targets, weights = batch(lengths)
    found, labels, _ = mixup(inputs, targets, weights, rng(seed), alpha=alpha)
    shares = labels["clip"].astype(float)  # the one-hot targets tell the shares
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert (shares >= 0).all()
    np.testing.assert_allclose(found["features"], shares @ inputs["features"], atol=1e-5)
    first_frames = inputs["embedding"][:, 0]  # every clip has one
    np.testing.assert_allclose(found["embedding"][:, 0], shares @ first_frames, atol=1e-5)
    mean_frames = means(inputs["embedding"], inputs["mask"])
    found_means = means(found["embedding"], found["mask"])
    np.testing.assert_allclose(found_means, shares @ mean_frames, atol=1e-4)


def test_other_inputs_are_mixed_by_the_same_share() -> None:
    """As logits of another model that a model adds to its own."""
    inputs, targets, weights = batch([4, 2, 9])
    inputs["offset_clip"] = np.array([[1.0, -3], [10, 5], [-7, 0]], np.float32)
    found, labels, _ = mixup(inputs, targets, weights, rng(3), alpha=1)
    expected = labels["clip"] @ inputs["offset_clip"]
    np.testing.assert_allclose(found["offset_clip"], expected, rtol=1e-5)
    assert found["offset_clip"].dtype == np.float32
    assert (found["offset_clip"] != inputs["offset_clip"]).any()


@settings(deadline=None)
@given(lengths_of_clips, st.integers(0, 1000))
def test_mask_is_the_union_and_padding_is_zero(lengths: list[int], seed: int) -> None:
    inputs, targets, weights = batch(lengths)
    found, labels, _ = mixup(inputs, targets, weights, rng(seed), alpha=1)
    for row, mask in zip(labels["clip"], found["mask"], strict=True):
        np.testing.assert_array_equal(mask, inputs["mask"][row > 0].any(axis=0))
    assert (found["embedding"][~found["mask"]] == 0).all()


def test_each_clip_leads_one_mixture_and_enters_another() -> None:
    _, labels, _ = mixup(*batch([3] * 50), rng(), alpha=1)
    shares = labels["clip"]
    assert (np.diag(shares) >= 0.5).all()
    assert ((shares > 0).sum(axis=0) <= 2).all()


@pytest.mark.parametrize("alpha", [0.2, 1, 4])
def test_shares_are_those_of_the_beta_distribution(alpha: float) -> None:
    _, labels, _ = mixup(*batch([1] * 2000), rng(), alpha=alpha)
    shares = np.diag(labels["clip"]).astype(float)
    # The greater of s and 1 - s: it is at most x where s is from 1 - x to x.
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda x: beta.cdf(x) - beta.cdf(1 - x)).pvalue > 1e-3


# Weights


@pytest.mark.parametrize(
    ("weights", "expected_targets", "expected_weights"),
    [
        ((1, 1), [7, 5], [1, 1]),
        ((1, 0), [8, 8], [0.75, 0.25]),
        ((0, 1), [4, 4], [0.25, 0.75]),
        ((0, 0), [8, 4], [0, 0]),
        ((1, 3), [6, 4.4], [1.5, 2.5]),
    ],
)
def test_targets_count_by_share_and_weight(
    weights: Any, expected_targets: list[float], expected_weights: list[float]
) -> None:
    targets, found = mixed_pair(0.75, (8, 4), weights)
    np.testing.assert_allclose(targets, expected_targets, rtol=1e-6)
    np.testing.assert_allclose(found, expected_weights, rtol=1e-6)


@given(st.floats(-1e6, 1e6, width=32))
def test_value_of_a_missing_target_does_not_matter(missing: float) -> None:
    assert mixed_pair(0.75, (8, missing), (1, 0)) == mixed_pair(0.75, (8, 0), (1, 0))


def squared_error(target: float, prediction: NDArray[np.float64]) -> NDArray[np.float64]:
    return (prediction - target) ** 2


def cross_entropy(target: float, prediction: NDArray[np.float64]) -> NDArray[np.float64]:
    return -target * np.log(prediction) - (1 - target) * np.log(1 - prediction)


@pytest.mark.parametrize("loss", [squared_error, cross_entropy])
@pytest.mark.parametrize("weights", [(1, 1), (2, 0.5), (1, 0)])
def test_gradient_is_that_of_both_losses(loss: Any, weights: tuple[float, float]) -> None:
    (target, _), (weight, _) = mixed_pair(0.7, (1, 0), weights)
    predictions = np.linspace(0.1, 0.9, 9)
    mixture = weight * loss(target, predictions)
    apart = 0.7 * weights[0] * loss(1, predictions) + 0.3 * weights[1] * loss(0, predictions)
    np.testing.assert_allclose(np.diff(mixture), np.diff(apart), atol=1e-6)


# What does not change


def test_alpha_zero_returns_what_was_given() -> None:
    given_batch = batch([2, 3])
    for found, expected in zip(mixup(*given_batch, rng(), alpha=0), given_batch, strict=True):
        assert found is expected


def test_a_clip_alone_stays_as_it_is() -> None:
    inputs, targets, weights = batch([4])
    found, labels, found_weights = mixup(inputs, targets, weights, rng(), alpha=1)
    for name in inputs:
        np.testing.assert_allclose(found[name], inputs[name], rtol=1e-6)
    assert labels["clip"].tolist() == [[1.0]]
    assert found_weights["clip"].tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_shapes_dtypes_and_inputs_are_kept(dtype: str) -> None:
    before, after = batch([5, 2, 9], dtype=dtype), batch([5, 2, 9], dtype=dtype)
    found = mixup(*after, rng(), alpha=1)
    for old, still, new in zip(before, after, found, strict=True):
        assert list(new) == list(old)
        for key in old:
            assert (new[key].shape, new[key].dtype) == (old[key].shape, old[key].dtype)
            np.testing.assert_array_equal(still[key], old[key])


def test_same_state_of_the_generator_gives_the_same() -> None:
    first, second = (mixup(*batch([5, 2, 9]), rng(4), alpha=0.2) for _ in range(2))
    np.testing.assert_equal(first, second)


def test_side_features_may_be_absent() -> None:
    inputs, targets, weights = batch([5, 2])
    del inputs["features"]
    assert list(mixup(inputs, targets, weights, rng(), alpha=1)[0]) == ["embedding", "mask"]


# Wrong input


@pytest.mark.parametrize("alpha", [-1, np.nan])
def test_negative_alpha_is_an_error(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha is (-1|nan); expected 0"):
        mixup(*batch([2]), rng(), alpha=alpha)


def test_clip_without_a_frame_is_an_error() -> None:
    inputs, targets, weights = batch([2, 3])
    inputs["mask"][1] = False
    with pytest.raises(ValueError, match="clip 1 of a batch has no frame"):
        mixup(inputs, targets, weights, rng(), alpha=1)

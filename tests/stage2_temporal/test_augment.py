"""Augmentation: what each change does, worked by hand, and what none may ever do."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from stage2_temporal.augment import (
    AugmentSettings,
    augment_sequence,
    change_speed,
    choose_view,
    crop,
    drop_frames,
    interpolate,
    jitter,
    mask_features,
    mask_time,
    read_at,
)
from stage2_temporal.config import TrainSettings

EVERYTHING = AugmentSettings(
    crop=0.3,
    speed=3,
    jitter=0.5,
    frame_dropout=0.4,
    reverse_probability=0.5,
    noise=2,
    feature_mask=0.6,
    time_mask=0.6,
)

dtypes = st.sampled_from([np.dtype("float16"), np.dtype("float32")])
seeds = st.integers(0, 2**32)
parts = st.floats(0, 0.99)
all_settings = st.builds(
    AugmentSettings,
    crop=st.floats(0.01, 1),
    speed=st.floats(1, 10),
    jitter=st.floats(0, 0.5),
    frame_dropout=parts,
    reverse_probability=st.floats(0, 1),
    noise=st.floats(0, 100),
    feature_mask=parts,
    time_mask=parts,
    augment_probability=st.floats(0, 1),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def counted(num_frames: int, dim: int = 2, dtype: Any = np.float32) -> NDArray[Any]:
    """Frames whose first feature is their number, so that it tells where they come from."""
    frames = rng(1).normal(size=(num_frames, dim)).astype(dtype)
    frames[:, 0] = np.arange(num_frames)
    return frames


def augmented(sequence: NDArray[Any], seed: int = 0, **changes: Any) -> NDArray[Any]:
    return augment_sequence(
        sequence,
        rng(seed),
        AugmentSettings(**changes),
        spread=np.ones(sequence.shape[1]) if changes.get("noise") else None,
    )


# Every change


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 50), dtypes, all_settings, seeds)
def test_length_dtype_and_finiteness_always_hold(
    num_frames: int, dim: int, room: int, dtype: Any, strengths: AugmentSettings, seed: int
) -> None:
    limit = 65504 if dtype == np.float16 else 1e30
    values = rng(seed).normal(0, limit, (num_frames, dim))  # a third of them beyond the limits
    sequence = values.clip(-limit, limit).astype(dtype)
    sequence.flags.writeable = False
    found = augment_sequence(
        sequence, rng(seed), strengths, spread=np.ones(dim), max_length=num_frames + room
    )
    assert found.dtype == dtype
    assert 1 <= len(found) <= num_frames + room
    assert found.shape[1] == dim
    assert np.isfinite(found).all()


@given(st.integers(1, 60), seeds)
def test_same_state_of_the_generator_gives_the_same(num_frames: int, seed: int) -> None:
    sequence, spread = counted(num_frames), np.ones(2)
    first, second = (
        augment_sequence(sequence, rng(seed), EVERYTHING, spread=spread) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("off", [{}, {"augment_probability": 0, "crop": 0.1, "noise": 1}])
def test_nothing_to_do_returns_the_object_and_draws_nothing(off: dict[str, Any]) -> None:
    sequence, generator = counted(9), rng()
    strengths = AugmentSettings(**off)
    found = augment_sequence(sequence, generator, strengths, spread=np.ones(2), max_length=99)
    assert found is sequence
    assert not strengths.any_sequence
    assert generator.random() == rng().random()


def test_read_only_memory_map_is_augmented_and_unchanged(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", counted(50, dtype=np.float16))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for seed in range(20):
        augment_sequence(mapped, rng(seed), EVERYTHING, spread=np.ones(2))
    np.testing.assert_array_equal(mapped, counted(50, dtype=np.float16))


@pytest.mark.parametrize("seed", range(5))
def test_a_sequence_of_one_frame_stays_one_frame(seed: int) -> None:
    sequence = counted(1)
    quiet = dataclasses.replace(EVERYTHING, noise=0, feature_mask=0)
    np.testing.assert_array_equal(augment_sequence(sequence, rng(seed), quiet), sequence)


def test_a_hundred_thousand_frames_pass() -> None:
    found = augment_sequence(counted(100_000), rng(), EVERYTHING, spread=np.zeros(2))
    assert 1 <= len(found) <= 100_000


@pytest.mark.parametrize("probability", [0.1, 0.7, 1])
def test_that_part_of_the_sequences_is_changed(probability: float) -> None:
    sequence = counted(4)
    changes = {"reverse_probability": 1, "augment_probability": probability}
    changed = sum(augmented(sequence, seed, **changes) is not sequence for seed in range(500))
    assert stats.binomtest(changed, 500, probability).pvalue > 1e-3


# Crop


@given(st.integers(1, 200), st.floats(0.01, 1), seeds)
def test_crop_is_a_stretch_of_the_stored_frames(num_frames: int, least: float, seed: int) -> None:
    sequence = counted(num_frames)
    found = augmented(sequence, seed, crop=least)
    start = int(found[0, 0])
    np.testing.assert_array_equal(found, sequence[start : start + len(found)])
    assert len(found) >= least * num_frames - 1e-6


def test_crops_of_all_lengths_and_starts_occur_alike() -> None:
    draws = [crop(10, 0.7, rng(seed)) for seed in range(4000)]
    lengths, counts = np.unique([len(draw) for draw in draws], return_counts=True)
    assert lengths.tolist() == [7, 8, 9, 10]
    assert stats.chisquare(counts).pvalue > 1e-3
    starts, counts = np.unique([d[0] for d in draws if len(d) == 7], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3]
    assert stats.chisquare(counts).pvalue > 1e-3


# Speed


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1, [3, 4, 5, 6, 7]),
        (2, [3, 5, 7]),
        (3, [3, 6]),
        (4, [3, 7]),
        (10, [3]),
        (0.5, [3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7]),
        (0.8, [3, 3.8, 4.6, 5.4, 6.2, 7]),
    ],
)
def test_speed_steps_through_time_by_its_factor(factor: float, expected: list[float]) -> None:
    found = change_speed(np.arange(3.0, 8), factor, rng(), max_length=99)
    np.testing.assert_allclose(found, expected)


def test_slow_sequence_too_long_becomes_any_stretch_of_it() -> None:
    slow = change_speed(np.arange(4.0), 0.25, rng(), max_length=99)
    assert slow.tolist() == [i / 4 for i in range(13)]
    starts = set()
    for seed in range(60):
        found = change_speed(np.arange(4.0), 0.25, rng(seed), max_length=10)
        start = int(found[0] * 4)
        np.testing.assert_array_equal(found, slow[start : start + 10])
        starts.add(start)
    assert starts == {0, 1, 2, 3}


def test_sequences_become_faster_as_often_as_slower_up_to_the_factor() -> None:
    sequence = counted(1001)
    found = [
        augment_sequence(sequence, rng(seed), AugmentSettings(speed=4), max_length=4001)
        for seed in range(400)
    ]
    logarithms = np.log([frames[1, 0] - frames[0, 0] for frames in found])
    limit = np.log(4)
    assert stats.kstest(logarithms, "uniform", (-limit, 2 * limit)).pvalue > 1e-3


@pytest.mark.parametrize("extra", [0, 5])
def test_slowing_down_uses_the_room_that_is_given(extra: int) -> None:
    slower = AugmentSettings(speed=3)
    lengths = [
        len(augment_sequence(counted(20), rng(seed), slower, max_length=20 + extra))
        for seed in range(50)
    ]
    assert max(lengths) == 20 + extra


# Reading between frames


@given(st.integers(1, 30), seeds)
def test_interpolation_equals_numpys(num_frames: int, seed: int) -> None:
    sequence = rng(seed).normal(size=(num_frames, 3)).astype(np.float32)
    positions = rng(seed).uniform(0, num_frames - 1, 50)
    expected = [np.interp(positions, np.arange(num_frames), feature) for feature in sequence.T]
    np.testing.assert_allclose(interpolate(sequence, positions), np.transpose(expected), atol=1e-5)


def test_opposite_extremes_of_float16_meet_at_zero() -> None:
    sequence = np.array([[65504.0], [-65504.0]], np.float16)
    found = read_at(sequence, np.array([0, 0.5, 1]))
    assert found.dtype == np.float16
    assert found.tolist() == [[65504.0], [0.0], [-65504.0]]


@pytest.mark.parametrize("num_frames", [1, 3, 200])
@pytest.mark.parametrize("dim", [1, 7, 20_000])
def test_many_and_wide_frames_are_read_the_same(num_frames: int, dim: int) -> None:
    """However they are cut into blocks."""
    sequence = np.tile(np.arange(num_frames, dtype=np.float32)[:, None], dim)
    positions = np.linspace(0, num_frames - 1, 33) if num_frames > 1 else np.zeros(33)
    found = read_at(sequence, positions)
    np.testing.assert_allclose(found[:, [0, -1]], positions[:, None].repeat(2, 1), rtol=1e-6)


def test_whole_positions_copy_only_what_is_not_consecutive() -> None:
    sequence = counted(6)
    assert read_at(sequence, np.arange(6.0)) is sequence
    for rows, shared in (([2, 3, 4], True), ([4, 3, 2], True), ([1], True), ([0, 0, 5], False)):
        found = read_at(sequence, np.array(rows, float))
        assert found[:, 0].tolist() == rows
        assert np.shares_memory(found, sequence) == shared


# Jitter


@given(st.integers(1, 50), st.floats(0, 0.5), seeds)
def test_jitter_keeps_order_bounds_and_distance(num_frames: int, part: float, seed: int) -> None:
    positions = np.arange(num_frames, dtype=float)
    moved = jitter(positions, part, rng(seed), num_frames=num_frames)
    assert (np.diff(moved) >= 0).all()
    assert (np.abs(moved - positions) <= part + 1e-9).all()
    assert moved.min() >= 0
    assert moved.max() <= num_frames - 1


def test_jitter_is_even_and_relative_to_the_distance() -> None:
    positions = np.arange(0.0, 3000, 3)
    moved = (jitter(positions, 0.4, rng(), num_frames=9999) - positions)[1:]
    assert stats.kstest(moved, "uniform", (-1.2, 2.4)).pvalue > 1e-3


# Frame dropout


@given(st.integers(1, 60), parts, seeds)
def test_dropout_leaves_stored_frames_in_order(num_frames: int, part: float, seed: int) -> None:
    sequence = counted(num_frames)
    found = augmented(sequence, seed, frame_dropout=part)
    rows = found[:, 0].astype(int)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(found, sequence[rows])


def test_dropout_leaves_out_its_part() -> None:
    assert stats.binomtest(len(drop_frames(np.arange(5000.0), 0.3, rng())), 5000, 0.7).pvalue > 1e-3


def test_some_frame_at_random_always_stays() -> None:
    stayed = [drop_frames(np.arange(3.0), 1.0, rng(seed)).tolist() for seed in range(30)]
    assert {len(frames) for frames in stayed} == {1}
    assert {frames[0] for frames in stayed} == {0, 1, 2}


# Reverse


@given(st.integers(1, 40), dtypes)
def test_reverse_twice_is_the_sequence(num_frames: int, dtype: Any) -> None:
    sequence = counted(num_frames, dtype=dtype)
    once = augmented(sequence, reverse_probability=1)
    np.testing.assert_array_equal(once, sequence[::-1])
    np.testing.assert_array_equal(augmented(once, reverse_probability=1), sequence)


# Noise


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_noise_has_the_deviation_asked_for(dtype: str) -> None:
    sequence = np.full((20_000, 3), 5, dtype)
    spread = np.array([0.0, 1.0, 10.0])
    found = augment_sequence(sequence, rng(), AugmentSettings(noise=0.1), spread=spread)
    added = found.astype(float) - 5
    np.testing.assert_allclose(added.std(axis=0), 0.1 * spread, rtol=0.03)
    np.testing.assert_allclose(added.mean(axis=0), 0, atol=0.03)
    assert stats.kstest(added[:, 2], "norm", (0, 1)).pvalue > 1e-3


def test_noise_differs_between_frames_and_features() -> None:
    found = augmented(np.zeros((500, 40), np.float32), noise=1)
    correlations = np.corrcoef(found.T)[~np.eye(40, dtype=bool)]
    assert abs(correlations).max() < 0.25  # over 5 standard errors
    assert len(np.unique(found)) > 0.99 * found.size


def test_noise_beyond_float16_ends_at_its_limit() -> None:
    found = augmented(np.full((100, 2), 65504, np.float16), noise=1000)
    assert found.max() == 65504
    assert np.isfinite(found).all()


# Masks


@given(st.integers(1, 80), parts, seeds, dtypes)
def test_time_mask_is_one_stretch_at_the_mean(
    num_frames: int, part: float, seed: int, dtype: Any
) -> None:
    sequence = rng(seed).normal(size=(num_frames, 3)).astype(dtype)
    original = sequence.copy()
    found = mask_time(sequence, part, rng(seed))
    rows = np.flatnonzero((found != sequence).any(axis=1))
    assert len(rows) <= part * num_frames + 1e-6
    assert (np.diff(rows) == 1).all()
    mean = np.repeat(original.astype(float).mean(axis=0)[None], len(rows), axis=0)
    np.testing.assert_allclose(found[rows], mean, rtol=1e-2 if dtype == np.float16 else 1e-5)
    np.testing.assert_array_equal(sequence, original)


def test_time_masks_of_all_lengths_and_places_occur() -> None:
    sequence = counted(10)
    masked = [(mask_time(sequence, 0.3, rng(s)) != sequence).any(axis=1) for s in range(4000)]
    lengths, counts = np.unique([mask.sum() for mask in masked], return_counts=True)
    assert lengths.tolist() == [0, 1, 2, 3]
    assert stats.chisquare(counts).pvalue > 1e-3
    starts, counts = np.unique(
        [mask.argmax() for mask in masked if mask.sum() == 3], return_counts=True
    )
    assert starts.tolist() == list(range(8))
    assert stats.chisquare(counts).pvalue > 1e-3


@given(st.integers(2, 30), parts, seeds)
def test_feature_mask_keeps_the_mean_alone(dim: int, part: float, seed: int) -> None:
    sequence = rng(seed).normal(size=(6, dim)).astype(np.float32)
    found = mask_features(sequence, part, rng(seed))
    held = np.ptp(found, axis=0) == 0
    assert held.sum() <= part * dim + 1e-6
    np.testing.assert_array_equal(found[:, ~held], sequence[:, ~held])
    np.testing.assert_allclose(found.mean(axis=0), sequence.mean(axis=0), atol=1e-6)


def test_every_feature_and_number_of_features_is_masked_alike() -> None:
    sequence = rng().normal(size=(4, 10)).astype(np.float32)
    held = [np.ptp(mask_features(sequence, 0.5, rng(s)), axis=0) == 0 for s in range(3000)]
    numbers, counts = np.unique(np.sum(held, axis=1), return_counts=True)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.chisquare(np.sum(held, axis=0)).pvalue > 1e-3


def test_noise_does_not_reach_what_is_masked() -> None:
    """A hidden stretch is one value, so that nothing of its frames remains."""
    found = augmented(np.zeros((40, 3), np.float32), 3, noise=1, time_mask=0.9)
    repeated = (np.diff(found, axis=0) == 0).all(axis=1)
    assert repeated.sum() > 1


# Stored views


@pytest.mark.parametrize("num_views", [0, 1, 4])
def test_each_view_and_the_clip_itself_are_drawn_alike(num_views: int) -> None:
    generator = rng()
    views, counts = np.unique(
        [choose_view(num_views, generator) for _ in range(2000)], return_counts=True
    )
    assert views.tolist() == list(range(num_views + 1))
    assert num_views == 0 or stats.chisquare(counts).pvalue > 1e-3


def test_negative_number_of_views_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_views is -1; expected 0 or more"):
        choose_view(-1, rng())


# Settings


def test_defaults_change_nothing() -> None:
    strengths = AugmentSettings()
    assert not strengths.any_sequence
    assert not strengths.mixup
    assert not strengths.stored_views


@pytest.mark.parametrize(
    ("change", "sequence"),
    [
        ({"crop": 0.9}, True),
        ({"speed": 1.1}, True),
        ({"jitter": 0.1}, True),
        ({"frame_dropout": 0.1}, True),
        ({"reverse_probability": 0.1}, True),
        ({"noise": 0.1}, True),
        ({"feature_mask": 0.1}, True),
        ({"time_mask": 0.1}, True),
        ({"mixup": 0.2}, False),
        ({"stored_views": True}, False),
    ],
)
def test_any_one_of_them_is_noticed(change: dict[str, Any], sequence: bool) -> None:
    assert AugmentSettings(**change).any_sequence == sequence


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("crop", [0, -1, 1.1], r"expected more than 0, up to 1 \(no crop\)"),
        ("speed", [0.5, 11, np.inf], "expected 1 to 10"),
        ("jitter", [-0.1, 0.6], "expected 0 to 0.5"),
        ("frame_dropout", [-0.1, 1], "expected 0 to below 1"),
        ("reverse_probability", [-0.1, 1.1], "expected 0 to 1"),
        ("noise", [-0.1, np.inf], r"expected 0 \(off\) or more"),
        ("feature_mask", [-0.1, 1], "expected 0 to below 1"),
        ("time_mask", [-0.1, 1], "expected 0 to below 1"),
        ("augment_probability", [-0.1, 1.1], "expected 0 to 1"),
        ("mixup", [-0.1, np.inf], r"expected 0 \(off\) or more"),
    ],
)
def test_impossible_settings_are_errors(name: str, values: list[Any], expected: str) -> None:
    for value in [*values, np.nan]:
        with pytest.raises(ValueError, match=f"{name} is {value}; {expected}"):
            AugmentSettings(**{name: value})


def test_names_are_no_other_flags() -> None:
    others = {field.name for field in dataclasses.fields(TrainSettings)}
    assert not others & {field.name for field in dataclasses.fields(AugmentSettings)}


# Wrong input


@pytest.mark.parametrize(
    "sequence",
    [
        np.zeros((0, 3), np.float32),
        np.zeros(3, np.float32),
        np.zeros((2, 3)),
        np.zeros((2, 3), int),
    ],
)
def test_what_is_no_sequence_is_an_error(sequence: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"a sequence is \(.*\) \w+; expected \(T, D\)"):
        augment_sequence(sequence, rng(), AugmentSettings())


@pytest.mark.parametrize("spread", [None, np.ones(3)])
def test_noise_without_a_fitting_spread_is_an_error(spread: Any) -> None:
    with pytest.raises(ValueError, match=r"spread is (None|\(3,\)).*expected \(2,\)"):
        augment_sequence(counted(4), rng(), AugmentSettings(noise=0.1), spread=spread)


def test_less_room_than_the_sequence_needs_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_length is 3, the sequence has 4 frames"):
        augment_sequence(counted(4), rng(), AugmentSettings(), max_length=3)

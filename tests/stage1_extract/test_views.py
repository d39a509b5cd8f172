"""Views: pixels against hand-worked pictures, draws against their limits, process and order."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from stage1_extract.store import fingerprint
from stage1_extract.views import (
    ViewParameters,
    ViewSettings,
    draw_view,
    normalise_frames,
    transform_frames,
    view_transform,
)

STILL = ViewSettings(
    view_rotation_degrees=0, view_shift=0, view_zoom=0, view_brightness=0, view_contrast=0
)


def noise(count: int = 3, size: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def transformed(frames: NDArray[np.uint8], **parameters: Any) -> NDArray[np.uint8]:
    return transform_frames(frames, ViewParameters(**parameters), size=frames.shape[1])


def drawn(num_views: int, **settings: Any) -> dict[str, NDArray[np.float64]]:
    """Parameters of many views of many clips, by name."""
    limits = ViewSettings(**settings)
    views = [draw_view(limits, video_id=f"clip{i}", view=1 + i % 7) for i in range(num_views)]
    names = [field.name for field in dataclasses.fields(ViewParameters)]
    return {name: np.array([getattr(view, name) for view in views], float) for name in names}


# Geometry


@pytest.mark.parametrize("size", [1, 8, 9])
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, lambda f: f),
        ({"flip": True}, lambda f: f[:, :, ::-1]),
        ({"rotation_degrees": 90}, lambda f: np.rot90(f, 1, axes=(1, 2))),
        ({"rotation_degrees": -90}, lambda f: np.rot90(f, -1, axes=(1, 2))),
        ({"rotation_degrees": 180}, lambda f: f[:, ::-1, ::-1]),
        # Mirrored first, then turned: the other order would give the other diagonal.
        ({"rotation_degrees": 90, "flip": True}, lambda f: np.rot90(f[:, :, ::-1], 1, axes=(1, 2))),
    ],
)
def test_flips_and_quarter_turns_move_whole_pixels(
    parameters: dict[str, Any], expected: Any, size: int
) -> None:
    frames = noise(size=size)
    np.testing.assert_array_equal(transformed(frames, **parameters), expected(frames))


def test_a_shift_by_whole_pixels_moves_them_and_leaves_black_behind() -> None:
    frames = noise(size=16)
    right_and_up = transformed(frames, shift_x=3 / 16, shift_y=-2 / 16)
    np.testing.assert_array_equal(right_and_up[:, :14, 3:], frames[:, 2:, :13])
    assert not right_and_up[:, 14:].any()
    assert not right_and_up[:, :, :3].any()


def test_zooming_by_two_spreads_the_middle_over_the_frame() -> None:
    frames = noise(size=9)
    np.testing.assert_array_equal(transformed(frames, zoom=2)[:, ::2, ::2], frames[:, 2:7, 2:7])


def test_shrinking_to_half_takes_every_second_pixel_and_leaves_a_black_rim() -> None:
    frames = noise(size=9)
    shrunk = transformed(frames, zoom=0.5)
    np.testing.assert_array_equal(shrunk[:, 2:7, 2:7], frames[:, ::2, ::2])
    shrunk[:, 2:7, 2:7] = 0
    assert not shrunk.any()


def test_pixels_in_between_are_interpolated_linearly() -> None:
    ramp = np.zeros((1, 8, 8, 3), np.uint8)
    ramp[:] = 16 * np.arange(8)[:, None]
    # About the centre 3.5, pixel x comes from 3.5 + (x - 3.5) / 2.
    expected = [28, 36, 44, 52, 60, 68, 76, 84]
    np.testing.assert_array_equal(transformed(ramp, zoom=2)[0, :, :, 1], [expected] * 8)


# Brightness and contrast


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"brightness": 0.2}, [51, 61, 151, 251, 255]),  # 0.2 x 255 = 51
        ({"brightness": 0.8}, [204, 214, 255, 255, 255]),
        ({"brightness": -0.2}, [0, 0, 49, 149, 204]),
        ({"contrast": 2.0}, [0, 0, 72, 255, 255]),  # 2 x (v - 127.5) + 127.5
        ({"contrast": 0.0}, [128, 128, 128, 128, 128]),
        ({"contrast": 0.8}, [26, 34, 106, 186, 230]),  # 25.5 rounds to even
        ({"contrast": 2.0, "brightness": 0.1}, [0, 0, 98, 255, 255]),
    ],
)
def test_brightness_is_added_and_contrast_is_about_middle_grey(
    parameters: dict[str, float], expected: list[int]
) -> None:
    frames = np.empty((1, 5, 5, 3), np.uint8)
    frames[:] = np.array([0, 10, 100, 200, 255])[:, None]
    np.testing.assert_array_equal(transformed(frames, **parameters)[0, 0, :, 0], expected)


def test_what_comes_from_outside_looks_like_black_background_in_any_light() -> None:
    frames = noise(size=16)
    frames[:, :, 0] = 0
    lit = transformed(frames, shift_x=2 / 16, brightness=0.1, contrast=0.9)
    assert len(np.unique(lit[:, :, :3])) == 1


# Draws


@settings(deadline=None)
@given(
    st.floats(0, 180),
    st.floats(0, 0.5),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**40),
    st.text(),
    st.integers(1, 65535),
)
def test_draws_keep_to_the_limits(
    rotation: float,
    shift: float,
    zoom: float,
    brightness: float,
    contrast: float,
    seed: int,
    video_id: str,
    view: int,
) -> None:
    limits = ViewSettings(rotation, shift, zoom, False, brightness, contrast, view_seed=seed)
    draw = draw_view(limits, video_id=video_id, view=view)
    assert abs(draw.rotation_degrees) <= rotation
    assert max(abs(draw.shift_x), abs(draw.shift_y)) <= shift
    assert 1 - zoom <= draw.zoom <= 1 + zoom
    assert abs(draw.brightness) <= brightness
    assert 1 - contrast <= draw.contrast <= 1 + contrast
    assert not draw.flip


def test_draws_are_spread_evenly_within_the_limits_and_independent() -> None:
    draws = drawn(3000, view_rotation_degrees=20, view_shift=0.1, view_zoom=0.3, view_flip=True)
    limits = {
        "rotation_degrees": (-20, 20),
        "shift_x": (-0.1, 0.1),
        "shift_y": (-0.1, 0.1),
        "zoom": (0.7, 1.3),
        "brightness": (-0.1, 0.1),
        "contrast": (0.9, 1.1),
        "randaugment_seed": (0, 2**31),
    }
    for name, (low, high) in limits.items():
        assert stats.kstest(draws[name], "uniform", (low, high - low)).pvalue > 1e-3, name
    assert draws["flip"].mean() == pytest.approx(0.5, abs=0.03)
    correlations = np.corrcoef(list(draws.values())) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.07


def test_every_clip_view_and_seed_has_its_own_draw() -> None:
    draws = [
        draw_view(ViewSettings(view_seed=seed), video_id=video_id, view=view)
        for seed in (0, 1, 11)
        for video_id in ("a", "a1", "b", "é", "")
        for view in (1, 2, 12)
    ]
    assert len({draw.rotation_degrees for draw in draws}) == len(draws)


def test_a_changed_limit_leaves_the_other_values() -> None:
    first, other = drawn(20), drawn(20, view_zoom=0.5, view_flip=True, randaugment=2)
    assert {n for n in first if (first[n] != other[n]).any()} == {"zoom", "flip"}


def test_draws_stay_as_they_are() -> None:
    """A store that an earlier version began is continued with the same views."""
    draw = draw_view(ViewSettings(), video_id="clips/a", view=1)
    assert draw.rotation_degrees == pytest.approx(-5.621840667921085)
    assert draw.randaugment_seed == 1114622142


_IN_ANOTHER_PROCESS = """
import hashlib, sys
import numpy as np
from stage1_extract.views import ViewSettings, view_transform
frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
view_transform(ViewSettings(), video_id="other", view=1, size=16)(frames)
view = view_transform(ViewSettings(), video_id="clips/a", view=2, size=16)(frames)
print(hashlib.sha256(view.tobytes()).hexdigest(), "keras" in sys.modules)
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_view_is_the_same_in_every_process_and_needs_no_keras(hash_seed: str) -> None:
    import hashlib

    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    view = view_transform(ViewSettings(), video_id="clips/a", view=2, size=16)(noise())
    assert done.stdout.split() == [hashlib.sha256(view.tobytes()).hexdigest(), "False"]


# Views


@settings(deadline=None)
@given(st.lists(st.integers(0, 6)), st.integers(1, 50))
def test_a_clip_may_come_in_chunks_of_any_length(cuts: list[int], view: int) -> None:
    frames = noise(6)
    augment = view_transform(ViewSettings(view_flip=True), video_id="a", view=view, size=16)
    chunks = np.split(frames, sorted(cuts))
    np.testing.assert_array_equal(
        np.concatenate([augment(chunk) for chunk in chunks]), augment(frames)
    )


def test_the_given_frames_are_not_changed() -> None:
    frames = noise()
    before = frames.copy()
    for parameters in (ViewParameters(), ViewParameters(rotation_degrees=3, brightness=0.5)):
        transform_frames(frames, parameters, size=16)[:] = 0
    np.testing.assert_array_equal(frames, before)


def test_without_any_limit_a_view_is_the_clip() -> None:
    frames = noise()
    np.testing.assert_array_equal(
        view_transform(STILL, video_id="a", view=3, size=16)(frames), frames
    )


def test_frames_may_lie_in_memory_in_any_order() -> None:
    augment = view_transform(ViewSettings(), video_id="a", view=1, size=16)
    strided = noise(4, 32)[::-1, ::2, ::-2, ::-1]
    np.testing.assert_array_equal(augment(strided), augment(strided.copy()))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 16, 8, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 1), np.uint8),
        np.zeros((2, 16, 16, 3), np.float32),
    ],
)
def test_frames_of_another_kind_are_refused(frames: NDArray[Any]) -> None:
    augment = view_transform(ViewSettings(), video_id="a", view=1, size=16)
    with pytest.raises(ValueError, match=r"expected \(n, 16, 16, 3\) uint8"):
        augment(frames)


@pytest.mark.parametrize("view", [0, -1])
def test_view_zero_is_not_augmented(view: int) -> None:
    with pytest.raises(ValueError, match=rf"view is {view}; expected 1 or more"):
        view_transform(ViewSettings(), video_id="a", view=view, size=16)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_rotation_degrees": 181}, "view_rotation_degrees is 181; expected 0 to 180"),
        ({"view_rotation_degrees": -5.0}, r"view_rotation_degrees is -5\.0; expected 0 to 180"),
        ({"view_shift": 0.6}, r"view_shift is 0\.6; expected 0 to 0\.5"),
        ({"view_zoom": 1.0}, r"view_zoom is 1\.0; expected 0 to 0\.9"),
        ({"view_zoom": float("nan")}, "view_zoom is nan"),
        ({"view_brightness": 1.5}, r"view_brightness is 1\.5; expected 0 to 1"),
        ({"view_contrast": -0.1}, r"view_contrast is -0\.1; expected 0 to 1"),
        ({"randaugment": -1}, "randaugment is -1; expected 0 or more"),
        ({"randaugment_magnitude": 1.1}, r"randaugment_magnitude is 1\.1; expected 0 to 1"),
        ({"view_seed": -3}, "view_seed is -3; expected 0 or more"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewSettings(**changes)


def identity_of(**changes: Any) -> str:
    return fingerprint(ViewSettings(**changes).identity())


@pytest.mark.parametrize(
    "changes",
    [
        {"view_rotation_degrees": 11},
        {"view_shift": 0.1},
        {"view_zoom": 0.2},
        {"view_flip": True},
        {"view_brightness": 0.2},
        {"view_contrast": 0.2},
        {"randaugment": 2},
        {"view_seed": 1},
    ],
)
def test_what_changes_a_view_changes_the_identity(changes: dict[str, Any]) -> None:
    assert identity_of(**changes) != identity_of()


def test_the_magnitude_counts_only_where_it_is_used() -> None:
    assert identity_of(randaugment_magnitude=0.1) == identity_of()
    assert identity_of(randaugment=1, randaugment_magnitude=0.1) != identity_of(randaugment=1)


def test_whole_numbers_are_the_same_settings() -> None:
    assert identity_of(view_rotation_degrees=10) == identity_of(view_rotation_degrees=10.0)


# Normalisation


def test_each_frame_or_the_clip_is_stretched_to_white() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[0, 0, 0] = 51, 17, 0
    frames[1, 1, 1] = 0, 85, 1
    for_each = normalise_frames(frames, "frame")
    np.testing.assert_array_equal(for_each[0, 0, 0], [255, 85, 0])
    np.testing.assert_array_equal(for_each[1, 1, 1], [0, 255, 3])
    for_clip = normalise_frames(frames, "clip", clip_maximum=85)
    np.testing.assert_array_equal(for_clip[0, 0, 0], [153, 51, 0])
    np.testing.assert_array_equal(for_clip[1, 1, 1], [0, 255, 3])
    assert not for_each[2].any()
    assert not for_clip[2].any()
    assert for_each.sum() == 255 + 85 + 255 + 3


@settings(deadline=None)
@given(st.integers(1, 255), st.integers(0, 4))
def test_stretched_frames_reach_white_and_may_come_in_chunks(maximum: int, cut: int) -> None:
    frames = noise(4) % maximum
    frames[:, 0, 0, 0] = maximum
    for mode in ("none", "frame", "clip"):
        stretched = normalise_frames(frames, mode, maximum)
        halves = [normalise_frames(half, mode, maximum) for half in np.split(frames, [cut])]
        np.testing.assert_array_equal(np.concatenate(halves), stretched)
        exact = frames * (255 / maximum) if mode != "none" else frames
        assert np.abs(stretched - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["none", "frame", "clip"])
def test_black_stays_black_and_nothing_stays_nothing(mode: str) -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(normalise_frames(black, mode, 0), black)
    np.testing.assert_array_equal(normalise_frames(black[:0], mode, 0), black[:0])


@pytest.mark.parametrize(
    ("mode", "maximum", "message"),
    [
        ("video", None, "normalise is 'video'; expected one of none, frame, clip"),
        ("clip", None, "clip_maximum is None; expected 200"),
        ("clip", 199, "clip_maximum is 199; expected 200, the maximum of these frames, to 255"),
        ("clip", 256, "clip_maximum is 256"),
    ],
)
def test_wrong_normalisations_are_refused(mode: str, maximum: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_frames(np.full((1, 2, 2, 3), 200, np.uint8), mode, maximum)

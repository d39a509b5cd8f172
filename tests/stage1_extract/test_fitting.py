"""Frames into squares: geometry against hand-drawn pictures, any size, any aspect."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract.fitting import FITS, fit_frame


def three_stripes(height: int, width: int) -> NDArray[np.uint8]:
    """Red, green and blue thirds along the longer side."""
    frame = np.zeros((height, width, 3), np.uint8)
    along = frame if height >= width else frame.transpose(1, 0, 2)
    third = len(along) // 3
    for channel in range(3):
        along[channel * third : (channel + 1) * third, :, channel] = 200
    return frame


@pytest.mark.parametrize("fit", FITS)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.sampled_from([1, 32, 33]))
@settings(max_examples=60, deadline=None)
def test_any_frame_becomes_a_square_within_its_range(
    fit: str, height: int, width: int, size: int
) -> None:
    fitted = fit_frame(np.full((height, width, 3), 77, np.uint8), size, fit)
    assert fitted.shape == (size, size, 3)
    assert fitted.dtype == np.uint8
    assert set(np.unique(fitted)) <= ({0, 77} if fit == "pad" else {77})
    assert 77 in fitted


@pytest.mark.parametrize("shape", [(30, 90), (90, 30)])
def test_squash_keeps_all_thirds(shape: tuple[int, int]) -> None:
    fitted = fit_frame(three_stripes(*shape), 30, "squash")
    along = fitted if shape[0] > shape[1] else fitted.transpose(1, 0, 2)
    assert [along[row, 15].argmax() for row in (2, 15, 27)] == [0, 1, 2]


@pytest.mark.parametrize("shape", [(30, 90), (90, 30)])
def test_crop_keeps_the_middle_third_alone(shape: tuple[int, int]) -> None:
    fitted = fit_frame(three_stripes(*shape), 30, "crop")
    assert (fitted == [0, 200, 0]).all()


@pytest.mark.parametrize("shape", [(30, 90), (90, 30)])
def test_pad_shows_all_thirds_between_black_bars(shape: tuple[int, int]) -> None:
    fitted = fit_frame(three_stripes(*shape), 90, "pad")
    along = fitted if shape[0] > shape[1] else fitted.transpose(1, 0, 2)
    assert not along[:, :30].any()
    assert not along[:, 60:].any()
    assert [along[row, 45].argmax() for row in (10, 45, 80)] == [0, 1, 2]
    np.testing.assert_array_equal(along[:, 30:60], three_stripes(90, 30))


@pytest.mark.parametrize("fit", FITS)
def test_square_of_the_right_size_is_left_alone(fit: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit_frame(frame, 24, fit), frame)


def test_shrinking_averages_and_does_not_skip_pixels() -> None:
    columns = np.zeros((64, 64, 3), np.uint8)
    columns[:, ::8] = 240  # one column in eight is bright
    fitted = fit_frame(columns, 8, "squash")
    assert (np.abs(fitted.astype(int) - 30) <= 1).all()


@pytest.mark.parametrize("fit", FITS)
def test_the_given_frame_is_not_changed(fit: str) -> None:
    frame = three_stripes(33, 47)
    before = frame.copy()
    fit_frame(frame, 32, fit)[:] = 0
    np.testing.assert_array_equal(frame, before)

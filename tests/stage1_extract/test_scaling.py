"""Values to 0..255: against hand-worked values and exact rational arithmetic."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1_extract.scaling import (
    ScalingError,
    ValueRange,
    check_brightness,
    parse_value_range,
    probe_numbers,
    to_bgr,
    to_uint8,
)

BY_DTYPE = ValueRange()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dtype", None),
        ("0:4095", (0, 4095)),
        ("-1:1", (-1, 1)),
        ("-1000:400", (-1000, 400)),
        ("0.5:1e3", (0.5, 1000)),
    ],
)
def test_ranges_are_parsed(text: str, expected: tuple[float, float] | None) -> None:
    assert parse_value_range(text) == ValueRange(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        ":",
        "1:",
        ":1",
        "5:5",
        "9:3",
        "0:inf",
        "nan:1",
        "a:b",
        "0:1:2",
        "Dtype",
        "-1e308:1e308",
    ],
)
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=f"value range '{text}' is not understood.*0:4095"):
        parse_value_range(text)


@pytest.mark.parametrize(
    ("values", "bounds", "expected"),
    [
        (np.array([0, 7, 255], np.uint8), None, [0, 7, 255]),
        (np.array([0, 128, 129, 257, 32767, 65535], np.uint16), None, [0, 0, 1, 1, 127, 255]),
        (np.array([0, 257, 65535], ">u2"), None, [0, 1, 255]),
        (np.array([False, True]), None, [0, 255]),
        (np.array([0, 0.1, 0.998, 1], np.float32), None, [0, 26, 254, 255]),
        (np.array([0, 0.25, 1], np.float16), None, [0, 64, 255]),
        (np.array([0, 16, 4095, 5000], np.uint16), (0, 4095), [0, 1, 255, 255]),
        (np.array([-2000, -1000, -300, 400, 3000], np.int16), (-1000, 400), [0, 0, 128, 255, 255]),
        (np.array([-1.0, -0.6, 1.0]), (-1, 1), [0, 51, 255]),
        (np.array([0, 100, 200], np.uint8), (100, 200), [0, 0, 255]),
        (np.array([0, 100, 255], np.uint8), (0, 255), [0, 100, 255]),
        (np.array([0, 100, 255], np.uint8), (0, 4095), [0, 100, 255]),
        (np.array([0, 100, 255], np.uint8), (-1, 1), [0, 100, 255]),
        (np.array([-(2**62), 0, 2**62], np.int64), (-(2**62), 2**62), [0, 128, 255]),
    ],
)
def test_values_are_scaled(
    values: np.ndarray[Any, Any], bounds: tuple[float, float] | None, expected: list[int]
) -> None:
    scaled = to_uint8(values, ValueRange(bounds))
    assert scaled.dtype == np.uint8
    assert scaled.tolist() == expected


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(1, 2**31),
)
def test_bounds_map_linearly_to_the_nearest_level(values: list[int], low: int, width: int) -> None:
    scaled = to_uint8(np.array(values, np.int32), ValueRange((low, low + width)))
    for value, level in zip(values, scaled.tolist(), strict=True):
        exact = Fraction(255 * min(max(value - low, 0), width), width)
        assert abs(level - exact) <= Fraction(1, 2) + Fraction(1, 10**9)


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=20))
def test_brighter_stays_brighter(values: list[int]) -> None:
    rising = np.array(sorted(values), np.uint16)
    assert (np.diff(to_uint8(rising, BY_DTYPE).astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([-0.5, 0.5], r"float64 values from -0\.5 to 0\.5, expected values from 0 to 1.*LOW:HIGH"),
        ([0.0, 255.0], r"float64 values from 0 to 255.*--value-range LOW:HIGH"),
        (np.array([3, 9], np.int16), r"int16 values from 3 to 9, expected values of type uint8"),
        (np.array([3, 9], np.uint32), r"uint32 values from 3 to 9.*--value-range"),
        ([0.0, np.nan], "NaN or infinite"),
        ([0.0, np.inf], "NaN or infinite"),
    ],
)
def test_values_without_a_plain_meaning_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        to_uint8(np.asarray(values), BY_DTYPE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bounds_do_not_excuse_missing_values(value: float) -> None:
    with pytest.raises(ScalingError, match="NaN or infinite"):
        to_uint8(np.array([0.5, value]), ValueRange((0, 1)))


def test_channels_become_blue_green_red() -> None:
    rgba = np.array([[[10, 20, 30, 40], [50, 60, 70, 80]]], np.uint16)
    assert to_bgr(rgba[..., :3], rgb=True).tolist() == [[[30, 20, 10], [70, 60, 50]]]
    assert to_bgr(rgba, rgb=True).tolist() == [[[30, 20, 10], [70, 60, 50]]]
    assert to_bgr(rgba, rgb=False).tolist() == [[[10, 20, 30], [50, 60, 70]]]
    for grey in (rgba[..., 0], rgba[..., :1]):
        assert to_bgr(grey, rgb=True).tolist() == [[[10, 10, 10], [50, 50, 50]]]
        assert to_bgr(grey, rgb=True).dtype == np.uint16


@pytest.mark.parametrize(
    ("largest", "proposed"), [(0, 255), (255, 255), (256, 1023), (4095, 4095), (8191, 16383)]
)
def test_narrow_values_in_16_bits_are_refused(largest: int, proposed: int) -> None:
    frames = [np.zeros((2, 2), np.uint16), np.full((2, 2), largest, np.uint16)]
    with pytest.raises(ScalingError, match=f"none above {largest} .*--value-range 0:{proposed},"):
        check_brightness(frames)


def test_bright_or_other_frames_are_accepted() -> None:
    check_brightness([np.zeros(4, np.uint16), np.array([8192], np.uint16)])
    check_brightness([np.zeros(4, np.uint8)])
    check_brightness([])


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(1, [0]), (3, [0, 1, 2]), (101, [0, 25, 50, 75, 100])]
)
def test_probes_are_spread_from_first_to_last(num_frames: int, expected: list[int]) -> None:
    assert probe_numbers(num_frames).tolist() == expected

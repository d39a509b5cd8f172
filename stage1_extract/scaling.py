"""Frames of any number type brought to 0..255, and to three channels."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WHITE = 255
_DARK_PART = 8
"""Frames that stay under one eighth of their range are taken for narrower values in wide words."""
_NUM_PROBES = 5


class ScalingError(ValueError):
    """Values that cannot be brought to 0..255 as asked; the message goes on from a frame's name."""


@dataclasses.dataclass(frozen=True)
class ValueRange:
    """Which values become black and white.

    Attributes:
        bounds: (low, high), mapped linearly to 0 and 255; None for the range of the number type.
    """

    bounds: tuple[float, float] | None = None


def parse_value_range(text: str) -> ValueRange:
    """Parse `dtype` or `LOW:HIGH`.

    `dtype`: uint8 stays as it is, uint16 has 0..65535, bool 0..1, floating-point numbers 0..1.
    `LOW:HIGH`: LOW and less become 0, HIGH and more become 255; uint8 stays as it is unless both
    are from 0 to 255.

    Raises:
        ValueError: Another text, or LOW is not below HIGH.
    """
    if text == "dtype":
        return ValueRange()
    low_text, _, high_text = text.partition(":")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(
            f"value range {text!r} is not understood; expected dtype or LOW:HIGH with LOW below "
            "HIGH, e.g. 0:4095, -1:1"
        )
    return ValueRange((low, high))


def to_uint8(frame: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    """Bring a frame's values to 0..255, rounded to the nearest.

    Args:
        frame: Any shape; bool, integer or floating-point.
        value_range: The rule; 8-bit frames follow bounds from 0 to 255 alone.

    Returns:
        The frame's shape, uint8; the frame itself where there is nothing to do.

    Raises:
        ScalingError: NaN or infinite values; under `dtype` floating-point values outside 0..1, or
            an integer type other than uint8 and uint16.
    """
    if frame.dtype.kind == "f" and not np.isfinite(frame).all():
        raise ScalingError("has values that are NaN or infinite; replace them in the source")
    bounds = value_range.bounds
    # Another range than of 8 bits is meant for the other sources of the manifest.
    if frame.dtype == np.uint8 and (bounds is None or bounds[0] < 0 or bounds[1] > _WHITE):
        return frame
    if bounds is not None:
        return _mapped(frame, *bounds)
    if _is_uint16(frame):
        return _mapped(frame, 0, 65535)
    lowest, highest = float(frame.min()), float(frame.max())
    if frame.dtype.kind == "b" or (frame.dtype.kind == "f" and lowest >= 0 and highest <= 1):
        return _mapped(frame, 0, 1)
    expected = "from 0 to 1" if frame.dtype.kind == "f" else "of type uint8, uint16 or bool"
    raise ScalingError(
        f"has {frame.dtype.name} values from {lowest:g} to {highest:g}, expected values "
        f"{expected}; say which values are black and white with --value-range LOW:HIGH"
    )


def to_bgr(frame: NDArray[Any], *, rgb: bool) -> NDArray[Any]:
    """Bring a frame to three channels in the order blue, green, red.

    Args:
        frame: (H, W) or (H, W, 1) grey, (H, W, 3) or (H, W, 4) colour; a fourth channel is
            transparency and left out.
        rgb: Whether the frame's colours come as red, green, blue; else as blue, green, red.

    Returns:
        (H, W, 3), contiguous.
    """
    if frame.ndim == 2 or frame.shape[2] == 1:
        frame = np.broadcast_to(frame.reshape(*frame.shape[:2], 1), (*frame.shape[:2], 3))
    elif rgb:
        frame = frame[..., 2::-1]
    return np.ascontiguousarray(frame[..., :3])


def probe_numbers(num_frames: int) -> NDArray[np.int64]:
    """Return some frames spread over the source, first and last among them, rising."""
    return np.unique(np.linspace(0, num_frames - 1, _NUM_PROBES).astype(np.int64))


def check_brightness(frames: Iterable[NDArray[Any]]) -> None:
    """Refuse 16-bit frames whose values use only the low bits, as of 12-bit cameras.

    Under `dtype` they would come out nearly black without a word.

    Args:
        frames: Some frames of the source; where the first is not uint16, no more are read.

    Raises:
        ScalingError: All values are below one eighth of the range.
    """
    largest = -1
    for frame in frames:
        if not _is_uint16(frame):
            return
        largest = max(largest, int(frame.max(initial=0)))
    if 0 <= largest < 65536 // _DARK_PART:
        bits = max(8, 2 * math.ceil(largest.bit_length() / 2))
        raise ScalingError(
            f"has uint16 values, but none above {largest} in the frames looked at, so it would be "
            "nearly black; say which values are black and white, probably --value-range "
            f"0:{2**bits - 1}, or --value-range 0:65535 if it is meant to be this dark"
        )


def _is_uint16(frame: NDArray[Any]) -> bool:
    return frame.dtype.newbyteorder("=") == np.uint16


def _mapped(frame: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    clipped = np.clip(frame.astype(np.float64), low, high)
    return np.rint((clipped - low) / (high - low) * _WHITE).astype(np.uint8)

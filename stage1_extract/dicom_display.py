"""Stored DICOM pixels turned into what a viewer shows: grey or colour, 0..255 (PS3.4 N.2)."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.scaling import ScalingError, ValueRange, check_brightness, to_bgr, to_uint8

if TYPE_CHECKING:
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
"""Photometric interpretations that pydicom hands out as RGB."""
PALETTE = "PALETTE COLOR"
_CONTRAST_PART = 8
"""Values within one eighth of the possible range, without a window, would make a flat grey."""


def displayed(
    stored: NDArray[Any], header: "Dataset", number: int, value_range: ValueRange
) -> NDArray[np.uint8]:
    """Return a frame as a viewer shows it at first.

    Args:
        stored: (H, W) or (H, W, 3) RGB pixels as decoded.
        header: What the file says of its pixels.
        number: The frame's number, for headers that differ by frame.
        value_range: Bounds in the units after the modality's rescale; without them, the file's
            first VOI lookup table or window, else all values that its pixels can have.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ScalingError: Values or the header's own range cannot be used.
    """
    kind = header.PhotometricInterpretation
    if kind in GREY:
        grey = _grey(stored, header, number, value_range)
        return to_bgr(255 - grey if kind == "MONOCHROME1" else grey, rgb=True)
    if kind == PALETTE:
        from pydicom.pixels import apply_color_lut

        return to_uint8(to_bgr(apply_color_lut(stored, header), rgb=True), value_range)
    limits = ValueRange(_stored_limits(header)) if value_range.bounds is None else value_range
    return _as_limited(to_bgr(stored, rgb=True), limits)


def check_contrast(stored: Iterable[NDArray[Any]], header: "Dataset") -> None:
    """Refuse frames that would be flat: few of the possible values, and no window says which.

    Args:
        stored: Some frames of the file as decoded; not read where there can be no doubt.
        header: What the file says of its pixels.

    Raises:
        ScalingError: All values lie within one eighth of the possible range.
    """
    if header.PhotometricInterpretation == PALETTE:
        from pydicom.pixels import apply_color_lut

        check_brightness(apply_color_lut(frame, header) for frame in stored)
    elif header.get("BitsStored", 0) > 8 and not _has_voi(header):
        _check_spread(stored, header)


def _check_spread(stored: Iterable[NDArray[Any]], header: "Dataset") -> None:
    bounds = np.array([(frame.min(), frame.max()) for frame in stored])
    low, high = int(bounds.min()), int(bounds.max())
    if (high - low + 1) * _CONTRAST_PART > 2**header.BitsStored:
        return
    shown = _modality(np.array([low, high]), header, 0).values
    raise ScalingError(
        f"has {header.BitsStored}-bit pixels, but all from {low} to {high} in the frames looked "
        "at, and no window, so it would be nearly one grey; say which values are black and white, "
        f"for example --value-range {shown.min():g}:{max(shown.max(), shown.min() + 1):g}"
    )


@dataclasses.dataclass(frozen=True)
class _Values:
    """Pixels in the modality's units, and the least and greatest that there can be."""

    values: NDArray[Any]
    limits: tuple[float, float]


def _grey(
    stored: NDArray[Any], header: "Dataset", number: int, value_range: ValueRange
) -> NDArray[np.uint8]:
    modality = _modality(stored, header, number)
    if value_range.bounds is not None:
        return to_uint8(modality.values, value_range)
    if header.get("VOILUTSequence"):
        shown = _looked_up(modality.values, header.VOILUTSequence[0], header)
        return to_uint8(shown.values, ValueRange(shown.limits))
    window = _macro(header, number, "FrameVOILUTSequence")
    center, width = _first(window, "WindowCenter"), _first(window, "WindowWidth")
    if center is not None and width is not None:
        function = str(window.get("VOILUTFunction") or "LINEAR").upper()
        shown_part = _windowed(modality.values, center, width, function)
        return to_uint8(shown_part, ValueRange((0, 1)))
    if stored.dtype.kind == "f":
        return to_uint8(modality.values, value_range)
    return _as_limited(modality.values, ValueRange(modality.limits))


def _as_limited(values: NDArray[Any], limits: ValueRange) -> NDArray[np.uint8]:
    as_it_is = values.dtype == np.uint8 and limits.bounds == (0, 255)
    return to_uint8(values, ValueRange() if as_it_is else limits)


def _modality(stored: NDArray[Any], header: "Dataset", number: int) -> _Values:
    limits = _stored_limits(header)
    if _ignores_modality(header):
        return _Values(stored, limits)
    if header.get("ModalityLUTSequence"):
        return _looked_up(stored, header.ModalityLUTSequence[0], header)
    rescale = _macro(header, number, "PixelValueTransformationSequence")
    slope, intercept = _first(rescale, "RescaleSlope"), _first(rescale, "RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return _Values(stored, limits)
    low, high = sorted(limit * slope + intercept for limit in limits)
    return _Values(stored * slope + intercept, (low, high))


def _ignores_modality(header: "Dataset") -> bool:
    # PS3.4 N.2.1.2: in X-ray angiography it leads back to intensities, which nobody looks at.
    return header.get("Modality") in ("XA", "RF") and header.get("PixelIntensityRelationship") in (
        "LOG",
        "DISP",
    )


def _stored_limits(header: "Dataset") -> tuple[float, float]:
    bits = header.get("BitsStored", header.BitsAllocated)
    if header.get("PixelRepresentation", 0):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _looked_up(values: NDArray[Any], table: "Dataset", header: "Dataset") -> _Values:
    """Apply a modality or VOI lookup table (PS3.3 C.11.1.1.1, C.11.2.1.1)."""
    num_entries, first, bits = table.LUTDescriptor
    entries = table.LUTData
    if isinstance(entries, bytes):
        little_endian = header.original_encoding[1]
        wide = "<u2" if little_endian else ">u2"
        entries = np.frombuffer(entries, np.uint8 if len(entries) == num_entries else wide)
    positions = np.rint(values).astype(np.int64) - first
    return _Values(
        np.asarray(entries)[np.clip(positions, 0, len(entries) - 1)], (0, 2 ** int(bits) - 1)
    )


def _windowed(
    values: NDArray[Any], center: float, width: float, function: str
) -> NDArray[np.float64]:
    """Return values through a VOI window, 0..1 within it (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ScalingError(
            f"has a {function} window of width {width:g}, expected a positive one (LINEAR: 1 or "
            "more); replace it with --value-range LOW:HIGH"
        )
    if function == "SIGMOID":
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 1.0, 0.0)
    return (values - center) / width + 0.5


def _has_voi(header: "Dataset") -> bool:
    window = _macro(header, 0, "FrameVOILUTSequence")
    return bool(header.get("VOILUTSequence")) or _first(window, "WindowCenter") is not None


def _macro(header: "Dataset", number: int, name: str) -> "Dataset":
    """Return where a frame's own attributes stand: its functional group, the shared one, or all."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*per_frame[number : number + 1], *header.get("SharedFunctionalGroupsSequence", [])]
    for group in groups:
        if group.get(name):
            return group[name][0]  # type: ignore[no-any-return]
    return header


def _first(item: "Dataset", name: str) -> float | None:
    values = item.get(name)
    if values is None or values == "":
        return None
    if isinstance(values, str) or not hasattr(values, "__len__"):
        return float(values)
    return float(values[0]) if len(values) else None

"""Fitting a frame of any size into the backbone's square input."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FITS = ("squash", "crop", "pad")


def fit_frame(frame: NDArray[np.uint8], size: int, fit: str) -> NDArray[np.uint8]:
    """Resize a frame to (size, size, 3).

    Args:
        frame: (H, W, 3) uint8.
        size: Side of the square in pixels.
        fit: `squash` resizes both sides on their own; `crop` keeps the aspect ratio and cuts the
            centre; `pad` keeps it and adds black bars.

    Returns:
        (size, size, 3) uint8, channels in the order given.
    """
    if fit == "squash":
        return _resize(frame, size, size)
    height, width = frame.shape[:2]
    scale = size / (min(height, width) if fit == "crop" else max(height, width))
    # A sliver of a frame keeps at least one row or column.
    resized = _resize(frame, max(1, round(height * scale)), max(1, round(width * scale)))
    return _centre_crop(resized, size) if fit == "crop" else _centre_pad(resized, size)


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if frame.shape[:2] == (height, width):
        return frame
    # Area averaging when shrinking: linear interpolation would skip pixels and alias.
    shrinks = height < frame.shape[0] or width < frame.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(frame, (width, height), interpolation=method)
    return resized


def _centre_crop(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    top, left = (frame.shape[0] - size) // 2, (frame.shape[1] - size) // 2
    return frame[top : top + size, left : left + size]


def _centre_pad(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    padded = np.zeros((size, size, frame.shape[2]), np.uint8)
    top, left = (size - frame.shape[0]) // 2, (size - frame.shape[1]) // 2
    padded[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return padded

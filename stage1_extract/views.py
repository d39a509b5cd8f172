"""Augmented views of a clip, one random transform for all its frames, and its brightness range."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.randaugment import rand_augment

Frames = NDArray[np.uint8]
FrameTransform = Callable[[Frames], Frames]

NORMALISATIONS = ("none", "frame", "clip")
_WHITE = 255.0
_LEVELS = np.arange(256, dtype=np.float64)
_LIMITS = {
    "view_rotation_degrees": 180.0,
    "view_shift": 0.5,
    "view_zoom": 0.9,
    "view_brightness": 1.0,
    "view_contrast": 1.0,
    "randaugment_magnitude": 1.0,
}


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How augmented views differ from the clip; each value is drawn evenly within its limit."""

    view_rotation_degrees: float = 10.0
    """Views are turned by up to this angle, either way."""
    view_shift: float = 0.05
    """Views are shifted by up to this part of the side, along both axes."""
    view_zoom: float = 0.1
    """Views are enlarged or shrunk by up to this part."""
    view_flip: bool = False
    """Mirror half of the views, by chance. Off: in ultrasound, left and right carry meaning."""
    view_brightness: float = 0.1
    """Views are lightened or darkened by up to this part of white."""
    view_contrast: float = 0.1
    """Contrast about middle grey is raised or lowered by up to this part."""
    randaugment: int = 0
    """Operations of keras.layers.RandAugment on top; it is slow, and turns by up to 180 degrees."""
    randaugment_magnitude: float = 0.5
    """Strength of these operations, 0 to 1."""
    view_seed: int = 0
    """Seed of the views: the same seed gives the same views, whatever their number."""

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} is {value}; expected 0 to {limit:g}")
        for name in ("randaugment", "view_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")

    def identity(self) -> dict[str, object]:
        """Return everything that changes a view, and nothing else."""
        identity: dict[str, object] = {name: float(getattr(self, name)) for name in _LIMITS}
        if not self.randaugment:
            del identity["randaugment_magnitude"]
        return identity | {
            "view_flip": self.view_flip,
            "randaugment": self.randaugment,
            "view_seed": self.view_seed,
        }


@dataclasses.dataclass(frozen=True)
class ViewParameters:
    """One view's transform.

    Attributes:
        rotation_degrees: Counter-clockwise, about the centre.
        shift_x: To the right, as a part of the side.
        shift_y: Downwards, as a part of the side.
        zoom: Enlargement about the centre.
        flip: Whether left and right are exchanged, before everything else.
        brightness: Added to every value, as a part of white.
        contrast: Factor of every value's distance from middle grey.
        randaugment_seed: Seed of the operations that follow.
    """

    rotation_degrees: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 1.0
    randaugment_seed: int = 0


def draw_view(settings: ViewSettings, *, video_id: str, view: int) -> ViewParameters:
    """Draw the transform of a clip's view; it depends on seed, video_id and view alone.

    Raises:
        ValueError: The view is 0, which is the clip itself, or negative.
    """
    if view < 1:
        raise ValueError(f"view is {view}; expected 1 or more (view 0 is not augmented)")
    name = json.dumps([int(settings.view_seed), video_id, int(view)]).encode()
    digest = hashlib.blake2b(name, digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    # All is drawn whatever the limits are: a changed limit must not change the other values.
    angle, shift_x, shift_y, zoom, brightness, contrast = rng.uniform(-1, 1, 6).tolist()
    heads, randaugment_seed = rng.integers([2, 2**31]).tolist()
    return ViewParameters(
        rotation_degrees=settings.view_rotation_degrees * angle,
        shift_x=settings.view_shift * shift_x,
        shift_y=settings.view_shift * shift_y,
        zoom=1 + settings.view_zoom * zoom,
        flip=settings.view_flip and heads == 1,
        brightness=settings.view_brightness * brightness,
        contrast=1 + settings.view_contrast * contrast,
        randaugment_seed=randaugment_seed,
    )


def view_transform(
    settings: ViewSettings, *, video_id: str, view: int, size: int
) -> FrameTransform:
    """Return the transform of a clip's view.

    It maps fitted frames (n, size, size, 3) uint8, RGB, to the same shape. Every frame undergoes
    the same and none knows of the others, so a clip may come in chunks of any length.

    Args:
        settings: The limits.
        video_id: The clip.
        view: 1 or more.
        size: Side of the frames in pixels.

    Raises:
        ValueError: The view is below 1; or RandAugment is wanted where Keras cannot run it.
    """
    parameters = draw_view(settings, video_id=video_id, view=view)
    if not settings.randaugment:
        return lambda frames: transform_frames(frames, parameters, size=size)
    augment = rand_augment(
        num_operations=settings.randaugment,
        magnitude=settings.randaugment_magnitude,
        seed=parameters.randaugment_seed,
        size=size,
    )
    return lambda frames: augment(transform_frames(frames, parameters, size=size))


def transform_frames(frames: Frames, parameters: ViewParameters, *, size: int) -> Frames:
    """Move the pixels of frames (n, size, size, 3) uint8, then change their brightness.

    Pixels are interpolated linearly, once. What comes from outside the frame is black, as is the
    background of an ultrasound sector and what `fit` pads with: reflection would show anatomy where
    there is none.
    """
    if frames.dtype != np.uint8 or frames.shape[1:] != (size, size, 3):
        raise ValueError(
            f"frames are {frames.shape} {frames.dtype}; expected (n, {size}, {size}, 3) uint8"
        )
    matrix, table = affine_matrix(parameters, size), brightness_table(parameters)
    transformed = np.empty(frames.shape, np.uint8)
    for i, frame in enumerate(frames):
        moved = cv2.warpAffine(
            frame,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        transformed[i] = cv2.LUT(moved, table)
    return transformed


def affine_matrix(parameters: ViewParameters, size: int) -> NDArray[np.float64]:
    """Return the matrix (2, 3) that takes a pixel (x, y, 1) to its new place."""
    centre = (size - 1) / 2
    matrix: NDArray[Any] = cv2.getRotationMatrix2D(
        (centre, centre), parameters.rotation_degrees, parameters.zoom
    )
    if parameters.flip:
        matrix = matrix @ np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    matrix[:, 2] += size * parameters.shift_x, size * parameters.shift_y
    return matrix


def brightness_table(parameters: ViewParameters) -> NDArray[np.uint8]:
    """Return the new value (256,) of every value.

    Contrast is taken about middle grey, not about a frame's mean, which changes along the clip and
    would make it flicker.
    """
    grey = _WHITE / 2
    return _rounded((_LEVELS - grey) * parameters.contrast + grey + _WHITE * parameters.brightness)


def normalise_frames(frames: Frames, mode: str, clip_maximum: int | None = None) -> Frames:
    """Stretch the values of frames (n, H, W, 3) uint8 so that the brightest becomes 255.

    Args:
        frames: The frames; black ones stay black.
        mode: `none` leaves them alone, `frame` takes each frame's own maximum over all channels,
            `clip` takes that of the whole clip.
        clip_maximum: The clip's maximum, for `clip` alone.

    Raises:
        ValueError: The mode is unknown, or the maximum is missing or exceeded.
    """
    if mode not in NORMALISATIONS:
        raise ValueError(f"normalise is {mode!r}; expected one of {', '.join(NORMALISATIONS)}")
    if mode == "none" or not frames.size:
        return frames
    if mode == "frame":
        return np.stack([_stretched(frame, int(frame.max())) for frame in frames])
    if clip_maximum is None or not frames.max() <= clip_maximum <= _WHITE:
        raise ValueError(
            f"clip_maximum is {clip_maximum}; expected {frames.max()}, the maximum of these "
            "frames, to 255"
        )
    return _stretched(frames, clip_maximum)


def _stretched(values: Frames, maximum: int) -> Frames:
    if maximum == 0:
        return values
    table = _rounded(_LEVELS * (_WHITE / maximum))
    rows: NDArray[Any] = cv2.LUT(values.reshape(len(values), -1), table)
    return rows.reshape(values.shape)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, _WHITE).astype(np.uint8)

"""Videos as encoders in use write them, by PyAV: B-frames, variable rates, ten bits."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray


def moving_texture(num_frames: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (H, W, 3) of which no two are equal."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for number in range(num_frames):
        frame = np.roll(texture, (2 * number, 3 * number), axis=(0, 1)).copy()
        cv2.putText(frame, str(number), (4, size[1] // 2), 0, 1, (255, 255, 255), 2)
        yield np.asarray(frame, np.uint8)


def encode(
    path: Path,
    codec: str,
    num_frames: int,
    *,
    gop: int = 24,
    b_frames: int = 0,
    size: tuple[int, int] = (160, 120),
    fps: int = 25,
    varying: bool = False,
    first_seconds: float = 0.0,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video.

    Args:
        path: Where; the suffix decides the container.
        codec: FFmpeg's name of the encoder.
        num_frames: How many.
        gop: Frames from one keyframe to the next.
        b_frames: Greatest number of B-frames in a row.
        size: Width and height.
        fps: Frames per second.
        varying: Whether the time between frames varies (from 0.4 to 2.4 of 1/fps).
        first_seconds: Time of the first frame.
        pixel_format: FFmpeg's name.
        options: The encoder's own.
    """
    rng = np.random.default_rng(1)
    time_base = Fraction(1, fps * 10)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        if not isinstance(stream, VideoStream):
            raise TypeError(f"{codec} encodes no video")
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if varying:
            stream.codec_context.time_base = time_base
        tick = round(first_seconds * fps * 10)
        for image in moving_texture(num_frames, size):
            frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format=pixel_format)
            frame.pts, frame.time_base = tick, time_base
            tick += int(rng.integers(4, 25)) if varying else 10
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path

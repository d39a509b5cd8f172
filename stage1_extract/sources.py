"""Video files through OpenCV: what a file holds, and its frames in order."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# FFmpeg's and OpenCV's complaints about damaged files would fill the terminal; ours name the video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

import cv2
import numpy as np
from numpy.typing import NDArray

_HASH_BLOCK_BYTES = 4 * 2**20


class VideoError(ValueError):
    """A video cannot be used: what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """What scanning a file's packets says of its frames, before any is decoded.

    Attributes:
        times: (F,) presentation time of each frame in seconds, in the order of presentation; NaN
            where the file has neither timestamps nor a frame rate.
        stated_frames: Frames that the header claims, often wrongly; 0 where it claims nothing.
        fps: Nominal rate of the header; 0 where unknown.
    """

    times: NDArray[np.float64]
    stated_frames: int
    fps: float

    @property
    def num_frames(self) -> int:
        """Frames to expect from the decoder."""
        return len(self.times)

    def contradicted_by(self, decoded_times: NDArray[np.float64]) -> bool:
        """Return whether the decoder's first frames have other times than the scan's.

        So it is where the decoder drops frames that the scan counted. Times out of order (see
        `corrected`) prove nothing.
        """
        expected = self.times[: len(decoded_times)]
        return _rising(decoded_times) and not np.allclose(
            decoded_times, expected, rtol=0, atol=1e-3
        )

    def corrected(self, decoded_times: NDArray[np.float64]) -> "FrameIndex":
        """Return the index for the frames that really came out of the decoder.

        The scan can count packets that the decoder drops (QuickTime edit lists, damaged parts).
        The decoder's own times then tell which frames came, unless they are out of order, as
        OpenCV's are for streams with B-frames; there the scan's first times are the best estimate.
        """
        count = len(decoded_times)
        if _rising(decoded_times):
            return dataclasses.replace(self, times=decoded_times)
        if count <= self.num_frames:
            return dataclasses.replace(self, times=self.times[:count])
        return dataclasses.replace(self, times=_nominal_times(count, self.fps))


def check_file(path: Path) -> None:
    """Refuse what is no regular file with content; a pipe or a device would block or never end.

    Raises:
        VideoError: Not a regular file, or empty.
    """
    if not path.is_file():
        raise VideoError(f"{path} is not a file" if path.exists() else f"no file at {path}")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")


def hash_file(path: Path) -> str:
    """Return blake2b-128 of a file's bytes as hexadecimal text."""
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def scan_video(path: Path) -> FrameIndex:
    """Read a file's packets without decoding them: about 3 % of the cost of decoding.

    Headers cannot be trusted for the number of frames (MPEG program streams have none, AVI files
    state dropped frames), so it is counted, as torchcodec does in its exact mode.

    Raises:
        VideoError: The file is no video that FFmpeg opens.
    """
    with _capture(path, (cv2.CAP_PROP_FORMAT, -1)) as capture:
        stated_frames = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = capture.get(cv2.CAP_PROP_FPS)
        stamps = []
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    fps = fps if math.isfinite(fps) and fps > 0 else 0.0
    # Packets come in decoding order; sorted, their times are those of presentation.
    times = np.sort(np.array(stamps, np.float64))
    if not _rising(times):
        times = _nominal_times(len(times), fps)
    return FrameIndex(times, stated_frames, fps)


class VideoFrames:
    """The frames of an opened video in order, each decoded once, only the wanted ones converted.

    Attributes:
        width, height: Size in pixels after the file's orientation was applied; 0 before the first
            frame was converted.
        decoded_times: Time of every frame decoded so far, in seconds, as the decoder reports it.
    """

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self.width = self.height = 0
        self.decoded_times: list[float] = []

    def wanted(
        self, frame_numbers: NDArray[np.int64], *, to_the_end: bool
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame number, (H, W, 3) uint8 BGR frame) for the wanted numbers, rising.

        Ends early where the video does. With `to_the_end` the rest is decoded too, so that
        `decoded_times` tells how many frames there are.
        """
        remaining = iter(frame_numbers.tolist())
        target = next(remaining, None)
        while (to_the_end or target is not None) and self._capture.grab():
            number = len(self.decoded_times)
            self.decoded_times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            if number == target:
                yield number, self._retrieve(number)
                target = next(remaining, None)

    def _retrieve(self, number: int) -> NDArray[np.uint8]:
        done, frame = self._capture.retrieve()
        if not done:
            raise VideoError(f"frame {number} was decoded but could not be converted")
        self.height, self.width = frame.shape[:2]
        return np.asarray(frame, np.uint8)


@contextmanager
def open_video(path: Path) -> Iterator[VideoFrames]:
    """Open a video for one pass over its frames.

    Raises:
        VideoError: The file is no video that FFmpeg opens.
    """
    with _capture(path) as capture:
        yield VideoFrames(capture)


@contextmanager
def _capture(path: Path, *properties: tuple[int, int]) -> Iterator[Any]:
    # One decoding thread: with more, OpenCV reports the times of other frames. Several videos are
    # decoded side by side instead.
    flat = [cv2.CAP_PROP_N_THREADS, 1, *(value for pair in properties for value in pair)]
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG, flat)
    try:
        if not capture.isOpened():
            raise VideoError(
                f"{path} cannot be opened as a video: it is cut short, damaged, or of a kind that "
                "FFmpeg does not know"
            )
        yield capture
    finally:
        capture.release()


def _rising(times: NDArray[np.float64]) -> bool:
    return bool(len(times) > 0 and np.isfinite(times).all() and (np.diff(times) > 0).all())


def _nominal_times(count: int, fps: float) -> NDArray[np.float64]:
    return np.arange(count) / fps if fps else np.full(count, np.nan)

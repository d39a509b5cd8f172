"""What every kind of source shares: the clip that is wanted, the times of frames, refusals."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.addresses import Address, Location

Beat = Callable[[], None]
"""Called often while a source is read, to show that the work goes on."""


class VideoError(ValueError):
    """A video cannot be used: what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is to be embedded as one sequence: a video (or another source of frames), or a part.

    Attributes:
        video_id: Its name.
        path: Where its source is; one at an address is downloaded when it is decoded.
        start_seconds, end_seconds: Which part; None for the source's start and end.
    """

    video_id: str
    path: Location
    start_seconds: float | None = None
    end_seconds: float | None = None

    @property
    def file(self) -> Path:
        """The source on this machine.

        Raises:
            VideoError: It is at an address, and was not downloaded.
        """
        if isinstance(self.path, Address):
            raise VideoError(f"{self.path} is an address; download it first")
        return self.path


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """What is known of a source's frames before any is decoded.

    Attributes:
        times: (F,) presentation time of each frame in seconds, in the order of presentation; NaN
            where the source has neither timestamps nor a frame rate.
        stated_frames: Frames that the header claims, often wrongly; 0 where it claims nothing.
        fps: Nominal rate of the header; 0 where unknown.
        keyframes: (K,) numbers of the frames that decode without others; empty where unknown.
    """

    times: NDArray[np.float64]
    stated_frames: int
    fps: float
    keyframes: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

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
        return rising(decoded_times) and not np.allclose(decoded_times, expected, rtol=0, atol=1e-3)

    def corrected(self, decoded_times: NDArray[np.float64]) -> "FrameIndex":
        """Return the index for the frames that really came out of the decoder.

        The scan can count packets that the decoder drops (QuickTime edit lists, damaged parts).
        The decoder's own times then tell which frames came, unless they are out of order, as
        OpenCV's are for some streams with B-frames; there the scan's first times are the best
        estimate.
        """
        count = len(decoded_times)
        if rising(decoded_times):
            times = decoded_times
        elif count <= self.num_frames:
            times = self.times[:count]
        else:
            times = nominal_times(count, self.fps)
        return FrameIndex(times, self.stated_frames, self.fps)


def check_file(path: Path) -> None:
    """Refuse what is no regular file with content; a pipe or a device would block or never end.

    Raises:
        VideoError: Not a regular file, or empty.
    """
    if not path.is_file():
        raise VideoError(f"{path} is not a file" if path.exists() else f"no file at {path}")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")


def rising(times: NDArray[np.float64]) -> bool:
    """Return whether there are times, all finite, each later than the one before."""
    return bool(len(times) > 0 and np.isfinite(times).all() and (np.diff(times) > 0).all())


def nominal_times(count: int, fps: float) -> NDArray[np.float64]:
    """Return the times (count,) of frames at a constant rate; NaN where the rate is unknown (0)."""
    return np.arange(count) / fps if fps else np.full(count, np.nan)

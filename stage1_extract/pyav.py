"""What OpenCV cannot read, such as interlaced video and AV1, through PyAV (an extra)."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.sources import VideoError

_QUARTER_DEGREES = 90


@contextmanager
def pyav_capture(path: Path, options: Mapping[str, str]) -> Iterator["PyAvCapture"]:
    """Open a video's first stream of pictures.

    Args:
        path: The video.
        options: FFmpeg's.

    Raises:
        VideoError: PyAV is not installed, or the file is no video that it opens.
    """
    av = _import_av(path)
    with _in_plain_words(av, path):
        container = av.open(str(path.resolve()), options=dict(options))
    with container:
        if not container.streams.video:
            raise VideoError(f"{path} holds no video")
        yield PyAvCapture(av, path, container)


def has_pyav() -> bool:
    """Return whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class PyAvCapture:
    """The part of `cv2.VideoCapture` that reading in order needs."""

    def __init__(self, av: ModuleType, path: Path, container: Any) -> None:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        self._start = stream.start_time or 0
        self._frames = container.decode(stream)
        self._frame: Any = None
        self._av = av
        self._path = path

    def grab(self) -> bool:
        """Decode the next frame; returns False at the end of the video, and at damage.

        So does OpenCV; how much of the video is missing shows at the end.
        """
        with _in_plain_words(self._av, self._path):
            try:
                self._frame = next(self._frames, None)
            except self._av.InvalidDataError:
                return False
        return self._frame is not None

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        """Return the last decoded frame (H, W, 3) uint8 BGR, turned as the file says."""
        with _in_plain_words(self._av, self._path):
            picture = self._frame.to_ndarray(format="bgr24")
        turns = round(self._frame.rotation / _QUARTER_DEGREES)
        return True, np.ascontiguousarray(np.rot90(picture, turns))

    def get(self, property_id: int, /) -> float:
        """Return CAP_PROP_POS_MSEC, the last decoded frame's time."""
        if property_id != cv2.CAP_PROP_POS_MSEC:
            raise ValueError(f"property {property_id} is not known here")
        if self._frame.pts is None:
            return float("nan")
        return float((self._frame.pts - self._start) * self._frame.time_base * 1000)

    def set(self, property_id: int, value: float, /) -> bool:
        """Refuse: here, frames come in their order alone."""
        raise ValueError(f"property {property_id} cannot be set to {value} here")


@contextmanager
def _in_plain_words(av: ModuleType, path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        raise VideoError(f"{path} cannot be read by PyAV: {error}") from error


def _import_av(path: Path) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise VideoError(
            f"{path} is interlaced, or of a kind that OpenCV {cv2.__version__} cannot convert: "
            f"pip install 'embed-then-sequence[av]', or convert the file ({error})"
        ) from error

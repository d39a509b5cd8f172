"""Video files through OpenCV: what a file holds, and its frames in order."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.pyav import pyav_capture
from stage1_extract.quiet import StderrTrap
from stage1_extract.sources import Beat, FrameIndex, VideoError, nominal_times, rising

# Formats that hold their video themselves. A playlist (HLS, DASH, concat) under a video's name
# would make FFmpeg open other files, or addresses.
_FORMATS = (
    "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,ivf,obu,flv,asf,apng,"
    "ogg,mjpeg,mxf,dv,nut,rm,wtv,swf,vob,3gp,yuv4mpegpipe,nsv,roq,smk,bink,film_cpk,ea,amv"
)
FFMPEG_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_WHOLE_FRAMES = {"fflags": "discardcorrupt"}
_OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # the only way to hand them to FFmpeg
_LOG_VARIABLES = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG")
_COMPLAINT = re.compile(r"^\[swscaler @ \w+\] (.*?)\.?$", re.MULTILINE)
_MATROSKA = b"\x1aE\xdf\xa3"
_H264 = int.from_bytes(b"h264", "little")
_IDR_SLICE = re.compile(rb"\x00\x00\x01[\x25\x45\x65]")  # NAL unit of type 5 (H.264, table 7-1)


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def grab(self) -> bool:
        """Decode the next frame."""
        ...

    def retrieve(self) -> Any:
        """Return whether there is one, and the last decoded frame (H, W, 3) uint8 BGR."""
        ...

    def get(self, property_id: int, /) -> float:
        """Return a property, as that of the last decoded frame."""
        ...

    def set(self, property_id: int, value: float, /) -> bool:
        """Set a property."""
        ...


def scan_video(path: Path, beat: Beat = lambda: None) -> FrameIndex:
    """Read a file's packets without decoding them: about 3 % of the cost of decoding.

    Headers cannot be trusted for the number of frames (MPEG program streams have none, AVI files
    state dropped frames), so it is counted, as torchcodec does in its exact mode.

    Raises:
        VideoError: The file is no video that FFmpeg opens.
    """
    with _capture(path, (cv2.CAP_PROP_FORMAT, -1)) as capture:
        stated_frames = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = capture.get(cv2.CAP_PROP_FPS)
        is_h264 = capture.get(cv2.CAP_PROP_FOURCC) == _H264
        stamps, is_key = [], []
        first_number = math.inf
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            is_key.append(_is_keyframe(capture, is_h264=is_h264))
            first_number = min(first_number, capture.get(cv2.CAP_PROP_PTS))
            beat()
    if stamps and _head(path).startswith(_MATROSKA):
        # Its duration counts from time 0, also where the first frame comes later.
        stated_frames = max(0, stated_frames - int(max(0, first_number)))
    fps = fps if math.isfinite(fps) and fps > 0 else 0.0
    # Packets come in decoding order; sorted, their times are those of presentation.
    order = np.argsort(np.array(stamps, np.float64), kind="stable")
    times = np.array(stamps, np.float64)[order]
    if not rising(times):
        return FrameIndex(nominal_times(len(times), fps), stated_frames, fps)
    keyframes = np.flatnonzero(np.array(is_key)[order])
    return FrameIndex(times, stated_frames, fps, keyframes.astype(np.int64))


def _is_keyframe(capture: Any, *, is_h264: bool) -> bool:
    """Return whether decoding can begin at the packet.

    FFmpeg says so too of H.264's recovery points, from which the picture is complete many frames
    later (intra refresh), and sooner by FFmpeg's count than in truth.
    """
    if capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) <= 0:
        return False
    if not is_h264:
        return True
    done, packet = capture.retrieve()
    return bool(done and _IDR_SLICE.search(packet.data))


class ConversionError(VideoError):
    """OpenCV cannot make a picture of what FFmpeg finds in the file."""


class VideoFrames:
    """The frames of an opened video in order, each decoded once, only the wanted ones converted.

    Attributes:
        width, height: Size in pixels after the file's orientation was applied; 0 before the first
            frame was converted.
        decoded_times: Time of every frame decoded so far, in seconds, as the decoder reports it.
    """

    def __init__(self, capture: Capture, beat: Beat = lambda: None) -> None:
        self._capture = capture
        self._beat = beat
        self._trap = StderrTrap()
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
        while (to_the_end or target is not None) and self.decode_next():
            number = len(self.decoded_times) - 1
            if number == target:
                yield number, self.convert()
                target = next(remaining, None)

    def decode_next(self) -> bool:
        """Decode one frame; returns False at the end of the video."""
        self._beat()
        if not self._capture.grab():
            return False
        self.decoded_times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        return True

    def convert(self) -> NDArray[np.uint8]:
        """Return the last decoded frame as (H, W, 3) uint8 BGR.

        Raises:
            ConversionError: OpenCV cannot. It says so to nobody, and returns memory that was never
                written; FFmpeg's complaint on stderr gives it away.
        """
        with self._trap.catching():
            done, frame = self._capture.retrieve()
        complaint = _COMPLAINT.search(self._trap.take())
        if not done or complaint:
            number = len(self.decoded_times) - 1
            said = f": {complaint[1]}" if complaint else ""
            raise ConversionError(f"frame {number} was decoded but could not be converted{said}")
        self.height, self.width = frame.shape[:2]
        return np.asarray(frame, np.uint8)

    def jump(self, frame_number: int) -> None:
        """Ask FFmpeg to go where, at a constant rate, `decode_next` yields that frame number.

        It may land elsewhere: only the times of the frames that follow tell where.
        """
        self._beat()
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, frame_number)

    def close(self) -> None:
        """Give back what was held, but for the capture."""
        self._trap.close()


@contextmanager
def open_video(
    path: Path, beat: Beat = lambda: None, *, with_pyav: bool = False
) -> Iterator[VideoFrames]:
    """Open a video for one pass over its frames.

    Args:
        path: The video.
        beat: Called often while it works.
        with_pyav: Whether to read with PyAV instead of OpenCV.

    Raises:
        VideoError: The file is no video that FFmpeg opens, or PyAV is missing.
    """
    opened = pyav_capture(path, FFMPEG_OPTIONS) if with_pyav else _capture(path)
    with opened as capture, closing(VideoFrames(capture, beat)) as frames:
        yield frames


@contextmanager
def _capture(path: Path, *properties: tuple[int, int]) -> Iterator[Any]:
    # One decoding thread: with more, OpenCV reports the times of other frames. Several videos are
    # decoded side by side instead.
    flat = [cv2.CAP_PROP_N_THREADS, 1, *(value for pair in properties for value in pair)]
    name = str(path.resolve())
    if not _is_utf8(name):
        raise VideoError(f"{path} has a name that is not UTF-8; rename the file, or its folder")
    with _ffmpeg_settings(path):
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, flat)
    try:
        if not capture.isOpened():
            raise VideoError(
                f"{path} cannot be opened as a video: it is cut short, damaged, or of a kind that "
                "FFmpeg does not know"
            )
        yield capture
    finally:
        capture.release()


@contextmanager
def _ffmpeg_settings(path: Path) -> Iterator[None]:
    """Have FFmpeg take the safe formats alone, and leave out a frame of which a part is missing.

    Such a frame, at the end of a file cut short, would come half grey. Not in MPEG streams, where
    FFmpeg takes whole frames for such parts where recordings are joined. Its errors must come as
    they are by default, for `VideoFrames.convert` waits for them.
    """
    head = _head(path)
    is_stream = head.startswith(b"\0\0\1") or b"G" in (head[:1], head[4:])
    options = FFMPEG_OPTIONS if is_stream else FFMPEG_OPTIONS | _WHOLE_FRAMES
    before = {name: os.environ.pop(name, None) for name in (_OPTIONS_VARIABLE, *_LOG_VARIABLES)}
    os.environ[_OPTIONS_VARIABLE] = "|".join(f"{name};{value}" for name, value in options.items())
    try:
        yield
    finally:
        del os.environ[_OPTIONS_VARIABLE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(5)


def _is_utf8(name: str) -> bool:
    """Return whether OpenCV takes a name; one with other bytes crashes it."""
    return not any("\ud800" <= character <= "\udfff" for character in name)

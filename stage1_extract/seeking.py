"""Few frames of a long video: from the keyframe before each, instead of from the start."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stage1_extract.sources import FrameIndex, VideoError
from stage1_extract.videos import VideoFrames

_LEAD_FRAMES = 16
"""OpenCV's seek aims so many frames early, and decodes up to where it was sent."""
_WORTHWHILE = 0.5
_SAME_TIME_SECONDS = 1e-6


class SeekError(VideoError):
    """Seeking in this file does not lead to the frames that decoding from its start does."""


def worth_seeking(index: FrameIndex, wanted: NDArray[np.int64], *, to_the_end: bool) -> bool:
    """Return whether seeking decodes less than half of what decoding from the start does.

    Args:
        index: The scan's; without times and keyframes there is no seeking.
        wanted: (T,) rising frame numbers.
        to_the_end: Whether decoding from the start would go to the end of the file.
    """
    if index.fps == 0 or len(index.keyframes) < 3 or index.keyframes[0] != 0:
        return False
    checked = _checked_number(index)
    starts = _starts(index, wanted)
    from_start = wanted - starts + 1
    from_last = np.diff(wanted, prepend=0)
    cost = checked + 2 + np.minimum(from_start, from_last).sum()
    return bool(cost < _WORTHWHILE * (index.num_frames if to_the_end else wanted[-1] + 1))


def sought(
    video: VideoFrames, index: FrameIndex, wanted: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (frame number, (H, W, 3) uint8 BGR frame) for the wanted numbers, rising.

    Every file proves first that its seeks can be trusted: it is decoded from the start until past
    the second keyframe, and two frames there must be had again by a seek, bit for bit. After that
    each decoded frame must have the very time that the scan gave the frame it is taken for.

    Raises:
        SeekError: It cannot be trusted; what was yielded so far is right all the same, but the
            rest must be had by decoding from the start.
    """
    checked = _checked_number(index)
    early = wanted[wanted <= checked + 1]
    position = -1
    kept = {}
    for number in sorted({*early.tolist(), checked, checked + 1}):
        position = _advance(video, index, position, number)
        frame = video.convert()
        if number in (checked, checked + 1):
            kept[number] = frame
        if number in early:
            yield number, frame
    position = _check_seek(video, index, kept)
    for number, start in zip(wanted.tolist(), _starts(index, wanted).tolist(), strict=True):
        if number in early:
            continue
        if position < start:
            position = _seek(video, index, number)
        position = _advance(video, index, position, number)
        yield number, video.convert()


def _checked_number(index: FrameIndex) -> int:
    """Return a frame that a seek reaches from the second keyframe, as near to it as may be."""
    return int(min(index.keyframes[1] + _LEAD_FRAMES + 1, index.num_frames - 2))


def _check_seek(video: VideoFrames, index: FrameIndex, kept: dict[int, NDArray[np.uint8]]) -> int:
    position = -1
    for number, frame in kept.items():
        if position < 0:
            position = _seek(video, index, number)
        position = _advance(video, index, position, number)
        if not np.array_equal(video.convert(), frame):
            raise SeekError("a frame found by seeking differs from the same frame in sequence")
    return position


def _starts(index: FrameIndex, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the keyframe from which a seek to each wanted frame begins to decode."""
    lead = np.maximum(wanted - _LEAD_FRAMES, 0)
    return index.keyframes[np.searchsorted(index.keyframes, lead, side="right") - 1]


def _seek(video: VideoFrames, index: FrameIndex, number: int) -> int:
    """Go to frame `number` or a little before; returns the number of the frame decoded there."""
    elapsed = index.times[number] - index.times[0]
    nominal = round(elapsed * index.fps)  # FFmpeg seeks by time, OpenCV counts at a constant rate
    for margin in (0, 2, 16, 128):
        video.jump(max(0, nominal - margin))
        if not video.decode_next():
            continue
        landed = _number_at(index, video.decoded_times[-1])
        if landed <= number:
            return landed
    raise SeekError(f"seeking to frame {number} leads behind it")


def _advance(video: VideoFrames, index: FrameIndex, position: int, number: int) -> int:
    """Decode on from frame `position` to frame `number`, checking the time of each frame."""
    for expected in range(position + 1, number + 1):
        if not video.decode_next():
            raise SeekError(f"the video ended before frame {expected}")
        if _number_at(index, video.decoded_times[-1]) != expected:
            raise SeekError(f"frame {expected} has another time than in the file's packets")
    return number


def _number_at(index: FrameIndex, time_seconds: float) -> int:
    number = int(np.searchsorted(index.times, time_seconds - _SAME_TIME_SECONDS))
    if number == index.num_frames or index.times[number] > time_seconds + _SAME_TIME_SECONDS:
        raise SeekError(f"no packet has the time {time_seconds:.6f} s of a decoded frame")
    return number

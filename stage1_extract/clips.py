"""One clip of the manifest turned into fitted RGB frames, with the facts of its source."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.fitting import fit_frame
from stage1_extract.manifest import Clip
from stage1_extract.sampling import Sampling, choose_frames
from stage1_extract.sources import (
    FrameIndex,
    VideoError,
    check_file,
    hash_file,
    open_video,
    scan_video,
)
from stage1_extract.store import SourceFacts

CHUNK_FRAMES = 32


@dataclasses.dataclass(frozen=True)
class FrameRecipe:
    """How a clip's frames are chosen and shaped."""

    sampling: Sampling
    fit: str
    input_size: int
    min_coverage: float
    """Least part of the stated length that must be there; a file cut short has less."""


@dataclasses.dataclass(frozen=True)
class FrameChunk:
    """Some frames of a clip, in order.

    Attributes:
        frames: (n, size, size, 3) uint8 RGB.
        time_seconds: (n,) float64.
        source_index: (n,) int64.
    """

    frames: NDArray[np.uint8]
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]


class Restart:
    """All chunks so far are void: the file holds other frames than its packets promised.

    There was at least one chunk before.
    """


def read_clip(clip: Clip, recipe: FrameRecipe) -> Iterator[FrameChunk | Restart | SourceFacts]:
    """Yield the clip's frames in chunks of up to 32, and last the facts of its source.

    The file's packets are scanned first, so that the sampling rests on the true number of frames
    and not on the header's. Where the decoder still yields another number, and that changes the
    choice, a Restart follows and the file is decoded again.

    Raises:
        VideoError: The video cannot be read, holds no frame in the clip's range, or much less than
            its header states.
        OSError: The file cannot be read.
    """
    check_file(clip.path)
    status = clip.path.stat()
    source_hash, index = _hash_and_scan(clip.path, status.st_size, status.st_mtime_ns)
    to_the_end = clip.end_seconds is None
    for _ in range(3):
        wanted = _choose(clip, recipe, index)
        with open_video(clip.path) as video:
            chosen = video.wanted(wanted, to_the_end=to_the_end)
            yield from _chunks(chosen, index.times, recipe)
            decoded_times = np.array(video.decoded_times)
            size = video.width, video.height
        stopped_on_purpose = not to_the_end and len(decoded_times) > wanted[-1]
        complete = len(decoded_times) == index.num_frames
        if stopped_on_purpose and not complete and index.contradicted_by(decoded_times):
            to_the_end = True  # which frames there are shows only there
            yield Restart()
            continue
        actual = index if complete or stopped_on_purpose else index.corrected(decoded_times)
        _check_coverage(clip, recipe, index=index, actual=actual)
        if _same_choice(wanted, _choose(clip, recipe, actual), index, actual):
            yield _facts(clip, actual, source_hash, size)
            return
        if video.width:
            yield Restart()
        index = actual
    raise VideoError(f"{clip.path} yields another number of frames each time it is decoded")


@functools.lru_cache(maxsize=16)
def _hash_and_scan(path: Path, size_bytes: int, modified_ns: int) -> tuple[str, FrameIndex]:
    """Hash and scan a file once for all clips cut from it; a changed file is another file."""
    del size_bytes, modified_ns  # part of the cache's key only
    return hash_file(path), scan_video(path)


def _choose(clip: Clip, recipe: FrameRecipe, index: FrameIndex) -> NDArray[np.int64]:
    if not index.num_frames:
        raise VideoError(f"{clip.path} opens as a video, but no frame can be decoded")
    by_time = clip.start_seconds is not None or clip.end_seconds is not None
    if (by_time or recipe.sampling.needs_times) and np.isnan(index.times).any():
        raise VideoError(
            f"{clip.path} has neither timestamps nor a frame rate, so frames cannot be chosen by "
            "time; use uniform:N, stride:K or all, without start_seconds and end_seconds"
        )
    wanted = choose_frames(
        recipe.sampling,
        index.times,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
    )
    if not len(wanted):
        raise VideoError(
            f"{clip.path} has no frame from {clip.start_seconds or 0:g} s to "
            f"{_or_nan(clip.end_seconds):g} s; its last frame is shown at {index.times[-1]:.3f} s"
        )
    return wanted


def _chunks(
    chosen: Iterator[tuple[int, NDArray[np.uint8]]],
    times: NDArray[np.float64],
    recipe: FrameRecipe,
) -> Iterator[FrameChunk]:
    frames: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    for number, frame in chosen:
        fitted = fit_frame(frame, recipe.input_size, recipe.fit)
        # Colours are swapped after the resize: fewer pixels to touch.
        frames.append(np.asarray(cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB), np.uint8))
        numbers.append(number)
        if len(frames) == CHUNK_FRAMES:
            yield _chunk(frames, numbers, times)
            frames, numbers = [], []
    if frames:
        yield _chunk(frames, numbers, times)


def _chunk(
    frames: list[NDArray[np.uint8]], numbers: list[int], times: NDArray[np.float64]
) -> FrameChunk:
    source_index = np.array(numbers, np.int64)
    return FrameChunk(np.stack(frames), times[source_index], source_index)


def _check_coverage(
    clip: Clip, recipe: FrameRecipe, *, index: FrameIndex, actual: FrameIndex
) -> None:
    if not actual.num_frames:
        raise VideoError(f"{clip.path} opens as a video, but no frame can be decoded")
    coverage = covered_part(actual)
    if coverage < recipe.min_coverage:
        raise VideoError(
            f"{clip.path} states {index.stated_frames} frames, but only {actual.num_frames} can be "
            f"decoded ({coverage:.0%}): it is cut short or damaged; repair it, or accept such "
            "files with --min-coverage 0"
        )


def covered_part(index: FrameIndex) -> float:
    """Return which part of the stated length is there, by frames or by time, the larger one.

    By time, because an AVI file may rightly state slots in which no new frame comes.
    """
    if not index.stated_frames:
        return 1.0
    by_frames = index.num_frames / index.stated_frames
    if not index.fps or np.isnan(index.times[-1]):
        return by_frames
    by_time = (index.times[-1] + 1 / index.fps) * index.fps / index.stated_frames
    return float(max(by_frames, by_time))


def _same_choice(
    wanted: NDArray[np.int64], actual: NDArray[np.int64], index: FrameIndex, found: FrameIndex
) -> bool:
    return np.array_equal(wanted, actual) and np.array_equal(
        index.times[wanted], found.times[actual], equal_nan=True
    )


def _facts(clip: Clip, index: FrameIndex, source_hash: str, size: tuple[int, int]) -> SourceFacts:
    frame_seconds = 1 / index.fps if index.fps else 0.0
    status = clip.path.stat()
    return SourceFacts(
        source_path=str(clip.path),
        source_size_bytes=status.st_size,
        source_modified_ns=status.st_mtime_ns,
        source_hash=source_hash,
        source_width=size[0],
        source_height=size[1],
        source_fps=index.fps,
        source_duration_seconds=float(index.times[-1]) + frame_seconds,
        source_frame_count=index.num_frames,
        source_stated_frame_count=index.stated_frames,
        clip_start_seconds=_or_nan(clip.start_seconds),
        clip_end_seconds=_or_nan(clip.end_seconds),
    )


def _or_nan(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds

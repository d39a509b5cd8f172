"""One clip of the manifest turned into fitted RGB frames, with the facts of its source."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.content import SourceState, hash_source, source_state
from stage1_extract.fitting import fit_frame
from stage1_extract.passes import VideoPass
from stage1_extract.sampling import Sampling, choose_frames
from stage1_extract.seeking import SeekError, worth_seeking
from stage1_extract.sources import Beat, Clip, FrameIndex, VideoError, check_file
from stage1_extract.stacks import StackOpener, StackOptions, stack_opener
from stage1_extract.store import SourceFacts
from stage1_extract.videos import ConversionError, scan_video
from stage1_extract.views import ViewSettings, normalise_frames, view_transform

CHUNK_BYTES = 32 * 224 * 224 * 3
"""Frames are handed on in chunks of about so many bytes."""

NumberedFrames = Iterator[tuple[int, NDArray[np.uint8]]]
_NO_FRAME = (
    "opens as a video, but no frame can be decoded: it is damaged, or of a codec that OpenCV lacks "
    "(such as AV1, which pip install 'embed-then-sequence[av]' adds)"
)
_END_SLACK_SECONDS = 1.0
_ACCEPT = "repair it, or accept such files with --min-coverage 0"


@dataclasses.dataclass(frozen=True)
class FrameRecipe:
    """How a clip's frames are chosen and shaped."""

    sampling: Sampling
    fit: str
    input_size: int
    min_coverage: float
    """Least part of the stated length that must be there; a file cut short has less."""
    normalise: str = "none"
    """Whether brightness is stretched to the maximum of the frame, or of the clip."""
    stack_options: StackOptions = dataclasses.field(default_factory=StackOptions)
    views: ViewSettings = dataclasses.field(default_factory=ViewSettings)
    """How views beyond 0 are drawn."""
    scratch: Path | None = None
    """Where clips at addresses are downloaded to; None: the system's temporary folder."""

    @property
    def chunk_frames(self) -> int:
        """Frames of a full chunk."""
        return max(1, min(32, CHUNK_BYTES // (3 * self.input_size**2)))


@dataclasses.dataclass(frozen=True)
class ClipJob:
    """A clip, and which of its views are wanted; 0 is the clip as it is."""

    clip: Clip
    views: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class FrameChunk:
    """Some frames of a clip, in order.

    Attributes:
        frames: (n, size, size, 3) uint8 RGB.
        time_seconds: (n,) float64.
        source_index: (n,) int64.
        view: Which view they belong to.
    """

    frames: NDArray[np.uint8]
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]
    view: int = 0


class Restart:
    """All chunks so far, if any, are void: the file holds other frames than expected."""


@dataclasses.dataclass(frozen=True)
class ClipDone:
    """The clip came whole.

    Attributes:
        facts: What was found in its source.
        notes: Remarks that deserve a look.
        sought: Whether its frames were sought, and not met by decoding from the start.
    """

    facts: SourceFacts
    notes: tuple[str, ...] = ()
    sought: bool = False


ClipContent = FrameChunk | Restart | ClipDone


def read_clip(
    job: ClipJob, recipe: FrameRecipe, beat: Beat = lambda: None
) -> Iterator[ClipContent]:
    """Yield the clip's frames in chunks, each chunk once for every wanted view, and last ClipDone.

    Args:
        job: What is wanted.
        recipe: How frames are chosen and shaped.
        beat: Called often, to show that the work goes on.

    Raises:
        VideoError: The source cannot be read, holds no frame in the clip's range, much less than
            its header states, or changed meanwhile.
        OSError: The source cannot be read.
    """
    path = job.clip.file
    opener = stack_opener(path)
    if opener is None:
        check_file(path)
    state = source_state(path, beat)
    if opener is None:
        done = yield from _read_video(job, recipe, state, beat)
    else:
        done = yield from _read_stack(opener, job, recipe, state, beat)
    if source_state(path, beat) != state:
        raise VideoError(f"{path} changed while it was read; run again when it stays as it is")
    yield done


def _read_stack(
    opener: StackOpener, job: ClipJob, recipe: FrameRecipe, state: SourceState, beat: Beat
) -> Generator[ClipContent, None, ClipDone]:
    clip = job.clip
    with opener(clip.file, recipe.stack_options) as stack:
        index = stack.index
        wanted = _choose(clip, recipe, index)
        size = 0, 0

        def frames() -> NumberedFrames:
            nonlocal size
            for number, frame in zip(wanted.tolist(), stack.frames(wanted), strict=True):
                beat()
                size = frame.shape[1], frame.shape[0]
                yield number, frame

        yield from _chunks(frames, index.times, job, recipe)
    source_hash = _hash(clip.file, state, beat)
    return ClipDone(_facts(clip, index, state, source_hash, size), _end_notes(clip, index))


def _read_video(
    job: ClipJob, recipe: FrameRecipe, state: SourceState, beat: Beat
) -> Generator[ClipContent, None, ClipDone]:
    """Read a video, again from its start where its packets promised other frames.

    The file's packets are scanned first, so that the sampling rests on the true number of frames
    and not on the header's. Where the decoder still yields another number, and that changes the
    choice, or where seeking cannot be trusted, a Restart follows and the file is decoded again; so
    it is, by PyAV, where OpenCV decodes no frame, or cannot convert one.
    """
    clip = job.clip
    source_hash, index = _hash(clip.file, state, beat), _scan(clip.file, state, beat)
    to_the_end = clip.end_seconds is None
    may_seek, with_pyav = True, False
    notes: tuple[str, ...] = ()
    for _ in range(6):
        wanted = _choose(clip, recipe, index)
        seeks = may_seek and worth_seeking(index, wanted, to_the_end=to_the_end)
        frames = VideoPass(
            clip.file,
            index,
            wanted,
            seeks=seeks,
            to_the_end=to_the_end,
            beat=beat,
            with_pyav=with_pyav,
        )
        try:
            yield from _chunks(frames, index.times, job, recipe)
        except SeekError as error:
            may_seek, notes = False, (f"decoded from its start, without seeking: {error}",)
            yield Restart()
            continue
        except ConversionError:
            if with_pyav:
                raise
            may_seek, with_pyav = False, True
            yield Restart()
            continue
        if frames.wrong_frames:
            to_the_end = True  # which frames there are shows only there
            yield Restart()
            continue
        actual = frames.found_index()
        _check_coverage(clip, recipe, index=index, actual=actual)
        if _same_choice(wanted, _choose(clip, recipe, actual), index, actual):
            facts = _facts(clip, actual, state, source_hash, frames.size)
            return ClipDone(facts, (*notes, *_end_notes(clip, actual)), sought=seeks)
        yield Restart()
        index = actual
    raise VideoError(f"{clip.path} yields another number of frames each time it is decoded")


@functools.lru_cache(maxsize=16)
def _hash(path: Path, state: SourceState, beat: Beat) -> str:
    """Hash a source once for all clips cut from it; a changed one is another one."""
    del state  # part of the cache's key only
    return hash_source(path, beat)


@functools.lru_cache(maxsize=16)
def _scan(path: Path, state: SourceState, beat: Beat) -> FrameIndex:
    del state
    return scan_video(path, beat)


def _choose(clip: Clip, recipe: FrameRecipe, index: FrameIndex) -> NDArray[np.int64]:
    if not index.num_frames:
        raise VideoError(f"{clip.path} {_NO_FRAME}")
    by_time = clip.start_seconds is not None or clip.end_seconds is not None
    if (by_time or recipe.sampling.needs_times) and np.isnan(index.times).any():
        raise VideoError(
            f"{clip.path} has neither timestamps nor a frame rate, so frames cannot be chosen by "
            "time; state its rate with --assumed-fps, or use uniform:N, stride:K or all, without "
            "start_seconds and end_seconds"
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
    frames: Callable[[], NumberedFrames],
    times: NDArray[np.float64],
    job: ClipJob,
    recipe: FrameRecipe,
) -> Iterator[FrameChunk]:
    """Yield the frames in chunks, shaped as the recipe says, each chunk once for every view."""
    maximum = None
    if recipe.normalise == "clip":  # known only after a first pass
        maximum = max((int(frame.max()) for _, frame in _fitted(frames(), recipe)), default=0)
    transforms = {
        view: view_transform(
            recipe.views, video_id=job.clip.video_id, view=view, size=recipe.input_size
        )
        for view in job.views
        if view
    }
    for numbers, plain in _stacked(_fitted(frames(), recipe), recipe.chunk_frames):
        if maximum is not None and plain.max() > maximum:
            raise VideoError(f"{job.clip.path} yields other frames each time it is read")
        stack = normalise_frames(plain, recipe.normalise, maximum)
        for view in job.views:
            shown = transforms[view](stack) if view else stack
            yield FrameChunk(shown, times[numbers], numbers, view)


def _fitted(frames: NumberedFrames, recipe: FrameRecipe) -> NumberedFrames:
    for number, frame in frames:
        fitted = fit_frame(frame, recipe.input_size, recipe.fit)
        # Colours are swapped after the resize: fewer pixels to touch.
        yield number, np.asarray(cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB), np.uint8)


def _stacked(
    frames: NumberedFrames, chunk_frames: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    while group := list(itertools.islice(frames, chunk_frames)):
        numbers, stack = zip(*group, strict=True)
        yield np.array(numbers, np.int64), np.stack(stack)


def _check_coverage(
    clip: Clip, recipe: FrameRecipe, *, index: FrameIndex, actual: FrameIndex
) -> None:
    if not actual.num_frames:
        raise VideoError(f"{clip.path} {_NO_FRAME}")
    coverage = covered_part(actual)
    if coverage < recipe.min_coverage:
        raise VideoError(
            f"{clip.path} states {index.stated_frames} frames, but only {actual.num_frames} can be "
            f"decoded ({coverage:.0%}): it is cut short or damaged; {_ACCEPT}"
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


def _end_notes(clip: Clip, index: FrameIndex) -> tuple[str, ...]:
    """Return a remark on a clip whose end lies behind its source's, which may be a slip."""
    last = float(index.times[-1])
    if clip.end_seconds is None or clip.end_seconds <= last + _END_SLACK_SECONDS:
        return ()
    return (f"end_seconds is {clip.end_seconds:g}, but its last frame is shown at {last:.3f} s",)


def _same_choice(
    wanted: NDArray[np.int64], actual: NDArray[np.int64], index: FrameIndex, found: FrameIndex
) -> bool:
    return np.array_equal(wanted, actual) and np.array_equal(
        index.times[wanted], found.times[actual], equal_nan=True
    )


def _facts(
    clip: Clip, index: FrameIndex, state: SourceState, source_hash: str, size: tuple[int, int]
) -> SourceFacts:
    frame_seconds = 1 / index.fps if index.fps else 0.0
    return SourceFacts(
        # Folders' names need not be UTF-8, but what is stored must be.
        source_path=os.fsencode(clip.file).decode(errors="backslashreplace"),
        source_size_bytes=state.size_bytes,
        source_modified_ns=state.modified_ns,
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

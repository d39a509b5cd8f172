"""Small frames of a few clips, read as stage one reads them, within a bounded time."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stage1_extract.sources import Clip
from stage2_temporal.strip_files import FRAME_SIZE, MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from stage1_extract.clips import FrameRecipe
    from stage1_extract.decoding import ClipEvent, DecoderPool

MAX_SECONDS = 10.0
"""For all clips together."""
_CLIP_SECONDS = 5.0
_MEMORY_MB = 2048
_NUM_DECODERS = 2
_QUALITIES = (80, 60, 40, 20)
_LINE = 2
_NEEDED = ("sampling", "fit", "value_range", "assumed_fps", "normalise")

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class WantedFrames:
    """Which frames of which clip.

    Attributes:
        clip: Where it is.
        numbers: (n,) frame numbers in the source.
        source_hash: Of the file when it was embedded.
    """

    clip: Clip
    numbers: NDArray[np.int64]
    source_hash: str


def read_frames(
    wanted: Sequence[WantedFrames], settings: Mapping[str, Any]
) -> dict[str, Frames | str]:
    """Return frames (n, 96, 96, 3) uint8 RGB of each clip by id, or why they cannot be had.

    Decoders are processes of their own, with limits: a damaged or hostile file costs its own frames
    only, and all files together a few seconds.

    Args:
        wanted: Clips, each once.
        settings: The store's, which tell how its frames were chosen and shaped.
    """
    from stage1_extract.decoder_handle import DecoderError, DecoderLimits
    from stage1_extract.decoding import DecoderPool

    found: dict[str, Frames | str] = {
        one.clip.video_id: f"no video at {one.clip.path}"
        for one in wanted
        if isinstance(one.clip.path, Path) and not one.clip.path.exists()
    }
    there = {one.clip.video_id: one for one in wanted if one.clip.video_id not in found}
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        return found | dict.fromkeys(there, f"the store does not tell its {', '.join(missing)}")
    if not there:
        return found
    reading = _Reading(there)
    limits = DecoderLimits(_CLIP_SECONDS, _CLIP_SECONDS, _MEMORY_MB)
    number = min(_NUM_DECODERS, len(there))
    try:
        with DecoderPool(_recipe(settings), num_decoders=number, limits=limits) as pool:
            reading.read(pool)
    except (DecoderError, OSError) as error:
        reading.problem = f"decoding failed: {str(error).splitlines()[0]}"
    return found | reading.results()


def _recipe(settings: Mapping[str, Any]) -> "FrameRecipe":
    from stage1_extract.clips import FrameRecipe
    from stage1_extract.sampling import parse_sampling
    from stage1_extract.scaling import parse_value_range
    from stage1_extract.stacks import StackOptions

    return FrameRecipe(
        parse_sampling(settings["sampling"]),
        settings["fit"],
        FRAME_SIZE,
        min_coverage=0.0,
        normalise=settings["normalise"],
        stack_options=StackOptions(
            parse_value_range(settings["value_range"]), settings["assumed_fps"]
        ),
    )


class _TimeIsUpError(Exception):
    """The frames that are not there yet are not waited for."""


@dataclass
class _Reading:
    """What came out of the decoders so far."""

    there: Mapping[str, WantedFrames]
    frames: dict[str, dict[int, Frames]] = field(default_factory=dict)
    ended: dict[str, Frames | str] = field(default_factory=dict)
    problem: str = f"reading took more than {MAX_SECONDS:g} s"

    def read(self, pool: "DecoderPool") -> None:
        from stage1_extract.clips import ClipJob

        end = time.monotonic() + MAX_SECONDS

        def check_time() -> None:
            if time.monotonic() > end:
                raise _TimeIsUpError

        jobs = [ClipJob(one.clip) for one in self.there.values()]
        try:
            for event in pool.decode(jobs, while_waiting=check_time):
                self._take(event)
                check_time()
        except _TimeIsUpError:
            return

    def _take(self, event: "ClipEvent") -> None:
        from stage1_extract.clips import ClipDone, FrameChunk, Restart

        name, content = event.clip.video_id, event.content
        kept = self.frames.setdefault(name, {})
        if isinstance(content, FrameChunk):
            wanted = np.isin(content.source_index, self.there[name].numbers)
            for row in np.flatnonzero(wanted).tolist():
                kept[int(content.source_index[row])] = content.frames[row].copy()
        elif isinstance(content, Restart):
            kept.clear()
        elif isinstance(content, ClipDone):
            self.ended[name] = self._together(name, content.facts.source_hash)
        else:
            self.ended[name] = str(content)

    def _together(self, name: str, source_hash: str) -> Frames | str:
        wanted, kept = self.there[name], self.frames[name]
        numbers = wanted.numbers.tolist()
        if source_hash != wanted.source_hash or any(number not in kept for number in numbers):
            return f"{wanted.clip.path} changed since it was embedded"
        return np.stack([kept[number] for number in numbers])

    def results(self) -> dict[str, Frames | str]:
        return {name: self.ended.get(name, self.problem) for name in self.there}


def as_jpegs(clips: Sequence[Frames]) -> list[bytes]:
    """Return each clip's frames (n, S, S, 3) side by side as a JPEG; smaller where they are noise.

    Args:
        clips: The frames of each clip.

    Returns:
        One file a clip; together at most MAX_IMAGE_BYTES, unless nothing helps.
    """
    rows = [Image.fromarray(_side_by_side(frames)) for frames in clips]
    for quality in _QUALITIES:
        files = [_jpeg(row, quality) for row in rows]
        if sum(map(len, files)) <= MAX_IMAGE_BYTES:
            break
    return files if rows else []


def _side_by_side(frames: Frames) -> Frames:
    """Return frames in a row, a white line between them."""
    separated = frames.copy()
    separated[1:, :, :_LINE] = 255
    return np.concatenate(list(separated), axis=1)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()

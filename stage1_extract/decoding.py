"""Decoding several clips side by side, ahead of the backbone, in bounded memory."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2

from stage1_extract.clips import FrameChunk, FrameRecipe, Restart, read_clip
from stage1_extract.manifest import Clip
from stage1_extract.sources import VideoError
from stage1_extract.store import SourceFacts

_CHUNKS_AHEAD_PER_DECODER = 4
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class ClipEvent:
    """Something that happened to a clip.

    A clip's events come in order: chunks (voided by a Restart), then its source's facts or the
    error that ended it. Events of different clips interleave.
    """

    clip: Clip
    content: FrameChunk | Restart | SourceFacts | VideoError | OSError


def decode_clips(
    clips: Sequence[Clip],
    recipe: FrameRecipe,
    *,
    num_decoders: int,
    while_waiting: Callable[[], None] = lambda: None,
) -> Generator[ClipEvent, None, None]:
    """Decode clips in the background and yield what comes out.

    Threads do it: OpenCV lets go of the interpreter while it decodes. At most four chunks a decoder
    wait, so memory grows neither with the number of clips nor with their length. Closing the
    iterator stops the decoders.

    Args:
        clips: What to decode.
        recipe: Which frames, and how they are shaped.
        num_decoders: Clips decoded side by side.
        while_waiting: Called now and then while nothing comes out; may raise to stop.
    """
    if not clips:
        return
    events: queue.Queue[ClipEvent | BaseException | None] = queue.Queue(
        _CHUNKS_AHEAD_PER_DECODER * num_decoders
    )
    pending = iter(clips)
    lock = threading.Lock()
    stop = threading.Event()

    def next_clip() -> Clip | None:
        with lock:
            return None if stop.is_set() else next(pending, None)

    def put(event: ClipEvent | BaseException | None) -> None:
        while not stop.is_set():
            try:
                events.put(event, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            while (clip := next_clip()) is not None:
                for event in _clip_events(clip, recipe):
                    put(event)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)
            raise

    # Decoders share the cores among themselves; OpenCV's own threads would only get in the way.
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(num_decoders, thread_name_prefix="decoder") as pool:
        for _ in range(num_decoders):
            pool.submit(work)
        try:
            yield from _until_all_done(events, num_decoders, while_waiting)
        finally:
            stop.set()


def _clip_events(clip: Clip, recipe: FrameRecipe) -> Iterator[ClipEvent]:
    try:
        for content in read_clip(clip, recipe):
            yield ClipEvent(clip, content)
    except (VideoError, OSError) as error:
        yield ClipEvent(clip, error)
    except cv2.error as error:
        yield ClipEvent(clip, VideoError(f"{clip.path}: OpenCV: {error}"))


def _until_all_done(
    events: "queue.Queue[ClipEvent | BaseException | None]",
    num_workers: int,
    while_waiting: Callable[[], None],
) -> Iterator[ClipEvent]:
    running = num_workers
    while running:
        try:
            event = events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            while_waiting()
            continue
        if event is None:
            running -= 1
        elif isinstance(event, BaseException):
            raise event  # an unforeseen error in a decoder must not pass for the end
        else:
            yield event

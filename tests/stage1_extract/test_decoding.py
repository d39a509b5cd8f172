"""Decoding side by side: every clip's events in order, bounded, and without threads left behind."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from stage1_extract import decoding
from stage1_extract.clips import FrameChunk, FrameRecipe
from stage1_extract.decoding import ClipEvent, decode_clips
from stage1_extract.manifest import Clip
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import VideoError
from stage1_extract.store import SourceFacts
from tests.conftest import VideoFactory, facts_of, numbers_shown

RECIPE = FrameRecipe(parse_sampling("all"), "squash", 8, 0.8)


def decoder_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decoder")]


def endless(clip: Clip, recipe: FrameRecipe) -> Iterator[FrameChunk | SourceFacts]:
    """Stands in for a video without end."""
    while True:
        yield FrameChunk(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1), np.zeros(1, np.int64))


def fake_clips(count: int) -> list[Clip]:
    return [Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(count)]


@pytest.mark.parametrize("num_decoders", [1, 2, 5])
def test_each_clip_comes_whole_and_ends_with_its_facts(
    make_video: VideoFactory, num_decoders: int
) -> None:
    clips = [Clip(f"v{i}", make_video(f"v{i}.avi", 1 + 9 * i)) for i in range(8)]
    events: dict[str, list[ClipEvent]] = {clip.video_id: [] for clip in clips}
    for event in decode_clips(clips, RECIPE, num_decoders=num_decoders):
        events[event.clip.video_id].append(event)
    for i, (*chunks, last) in enumerate(events.values()):
        assert isinstance(last.content, SourceFacts)
        shown = [
            number
            for event in chunks
            if isinstance(event.content, FrameChunk)
            for number in numbers_shown(event.content.frames)
        ]
        assert shown == [number % 24 for number in range(1 + 9 * i)]
    assert not decoder_threads()


def test_bad_files_end_with_their_error_and_stop_no_other(
    make_video: VideoFactory, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    make_video("good.mp4", 3)
    names = ["text", "pipe", "good", "gone", "empty"]
    clips = [Clip(name, tmp_path / f"{name}.mp4") for name in names]
    last = {event.clip.video_id: event for event in decode_clips(clips, RECIPE, num_decoders=2)}
    kinds = {name: type(last[name].content) for name in names}
    assert kinds == dict.fromkeys(names, VideoError) | {"good": SourceFacts}
    assert "pipe.mp4 is not a file" in str(last["pipe"].content)


def test_without_clips_nothing_comes() -> None:
    assert not list(decode_clips([], RECIPE, num_decoders=2))


def test_stalled_consumer_bounds_what_is_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(clip: Clip, recipe: FrameRecipe) -> Iterator[FrameChunk | SourceFacts]:
        for chunk in endless(clip, recipe):
            made.append(clip)
            yield chunk

    monkeypatch.setattr(decoding, "read_clip", counted)
    with closing(decode_clips(fake_clips(9), RECIPE, num_decoders=3)) as events:
        next(events)
        time.sleep(0.6)
        # Four a decoder wait, one is in each decoder's hand, one was taken.
        assert 4 * 3 <= len(made) <= 4 * 3 + 3 + 1
        stalled = len(made)
        for _ in range(50):
            next(events)
        assert stalled + 40 <= len(made) <= stalled + 60
    assert not decoder_threads()


@pytest.mark.parametrize("num_events", [1, 30])
def test_closing_early_leaves_no_threads(monkeypatch: pytest.MonkeyPatch, num_events: int) -> None:
    monkeypatch.setattr(decoding, "read_clip", endless)
    events = decode_clips(fake_clips(9), RECIPE, num_decoders=3)
    for _ in range(num_events):
        next(events)
    assert len(decoder_threads()) == 3
    started = time.monotonic()
    events.close()
    assert not decoder_threads()
    assert time.monotonic() - started < 10


def test_error_in_the_consumer_leaves_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "read_clip", endless)

    def consume() -> None:
        with closing(decode_clips(fake_clips(4), RECIPE, num_decoders=2)) as events:
            for _ in events:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert not decoder_threads()


@pytest.mark.parametrize("num_decoders", [1, 3])
def test_unforeseen_error_in_a_decoder_surfaces(
    monkeypatch: pytest.MonkeyPatch, num_decoders: int
) -> None:
    def fail(clip: Clip, recipe: FrameRecipe) -> Iterator[SourceFacts]:
        if clip.video_id == "v1":
            raise RuntimeError("a bug in the decoder")
        yield facts_of(clip.video_id)

    monkeypatch.setattr(decoding, "read_clip", fail)
    with pytest.raises(RuntimeError, match="a bug in the decoder"):
        list(decode_clips(fake_clips(5), RECIPE, num_decoders=num_decoders))
    assert not decoder_threads()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(5, "Input/output error"), OSError),
        (VideoError("bad frame"), VideoError),
        (cv2.error("resize failed"), VideoError),
    ],
)
def test_foreseen_errors_end_their_clip_alone(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def fail(clip: Clip, recipe: FrameRecipe) -> Iterator[SourceFacts]:
        if clip.video_id == "v1":
            raise error
        yield facts_of(clip.video_id)

    monkeypatch.setattr(decoding, "read_clip", fail)
    events = list(decode_clips(fake_clips(4), RECIPE, num_decoders=2))
    kinds = {event.clip.video_id: type(event.content) for event in events}
    assert kinds == {"v0": SourceFacts, "v1": kind, "v2": SourceFacts, "v3": SourceFacts}

"""Bringing clips from the decoders through the backbone to where their sequences go."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self

from stage1_extract.backbones import Embedder
from stage1_extract.batching import BatchFiller, EmbeddedPart
from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, Restart
from stage1_extract.config import ExtractSettings
from stage1_extract.decoding import ClipEvent, DecoderPool
from stage1_extract.failures import Failure
from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.job_queue import JobQueue
from stage1_extract.progress import ProgressLike
from stage1_extract.remote_calls import lacks_room
from stage1_extract.sources import Clip
from stage1_extract.store import SourceFacts
from stage1_extract.writing import EmbeddingError, SequenceBuffer

_MANY_FRAMES_MISSING = 0.95
_PATIENCE_SECONDS = 2.0
"""A batch that is not full waits so long for more frames; then the backbone computes it padded."""


class SequenceSink(Protocol):
    """Where finished sequences go: shards (`ShardWriter`), or whatever else is made of them.

    Attributes:
        folder: Where sequences in the making may put what exceeds memory.
    """

    folder: Path

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, video_id: str, view: int, sequence: SequenceBuffer, facts: SourceFacts) -> None:
        """Take a finished sequence, which is closed afterwards."""

    def fail(self, failure: Failure) -> None:
        """Take note of a clip that failed."""

    def flush_if_old(self) -> None:
        """Finish what has waited long enough; called often."""

    def flush(self) -> None:
        """Finish what was added; called at the end, also when the run was stopped."""


@dataclasses.dataclass(eq=False)
class _OpenClip:
    """A clip on its way: its views, and what is known of its source once all frames are sent."""

    clip: Clip
    views: dict[int, "_OpenView"] = dataclasses.field(default_factory=dict)
    done: ClipDone | None = None

    @property
    def complete(self) -> bool:
        all_back = all(view.buffer.length == view.num_frames_sent for view in self.views.values())
        return self.done is not None and all_back

    def close(self) -> None:
        for view in self.views.values():
            view.buffer.close()


@dataclasses.dataclass(eq=False)
class _OpenView:
    """One view of it: frames handed to the backbone, and embeddings that came back."""

    of: _OpenClip
    buffer: SequenceBuffer
    num_frames_sent: int = 0


@dataclasses.dataclass
class RunResult:
    """What a run did.

    Attributes:
        num_stored: Clips stored.
        num_frames: Their frames, those of all views.
        num_sought: Clips whose frames were sought from keyframes.
        failures: Clips that failed.
        notes: Remarks on stored clips that deserve a look.
    """

    num_stored: int = 0
    num_frames: int = 0
    num_sought: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "RunResult") -> None:
        """Count another run in."""
        self.num_stored += other.num_stored
        self.num_frames += other.num_frames
        self.num_sought += other.num_sought
        self.failures += other.failures
        self.notes += other.notes


class EmbeddingRun:
    """Embeds clips and hands their sequences on.

    Args:
        sink: Where they go.
        embedder: The backbone.
        settings: How.
        progress: Who hears of it.

    Attributes:
        result: What was done so far.
    """

    def __init__(
        self,
        sink: SequenceSink,
        embedder: Embedder,
        settings: ExtractSettings,
        progress: ProgressLike,
    ) -> None:
        self.result = RunResult()
        self._sink = sink
        self._settings = settings
        self._progress = progress
        self._batches: BatchFiller[_OpenView] = BatchFiller(
            embedder.submit,
            batch_size=embedder.batch_size,
            input_size=embedder.input_size,
            max_in_flight=embedder.max_in_flight,
        )
        self._open: dict[str, _OpenClip] = {}
        self._failed_ids: set[str] = set()
        self._last_event = time.monotonic()

    def embed_all(self, jobs: Sequence[ClipJob] | JobQueue, decoders: DecoderPool) -> None:
        """Embed the clips; whatever ends the loop early, those that are finished are kept."""
        with self._sink, deferred_interrupt() as check_interrupt:

            def while_waiting() -> None:
                check_interrupt()
                self._finish_what_waits()

            try:
                for event in decoders.decode(jobs, while_waiting=while_waiting):
                    self._last_event = time.monotonic()
                    self._handle(event)
                    check_interrupt()
                    self._sink.flush_if_old()
                    if self.result.failures and self._settings.fail_fast:
                        break
                self._collect(self._batches.flush())
            finally:
                for clip in self._open.values():
                    clip.close()
                self._sink.flush()

    def _finish_what_waits(self) -> None:
        """Store finished clips while decoding takes long, so that a crash does not cost them."""
        if time.monotonic() - self._last_event > _PATIENCE_SECONDS:
            self._collect(self._batches.flush())
        self._sink.flush_if_old()

    def _handle(self, event: ClipEvent) -> None:
        clip, content = event.clip, event.content
        if clip.video_id in self._failed_ids:
            return
        if isinstance(content, FrameChunk):
            view = self._view(clip, content.view)
            view.num_frames_sent += len(content.frames)
            self._collect(self._batches.add(view, content))
        elif isinstance(content, ClipDone):
            self._open[clip.video_id].done = content
            self._store_if_complete(self._open[clip.video_id])
        elif isinstance(content, Restart):
            self._drop(clip)
        elif lacks_room(content):
            raise content  # it would fail the next clips too, none of which is to blame
        else:
            self._fail(clip, content)

    def _view(self, clip: Clip, number: int) -> _OpenView:
        open_clip = self._open.setdefault(clip.video_id, _OpenClip(clip))
        if number not in open_clip.views:
            buffer = SequenceBuffer(self._sink.folder, self._settings.dtype)
            open_clip.views[number] = _OpenView(open_clip, buffer)
        return open_clip.views[number]

    def _collect(self, parts: Iterable[EmbeddedPart[_OpenView]]) -> None:
        for part in parts:
            clip = part.owner.of
            self._progress.add_frames(len(part.embedding))
            # Frames of a clip that failed or was restarted meanwhile have no one to go to.
            if self._open.get(clip.clip.video_id) is not clip:
                continue
            try:
                part.owner.buffer.append(part.embedding, part.time_seconds, part.source_index)
            except EmbeddingError as error:
                self._fail(clip.clip, error)
            else:
                self._store_if_complete(clip)

    def _store_if_complete(self, clip: _OpenClip) -> None:
        if not clip.complete or clip.done is None:
            return
        video_id, facts = clip.clip.video_id, clip.done.facts
        for number, view in sorted(clip.views.items()):
            self._sink.add(video_id, number, view.buffer, facts)
            self.result.num_frames += view.buffer.length
        self.result.num_stored += 1
        self.result.num_sought += clip.done.sought
        self._drop(clip.clip)
        self._progress.finish_clip()
        notes = (*clip.done.notes, *_remarks(facts))
        self.result.notes += [f"{video_id}: {note}" for note in notes]

    def _drop(self, clip: Clip) -> None:
        if (dropped := self._open.pop(clip.video_id, None)) is not None:
            dropped.close()

    def _fail(self, clip: Clip, error: Exception) -> None:
        self._drop(clip)
        self._failed_ids.add(clip.video_id)
        failure = Failure.of(clip.video_id, clip.path, error)
        self._sink.fail(failure)
        self.result.failures.append(failure)
        self._progress.finish_clip(failed=True)
        self._progress.write(f"failed: {clip.video_id}: {failure.reason}")


def _remarks(facts: SourceFacts) -> list[str]:
    found, stated = facts.source_frame_count, facts.source_stated_frame_count
    if found < _MANY_FRAMES_MISSING * stated:
        return [f"{found} frames found, its header states {stated}"]
    return []

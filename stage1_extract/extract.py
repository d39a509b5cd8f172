"""The main loop of stage one: decode, embed, store; resumable, and unharmed by bad videos."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from stage1_extract.backbones import Embedder
from stage1_extract.batching import BatchFiller, EmbeddedPart
from stage1_extract.clips import FrameChunk, FrameRecipe, Restart
from stage1_extract.config import ExtractSettings
from stage1_extract.decoding import ClipEvent, decode_clips
from stage1_extract.failures import Failure, append_failure
from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import software_versions
from stage1_extract.manifest import Clip, Manifest, read_manifest
from stage1_extract.progress import Progress
from stage1_extract.resume import check_known_settings, present_ids, standing_failures
from stage1_extract.sampling import parse_sampling
from stage1_extract.store import (
    Provenance,
    SourceFacts,
    remove_stale_partials,
)
from stage1_extract.writing import EmbeddingError, SequenceBuffer, ShardWriter

_MANY_FRAMES_MISSING = 0.95


@dataclasses.dataclass(frozen=True)
class ExtractSummary:
    """What a run did.

    Attributes:
        num_clips: Clips of the manifest.
        num_present: Clips that the store held before.
        num_stored: Clips that this run added.
        num_frames: Frames of the clips that this run added.
        seconds: Time from the first clip to the last, without loading the backbone.
        failures: Clips of the manifest that failed, now or earlier, and why.
        notes: Remarks on stored clips that deserve a look.
        fingerprint: The store's.
    """

    num_clips: int
    num_present: int
    num_stored: int
    num_frames: int
    seconds: float
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    fingerprint: str

    @property
    def num_not_tried(self) -> int:
        """Clips that `fail_fast` left."""
        return self.num_clips - self.num_present - self.num_stored - len(self.failures)


def extract(
    manifest: Manifest | Path | str,
    store: Path | str,
    settings: ExtractSettings | None = None,
    *,
    show_progress: bool = False,
) -> ExtractSummary:
    """Embed every clip of a manifest that the store does not hold yet.

    Args:
        manifest: A manifest or its path.
        store: Folder of the store; made if it is not there.
        settings: How; None for the defaults.
        show_progress: Whether to report progress on stderr.

    Returns:
        What was done. Clips that cannot be embedded are listed there and in failures.jsonl, and
        keep no other clip from being embedded.

    Raises:
        ManifestError: The manifest is wrong.
        StoreError: The store was made with other settings, or from other files.
        WeightsError: The backbone's weights cannot be had.
        OSError: The store cannot be written; what was finished is kept.
        KeyboardInterrupt: Stopped by the user; what was finished is kept.
    """
    settings = settings or ExtractSettings()
    folder = Path(store)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest))
    check_known_settings(folder, settings)
    embedder = _load_embedder(settings)
    provenance = _provenance(settings, embedder)
    present = present_ids(folder, provenance, manifest.clips)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_partials(folder)
    earlier = standing_failures(folder, manifest.clips, present, retry=settings.retry_failed)
    pending = [c for c in manifest.clips if c.video_id not in present | earlier.keys()]
    if earlier and settings.fail_fast:
        pending = []
    with Progress(len(pending), show=show_progress) as progress:
        run = _Run(folder, provenance, embedder, settings, progress)
        run.embed_all(pending)
    return ExtractSummary(
        num_clips=len(manifest.clips),
        num_present=len(present),
        num_stored=run.num_stored,
        num_frames=run.num_frames,
        seconds=progress.seconds,
        failures=(*earlier.values(), *run.failures),
        notes=tuple(run.notes),
        fingerprint=provenance.fingerprint,
    )


def _load_embedder(settings: ExtractSettings) -> Embedder:
    return Embedder(
        settings.backbone,
        weights=settings.weights,
        pooling=settings.pooling,
        input_size=settings.input_size,
        alpha=settings.alpha,
        batch_size=settings.batch_size,
        seed=settings.seed,
        backend=settings.backend,
    )


def _provenance(settings: ExtractSettings, embedder: Embedder) -> Provenance:
    return Provenance(
        settings=settings.identity(
            weights_sha256=embedder.weights_sha256,
            input_size=embedder.input_size,
            engine=embedder.engine,
        ),
        software=software_versions(),
        execution={"weights": settings.weights, "batch_size": settings.batch_size},
    )


@dataclasses.dataclass(eq=False)
class _OpenSequence:
    """A clip on its way: frames handed to the backbone, and embeddings that came back."""

    clip: Clip
    buffer: SequenceBuffer
    num_frames_sent: int = 0
    facts: SourceFacts | None = None

    @property
    def complete(self) -> bool:
        return self.facts is not None and self.buffer.length == self.num_frames_sent


class _Run:
    """Brings clips from the decoders through the backbone into shards."""

    def __init__(
        self,
        folder: Path,
        provenance: Provenance,
        embedder: Embedder,
        settings: ExtractSettings,
        progress: Progress,
    ) -> None:
        self.num_stored = 0
        self.num_frames = 0
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self._folder = folder
        self._settings = settings
        self._progress = progress
        self._recipe = FrameRecipe(
            parse_sampling(settings.sampling),
            settings.fit,
            embedder.input_size,
            settings.min_coverage,
        )
        self._writer = ShardWriter(
            folder,
            provenance,
            dtype=settings.dtype,
            embedding_dim=embedder.embedding_dim,
            shard_bytes=settings.shard_mb * 10**6,
            shard_seconds=settings.shard_seconds,
        )
        self._batches: BatchFiller[_OpenSequence] = BatchFiller(
            embedder.embed, batch_size=embedder.batch_size, input_size=embedder.input_size
        )
        self._open: dict[str, _OpenSequence] = {}
        self._failed_ids: set[str] = set()

    def embed_all(self, clips: Sequence[Clip]) -> None:
        """Embed the clips; whatever ends the loop early, those that are finished are kept."""
        with self._writer, deferred_interrupt() as check_interrupt:
            decoded = decode_clips(
                clips,
                self._recipe,
                num_decoders=self._settings.decoders,
                while_waiting=check_interrupt,
            )
            try:
                with closing(decoded):
                    for event in decoded:
                        self._handle(event)
                        check_interrupt()
                        if self.failures and self._settings.fail_fast:
                            break
            except BaseException:
                self._writer.flush()
                raise
            self._collect(self._batches.flush())
            self._writer.flush()

    def _handle(self, event: ClipEvent) -> None:
        clip, content = event.clip, event.content
        if clip.video_id in self._failed_ids:
            return
        if isinstance(content, FrameChunk):
            sequence = self._sequence(clip)
            sequence.num_frames_sent += len(content.frames)
            self._collect(self._batches.add(sequence, content))
        elif isinstance(content, SourceFacts):
            sequence = self._sequence(clip)
            sequence.facts = content
            self._store_if_complete(sequence)
        elif isinstance(content, Restart):
            self._open.pop(clip.video_id).buffer.close()
        else:
            self._fail(clip, content)

    def _sequence(self, clip: Clip) -> _OpenSequence:
        if clip.video_id not in self._open:
            buffer = SequenceBuffer(self._folder, self._settings.dtype)
            self._open[clip.video_id] = _OpenSequence(clip, buffer)
        return self._open[clip.video_id]

    def _collect(self, parts: Iterable[EmbeddedPart[_OpenSequence]]) -> None:
        for part in parts:
            sequence = part.owner
            self._progress.add_frames(len(part.embedding))
            # Frames of a clip that failed or was restarted meanwhile have no one to go to.
            if self._open.get(sequence.clip.video_id) is not sequence:
                continue
            try:
                sequence.buffer.append(part.embedding, part.time_seconds, part.source_index)
            except EmbeddingError as error:
                self._fail(sequence.clip, error)
            else:
                self._store_if_complete(sequence)

    def _store_if_complete(self, sequence: _OpenSequence) -> None:
        if not sequence.complete or sequence.facts is None:
            return
        clip = sequence.clip
        self._writer.add(clip.video_id, 0, sequence.buffer, sequence.facts)
        self.num_stored += 1
        self.num_frames += sequence.buffer.length
        self._open.pop(clip.video_id).buffer.close()
        self._progress.finish_clip()
        self._note_missing_frames(clip, sequence.facts)

    def _note_missing_frames(self, clip: Clip, facts: SourceFacts) -> None:
        found, stated = facts.source_frame_count, facts.source_stated_frame_count
        if found < _MANY_FRAMES_MISSING * stated:
            self.notes.append(f"{clip.video_id}: {found} frames found, its header states {stated}")

    def _fail(self, clip: Clip, error: Exception) -> None:
        if clip.video_id in self._open:
            self._open.pop(clip.video_id).buffer.close()
        self._failed_ids.add(clip.video_id)
        failure = Failure.of(clip.video_id, clip.path, error)
        append_failure(self._folder, failure)
        self.failures.append(failure)
        self._progress.finish_clip(failed=True)
        self._progress.write(f"failed: {clip.video_id}: {failure.reason}")

"""Embedding clips on the one device that Keras, or the engine, takes in this process."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stage1_extract.addresses import Location
from stage1_extract.backbones import Embedder
from stage1_extract.clips import ClipJob, FrameChunk, FrameRecipe
from stage1_extract.config import ExtractSettings
from stage1_extract.decoder_handle import DecoderLimits
from stage1_extract.decoding import DecoderPool
from stage1_extract.job_queue import JobQueue
from stage1_extract.keras_setup import software_versions
from stage1_extract.precision import PrecisionReport, check_precision, measure_precision
from stage1_extract.progress import ProgressLike
from stage1_extract.publishing import Outbox, open_outbox
from stage1_extract.run_loop import EmbeddingRun, RunResult, SequenceSink
from stage1_extract.sampling import parse_sampling
from stage1_extract.scaling import parse_value_range
from stage1_extract.stacks import StackOptions
from stage1_extract.store import Provenance
from stage1_extract.views import ViewSettings
from stage1_extract.writing import ShardWriter, StoredHook

_SAMPLE_CLIPS = 8
_SAMPLE_FRAMES = 4


class LocalRunner:
    """Loads the backbone, and embeds clips with it; use it in a `with` block.

    Args:
        settings: How.

    Attributes:
        provenance: What its shards say of their origin.
        result: What the last run did so far; None before it began to store.

    Raises:
        WeightsError: The backbone's weights cannot be had.
        ValueError: The settings do not suit the backbone or this machine.
    """

    def __init__(self, settings: ExtractSettings) -> None:
        self.result: RunResult | None = None
        self._settings = settings
        self._embedder = load_embedder(settings)
        self._open = ExitStack()
        self._kept: DecoderPool | None = None
        self.provenance = _provenance(settings, self._embedder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_decoders()

    @property
    def embedding_dim(self) -> int:
        """D: values of one embedding."""
        return self._embedder.embedding_dim

    def embed(self, jobs: Sequence[ClipJob], store: Location, progress: ProgressLike) -> RunResult:
        """Embed the clips into the store, and return what was done.

        Raises:
            PrecisionError: The precision is too low for these videos; nothing was stored.
            OSError: The store cannot be written, or copies of clips find no room; what was
                finished is kept.
            KeyboardInterrupt: Stopped by the user; what was finished is kept.
        """
        if not jobs:
            return RunResult()
        self.measure_precision(jobs, progress)
        with (
            self._new_decoders() as decoders,
            open_outbox(store, self._settings.scratch_folder) as outbox,
        ):
            self._embedder.warm_up()  # while the decoders start
            return self._embed(jobs, self.new_writer(outbox), decoders, progress)

    def new_writer(self, outbox: Outbox, on_stored: StoredHook | None = None) -> ShardWriter:
        """Return a writer of shards as the settings say; it tells the hook of each."""
        settings = self._settings
        return ShardWriter(
            outbox.folder,
            self.provenance,
            dtype=settings.dtype,
            embedding_dim=self.embedding_dim,
            shard_bytes=settings.shard_mb * 10**6,
            shard_seconds=settings.shard_seconds,
            publish=outbox.publish,
            on_stored=on_stored,
        )

    def embed_into(
        self, jobs: Sequence[ClipJob] | JobQueue, sink: SequenceSink, progress: ProgressLike
    ) -> RunResult:
        """Embed the clips and hand their sequences to a sink; return what was done.

        A queue is emptied until it is closed. The decoders stay until the `with` block ends, so
        that the next call need not start them.

        Raises:
            OSError: The sink cannot write, or copies of clips find no room.
            KeyboardInterrupt: Stopped by the user.
        """
        if JobQueue.of(jobs).exhausted:
            return RunResult()
        with self._kept_decoders() as decoders:
            return self._embed(jobs, sink, decoders, progress)

    def prepare(self) -> None:
        """Start the decoders for `embed_into`, and have the backbone compute a first batch."""
        with self._kept_decoders():
            pass

    def _embed(
        self,
        jobs: Sequence[ClipJob] | JobQueue,
        sink: SequenceSink,
        decoders: DecoderPool,
        progress: ProgressLike,
    ) -> RunResult:
        with progress:
            run = EmbeddingRun(sink, self._embedder, self._settings, progress)
            self.result = run.result
            run.embed_all(jobs, decoders)
        return run.result

    @contextmanager
    def _kept_decoders(self) -> Iterator[DecoderPool]:
        """Yield decoders that stay for the next time, unless the block fails: work is left then."""
        if self._kept is None or not self._kept.num_decoders:  # the last clips may crash them all
            self.end_decoders()
            pool = self._open.enter_context(self._new_decoders())
            self._embedder.warm_up()  # while they start
            self._kept = pool
        try:
            yield self._kept
        except BaseException:
            self.end_decoders()
            raise

    def end_decoders(self) -> None:
        """End the decoders that `embed_into` and `prepare` keep."""
        self._kept = None
        self._open.close()

    def _new_decoders(self) -> DecoderPool:
        return _decoders(self._settings, _recipe(self._settings, self._embedder.input_size))

    def measure_precision(self, jobs: Sequence[ClipJob], progress: ProgressLike) -> None:
        """Compare a lower precision than float32 with it on frames of some of the videos.

        Raises:
            PrecisionError: The precision is too low for them. If not, shards will tell the error.
        """
        settings = self._settings
        if settings.precision == "float32":
            return
        frames = _sample_frames(jobs, settings, self._embedder.input_size)
        if not len(frames):
            return  # no clip of the sample can be read, and the run will say why
        reference = load_embedder(dataclasses.replace(settings, precision="float32"))
        report = measure_precision(reference.embed_all, self._embedder.embed_all, frames)
        progress.write(_describe(settings.precision, report))
        check_precision(report, settings.max_precision_error)
        execution = {**self.provenance.execution, "precision_error": report.as_dict()}
        self.provenance = dataclasses.replace(self.provenance, execution=execution)


def load_embedder(settings: ExtractSettings) -> Embedder:
    """Return the backbone that the settings name.

    float32 is float32 on GPUs too: left alone, they compute in TF32, whose values have 10 bits
    instead of 23. That is settled before CUDA starts, whatever the precision, for lower ones are
    compared with float32.

    Raises:
        WeightsError: Its weights cannot be had.
        ValueError: The settings do not suit it, or this machine.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
    return Embedder(
        settings.backbone,
        weights=settings.weights,
        pooling=settings.pooling,
        input_size=settings.input_size,
        alpha=settings.alpha,
        batch_size=settings.batch_size,
        seed=settings.seed,
        backend=settings.backend,
        engine=settings.engine,
        precision=settings.precision,
    )


def _provenance(settings: ExtractSettings, embedder: Embedder) -> Provenance:
    return Provenance(
        settings=settings.identity(
            weights_sha256=embedder.weights_sha256,
            input_size=embedder.input_size,
            engine=embedder.engine,
        ),
        software=software_versions(),
        execution=_execution(settings),
    )


def _execution(settings: ExtractSettings) -> dict[str, object]:
    """Return what it takes to compute the same embeddings elsewhere, beside the identity."""
    found: dict[str, object] = {"weights": settings.weights, "batch_size": settings.batch_size}
    if settings.weights == "random":
        found["seed"] = settings.seed
    elif settings.weights != "imagenet":
        found["weights"] = str(Path(settings.weights).absolute())
    return found


def _recipe(settings: ExtractSettings, input_size: int) -> FrameRecipe:
    return FrameRecipe(
        parse_sampling(settings.sampling),
        settings.fit,
        input_size,
        settings.min_coverage,
        normalise=settings.normalise,
        stack_options=StackOptions(parse_value_range(settings.value_range), settings.assumed_fps),
        views=settings.view_settings,
        scratch=settings.scratch_folder,
    )


def _decoders(settings: ExtractSettings, recipe: FrameRecipe) -> DecoderPool:
    limits = DecoderLimits(
        settings.stall_seconds, settings.clip_seconds, settings.decoder_memory_mb
    )
    number = None if settings.decoders == "auto" else settings.decoders
    return DecoderPool(recipe, num_decoders=number, limits=limits)


def _sample_frames(
    jobs: Sequence[ClipJob], settings: ExtractSettings, input_size: int
) -> NDArray[np.uint8]:
    """Return frames (n, S, S, 3) of clips spread evenly over the list."""
    chosen = np.unique(np.linspace(0, len(jobs) - 1, _SAMPLE_CLIPS).round().astype(int))
    recipe = dataclasses.replace(
        _recipe(settings, input_size),
        sampling=parse_sampling(f"uniform:{_SAMPLE_FRAMES}"),
        views=ViewSettings(),
    )
    sample = [ClipJob(jobs[i].clip) for i in chosen.tolist()]
    frames: list[NDArray[np.uint8]] = [np.empty((0, input_size, input_size, 3), np.uint8)]
    with _decoders(settings, recipe) as decoders:
        for event in decoders.decode(sample):
            if isinstance(event.content, FrameChunk):
                frames.append(event.content.frames.copy())
    return np.concatenate(frames)


def _describe(precision: str, report: PrecisionReport) -> str:
    return (
        f"{precision} against float32 on {report.num_frames} frames of these videos: relative L2 "
        f"error {report.relative_l2_mean:.2%} on average, {report.relative_l2_max:.2%} at worst; "
        f"smallest cosine {report.cosine_min:.5f}"
    )

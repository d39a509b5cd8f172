"""Predicting on new videos with a trained run: frames, embeddings, predictions, in one pass."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from stage1_extract.clips import ClipJob
from stage1_extract.failures import Failure
from stage1_extract.keras_setup import load_keras
from stage1_extract.local import LocalRunner
from stage1_extract.progress import Progress
from stage1_extract.sources import Clip
from stage1_extract.store import EmbeddingStore, StoreError
from stage2_temporal.bundle import Bundle, extract_settings
from stage2_temporal.predict_settings import PredictSettings
from stage2_temporal.prediction_inputs import find_clips, find_ids, stored_ids
from stage2_temporal.prediction_output import AskedClip, OutputPaths, PredictionOutput
from stage2_temporal.prediction_rows import prediction_columns
from stage2_temporal.prediction_sink import PredictionSink
from stage2_temporal.run_facts import RunFacts
from stage2_temporal.seen_clips import seen_ids
from stage2_temporal.side_rows import features_of_clips, open_side_table
from stage2_temporal.stored_clips import content_hash, plain_positions, stored_sequences
from stage2_temporal.timeline import TIMELINE_COLUMNS

_SHOWN = 10
_STAGE_ONE = ("decoders", "stall_seconds", "clip_seconds", "decoder_memory_mb", "min_coverage")


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """What was predicted.

    Attributes:
        path: The CSV.
        timeline: The CSV of predictions after each frame, if it was asked for.
        num_clips: Clips that were asked for.
        num_present: Clips that the CSV held before.
        num_predicted: Clips that were predicted now.
        num_frames: Their frames.
        num_models: Models whose mean predicts.
        seconds: Time from the first clip to the last, without loading.
        failures: Clips that could not be predicted, and why.
        notes: Remarks on clips that deserve a look.
    """

    path: Path
    timeline: Path | None
    num_clips: int
    num_present: int
    num_predicted: int
    num_frames: int
    num_models: int
    seconds: float
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def predict(
    run: Path | str,
    inputs: Sequence[Path | str],
    settings: PredictSettings,
    *,
    show_progress: bool = False,
) -> PredictResult:
    """Predict videos, or stored sequences, with all models of a run.

    Each clip has a row as soon as it is predicted, so a prediction that is stopped goes on when it
    is asked for again, and does nothing when it is complete; failed clips are tried again. At the
    end the rows are in the order of the inputs.

    Args:
        run: The run folder; neither its store nor its manifest is needed.
        inputs: Video files, folders of videos, manifests; with a store, manifests or nothing.
        settings: Where to write, and how.
        show_progress: Whether to report progress on stderr.

    Raises:
        FileNotFoundError: An input, the run, or the backbone's weights are not there.
        FileExistsError: OUT holds something else, and may not be replaced.
        ValueError: The run was altered, or something does not suit it; the message says what.
        OSError: OUT cannot be written; what was finished is kept.
        KeyboardInterrupt: Stopped by the user; what was finished is kept.
    """
    with Predictor(run, settings) as predictor:
        return predictor.predict(inputs, show_progress=show_progress)


class Predictor:
    """A run's models and backbone, loaded once for many calls; use it in a `with` block.

    Args:
        run: The run folder.
        settings: As for `predict`; `out` may be given with each call.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: The run was altered, or needs side features.
    """

    def __init__(self, run: Path | str, settings: PredictSettings) -> None:
        self.facts = RunFacts.read(run)
        self._settings = settings
        self._table = open_side_table(self.facts, settings.feature_table)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def bundle(self) -> Bundle:
        """The models."""
        if self._settings.store is None:
            load_keras(self._extract_settings.backend)  # which the backbone needs
        else:
            load_keras(self._settings.backend)
        return Bundle.open(self.facts)

    @cached_property
    def runner(self) -> LocalRunner:
        """The backbone, compared with the one that made the run's store."""
        runner = self._open.enter_context(LocalRunner(self._extract_settings))
        self._check_embeddings(runner.provenance.settings)
        return runner

    def prepare(self) -> None:
        """Load everything, and start the decoders, ahead of the first call."""
        _ = self.bundle
        if self._settings.store is None:
            self.runner.prepare()

    def predict(
        self,
        inputs: Sequence[Path | str] = (),
        out: Path | str | None = None,
        *,
        show_progress: bool = False,
    ) -> PredictResult:
        """Predict as `predict` does, with what is loaded."""
        settings = self._settings
        if out is not None:
            settings = dataclasses.replace(settings, out=Path(out))
        if settings.store is None:
            return self._predict_videos(find_clips(inputs), settings, show_progress)
        store = EmbeddingStore(settings.store)
        self.facts.check_store(store)
        ids = find_ids(inputs) if inputs else stored_ids(store)
        return self._predict_store(store, ids, settings, show_progress)

    def _predict_videos(
        self, clips: Sequence[Clip], settings: PredictSettings, show_progress: bool
    ) -> PredictResult:
        asked = [AskedClip.of(clip) for clip in clips]
        with self._output(settings, asked, "videos") as output:
            pending = [clip for clip in clips if clip.video_id not in output.present]
            progress = Progress(len(pending), what="predict", show=show_progress and bool(pending))
            notes: list[str] = []
            if pending:
                with tempfile.TemporaryDirectory(prefix="predict-") as folder:
                    sink = self._sink(settings, output, [c.video_id for c in pending], folder)
                    jobs = [ClipJob(clip) for clip in pending]
                    notes = self.runner.embed_into(jobs, sink, progress).notes
            output.finish()
            notes += self._seen([clip.video_id for clip in clips])
            return self._result(settings, output, len(clips), progress, notes)

    def _predict_store(
        self,
        store: EmbeddingStore,
        ids: Sequence[str],
        settings: PredictSettings,
        show_progress: bool,
    ) -> PredictResult:
        position_of = plain_positions(store)
        known = [video_id for video_id in ids if video_id in position_of]
        paths = store.column("source_path")
        asked = [
            AskedClip(i, str(paths[position_of[i]]) if i in position_of else str(store.path))
            for i in ids
        ]
        source = f"store {content_hash(store, [position_of[i] for i in known])}"
        with self._output(settings, asked, source) as output:
            for video_id in sorted(set(ids) - position_of.keys()):
                output.fail_clip(video_id, StoreError(f"it is not in {store.path}"))
            pending = [video_id for video_id in known if video_id not in output.present]
            progress = Progress(len(pending), what="predict", show=show_progress and bool(pending))
            with progress:
                if pending:
                    sink = self._sink(settings, output, pending, store.path)
                    self._run_store(store, [position_of[i] for i in pending], sink, progress)
            output.finish()
            return self._result(settings, output, len(ids), progress, self._seen(ids))

    def _run_store(
        self,
        store: EmbeddingStore,
        positions: Sequence[int],
        sink: PredictionSink,
        progress: Progress,
    ) -> None:
        features_of, timeline = sink.features_of, self._settings.timeline
        try:
            for sequence in stored_sequences(store, positions, features_of, with_times=timeline):
                sink.add_sequence(sequence)
                progress.add_frames(len(sequence.embedding))
                progress.finish_clip()
        finally:
            sink.flush()

    def _output(
        self, settings: PredictSettings, asked: Sequence[AskedClip], source: str
    ) -> PredictionOutput:
        columns = prediction_columns(self.facts.targets, several_models=len(self.facts.units) > 1)
        return PredictionOutput(
            Path(settings.out),
            columns=["video_id", "path", *columns],
            timeline_columns=[*TIMELINE_COLUMNS, *columns] if settings.timeline else None,
            request={
                "run": self.facts.identity,
                "source": source,
                "features": self._table and _hash(self._table.identity),
                "timeline": settings.timeline,
                "min_coverage": settings.min_coverage if settings.store is None else None,
            },
            clips=asked,
            overwrite=settings.overwrite,
        )

    def _sink(
        self,
        settings: PredictSettings,
        output: PredictionOutput,
        ids: Sequence[str],
        folder: Path | str,
    ) -> PredictionSink:
        features_of = features_of_clips(self.facts, self._table, ids)
        return PredictionSink(
            self.bundle, output, features_of, folder=Path(folder), timeline=settings.timeline
        )

    @cached_property
    def _extract_settings(self) -> Any:
        settings = self._settings
        changes = {name: getattr(settings, name) for name in _STAGE_ONE}
        if settings.seed is not None:
            changes["seed"] = settings.seed
        return extract_settings(self.facts, settings.weights, **changes)

    def _check_embeddings(self, found: Any) -> None:
        """Refuse a backbone that does not make the embeddings that the run was trained on.

        Raises:
            ValueError: Its weights are others, or another setting differs.
        """
        self.facts.check_weights(found["weights_sha256"], self._extract_settings.weights)
        if difference := self.facts.difference(found):
            raise ValueError(
                f"this machine would embed videos in another way than those that "
                f"{self.facts.folder} was trained on (run against now): {difference}"
            )

    def _seen(self, ids: Sequence[str]) -> list[str]:
        """Return a remark on clips that the run has seen, for whom scores would flatter it."""
        if not (count := len(seen_ids(self.facts).intersection(ids))):
            return []
        return [
            f"{count} of {len(ids)} clips have ids that this run trained or validated on, so no "
            "score may be computed from their rows; the run's own test scores are in its report"
        ]

    def _result(
        self,
        settings: PredictSettings,
        output: PredictionOutput,
        num_clips: int,
        progress: Progress,
        notes: Sequence[str],
    ) -> PredictResult:
        num_present, failures = len(output.present), tuple(output.failures)
        return PredictResult(
            path=Path(settings.out),
            timeline=OutputPaths(Path(settings.out)).timeline if settings.timeline else None,
            num_clips=num_clips,
            num_present=num_present,
            num_predicted=num_clips - num_present - len(failures),
            num_frames=progress.frames,
            num_models=len(self.facts.units),
            seconds=progress.seconds if progress.frames else 0.0,
            failures=failures,
            notes=tuple(notes),
        )


def prediction_text(result: PredictResult) -> str:
    """Return what a person wants to read at the end of a prediction."""
    speed = result.num_frames / max(result.seconds, 1e-9)
    lines = [
        f"{result.num_clips} clips: {result.num_predicted} predicted now, {result.num_present} "
        f"already there, {len(result.failures)} failed; {result.num_frames} frames in "
        f"{result.seconds:.1f} s ({speed:.0f} frames/s)"
    ]
    lines += _some("to look at", result.notes)
    lines += _some("failed", [f"{f.video_id}: {f.reason}" for f in result.failures])
    if result.failures:
        lines.append(f"All failures: {OutputPaths(result.path).failures}; they are tried again.")
    if result.timeline is not None:
        lines.append(f"Frame by frame: {result.timeline}")
    if not result.num_predicted + result.num_present:
        return "\n".join([*lines, "No clip was predicted."])
    models = f" (mean of {result.num_models} models)" if result.num_models > 1 else ""
    return "\n".join([*lines, f"Predictions: {result.path}{models}"])


def _some(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {title}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]

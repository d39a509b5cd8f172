"""From finished sequences to rows: where stage one hands its sequences when it predicts."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from stage1_extract.failures import Failure
from stage1_extract.store import SourceFacts
from stage1_extract.writing import SequenceBuffer
from stage2_temporal.bundle import Bundle
from stage2_temporal.head_batches import ClipSequence, HeadBatches, PredictedClip
from stage2_temporal.prediction_output import PredictionOutput
from stage2_temporal.prediction_rows import prediction_cells
from stage2_temporal.side_rows import FeaturesOf
from stage2_temporal.timeline import timeline_rows

_PATIENCE_SECONDS = 1.0
"""Sequences that do not fill a batch wait so long for others."""
_NO_NUMBER = (
    "the prediction is no number: its embeddings, or its side features, are far from all that the "
    "model was trained on"
)


class PredictionSink:
    """Predicts sequences as they come, and writes a row for each.

    Args:
        bundle: The models.
        output: The files to write.
        features_of: Side features of a clip.
        folder: Where long sequences in the making wait.
        timeline: Whether to predict after each frame, too.

    Attributes:
        folder: Where long sequences in the making may wait.
        features_of: Side features of a clip.
    """

    def __init__(
        self,
        bundle: Bundle,
        output: PredictionOutput,
        features_of: FeaturesOf,
        *,
        folder: Path,
        timeline: bool,
    ) -> None:
        self.folder = folder
        self._bundle = bundle
        self._output = output
        self.features_of = features_of
        self._timeline = timeline
        self._batches = HeadBatches(bundle)
        self._several = len(bundle.members) > 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, video_id: str, view: int, sequence: SequenceBuffer, facts: SourceFacts) -> None:  # noqa: ARG002
        """Take a finished sequence from stage one."""
        self.add_sequence(
            ClipSequence(
                video_id,
                sequence.read(self._bundle.facts.embedding_dim),
                sequence.time_seconds,
                sequence.source_index,
                self.features_of(video_id),
            )
        )

    def add_sequence(self, sequence: ClipSequence) -> None:
        """Take a sequence; write the clips of a batch that it fills."""
        self._write(self._batches.add(sequence))

    def fail(self, failure: Failure) -> None:
        """Note a clip that failed."""
        self._output.fail(failure)

    def flush_if_old(self) -> None:
        """Predict what has waited long enough."""
        since = self._batches.waiting_since
        if since is not None and time.monotonic() - since > _PATIENCE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Predict and write all that waits."""
        self._write(self._batches.flush())

    def _write(self, clips: Sequence[PredictedClip]) -> None:
        for clip in clips:
            sequence = clip.sequence
            if not all(np.isfinite(p.mean).all() for p in clip.predictions):
                self._output.fail_clip(sequence.video_id, ValueError(_NO_NUMBER))
                continue
            [cells] = prediction_cells(
                self._bundle.targets, clip.predictions, several_models=self._several
            )
            rows = timeline_rows(self._bundle, sequence, several_models=self._several)
            self._output.add(sequence.video_id, cells, rows if self._timeline else ())

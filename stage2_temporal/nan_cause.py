"""Why a loss became NaN: the most likely cause, found by looking at the batch."""

import numpy as np

from stage2_temporal.config import TrainSettings
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.reading import read_each
from stage2_temporal.statistics import FeatureStatistics

_EXTREME_DEVIATIONS = 1e3


def nan_cause(
    training: EmbeddingSequence,
    batch: int,
    statistics: FeatureStatistics,
    settings: TrainSettings,
) -> str:
    """Say what most likely made the loss of a batch NaN or infinite, and what to do.

    Args:
        training: The training side, still in that epoch.
        batch: The batch after which the loss was no number.
        statistics: Of the training embeddings.
        settings: Of the training.
    """
    clips = training.plan[min(batch, len(training) - 1)]
    positions = np.unique(training.positions[clips])
    positions = positions[positions >= 0]
    for position, sequence in zip(positions, read_each(training.store, positions), strict=True):
        values = sequence.astype(np.float64)
        name = str(training.store.video_ids[position])
        if not np.isfinite(values).all():
            return (
                f"the embeddings of {name!r} hold NaN or infinity: the store is damaged; "
                "`stage1-extract verify` finds such clips, and --repair removes them"
            )
        deviations = np.abs(values - statistics.mean).max(axis=0) / np.sqrt(statistics.variance)
        if deviations.max() > _EXTREME_DEVIATIONS:
            return (
                f"feature {int(deviations.argmax())} of {name!r} is {deviations.max():.3g} "
                "standard deviations off the mean; look at this clip, or lower --learning-rate"
            )
    if settings.precision == "mixed_float16":
        return "float16 overflowed; use --precision mixed_bfloat16 or float32, or --clip-norm 1"
    return (
        f"the embeddings of the batch are sound, so the weights ran away: lower --learning-rate "
        f"{settings.learning_rate:g}, or shorten gradients with --clip-norm 1; look at the target "
        "for extreme values"
    )

"""Everything that one training reads: balanced and augmented batches, statistics, scales."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore
from stage2_temporal.balancing import BalancePlan, plan_balance
from stage2_temporal.config import TrainSettings
from stage2_temporal.dataset import EmbeddingSequence, FeatureRows
from stage2_temporal.importance import clip_importance
from stage2_temporal.inputs import ClipInputs, FeatureMatrix
from stage2_temporal.model_inputs import output_key
from stage2_temporal.reading import read_each
from stage2_temporal.resident import ResidentFrames, ResidentSequence
from stage2_temporal.splits import Split
from stage2_temporal.statistics import FeatureStatistics, feature_statistics
from stage2_temporal.target_scale import (
    TargetScale,
    TrainingError,
    learned,
    loss_weights,
    scale_of,
)
from stage2_temporal.targets import Target

Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """What one training reads; all statistics come from its training clips.

    Attributes:
        inputs: What a model reads of N clips.
        targets: (N,) each.
        split: Sides.
        settings: How.
        statistics: Of the embeddings.
        scales: Of each target.
        balance: What is done to the distribution of training clips.
        importance: (N,) how much each clip counts therefore in the loss of a target, by its name;
            empty where nothing is balanced.
        features: Scaled side features of all clips; None without any.
        groups: (N,) numbers of what belongs together.
        resident: The frames of all clips, if they stay on the device.
    """

    inputs: ClipInputs
    targets: Sequence[Target]
    split: Split
    settings: TrainSettings
    statistics: FeatureStatistics
    scales: Sequence[TargetScale]
    balance: BalancePlan
    importance: dict[str, NDArray[np.float64]]
    features: FeatureMatrix | None
    groups: Indices
    resident: ResidentFrames | None = None

    @classmethod
    def prepare(
        cls,
        inputs: ClipInputs,
        targets: Sequence[Target],
        groups: Indices,
        split: Split,
        settings: TrainSettings,
        *,
        resident: ResidentFrames | None = None,
    ) -> "TrainingBatches":
        """Read the training clips once for all statistics.

        Raises:
            ValueError: The balancing does not suit the targets, or a target does not vary.
            TrainingError: The embeddings of a training clip hold NaN or infinity.
        """
        side = inputs.features
        balance = plan_balance(targets, split.train, settings)
        return cls(
            inputs=inputs,
            targets=targets,
            split=split,
            settings=settings,
            statistics=_statistics(inputs.store, inputs.positions[split.train]),
            scales=[scale_of(target, split.train) for target in targets],
            balance=balance,
            importance=clip_importance(balance, list(targets), split.train, seed=settings.seed),
            features=FeatureMatrix(side, side.scaler(split.train)) if side else None,
            groups=groups,
            resident=resident,
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """Remarks on balancing and side features."""
        scaler = self.features.scaler.notices if self.features else ()
        return (*self.balance.notices, *scaler)

    def training(
        self, seed: int, extras: Mapping[str, NDArray[np.float32]] | None = None
    ) -> EmbeddingSequence:
        """Return the training side: shuffled, balanced, augmented, with targets and weights.

        Args:
            seed: Of everything random.
            extras: More inputs (n, k) of the training clips.
        """
        settings, train, inputs = self.settings, self.split.train, self.inputs
        kind: Any = EmbeddingSequence
        if self.resident is not None:
            kind = partial(ResidentSequence, self.resident)
        sequence: EmbeddingSequence = kind(
            inputs.store,
            (inputs.positions if inputs.views is None else inputs.views)[train],
            {
                output_key(i): learned(target.at(train), scale)
                for i, (target, scale) in enumerate(zip(self.targets, self.scales, strict=True))
            },
            weights={
                output_key(i): loss_weights(target, train, self.balance.weights)
                for i, target in enumerate(self.targets)
            },
            features=self._features_of(train),
            extras=extras,
            batch_size=settings.batch_size,
            seed=seed,
            draw=self.balance.draw,
            augmentation=settings.augmentation,
            spread=np.sqrt(self.statistics.variance),
            full_batches=True,
            workers=settings.workers,
        )
        return sequence

    def evaluation(self, clips: Indices) -> EmbeddingSequence:
        """Return clips in their order, as they are, without targets."""
        return EmbeddingSequence(
            self.inputs.store,
            self.inputs.positions[clips],
            features=self._features_of(clips),
            batch_size=self.settings.batch_size,
            full_batches=True,
            workers=self.settings.workers,
        )

    def _features_of(self, clips: Indices) -> FeatureRows | None:
        matrix = self.features
        return None if matrix is None else lambda chosen: matrix[clips[chosen]]


def _statistics(store: EmbeddingStore, positions: Indices) -> FeatureStatistics:
    """Return the statistics of clips; one damaged clip would make them NaN for all."""
    with np.errstate(invalid="ignore"):
        statistics = feature_statistics(store, positions)
    if np.isfinite(statistics.mean + statistics.variance).all():
        return statistics
    sequences = zip(positions.tolist(), read_each(store, positions), strict=True)
    damaged = (i for i, sequence in sequences if not np.isfinite(sequence).all())
    raise TrainingError(
        f"the embeddings of {str(store.video_ids[next(damaged)])!r} hold NaN or infinity: the "
        "store is damaged; `stage1-extract verify` finds such clips, and --repair removes them"
    )

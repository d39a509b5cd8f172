"""The linear baselines of a training, fitted once for all trainings that share them."""

import dataclasses
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.baseline import LinearModel, fit_linear
from stage2_temporal.crossfit import cross_fitted_logits
from stage2_temporal.fitting import SkipStart
from stage2_temporal.model_inputs import output_key
from stage2_temporal.models import offset_key
from stage2_temporal.training_batches import TrainingBatches
from stage2_temporal.trial_reuse import Reuse, digest
from stage2_temporal.units import Indices

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Linear models of all targets on the same features (N, D).

    Attributes:
        features: (N, D).
        models: One a target.
        reuse: Fits of trainings before.
        keys: What each model follows from.
    """

    features: Any
    models: Sequence[LinearModel]
    reuse: Reuse
    keys: Sequence[Hashable]

    @classmethod
    def fit(
        cls, features: Any, batches: TrainingBatches, reuse: Reuse, place: Hashable
    ) -> "Baseline":
        """Fit the models, unless they are known by the place and the weights of the clips."""
        split = batches.split
        weights = [batches.importance.get(target.name) for target in batches.targets]
        keys = [(place, number, digest(of_clips)) for number, of_clips in enumerate(weights)]
        models = [
            reuse.fits.get(
                ("linear", key),
                partial(
                    fit_linear,
                    features,
                    target,
                    train=split.train,
                    validation=split.validation,
                    weights=of_clips,
                ),
            )
            for key, target, of_clips in zip(keys, batches.targets, weights, strict=True)
        ]
        return cls(features, models, reuse, keys)

    def skip_start(self, batches: TrainingBatches) -> SkipStart:
        """Return where a skip path starts: from predictions of clips that were not fitted."""
        if not batches.settings.skip:
            return SkipStart(self.models, {})
        logits = [
            self.reuse.fits.get(
                ("logits", key),
                partial(
                    cross_fitted_logits,
                    model,
                    self.features,
                    target,
                    train=batches.split.train,
                    groups=batches.groups,
                    weights=batches.importance.get(target.name),
                ),
            )
            for key, model, target in zip(self.keys, self.models, batches.targets, strict=True)
        ]
        return SkipStart(
            self.models,
            {
                offset_key(output_key(i)): scale.standardised(values)
                for i, (scale, values) in enumerate(zip(batches.scales, logits, strict=True))
            },
        )

    @property
    def notices(self) -> list[str]:
        """Remarks on the fits."""
        return [notice for model in self.models for notice in model.notices]

    def predictions(self, clips: Indices) -> list[NDArray[np.float64]]:
        """Return each target's predictions (n, k) for clips."""
        blocks = [clips[start : start + _BLOCK] for start in range(0, len(clips), _BLOCK)]
        parts = [[model.predict(self.features[block]) for model in self.models] for block in blocks]
        return [np.concatenate(part).reshape(len(clips), -1) for part in zip(*parts, strict=True)]

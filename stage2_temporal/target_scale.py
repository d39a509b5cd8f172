"""Targets as a model learns them: values standardised by the training clips, losses per target."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.targets import Target

_LEAST_PROBABILITY = 1e-7  # as in Keras' own losses


class TrainingError(ValueError):
    """Training went wrong: the loss is no number any more, or there is nothing to learn."""


@dataclasses.dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of a continuous target; 0 and 1 for classes."""

    mean: float
    deviation: float

    def standardised(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return values in standard deviations from the mean."""
        return ((values - self.mean) / self.deviation).astype(np.float32)


def scale_of(target: Target, train: NDArray[np.intp]) -> TargetScale:
    """Return the scale of a target, from the training clips alone.

    Raises:
        TrainingError: A continuous target is the same in every training clip.
    """
    if target.task != "regression":
        return TargetScale(0.0, 1.0)
    values = target.numbers[train][target.present[train]]
    if not len(values) or np.ptp(values) == 0:
        found = f"is {values[0]:g} in every training clip" if len(values) else "is blank in all"
        raise TrainingError(f"{target.name!r} {found}; use another split or seed")
    return TargetScale(float(values.mean()), float(values.std()))


def learned(target: Target, scale: TargetScale) -> NDArray[np.float32]:
    """Return (N, k) what a model's outputs are compared with: encoded, values standardised."""
    if target.task == "regression":  # before rounding: years around 2000 differ by little
        return scale.standardised(target.numbers)[:, None]
    return target.encoded()


def clip_losses(
    targets: Sequence[Target],
    predictions: Sequence[NDArray[np.float64]],
    scales: Sequence[TargetScale],
) -> list[NDArray[np.float64]]:
    """Return each clip's loss, as in training: cross-entropy, or squared error in deviations.

    Args:
        targets: (N,) each.
        predictions: (N, k) each: probabilities, or standardised values.
        scales: One a target.

    Returns:
        (N,) for each target: NaN where it is missing, infinity where a prediction is no number.
    """
    return [
        np.where(target.present, _losses(target, prediction, scale), np.nan)
        for target, prediction, scale in zip(targets, predictions, scales, strict=True)
    ]


def _losses(
    target: Target, prediction: NDArray[np.float64], scale: TargetScale
) -> NDArray[np.float64]:
    if target.task == "regression":
        losses = (prediction - scale.standardised(target.numbers)[:, None]) ** 2
    else:
        truth = target.encoded().astype(np.float64)
        losses = -truth * np.log(np.maximum(prediction, _LEAST_PROBABILITY))
        if target.task != "multiclass":
            losses -= (1 - truth) * np.log(np.maximum(1 - prediction, _LEAST_PROBABILITY))
    of_clips = losses.sum(axis=1) if target.task == "multiclass" else losses.mean(axis=1)
    return np.where(np.isnan(of_clips), np.inf, of_clips)


def weighted_losses(
    losses: Sequence[NDArray[np.float64]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Return one loss a clip (N,): the weighted sum over its targets.

    A target that few clips have counts as much as one that all have: the mean over clips is the
    weighted sum of the targets' means, each over the clips that have it.
    """
    total = np.zeros(len(losses[0]))
    for of_target, weight in zip(losses, weights or [1.0] * len(losses), strict=True):
        present = ~np.isnan(of_target)
        if present.any():
            total += weight * np.where(present, of_target, 0.0) * (len(present) / present.sum())
    return total


def loss_weights(
    target: Target, clips: NDArray[np.intp], weights: Mapping[str, NDArray[np.float64]] | None
) -> NDArray[np.float32]:
    """Return the weight of each clip in a target's loss: 0 where the target is missing."""
    present = target.present[clips].astype(np.float32)
    if weights is None or target.name not in weights:
        return present
    return (present * weights[target.name]).astype(np.float32)

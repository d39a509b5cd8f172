"""How much a clip counts once training is balanced: for validation, and for linear baselines.

A model that is trained on an even distribution must be chosen on one, too: the plain validation
loss would prefer the model that was not balanced.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stage2_temporal.balancing import BalancePlan
from stage2_temporal.targets import Target

Floats = NDArray[np.float64]
_NUM_EPOCHS = 8


def clip_importance(
    plan: BalancePlan, targets: list[Target], train: NDArray[np.intp], *, seed: int
) -> dict[str, Floats]:
    """Return the weight (N,) of every clip in the loss of each target, of mean 1 over training.

    A training clip counts as often as it is drawn, on average, or by its weight in the loss; any
    other clip like the training clips of its class, of its rarest label, or like the one
    whose value is nearest. A clip without the balanced target counts 1.

    Args:
        plan: The balancing.
        targets: (N,) each.
        train: (n,) the training clips.
        seed: Of the run.

    Returns:
        By target name; empty where nothing is balanced.
    """
    if plan.weights is not None:
        (name, each), *_ = plan.weights.items()
        return {name: _of_all_clips(plan.balanced, train, each)}
    if plan.draw is None:
        return {}
    epochs = [plan.draw(np.random.default_rng([seed, epoch])) for epoch in range(_NUM_EPOCHS)]
    each = np.bincount(np.concatenate(epochs), minlength=len(train)) / _NUM_EPOCHS
    importance = _of_all_clips(plan.balanced, train, each)
    return {target.name: importance for target in targets}


def _of_all_clips(balanced: tuple[Target, ...], train: NDArray[np.intp], each: Floats) -> Floats:
    present = np.logical_and.reduce([target.present for target in balanced])
    known = present[train]
    importance = np.ones(len(present))
    if balanced[0].task == "regression":
        values = np.stack([target.numbers for target in balanced], axis=1)
        spread = values[train[known]].std(axis=0)
        values = values / np.where(spread > 0, spread, 1)
        nearest = cKDTree(values[train[known]]).query(values[present])[1]
        importance[present] = each[known][nearest]
    else:
        classes = _classes(balanced[0], train[known])
        count = np.bincount(classes[train[known]], minlength=classes.max() + 1)
        total = np.bincount(classes[train[known]], each[known], minlength=len(count))
        mean = np.where(count > 0, total / np.maximum(count, 1), 1.0)
        importance[present] = mean[classes[present]]
    importance[train[known]] = each[known]
    normalised: Floats = importance / importance[train].mean()
    return normalised


def _classes(target: Target, train: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return (N,) class numbers; of several labels the rarest one's, and one more for none."""
    if target.task != "multilabel":
        return np.asarray(target.numbers, np.intp)
    frequency = target.numbers[train].sum(axis=0)
    rarest = np.where(target.numbers > 0, frequency, np.inf).argmin(axis=1)
    return np.where(target.numbers.any(axis=1), rarest, target.num_outputs)

"""What the linear baseline says of its own training clips, without having seen them."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from stage2_temporal.baseline import Features, LinearModel, refit
from stage2_temporal.targets import Target

_NUM_FOLDS = 5
_BLOCK = 4096


def cross_fitted_logits(
    model: LinearModel,
    features: Features,
    target: Target,
    *,
    train: NDArray[np.intp],
    groups: NDArray[np.intp],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return logits (n, k), or values, of training clips, each from a fit without its group.

    A linear model of more features than clips predicts its own training clips all but perfectly.
    What is trained on top of that sees no error left to correct; on cross-fitted predictions
    (stacking; Wolpert 1992) it sees those that new clips will have. The penalty is the model's.

    The model's own logits are returned where there are too few groups, where a part would lack a
    class, and where it is a closed form of very many clips or classes.

    Args:
        model: Fitted to the training clips.
        features: (N, D).
        target: Of the N clips.
        train: (n,) the training clips.
        groups: (N,) group numbers.
        weights: (N,) how much each clip counts; None for all alike.
    """
    own = _logits(model, features, train)
    known = np.flatnonzero(target.present[train])
    num_folds = min(_NUM_FOLDS, len(np.unique(groups[train[known]])))
    if num_folds < 2 or not model.can_refit:
        return own
    found = own.copy()
    folds = GroupKFold(num_folds).split(known, groups=groups[train[known]])
    for fitted, rest in folds:
        clips = train[known[fitted]]
        if target.classes and not _same_classes(target, clips, train[known]):
            return own
        found[known[rest]] = refit(model, features, target, clips, weights).logits(
            features[train[known[rest]]]
        )
    return found


def _logits(model: LinearModel, features: Features, clips: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return logits (n, k), reading the features, which may be a mapped file, block by block."""
    blocks = [clips[start : start + _BLOCK] for start in range(0, len(clips), _BLOCK)]
    return np.concatenate([model.logits(features[block]) for block in blocks])


def _same_classes(target: Target, clips: NDArray[np.intp], others: NDArray[np.intp]) -> bool:
    """Whether some clips have every class (or label, and its absence) that others have."""
    some, all_of_them = target.at(clips).encoded(), target.at(others).encoded()
    same = [np.array_equal(f(some, axis=0), f(all_of_them, axis=0)) for f in (np.min, np.max)]
    return all(same)

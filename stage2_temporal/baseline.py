"""Linear models: what the average embedding of a clip tells without any order, or side features.

Memory: the average embeddings take 4 * N * D bytes (they may be a mapped file); a fit takes about
1 GB beside, in a bounded time. Logistic and ridge regression see at most `MAX_FIT_VALUES` / D and
`MAX_FIT_WORK` / (D * k) training clips, a seeded sample that keeps the classes' shares. Where that
leaves fewer than `MIN_CLIPS_PER_CLASS` for each class or label, a discriminant analysis of all
training clips takes their place.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from stage1_extract.store import EmbeddingStore, StoreError
from stage2_temporal.discriminant import (
    ClassDiscriminant,
    LabelDiscriminant,
    Linear,
    Moments,
)
from stage2_temporal.encoding import TargetError
from stage2_temporal.reading import read_each
from stage2_temporal.targets import Target

MAX_FIT_VALUES = 2**25
"""Clips times features that enter a fit: 256 MiB of float64."""
MAX_FIT_WORK = 2**29
"""Clips times features times outputs."""
MIN_CLIPS_PER_CLASS = 20
ABSENT_LOGIT = -30.0
"""Of a class without training clips; some other class always has a logit of 0 or more."""
_BLOCK_VALUES = 2**22
_SEED = 0

_Indices = NDArray[np.intp]
Features = NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """A linear model in the features' own units.

    Attributes:
        coefficients: (D, k) float64.
        intercept: (k,) float64.
        penalty: The one that the validation clips chose: L2, or the discriminant's shrinkage.
        task: binary, multiclass, multilabel or regression.
        notices: What the report should say.
        can_refit: Whether it is a regression of all training clips, to which `refit` applies.
    """

    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]
    penalty: float
    task: str
    notices: tuple[str, ...] = ()
    can_refit: bool = False

    def logits(self, features: Features) -> NDArray[np.float64]:
        """Return features (N, D) @ coefficients + intercept: (N, k)."""
        found: NDArray[np.float64] = features.astype(np.float64) @ self.coefficients
        found += self.intercept
        return found

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Return the predictions of clips; 8 * N * k bytes.

        Args:
            features: (N, D).

        Returns:
            (N,) probability of class 1 or value, (N, C) probabilities of classes that exclude each
            other, or (N, L) of labels that do not.
        """
        logits = self.logits(features)
        if self.task == "multiclass":
            probabilities: NDArray[np.float64] = softmax(logits, axis=1)
            return probabilities
        values: NDArray[np.float64] = logits if self.task == "regression" else expit(logits)
        return values if self.task == "multilabel" else values[:, 0]


def mean_embeddings(store: EmbeddingStore, positions: _Indices) -> NDArray[np.float32]:
    """Return the average embedding (N, D) of each sequence, one sequence in memory at a time.

    Raises:
        StoreError: Embeddings are not finite, or the store changed since it was opened.
    """
    means = np.empty((len(positions), store.embedding_dim), np.float32)
    for row, sequence in enumerate(read_each(store, positions)):
        means[row] = sequence.mean(axis=0, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(means).all(axis=1))
    if bad.size:
        raise StoreError(
            f"the embeddings of {str(store.video_ids[positions[bad[0]]])!r} hold NaN or infinity: "
            "`stage1-extract verify` finds such clips, and --repair removes them"
        )
    return means


def fit_linear(
    features: Features,
    target: Target,
    *,
    train: _Indices,
    validation: _Indices,
    weights: NDArray[np.float64] | None = None,
) -> LinearModel:
    """Fit logistic or ridge regression to training clips; validation clips choose the penalty.

    Scaling and coefficients come from training clips; the penalty is the one of eight that does
    best on the validation clips (log loss or squared error), the same help that early stopping
    gives the recurrent model. Clips without the target are skipped. A class that no training clip
    has gets a probability near 0; a label that all or none have, its share.

    Args:
        features: (N, D) average embeddings, or scaled side features; may be a mapped file.
        target: Of the N clips.
        train: Clips to fit.
        validation: Clips that choose the penalty.
        weights: (N,) how much each clip counts; None for all alike. The discriminant analysis of
            very many classes knows no weights, but for the choice of its shrinkage.

    Raises:
        TargetError: No training clip has the target.
    """
    known = train[target.present[train]]
    judges = validation[target.present[validation]]
    if not len(known):
        raise TargetError(
            f"none of {len(train)} training clips has a {target.name!r}; use another split or seed"
        )
    fitted = _sample(target, known, features.shape[1])
    family = _Regression if _suffices(target, fitted, known) else _Discriminant
    clips = fitted if family is _Regression else known
    notices = _notices(family, target, clips, known, judged=bool(len(judges)))
    weights = np.ones(len(target.present)) if weights is None else weights
    fit = family(features, target, clips, weights)
    penalties = family.penalties if len(judges) else (family.unchosen,)
    best = min(
        (_model(fit, target, penalty) for penalty in penalties),
        key=lambda model: _loss(model, features, target, judges, weights),
    )
    can_refit = family is _Regression and len(fitted) == len(known)
    return dataclasses.replace(best, notices=notices, can_refit=can_refit)


def refit(
    model: LinearModel,
    features: Features,
    target: Target,
    clips: _Indices,
    weights: NDArray[np.float64] | None = None,
) -> LinearModel:
    """Return the same regression, of the same penalty, fitted to other clips.

    Args:
        model: Which; `can_refit` must be true.
        features: (N, D).
        target: Of the N clips.
        clips: To fit; all have the target.
        weights: (N,) how much each clip counts; None for all alike.
    """
    weights = np.ones(len(target.present)) if weights is None else weights
    return _model(_Regression(features, target, clips, weights), target, model.penalty)


def _sample(target: Target, clips: _Indices, dim: int) -> _Indices:
    """Return at most as many clips as a fit may see; every class keeps its share, and a clip."""
    limit = max(1, min(MAX_FIT_VALUES // dim, MAX_FIT_WORK // (dim * target.num_outputs)))
    if len(clips) <= limit:
        return clips
    order = np.random.default_rng([_SEED]).permutation(len(clips))
    strata = _strata(target, clips)[order]
    by_stratum = np.argsort(strata, kind="stable")
    _, first, counts = np.unique(strata[by_stratum], return_index=True, return_counts=True)
    rank = np.arange(len(clips)) - np.repeat(first, counts)
    chosen = by_stratum[np.argsort(rank / np.repeat(counts, counts), kind="stable")[:limit]]
    return clips[np.sort(order[chosen])]


def _strata(target: Target, clips: _Indices) -> NDArray[np.int64]:
    """Return what a sample keeps the shares of: the class, or the rarest label that a clip has."""
    numbers = target.numbers[clips]
    if target.task == "regression":
        return np.zeros(len(clips), np.int64)
    if target.task != "multilabel":
        return np.asarray(numbers, np.int64)
    by_rarity = np.argsort(numbers.sum(axis=0), kind="stable")
    labels = numbers[:, by_rarity] == 1
    rarest: NDArray[np.int64] = np.where(labels.any(axis=1), labels.argmax(axis=1), labels.shape[1])
    return rarest


def _suffices(target: Target, fitted: _Indices, known: _Indices) -> bool:
    few = len(fitted) < MIN_CLIPS_PER_CLASS * target.num_outputs
    return len(fitted) == len(known) or target.task in {"binary", "regression"} or not few


def _notices(
    family: "type[_Regression | _Discriminant]",
    target: Target,
    clips: _Indices,
    known: _Indices,
    *,
    judged: bool,
) -> tuple[str, ...]:
    notices = []
    if len(clips) < len(known):
        notices.append(
            f"{target.name}: the linear model was fitted to {len(clips)} of {len(known)} training "
            "clips, a stratified sample"
        )
    if family is _Discriminant:
        notices.append(
            f"{target.name}: {target.num_outputs} classes or labels are too many for logistic "
            "regression; the linear model is a discriminant analysis"
        )
    if not judged:
        notices.append(
            f"no validation clip has a {target.name!r}: the linear model takes "
            f"{family.penalty_name} {family.unchosen:g}, which nothing chose"
        )
    return tuple(notices)


def _loss(
    model: LinearModel,
    features: Features,
    target: Target,
    clips: _Indices,
    weights: NDArray[np.float64],
) -> float:
    """Return the weighted mean log loss or squared error; 0 without clips."""
    step = max(1, _BLOCK_VALUES // max(features.shape[1], target.num_outputs))
    total = 0.0
    for start in range(0, len(clips), step):
        block = clips[start : start + step]
        total += float(weights[block] @ _losses(model.logits(features[block]), target, block))
    return total / max(1.0, float(weights[clips].sum()))


def _losses(logits: NDArray[np.float64], target: Target, clips: _Indices) -> NDArray[np.float64]:
    """Return each clip's loss (n,)."""
    numbers = target.numbers[clips]
    losses: NDArray[np.float64]
    if target.task == "multiclass":
        losses = -log_softmax(logits, axis=1)[np.arange(len(clips)), numbers]
        return losses
    numbers = numbers.reshape(logits.shape)
    if target.task == "regression":
        losses = (logits - numbers) ** 2
    else:
        losses = -log_expit(np.where(numbers == 1, logits, -logits))
    of_clips: NDArray[np.float64] = losses.mean(axis=1)
    return of_clips


# -------------------------------------------------------------------------------- standard space


class _Regression:
    """scikit-learn's logistic or ridge regression on standardised clips."""

    penalties = tuple(10.0**k for k in range(-3, 5))
    unchosen = 1.0
    penalty_name = "the penalty"

    def __init__(
        self,
        features: Features,
        target: Target,
        clips: _Indices,
        weights: NDArray[np.float64],
    ) -> None:
        self.scaler = StandardScaler(copy=False)
        self._weights = weights[clips]
        self._values = self.scaler.fit_transform(features[clips].astype(np.float64))
        self._numbers = target.numbers[clips]
        self._target = target

    def at(self, penalty: float) -> Linear:
        """Return coefficients (D, k) and intercept (k,) of standardised features."""
        if self._target.task == "regression":
            ridge = Ridge(alpha=penalty).fit(self._values, self._numbers, self._weights)
            return ridge.coef_[:, None], np.array([ridge.intercept_])
        if self._target.task == "multiclass":
            return self._classes(penalty)
        labels = self._numbers.reshape(len(self._values), -1).T
        columns, intercepts = zip(*(self._label(one, penalty) for one in labels), strict=True)
        return np.stack(columns, axis=1), np.array(intercepts)

    def _label(
        self, numbers: NDArray[np.int64], penalty: float
    ) -> tuple[NDArray[np.float64], float]:
        if numbers.min() == numbers.max():
            return np.zeros(self._values.shape[1]), _log_odds(numbers.sum(), len(numbers))
        fit = self._logistic(numbers, penalty)
        return fit.coef_[0], float(fit.intercept_[0])

    def _classes(self, penalty: float) -> Linear:
        classes, dim = np.unique(self._numbers), self._values.shape[1]
        if len(classes) == 1:
            return _complete((np.zeros((dim, 1)), np.zeros(1)), classes, self._target.num_outputs)
        fit = self._logistic(self._numbers, penalty)
        coefficients, intercept = fit.coef_.T, fit.intercept_
        if len(classes) == 2:  # scikit-learn has one logit then
            coefficients = np.concatenate([-coefficients, coefficients], axis=1) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        return _complete((coefficients, intercept), classes, self._target.num_outputs)

    def _logistic(self, numbers: NDArray[np.int64], penalty: float) -> Any:
        fit = LogisticRegression(C=1 / penalty, max_iter=5000)
        with warnings.catch_warnings():
            # Classes of one or two clips each are for the user to judge; they are class names.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            return fit.fit(self._values, numbers, self._weights)


class _Discriminant:
    """Discriminant analysis of all clips, for very many classes or labels."""

    penalties = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 0.6, 1.0)
    unchosen = 0.1
    penalty_name = "the shrinkage"

    def __init__(
        self,
        features: Features,
        target: Target,
        clips: _Indices,
        weights: NDArray[np.float64],
    ) -> None:
        del weights
        self._num_outputs = target.num_outputs
        self._moments = Moments(features, target.numbers, target.num_outputs, clips)
        self.scaler = self._moments.scaler
        kind = ClassDiscriminant if target.task == "multiclass" else LabelDiscriminant
        self._analysis = kind(self._moments)

    def at(self, shrinkage: float) -> Linear:
        """Return coefficients (D, k) and intercept (k,) of standardised features."""
        linear = self._analysis.at(shrinkage)
        if isinstance(self._analysis, ClassDiscriminant):
            return _complete(linear, self._analysis.classes, self._num_outputs)
        counts, varies = self._moments.counts, self._analysis.varies
        coefficients = np.zeros((len(linear[0]), self._num_outputs))
        coefficients[:, varies] = linear[0]
        intercept = np.array([_log_odds(count, self._moments.num_clips) for count in counts])
        intercept[varies] = linear[1]
        return coefficients, intercept


def _model(fit: _Regression | _Discriminant, target: Target, penalty: float) -> LinearModel:
    """Return the model in the features' own units: scaling is folded into the coefficients."""
    standard, intercept = fit.at(penalty)
    coefficients = standard / fit.scaler.scale_[:, None]
    return LinearModel(
        coefficients, intercept - fit.scaler.mean_ @ coefficients, penalty, target.task
    )


def _complete(linear: Linear, classes: NDArray[np.int64], num_classes: int) -> Linear:
    """Return logits of all classes from those of some, whose mean becomes 0.

    A softmax does not change with their mean, and the greatest of them is 0 or more then, so that
    the constant logit of the other classes is always far below.
    """
    coefficients = np.zeros((len(linear[0]), num_classes))
    intercept = np.full(num_classes, ABSENT_LOGIT)
    coefficients[:, classes] = linear[0] - linear[0].mean(axis=1, keepdims=True)
    intercept[classes] = linear[1] - linear[1].mean()
    return coefficients, intercept


def _log_odds(count: float, num_clips: int) -> float:
    """Return the log odds of a share, half a clip added to both sides (Haldane 1956): finite."""
    return float(np.log((count + 0.5) / (num_clips - count + 0.5)))

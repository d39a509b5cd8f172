"""The mean-pool baseline: what the average embedding of a clip tells, without any order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stage1_extract.store import EmbeddingStore

_PENALTIES = tuple(10.0**k for k in range(-3, 5))


def mean_embeddings(store: EmbeddingStore, positions: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the average embedding (N, D) of each sequence."""
    return np.stack([store.read(int(i)).mean(axis=0, dtype=np.float64) for i in positions])


def mean_pool_predictions(
    features: NDArray[np.float64],
    target: NDArray[Any],
    task: str,
    *,
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Fit logistic or ridge regression on average embeddings and predict every clip.

    Scaling and coefficients come from the training clips; the penalty is the one of eight that
    does best on the validation clips, the same help that early stopping gives the recurrent model.

    Args:
        features: (N, D) average embeddings.
        target: (N,) class numbers or values.
        task: binary, multiclass or regression.
        train: Clips to fit.
        validation: Clips that choose the penalty.

    Returns:
        (N,) probability of class 1 or value, or (N, C) probabilities.
    """
    best_loss, best = np.inf, np.empty(0)
    for penalty in _PENALTIES:
        predictions = _fit_predict(features, target, task, train, penalty)
        loss = _loss(task, target[validation], predictions[validation])
        if loss < best_loss:
            best_loss, best = loss, predictions
    return best[:, 1] if task == "binary" else best


def _fit_predict(
    features: NDArray[np.float64],
    target: NDArray[Any],
    task: str,
    train: NDArray[np.intp],
    penalty: float,
) -> NDArray[np.float64]:
    if task == "regression":
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty))
        values: NDArray[np.float64] = ridge.fit(features[train], target[train]).predict(features)
        return values
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=5000))
    probabilities: NDArray[np.float64] = logistic.fit(features[train], target[train]).predict_proba(
        features
    )
    return probabilities


def _loss(task: str, target: NDArray[Any], predictions: NDArray[np.float64]) -> float:
    if task == "regression":
        return float(mean_squared_error(target, predictions))
    return float(log_loss(target, predictions, labels=np.arange(predictions.shape[1])))

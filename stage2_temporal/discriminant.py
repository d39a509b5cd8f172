"""Linear discriminant analysis of any number of clips and classes, in closed form.

Classes share one covariance S, shrunk towards a multiple of the identity (Friedman 1989):
(1 - s) S + s tr(S) / D I. One pass over the clips gathers the moments, one eigendecomposition
serves every shrinkage s. Clips are standardised first; blocks of them are in memory, a matrix
(D, D) and a few (D, k).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array
from sklearn.preprocessing import StandardScaler

_BLOCK_VALUES = 2**22
_LEAST_VARIANCE = 1e-6  # where no class has two different clips

Array = NDArray[np.float64]
Linear = tuple[Array, Array]
"""Coefficients (D, k) and intercept (k,) of standardised features."""


class Moments:
    """What a discriminant analysis has to know of clips.

    Args:
        features: (N, D); may be a mapped file.
        numbers: (N,) class numbers, or (N, L) labels 0 or 1.
        num_outputs: Number of classes or labels.
        clips: Which clips to use.

    Attributes:
        scaler: Mean and deviation of the clips.
        counts: (k,) clips of each class or label.
        sums: (k, D) sum of their standardised features.
        second: (D, D) sum of the outer products of all standardised clips.
        total: (D,) sum of all standardised clips.
        num_clips: Number of clips.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        numbers: NDArray[np.int64],
        num_outputs: int,
        clips: NDArray[np.intp],
    ) -> None:
        self._features = features
        self.num_clips = len(clips)
        self.scaler = StandardScaler()
        for block in self._blocks(clips):
            self.scaler.partial_fit(features[block].astype(np.float64))
        dim = features.shape[1]
        self.counts = np.zeros(num_outputs)
        self.sums = np.zeros((num_outputs, dim))
        self.second = np.zeros((dim, dim))
        self.total = np.zeros(dim)
        for block in self._blocks(clips):
            self._add(block, numbers[block])

    def _blocks(self, clips: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        step = max(1, _BLOCK_VALUES // self._features.shape[1])
        return (clips[start : start + step] for start in range(0, len(clips), step))

    def _add(self, clips: NDArray[np.intp], numbers: NDArray[np.int64]) -> None:
        values = self.scaler.transform(self._features[clips].astype(np.float64))
        shape = (len(clips), len(self.counts))
        if numbers.ndim == 1:
            ones = np.ones(len(clips))
            members = csr_array((ones, (np.arange(len(clips)), numbers)), shape=shape)
        else:
            members = csr_array(numbers.astype(np.float64))
        self.counts += members.sum(axis=0)
        self.sums += members.T @ values
        self.second += values.T @ values
        self.total += values.sum(axis=0)


class ClassDiscriminant:
    """Classes that exclude each other; those without clips are not among its outputs.

    Args:
        moments: Of the clips.
    """

    def __init__(self, moments: Moments) -> None:
        self.classes = np.flatnonzero(moments.counts)
        counts = moments.counts[self.classes]
        means = moments.sums[self.classes] / counts[:, None]
        within = (moments.second - (means * counts[:, None]).T @ means) / moments.num_clips
        self._variances, self._axes = _eigen(within)
        self._means = self._axes.T @ means.T
        self._log_shares = np.log(counts / moments.num_clips)

    def at(self, shrinkage: float) -> Linear:
        """Return the logits' coefficients (D, k) and intercept (k,) for the classes it has."""
        scaled = self._means / _shrunk(self._variances, shrinkage)[:, None]
        intercept = self._log_shares - 0.5 * np.sum(self._means * scaled, axis=0)
        return self._axes @ scaled, intercept


class LabelDiscriminant:
    """Labels that do not exclude each other: each against the rest, with its own covariance.

    That covariance, within the label and the rest, is the total one less a (difference of means)
    times its transpose, a = p (1 - p) for a share p: Sherman & Morrison (1950) give its inverse.

    Args:
        moments: Of the clips.
    """

    def __init__(self, moments: Moments) -> None:
        num_clips, counts = moments.num_clips, moments.counts
        mean = moments.total / num_clips
        total = moments.second / num_clips - np.outer(mean, mean)
        self._variances, self._axes = _eigen(total)
        self.varies = (counts > 0) & (counts < num_clips)
        known = counts[self.varies]
        sums = moments.sums[self.varies].T
        inside = sums / known
        outside = (moments.total[:, None] - sums) / (num_clips - known)
        self._middle = self._axes.T @ (inside + outside) / 2
        self._difference = self._axes.T @ (inside - outside)
        self._share = known / num_clips

    def at(self, shrinkage: float) -> Linear:
        """Return the logits' coefficients (D, k) and intercept (k,) for the labels that vary."""
        scaled = self._difference / _shrunk(self._variances, shrinkage)[:, None]
        explained = np.sum(self._difference * scaled, axis=0)
        scaled /= 1 - (1 - shrinkage) * self._share * (1 - self._share) * explained
        log_odds = np.log(self._share / (1 - self._share))
        return self._axes @ scaled, log_odds - np.sum(self._middle * scaled, axis=0)


def _eigen(covariance: Array) -> Linear:
    variances, axes = eigh(covariance, overwrite_a=True, check_finite=False)
    return np.maximum(variances, 0.0), axes


def _shrunk(variances: Array, shrinkage: float) -> Array:
    mean = max(float(variances.mean()), _LEAST_VARIANCE)
    return (1 - shrinkage) * variances + shrinkage * mean

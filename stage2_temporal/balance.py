"""Per-epoch draws of training clips that even out classes, or the values of a continuous target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Draw = Callable[[np.random.Generator], Indices]
"""Draws the clips of one epoch, as indices into the training clips."""


@dataclass(frozen=True)
class Distribution:
    """How many clips each class or bin has before balancing, and draws after it."""

    labels: list[str]
    before: list[int]
    after: list[int]

    @property
    def empty_bins(self) -> list[str]:
        """The labels without a single clip: balancing cannot fill them."""
        return [label for label, count in zip(self.labels, self.before, strict=True) if not count]


def oversample(labels: NDArray[np.integer[Any]], rng: np.random.Generator) -> Indices:
    """Draw clips so that every class occurs as often as the most frequent one.

    Every clip occurs at least once, and within a class the repeats differ by at most one; `rng`
    chooses which clips get the extra repeat, and the order.

    Args:
        labels: (N,) class numbers.
        rng: draws the extras; a new one each epoch.

    Returns:
        (M,) indices into `labels`, shuffled.

    Raises:
        ValueError: `labels` is not a vector of whole numbers, or is empty.
    """
    _check_vector("labels", labels)
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise ValueError(
            f"labels has dtype {np.asarray(labels).dtype}: expected whole class numbers; "
            "use uniformize for a continuous target"
        )
    _, cells, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return draw_to_counts(cells, np.full(len(counts), counts.max()), rng)


def uniformize(
    values: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    *,
    num_bins: int = 10,
    max_repeats: int = 10,
) -> Indices:
    """Draw clips so that a continuous target is as uniform as `max_repeats` allows.

    Each bin that has a clip is brought up to the count of the fullest bin, but no clip occurs more
    than `max_repeats` times, lest a few outliers fill the epoch. Every clip occurs at least once.

    Args:
        values: (N,) finite floats.
        rng: draws the extras; a new one each epoch.
        num_bins: bins of equal width from the least to the greatest value.
        max_repeats: the most that one clip may occur.

    Returns:
        (M,) indices into `values`, shuffled.

    Raises:
        ValueError: a value is not finite, or `num_bins` or `max_repeats` is below 1.
    """
    if max_repeats < 1:
        raise ValueError(f"max_repeats is {max_repeats}: expected 1 (no balancing) or more")
    cells = bin_numbers(values, num_bins)
    counts = np.bincount(cells)
    return draw_to_counts(cells, np.minimum(counts.max(), max_repeats * counts), rng)


def draw_to_counts(cells: Indices, wanted: Indices, rng: np.random.Generator) -> Indices:
    """Repeat clips until cell c occurs `wanted[c]` times, as evenly as whole numbers allow.

    Args:
        cells: (N,) the cell (class or bin) of each clip, from 0.
        wanted: (C,) draws of each cell, at least its number of clips; 0 for a cell without clips.
        rng: chooses the clips that occur once more than others, and the order.

    Returns:
        (sum of wanted,) indices into `cells`, shuffled.

    Raises:
        ValueError: `wanted` would drop a clip, or fill a cell that has none.
    """
    counts = np.bincount(cells, minlength=len(wanted))
    impossible = np.flatnonzero((wanted < counts) | ((counts == 0) & (wanted > 0)))
    if impossible.size:
        cell = impossible[0]
        raise ValueError(
            f"cell {cell} has {counts[cell]} clips but {wanted[cell]} draws are wanted: expected "
            "at least one draw a clip, and none from an empty cell"
        )
    members = np.split(np.argsort(cells, kind="stable"), np.cumsum(counts)[:-1])
    draws = [
        np.resize(rng.permutation(clips), count)
        for clips, count in zip(members, wanted, strict=True)
    ]
    return rng.permutation(np.concatenate(draws)).astype(np.intp)


def bin_edges(values: NDArray[np.floating[Any]], num_bins: int) -> NDArray[np.float64]:
    """Return the (num_bins + 1,) edges of equal-width bins; a constant target has one bin.

    Raises:
        ValueError: a value is not finite, or `num_bins` is below 1.
    """
    _check_vector("values", values)
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: expected 1 or more")
    values = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(values)} values are not finite, the first is values[{bad[0]}] = "
            f"{values[bad[0]]}: leave clips without a target out"
        )
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, high, num_bins + 1 if low < high else 2)


def bin_numbers(values: NDArray[np.floating[Any]], num_bins: int) -> Indices:
    """Return the (N,) bin of each value, from 0; an inner edge belongs to the bin above it.

    Raises:
        ValueError: a value is not finite, or `num_bins` is below 1.
    """
    edges = bin_edges(values, num_bins)
    return np.searchsorted(edges[1:-1], np.asarray(values, dtype=np.float64), side="right")


def class_distribution(
    labels: NDArray[np.integer[Any]], draws: Indices, class_names: Sequence[str]
) -> Distribution:
    """Count the clips of each class before, and the draws after, balancing.

    Args:
        labels: (N,) class numbers, indices into `class_names`.
        draws: (M,) indices into `labels`.
        class_names: the name of each class number.

    Raises:
        ValueError: a label has no name.
    """
    _check_vector("labels", labels)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"labels range from {labels.min()} to {labels.max()}: expected 0 to "
            f"{len(class_names) - 1}, as there are {len(class_names)} class names"
        )
    return _distribution(labels.astype(np.intp), draws, list(class_names))


def value_distribution(
    values: NDArray[np.floating[Any]], draws: Indices, *, num_bins: int = 10
) -> Distribution:
    """Count the clips of each bin of a continuous target before, and the draws after, balancing.

    Raises:
        ValueError: a value is not finite, or `num_bins` is below 1.
    """
    edges = bin_edges(values, num_bins)
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return _distribution(bin_numbers(values, num_bins), draws, names)


def _distribution(cells: Indices, draws: Indices, names: list[str]) -> Distribution:
    before = np.bincount(cells, minlength=len(names))
    after = np.bincount(cells[draws], minlength=len(names))
    return Distribution(names, before.tolist(), after.tolist())


def _check_vector(name: str, values: NDArray[Any]) -> None:
    if np.ndim(values) != 1 or not len(values):
        raise ValueError(
            f"{name} has shape {np.shape(values)}: expected (N,) with one clip or more"
        )

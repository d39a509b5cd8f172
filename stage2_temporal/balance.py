"""Draws and weights of training clips that even out classes, labels, or continuous values.

A draw is a function of its random generator alone, and no function loops over clips.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]
Values = NDArray[np.floating[Any]]
Draw = Callable[[np.random.Generator], Indices]
"""Draws the clips of one epoch, as indices into the training clips."""
SHARE_TOLERANCE = 0.002  # so that three times 0.333 are 1


@dataclass(frozen=True)
class Distribution:
    """How many clips each class, label or bin has before balancing, and counts for after it."""

    labels: list[str]
    before: list[int]
    after: list[int]
    name: str = ""

    @property
    def empty_bins(self) -> list[str]:
        """The labels without a single clip: balancing cannot fill them."""
        return [label for label, count in zip(self.labels, self.before, strict=True) if not count]


def oversample(
    labels: Labels,
    rng: np.random.Generator,
    *,
    shares: Mapping[int, float] | None = None,
    max_repeats: int = 10,
) -> Indices:
    """Repeat clips of rare classes until the classes' shares are as wanted, or all alike.

    Every clip occurs at least once, none more than `max_repeats` times, and within a class the
    repeats differ by at most one; `rng` chooses which clips get the extra repeat, and the order.

    Args:
        labels: (N,) class numbers from 0.
        rng: Draws the extras; a new one each epoch.
        shares: Wanted share of the draws by class number; the other classes share the rest alike.
        max_repeats: The most that one clip may occur; a class may fall short of its share for it.

    Returns:
        (M,) indices into `labels`, shuffled.

    Raises:
        ValueError: `labels` is no vector of class numbers, or `shares` leave classes nothing.
    """
    counts = _count_classes(labels, shares)
    wanted = wanted_draws(counts, class_shares(counts, shares))
    return draw_to_counts(labels, _capped(wanted, counts, max_repeats), rng)


def undersample(
    labels: Labels, rng: np.random.Generator, *, shares: Mapping[int, float] | None = None
) -> Indices:
    """Leave clips of frequent classes out until the classes' shares are as wanted, or all alike.

    No clip occurs twice, and the scarcest class (by its share) keeps all its clips. Each epoch
    leaves out others, each clip of a class with the same chance, so that in time all are seen.

    Args:
        labels: (N,) class numbers from 0.
        rng: Draws the subset; a new one each epoch.
        shares: Wanted share of the draws by class number; the other classes share the rest alike.

    Returns:
        (M,) indices into `labels`, shuffled.

    Raises:
        ValueError: `labels` is no vector of class numbers, or `shares` leave classes nothing.
    """
    counts = _count_classes(labels, shares)
    share = class_shares(counts, shares)
    has_clips = counts > 0
    scarcest = (counts[has_clips] / share[has_clips]).min()
    wanted = np.clip(np.rint(scarcest * share), np.minimum(counts, 1), counts)
    return draw_to_counts(labels, wanted.astype(np.intp), rng)


def oversample_multilabel(
    labels: Labels, rng: np.random.Generator, *, max_repeats: int = 10
) -> Indices:
    """Repeat clips by their rarest label: repeat factor sampling.

    A label that a part f of the clips has gets the factor sqrt(t / f), and a clip the factor of its
    rarest label, at least 1 (Gupta, Dollar and Girshick, "LVIS", CVPR 2019). Here t is the
    frequency of the most frequent label, and clips of one factor get whole repeats that differ by
    at most one and sum to the same number each epoch, instead of being rounded one by one.

    Args:
        labels: (N, L) 1 where a clip has a label, else 0.
        rng: Draws the extras; a new one each epoch.
        max_repeats: The most that one clip may occur.

    Returns:
        (M,) indices into `labels`, shuffled; every clip occurs at least once.

    Raises:
        ValueError: `labels` is not (N, L) with values 0 and 1.
    """
    _check_multilabel(labels)
    rarest = _rarest_label(labels)
    factors = np.append(repeat_factors(labels), 1.0)  # the last: clips without a label
    counts = np.bincount(rarest, minlength=len(factors))
    wanted = _capped(np.rint(factors * counts), counts, max_repeats)
    return draw_to_counts(rarest, wanted, rng)


def repeat_factors(labels: Labels) -> Floats:
    """Return the (L,) factors of `oversample_multilabel` before any cap; 1 for labels no clip has.

    Args:
        labels: (N, L) 1 where a clip has a label, else 0.
    """
    counts = labels.sum(axis=0)
    return np.where(counts > 0, np.sqrt(counts.max() / np.maximum(counts, 1)), 1.0)


def uniformize(
    values: Values,
    rng: np.random.Generator,
    *,
    num_bins: int = 10,
    max_repeats: int = 10,
    bin_kind: str = "width",
) -> Indices:
    """Repeat clips so that the bins of one continuous target, or two, are drawn alike.

    Each bin that has a clip is brought up to the count of the fullest bin, but no clip occurs more
    than `max_repeats` times, lest a few outliers fill the epoch. Every clip occurs at least once.

    Args:
        values: (N,) finite floats, or (N, 2) for the joint bins of two targets.
        rng: Draws the extras; a new one each epoch.
        num_bins: Bins of each target.
        max_repeats: The most that one clip may occur.
        bin_kind: width or quantile, see `bin_edges`.

    Returns:
        (M,) indices into `values`, shuffled.

    Raises:
        ValueError: A value is not finite, or `num_bins` or `max_repeats` is below 1.
    """
    cells, _ = joint_bins(values, num_bins, bin_kind)
    return oversample(cells, rng, max_repeats=max_repeats)


def draw_to_counts(cells: Labels, wanted: Indices, rng: np.random.Generator) -> Indices:
    """Draw clips until cell c occurs `wanted[c]` times, as evenly as whole numbers allow.

    Args:
        cells: (N,) the cell (class or bin) of each clip, from 0.
        wanted: (C,) draws of each cell; 0 for a cell without clips.
        rng: Chooses the clips that occur once more than others, and the order.

    Returns:
        (sum of wanted,) indices into `cells`, shuffled.

    Raises:
        ValueError: `wanted` would fill a cell that has no clip.
    """
    counts = np.bincount(cells, minlength=len(wanted))
    impossible = np.flatnonzero((counts == 0) & (wanted > 0))
    if impossible.size:
        cell = impossible[0]
        raise ValueError(f"cell {cell} has 0 clips but {wanted[cell]} draws are wanted: expected 0")
    clips = rng.permutation(len(cells))
    clips = clips[np.argsort(cells[clips], kind="stable")]  # by cell, in random order within each
    place = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
    each, extra = np.divmod(wanted, np.maximum(counts, 1))
    repeats = np.repeat(each, counts) + (place < np.repeat(extra, counts))
    return rng.permutation(np.repeat(clips, repeats)).astype(np.intp, copy=False)


def class_shares(counts: Indices, named: Mapping[int, float] | None = None) -> Floats:
    """Return the (C,) share of the draws that each class with clips is to have; their sum is 1.

    Classes that `named` lacks share the rest alike. A class without clips has the share 0: what it
    was to have goes to the classes not named, or where all are named to each by its share.

    Args:
        counts: (C,) clips of each class.
        named: Wanted share by class number.

    Raises:
        ValueError: `named` leaves nothing for another class, or holds no share.
    """
    named = named or {}
    shares: Floats = np.zeros(len(counts))
    others = counts > 0
    for number, share in named.items():
        shares[number], others[number] = share, False
    least = SHARE_TOLERANCE if others.any() else -SHARE_TOLERANCE
    if not (all(share > 0 for share in named.values()) and 1 - shares.sum() > least):
        raise ValueError(
            f"the shares by class number are {dict(named)}: expected numbers above 0 that sum to "
            "1, or to less where other classes are to share the rest"
        )
    shares[counts == 0] = 0
    if others.any():
        shares[others] = (1 - shares.sum()) / others.sum()
    shares /= shares.sum()
    return shares


def wanted_draws(counts: Indices, shares: Floats) -> Floats:
    """Return the (C,) least whole draws that keep every clip and have these shares.

    Args:
        counts: (C,) clips of each class.
        shares: (C,) wanted shares, 0 for a class without clips and only there.
    """
    has_clips = counts > 0
    total = (counts[has_clips] / shares[has_clips]).max()
    wanted: Floats = np.rint(total * shares)
    return wanted


def bin_edges(values: Values, num_bins: int, bin_kind: str = "width") -> Floats:
    """Return the edges of the bins from the least to the greatest value, one more than bins.

    Bins of kind width are equally wide; bins of kind quantile hold equally many clips, as far as
    ties allow (there may be fewer bins then). A constant target has one bin.

    Raises:
        ValueError: A value is not finite, `num_bins` is below 1, or there is no such kind.
    """
    if np.ndim(values) != 1 or not len(values):
        raise ValueError(
            f"values has shape {np.shape(values)}: expected (N,) with one clip or more"
        )
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
    if low == high:
        return np.array([low, high])
    if bin_kind == "width":
        return np.linspace(low, high, num_bins + 1)
    if bin_kind != "quantile":
        raise ValueError(f"bin_kind is {bin_kind!r}: expected width or quantile")
    inner = np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1], method="higher")
    # Ties at either end are set apart; half a gap below the greatest value gives them a width.
    inner[inner == low] = values[values > low].min()
    inner[inner == high] = (float(values[values < high].max()) + high) / 2
    return np.concatenate([[low], np.unique(inner), [high]])


def bin_numbers(values: Values, edges: Floats) -> Indices:
    """Return the (N,) bin of each value, from 0; an inner edge belongs to the bin above it."""
    return np.searchsorted(edges[1:-1], np.asarray(values, dtype=np.float64), side="right")


def joint_bins(
    values: Values, num_bins: int, bin_kind: str = "width"
) -> tuple[Indices, list[Floats]]:
    """Return the (N,) bin of each clip, and the edges of each target.

    Args:
        values: (N,) finite floats, or (N, 2) for two targets: bin i of the first of them and bin j
            of the second are bin i * bins of the second + j.
        num_bins: Bins of each target.
        bin_kind: width or quantile, see `bin_edges`.

    Raises:
        ValueError: A value is not finite, or the shape is another one.
    """
    if np.ndim(values) not in (1, 2) or np.shape(values)[1:] not in ((), (2,)):
        raise ValueError(f"values has shape {np.shape(values)}: expected (N,) or (N, 2)")
    columns = np.atleast_2d(np.asarray(values, np.float64).T)
    edges = [bin_edges(column, num_bins, bin_kind) for column in columns]
    bins = [bin_numbers(column, at) for column, at in zip(columns, edges, strict=True)]
    return np.ravel_multi_index(bins, [len(at) - 1 for at in edges]).astype(np.intp), edges


def class_weights(labels: Labels) -> Floats:
    """Return (N,) weights of mean 1 that give every class with clips the same sum of weights."""
    counts = _count_classes(labels)
    weights: Floats = len(labels) / (np.count_nonzero(counts) * counts[labels])
    return weights


def multilabel_weights(labels: Labels) -> Floats:
    """Return (N,) weights of mean 1 that are high for clips with rare labels, or rarely without.

    For each label, the clips that have it weigh as much together as those that do not (inverse
    frequency); a clip's weight is the mean over the labels. A label that all clips have, or none,
    weighs 1.

    Args:
        labels: (N, L) 1 where a clip has a label, else 0.
    """
    _check_multilabel(labels)
    num_clips, num_labels = labels.shape
    having = labels.sum(axis=0)
    both = (having > 0) & (having < num_clips)
    with_it = np.where(both, num_clips / np.maximum(2 * having, 1), 1.0)
    without = np.where(both, num_clips / np.maximum(2 * (num_clips - having), 1), 1.0)
    weights: Floats = np.einsum("nl,l->n", labels, (with_it - without) / num_labels)
    weights += without.mean()
    return weights


def density_weights(
    values: Values, *, num_bins: int = 10, smoothing_bins: float = 1.0, bin_kind: str = "width"
) -> Floats:
    """Return (N,) weights of mean 1, inverse to the smoothed density of the values.

    Label distribution smoothing (Yang, Zha, Chen, Wang and Katabi, "Delving into Deep Imbalanced
    Regression", ICML 2021): clips per bin (and, for quantile bins, per unit of the target) are
    convolved with a Gaussian. Beyond its ends the density is reflected (the authors take 0), so
    that a flat one gives equal weights.

    Args:
        values: (N,) finite floats.
        num_bins: Bins from the least to the greatest value.
        smoothing_bins: Standard deviation of the Gaussian, in bins; 0 smooths nothing.
        bin_kind: width or quantile, see `bin_edges`.

    Raises:
        ValueError: A value is not finite, or `num_bins` is below 1.
    """
    edges = bin_edges(values, num_bins, bin_kind)
    bins = bin_numbers(values, edges)
    density = np.bincount(bins, minlength=len(edges) - 1).astype(np.float64)
    if bin_kind == "quantile" and len(density) > 1:
        density /= np.diff(edges) / (edges[-1] - edges[0])
    if smoothing_bins > 0:
        density = gaussian_filter1d(density, smoothing_bins)
    weights = 1 / density[bins]
    return np.asarray(weights / weights.mean(), np.float64)


def _capped(wanted: Floats, counts: Indices, max_repeats: int) -> Indices:
    if max_repeats < 1:
        raise ValueError(f"max_repeats is {max_repeats}: expected 1 (no balancing) or more")
    return np.minimum(wanted, max_repeats * counts).astype(np.intp)


def _rarest_label(labels: Labels) -> Indices:
    """Return the (N,) label of each clip that fewest clips have; L for clips without a label."""
    by_rarity = np.argsort(labels.sum(axis=0), kind="stable")
    rank = np.argsort(by_rarity, kind="stable")
    clips, numbers = np.nonzero(labels)
    rarest = np.full(len(labels), len(rank), np.intp)
    np.minimum.at(rarest, clips, rank[numbers])
    return np.append(by_rarity, len(rank))[rarest]


def _count_classes(labels: Labels, named: Mapping[int, float] | None = None) -> Indices:
    if np.ndim(labels) != 1 or not len(labels):
        raise ValueError(
            f"labels has shape {np.shape(labels)}: expected (N,) with one clip or more"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            f"labels has dtype {labels.dtype} and least value {labels.min()}: expected whole class "
            "numbers from 0; use uniformize for a continuous target"
        )
    return np.bincount(labels, minlength=1 + max(named or [0]))


def _check_multilabel(labels: Labels) -> None:
    if np.ndim(labels) != 2 or not len(labels) or labels.min() < 0 or labels.max() > 1:
        raise ValueError(
            f"labels has shape {np.shape(labels)}: expected (N, L) with one clip or more, 1 where "
            "a clip has a label and 0 elsewhere"
        )

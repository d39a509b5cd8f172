"""What a split keeps in proportion, and what none of its sides should lack."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stage2_temporal.targets import Target

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Needs:
    """What each clip serves: classes, labels or bins of values.

    Attributes:
        serving: (N, R) sparse; 1 where a clip has the class, label or value.
        names: (R,) what that is, for messages.
    """

    serving: csr_array
    names: tuple[str, ...]

    @classmethod
    def of(cls, serving: csr_array, names: tuple[str, ...]) -> "Needs":
        """Leave out what no clip at all serves: it cannot be asked of any side."""
        served = np.flatnonzero(serving.sum(axis=0))
        return cls(serving[:, served], tuple(names[number] for number in served))

    def at(self, clips: NDArray[np.intp]) -> "Needs":
        """Return the needs that some clips serve; names stay as they are."""
        return Needs(self.serving[clips], self.names)

    def missing(self, clips: NDArray[np.intp]) -> list[int]:
        """Return the numbers of the needs that none of the clips serves."""
        return [int(number) for number in np.flatnonzero(self.serving[clips].sum(axis=0) == 0)]


@dataclass(frozen=True, eq=False)
class Strata:
    """What a split of N clips keeps in proportion.

    Attributes:
        numbers: (N,) stratum of each clip.
        needed: What training is impossible without: every class, or any value at all.
        wanted: What a side should hold: every class, or every bin of values.
    """

    numbers: Indices
    needed: Needs
    wanted: Needs

    def at(self, clips: NDArray[np.intp]) -> "Strata":
        """Return the strata of some clips."""
        return Strata(self.numbers[clips], self.needed.at(clips), self.wanted.at(clips))


def stratify(target: Target, *, num_bins: int = 5) -> Strata:
    """Return classes as strata, quantile bins of values, or the rarest label of several.

    Clips that lack the target are a stratum of their own. A clip of several labels counts for its
    rarest, which spreads rare labels first as Sechidis et al. (2011) advise.

    Args:
        target: What is to be predicted.
        num_bins: Bins for regression; fewer where values repeat or a bin would have under 3 clips.
    """
    labelled = np.flatnonzero(target.present)
    numbers = np.zeros(len(target.present), np.intp)
    found = target.at(labelled)
    if target.task == "multilabel":
        numbers[labelled] = _rarest_label(found.numbers)
        needed = wanted = _labels(target)
    elif target.task == "regression":
        numbers[labelled] = quantile_bins(found.numbers, num_bins)
        wanted = _bins(target, numbers)
        needed = Needs.of(_one_hot(labelled, numbers * 0, target), (f"a value of {target.name}",))
    else:
        numbers[labelled] = found.numbers
        names = tuple(f"{target.name} {name}" for name in target.classes)
        needed = wanted = Needs.of(_one_hot(labelled, numbers, target), names)
    numbers[~target.present] = numbers.max(initial=0) + 1
    return Strata(numbers, needed, wanted)


def quantile_bins(values: NDArray[np.float64], num_bins: int) -> Indices:
    """Return the (N,) bin of each value, numbered from 0 in the order of the values."""
    num_bins = max(1, min(num_bins, len(values) // 3))
    edges = np.quantile(values, np.arange(1, num_bins) / num_bins)
    return np.unique(np.searchsorted(np.unique(edges), values), return_inverse=True)[1]


def _rarest_label(labels: NDArray[np.int64]) -> Indices:
    """Return for each of (N, L) clips the number of its rarest label; L for none."""
    count = np.append(labels.sum(axis=0), len(labels) + 1)
    counts = np.where(labels == 1, count[:-1], len(labels) + 2)
    counts = np.concatenate([counts, np.full((len(labels), 1), count[-1])], axis=1)
    return np.asarray(counts.argmin(axis=1))


def _labels(target: Target) -> Needs:
    """Each label, and clips without it: both sides of each question."""
    labels = np.concatenate([target.numbers == 1, target.numbers == 0], axis=1)
    names = [*target.classes, *(f"{name} 0" for name in target.classes)]
    serving = csr_array((labels & target.present[:, None]).astype(np.intp))
    return Needs.of(serving, tuple(f"{target.name}: {name}" for name in names))


def _bins(target: Target, numbers: Indices) -> Needs:
    labelled = np.flatnonzero(target.present)
    names = []
    for number in range(int(numbers.max(initial=0)) + 1):
        values = target.numbers[labelled[numbers[labelled] == number]]
        low, high = f"{values.min():.4g}", f"{values.max():.4g}"
        names.append(f"{target.name} " + (low if low == high else f"from {low} to {high}"))
    return Needs.of(_one_hot(labelled, numbers, target), tuple(names))


def _one_hot(clips: NDArray[np.intp], numbers: Indices, target: Target) -> csr_array:
    width = max(len(target.classes), int(numbers.max(initial=0)) + 1)
    shape = (len(target.present), width)
    return csr_array((np.ones(len(clips), np.intp), (clips, numbers[clips])), shape=shape)

"""What belongs together, and whether a split tore it apart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stage2_temporal.splits import Split, check_same_length
from stage2_temporal.strata import Indices

_NUM_EXAMPLES = 5
_NUM_TYPICAL_PAIRS = 10_000
_TILE = 1024  # clips compared at once with as many others: 4 MB of cosines
_ROUNDING = 1e-6  # of a cosine in float32


class LeakageError(ValueError):
    """Clips that belong together are on different sides of a split."""


def merge_groups(*keys: NDArray[Any]) -> Indices:
    """Number the connected components of clips that share a value of any key.

    Args:
        *keys: each (N,): a patient, a content hash, ... Blank, None and NaN join nothing.

    Returns:
        (N,) component numbers from 0, by first appearance.

    Raises:
        ValueError: no key, or keys of different lengths.
    """
    lengths = [len(key) for key in keys]
    if len(set(lengths)) != 1:
        raise ValueError(
            f"keys have lengths {lengths}: expected one key or more, all of one length"
        )
    clips, values, num_nodes = [], [], lengths[0]
    for key in keys:
        codes, uniques = _codes(key)
        clips.append(np.flatnonzero(codes >= 0))
        values.append(num_nodes + codes[codes >= 0])
        num_nodes += len(uniques)
    row, column = np.concatenate(clips), np.concatenate(values)
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(num_nodes, num_nodes))
    component = connected_components(graph, directed=False)[1][: lengths[0]]
    return np.asarray(pd.factorize(component)[0], dtype=np.intp)


def check_no_leakage(
    splits: Iterable[tuple[str, Split]],
    keys: Mapping[str, NDArray[Any]],
    clip_ids: Sequence[str] | NDArray[Any],
) -> None:
    """Check that no value of a key is on two sides of any split; blank values are skipped.

    Args:
        splits: splits of the same N clips, each with a name to show.
        keys: what must stay together, by the name to show ("group patient", "content"); each (N,).
        clip_ids: (N,) names to show.

    Raises:
        LeakageError: a value is on two sides; names every such key with examples.
        ValueError: a key or `clip_ids` has another length than the split.
    """
    coded = {name: _codes(key) for name, key in keys.items()}
    for split_name, split in splits:
        side = split.name_of_clip
        check_same_length(len(side), {"clip_ids": clip_ids, **keys})
        leaks = (_leaks(name, key, side, clip_ids) for name, key in coded.items())
        problems = [text for text in leaks if text]
        if problems:
            raise LeakageError(
                f"{split_name}: " + "\n".join(problems) + "\nKeep such clips on one side: correct "
                "the column that names the sides, or leave it out to have them made for you."
            )


def _codes(key: NDArray[Any]) -> tuple[Indices, NDArray[Any]]:
    """Return (N,) numbers of the values of a key, -1 for blank ones, and the values."""
    codes, uniques = pd.factorize(np.asarray(key).astype(object))
    kept = np.array([not isinstance(u, str) or bool(u.strip()) for u in uniques], dtype=bool)
    renumbered = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # the last for None and NaN
    return renumbered[codes].astype(np.intp), np.asarray(uniques)[kept]


def _leaks(
    name: str, key: tuple[Indices, NDArray[Any]], side: NDArray[np.str_], clip_ids: Any
) -> str:
    """Describe the values of one coded key that are on two sides; empty where there is none."""
    codes, uniques = key
    on_side = np.zeros((len(uniques), len(Split.names)), dtype=bool)
    for column, side_name in enumerate(Split.names):
        on_side[codes[(codes >= 0) & (side == side_name)], column] = True
    leaking = np.flatnonzero(on_side.sum(axis=1) > 1)
    if not len(leaking):
        return ""
    examples = []
    for value in leaking[:_NUM_EXAMPLES]:
        rows = [np.flatnonzero((codes == value) & (side == s))[:2] for s in Split.names]
        clips = ", ".join(f"{clip_ids[row]!s} in {side[row]}" for row in np.concatenate(rows))
        examples.append(f"  {uniques[value]!s}: {clips}")
    text = f"{name}: {len(leaking)} of {len(uniques)} values are on two sides of the split, such as"
    return "\n".join([text, *examples])


@dataclass(frozen=True)
class NearDuplicate:
    """Two clips of different groups and sides that look alike.

    Attributes:
        first: A clip id.
        second: Another.
        first_side: Its side, or the fold that tests it.
        second_side: That of the other.
        cosine: Of their mean embeddings.
    """

    first: str
    second: str
    first_side: str
    second_side: str
    cosine: float


@dataclass(frozen=True)
class NearDuplicates:
    """What was found, the most alike first, and what there is to say about the search."""

    pairs: tuple[NearDuplicate, ...]
    notices: tuple[str, ...]


def near_duplicates(
    embeddings: NDArray[Any],
    groups: NDArray[Any],
    sides: NDArray[np.str_],
    clip_ids: Sequence[str] | NDArray[Any],
    *,
    threshold: float,
    limit: int = 50,
    max_clips: int = 50_000,
    seed: int = 0,
) -> NearDuplicates:
    """Find clips that look alike, of different groups, on different sides of a split.

    All pairs are compared, tile by tile: time grows with N squared (50,000 clips of 1000 dimensions
    take about a minute), memory with N. Of more clips than `max_clips`, that many are drawn.

    The cosine is the plain one: from 0.995 on, MobileNet's found 39 of 48 clips encoded anew
    (infrared, ultrasound), and one of 72,000 pairs of different groups. After centring, one
    threshold did not serve both kinds of clips.

    Args:
        embeddings: (N, D) mean embedding of each clip.
        groups: (N,) numbers of what belongs together; pairs within a group do not matter.
        sides: (N, S) side of each clip, in each of S splits; see `sides_of_clips`.
        clip_ids: (N,) names to show.
        threshold: Least cosine of a pair.
        limit: Most pairs that are listed.
        max_clips: Most clips that are compared.
        seed: Draws the clips where there are more.
    """
    columns = {"groups": groups, "sides": sides, "clip_ids": clip_ids}
    check_same_length(len(embeddings), columns)
    clips, notices = _compared(len(embeddings), max_clips, seed)
    codes = np.unique(sides, return_inverse=True)[1].reshape(sides.shape)
    cosine, first, second = np.empty(0, np.float32), np.empty(0, np.intp), np.empty(0, np.intp)
    count = 0
    for found in _alike(_unit_vectors(embeddings[clips]), threshold):
        a, b = clips[found[1]], clips[found[2]]
        apart = (groups[a] != groups[b]) & _differ(codes, a, b)
        count += int(apart.sum())
        cosine = np.append(cosine, found[0][apart])
        first, second = np.append(first, a[apart]), np.append(second, b[apart])
        best = np.lexsort((second, first, -cosine))[:limit]
        cosine, first, second = cosine[best], first[best], second[best]
    typical = _median_cosine(_unit_vectors(embeddings[clips]), seed)
    if count and typical >= threshold:
        notices.append(
            f"half of all pairs of clips have a cosine of {typical:.4f} or more: embeddings of "
            "this backbone are so alike that look-alikes mean little; raise --duplicate-cosine"
        )
    if count > limit:
        notices.append(f"{count} pairs of clips on two sides look alike; {limit} are listed")
    pairs = (
        _pair(a, b, value, sides, clip_ids)
        for a, b, value in zip(first.tolist(), second.tolist(), cosine.tolist(), strict=True)
    )
    return NearDuplicates(tuple(pairs), tuple(notices))


def _median_cosine(vectors: NDArray[np.float32], seed: int) -> float:
    """Return the median cosine of pairs drawn by chance."""
    rng = np.random.default_rng([seed, len(vectors)])
    first, second = rng.integers(len(vectors), size=(2, _NUM_TYPICAL_PAIRS))
    apart = first != second
    cosine = np.einsum("nd,nd->n", vectors[first[apart]], vectors[second[apart]])
    return float(np.median(cosine)) if len(cosine) else 0.0


def _compared(num_clips: int, max_clips: int, seed: int) -> tuple[Indices, list[str]]:
    if num_clips <= max_clips:
        return np.arange(num_clips), []
    rng = np.random.default_rng([seed, num_clips])
    notice = (
        f"look-alikes were sought among {max_clips} of {num_clips} clips, drawn by chance: others "
        "may have been missed"
    )
    return np.sort(rng.choice(num_clips, max_clips, replace=False)), [notice]


def _unit_vectors(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    vectors = embeddings.astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))


def _alike(
    units: NDArray[np.float32], threshold: float
) -> Iterator[tuple[NDArray[np.float32], Indices, Indices]]:
    """Yield cosines and clips, the first before the second, of the pairs of each tile."""
    for row in range(0, len(units), _TILE):
        for column in range(row, len(units), _TILE):
            cosine = units[row : row + _TILE] @ units[column : column + _TILE].T
            first, second = np.nonzero(cosine >= threshold - _ROUNDING)
            ordered = first + row < second + column
            first, second = first[ordered], second[ordered]
            if len(first):
                yield np.minimum(cosine[first, second], 1), first + row, second + column


def _differ(codes: Indices, a: Indices, b: Indices) -> NDArray[np.bool_]:
    """(P,) whether the pairs of clips are on different sides of any of the splits."""
    differ = np.zeros(len(a), dtype=bool)
    for column in codes.T:
        differ |= column[a] != column[b]
    return differ


def _pair(a: int, b: int, cosine: float, sides: NDArray[np.str_], clip_ids: Any) -> NearDuplicate:
    split = int((sides[a] != sides[b]).argmax())
    return NearDuplicate(
        str(clip_ids[a]), str(clip_ids[b]), str(sides[a, split]), str(sides[b, split]), cosine
    )

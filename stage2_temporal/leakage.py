"""What belongs together, and whether a split tore it apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stage2_temporal.splits import Indices, Split, check_same_length

_NUM_EXAMPLES = 5


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
    split: Split, keys: Mapping[str, NDArray[Any]], clip_ids: Sequence[str] | NDArray[Any]
) -> None:
    """Check that no value of a key is on two sides of the split; blank values are skipped.

    Args:
        split: the split of N clips.
        keys: what must stay together, by the name to show ("group patient", "content"); each (N,).
        clip_ids: (N,) names to show.

    Raises:
        LeakageError: a value is on two sides; names every such key with examples.
        ValueError: a key or `clip_ids` has another length than the split.
    """
    side = split.name_of_clip
    check_same_length(len(side), {"clip_ids": clip_ids})
    check_same_length(len(side), keys)
    problems = [text for name, key in keys.items() if (text := _leaks(name, key, side, clip_ids))]
    if problems:
        raise LeakageError(
            "\n".join(problems) + "\nKeep such clips on one side: correct the split column, or "
            "leave it out to have a grouped split made for you."
        )


def _codes(key: NDArray[Any]) -> tuple[Indices, NDArray[Any]]:
    """Return (N,) numbers of the values of a key, -1 for blank ones, and the values."""
    values = np.asarray(key).astype(object)
    blank = np.array([isinstance(value, str) and not value.strip() for value in values], dtype=bool)
    values[blank] = None
    codes, uniques = pd.factorize(values)
    return codes.astype(np.intp), np.asarray(uniques)


def _leaks(name: str, key: NDArray[Any], side: NDArray[Any], clip_ids: Any) -> str:
    """Describe the values of one key that are on two sides; empty where there is none."""
    codes, uniques = _codes(key)
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

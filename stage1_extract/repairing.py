"""Moving damaged shards away after copying what is sound in them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.compact import Part, write_parts
from stage1_extract.findings import Findings
from stage1_extract.shard_format import sync
from stage1_extract.store import EmbeddingStore

QUARANTINE = "quarantine"
"""Folder of a store for damaged shards; no reader looks into it."""


def repair_shards(folder: Path, found: Findings) -> tuple[tuple[str, ...], int]:
    """Rescue and move away shard by shard; returns where they went and how much was rescued."""
    held = np.zeros(found.key.max(initial=-1) + 1, bool)
    for number, rows in found.rows.items():
        if not found.checks[number].bad:
            held[found.key[rows][found.is_sound[rows]]] = True
    quarantined, num_rescued = [], 0
    for number, check in enumerate(found.checks):
        if not check.bad:
            continue
        if number in found.rows:
            key, sound = found.key[found.rows[number]], found.is_sound[found.rows[number]]
            # What an earlier repair, broken off, rescued is held by its new shard.
            wanted = sound & ~held[key]
            _rescue(folder, check.path, wanted)
            held[key[wanted]] = True
            num_rescued += int(wanted.sum())
        quarantined.append(str(_move_away(check.path)))
    return tuple(quarantined), num_rescued


def _rescue(folder: Path, shard: Path, wanted: NDArray[np.bool_]) -> None:
    """Copy some sequences of a shard, (S,) in the file's order, into a new one."""
    if wanted.any():
        opened = EmbeddingStore(shard)
        rows = opened.rows_of(np.arange(len(opened)))
        with opened.shards_must_be_there():
            write_parts(folder, [Part.of(opened, 0, np.flatnonzero(wanted[rows]))])


def _move_away(shard: Path) -> Path:
    folder = shard.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    target, number = folder / shard.name, 1
    while target.exists():
        number += 1
        target = folder / f"{shard.stem}-{number}{shard.suffix}"
    shard.replace(target)
    sync(folder)
    sync(shard.parent)
    return target

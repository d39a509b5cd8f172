"""Looking after a store: what it holds, and whether it still holds what was written."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stage1_extract.compact import Part, write_parts
from stage1_extract.failures import count_exceptions, read_failures
from stage1_extract.store import (
    EmbeddingStore,
    StoreError,
    embedding_hasher,
    shard_paths,
    sync,
)

QUARANTINE = "quarantine"
"""Folder of a store for damaged shards; no reader looks into it."""
_HISTOGRAM_BARS = 10
_Key = tuple[str, int]
_Source = tuple[str, str, str]


def describe_store(path: Path) -> dict[str, Any]:
    """Return totals, lengths, settings and provenance of a store, ready for JSON.

    Raises:
        StoreError: The store cannot be trusted.
    """
    store = EmbeddingStore(path)
    stated = store.column("source_stated_frame_count")
    found = store.column("source_frame_count")
    failures = read_failures(path) if path.is_dir() else {}
    first, last = store.created
    return {
        "path": str(path),
        "num_sequences": store.num_sequences,
        "num_videos": len(np.unique(store.video_ids)),
        "num_views": len(np.unique(store.views)),
        "num_frames": int(store.lengths.sum()),
        "total_duration_seconds": total_duration_seconds(store),
        "num_shards": store.num_shards,
        "num_quarantined": sum(1 for _ in (path / QUARANTINE).glob("*")),
        "num_duplicates": store.num_duplicates,
        "num_failures": len(failures),
        "failures_by_exception": count_exceptions(failures.values()),
        "num_wrong_headers": int(((stated > 0) & (stated != found)).sum()),
        "num_equal_sources": sum(len(ids) - 1 for ids in equal_sources(sources_of(store))),
        "size_bytes": sum(shard.path.stat().st_size for shard in store.shards),
        "embedding_dim": store.embedding_dim,
        "dtype": str(store.dtype),
        "lengths": _length_summary(store.lengths),
        "created": {"first": first, "last": last},
        "fingerprint": store.fingerprint,
        "settings": store.settings,
        "software": store.software,
        "execution": store.execution,
    }


def total_duration_seconds(store: EmbeddingStore) -> float:
    """Return the summed duration of the clips, each once however many views; unknown ones are 0."""
    _, videos = np.unique(store.video_ids, return_index=True)
    duration = store.column("source_duration_seconds")[videos]
    start = np.nan_to_num(store.column("clip_start_seconds")[videos], nan=0.0)
    end = np.fmin(
        store.column("clip_end_seconds")[videos], np.where(duration > 0, duration, np.nan)
    )
    return round(float(np.nansum(np.maximum(end - start, 0))), 3)


def _length_summary(lengths: np.typing.NDArray[np.int64]) -> dict[str, Any]:
    """Return quantiles, and a histogram: bar k counts edges[k] <= length < edges[k + 1]."""
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="nearest")
    names = ("min", "q25", "median", "q75", "max")
    low, high = int(lengths.min()), int(lengths.max()) + 1
    edges = np.unique(np.linspace(low, high, _HISTOGRAM_BARS + 1).round().astype(int))
    counts, _ = np.histogram(lengths, np.append(edges[:-1], edges[-1] - 0.5))
    return {
        **dict(zip(names, map(int, quantiles), strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def sources_of(store: EmbeddingStore) -> list[tuple[str, _Source]]:
    """Return (video_id, (content hash, start, end)): two parts of one file are not equal."""
    columns = ("source_hash", "clip_start_seconds", "clip_end_seconds")
    sources = zip(*(store.column(name).astype(str).tolist() for name in columns), strict=True)
    return list(zip(store.video_ids.tolist(), sources, strict=True))


def equal_sources(sources: Iterable[tuple[str, _Source]]) -> list[list[str]]:
    """Return the video_ids that share content: (video_id, source) pairs grouped by equal source."""
    ids_of: defaultdict[_Source, set[str]] = defaultdict(set)
    for video_id, source in sources:
        ids_of[source].add(video_id)
    return sorted(sorted(ids) for ids in ids_of.values() if len(ids) > 1)


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What `verify` found, and what repairing did.

    Attributes:
        num_sequences: Sequences that were read.
        bad_shards: Shards that cannot be read at all, and why.
        bad_sequences: Sequences whose content is wrong, and how.
        duplicates: Sequences that are stored more than once; one copy is read. No damage.
        equal_sources: video_ids whose sources have equal content, group by group. No damage.
        extract_again: Videos that are lost; those of unreadable shards are not known by name.
        quarantined: Where repairing moved damaged shards.
        num_rescued: Sound sequences of damaged shards that repairing copied into new shards.
    """

    num_sequences: int
    bad_shards: tuple[str, ...]
    bad_sequences: tuple[str, ...]
    duplicates: tuple[str, ...]
    equal_sources: tuple[tuple[str, ...], ...]
    extract_again: tuple[str, ...]
    quarantined: tuple[str, ...]
    num_rescued: int

    @property
    def sound(self) -> bool:
        """Whether nothing was damaged."""
        return not self.bad_shards and not self.bad_sequences


@dataclasses.dataclass(frozen=True)
class _CheckedShard:
    """A shard after reading all of it: unreadable for a reason, or its sequences and problems."""

    path: Path
    unreadable: str = ""
    opened: EmbeddingStore | None = None
    sources: Sequence[tuple[str, _Source]] = ()
    problems: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def keys(self) -> list[_Key]:
        """(video_id, view) of each position."""
        if self.opened is None:
            return []
        ids, views = self.opened.video_ids.tolist(), self.opened.views.tolist()
        return list(zip(ids, views, strict=True))

    @property
    def sound_keys(self) -> set[_Key]:
        """(video_id, view) of the sequences without a problem."""
        return {key for i, key in enumerate(self.keys) if i not in self.problems}

    @property
    def bad(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.unreadable or self.problems)


def verify_store(path: Path, *, repair: bool = False) -> VerifyResult:
    """Read everything and compare checksums; one bad shard does not hide the others.

    Args:
        path: The store's folder, or one shard.
        repair: Whether to move damaged shards into the store's folder `quarantine`, after their
            sound sequences were copied into new shards. Nothing is deleted, and if it is broken
            off, the next repair finishes it.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: There are no shards, or they do not belong together.
        ValueError: One shard is to be repaired, not a store.
        OSError: Repairing cannot write; nothing is lost.
    """
    if not path.exists():
        raise FileNotFoundError(f"no store at {path}")
    if not shard_paths(path):
        raise StoreError(f"{path} holds no shards; is it a store?")
    if repair and not path.is_dir():
        raise ValueError(f"{path} is one shard; give the store's folder to repair it")
    shards = [_check_shard(shard) for shard in shard_paths(path)]
    if not any(shard.unreadable for shard in shards):
        EmbeddingStore(path)  # do the shards belong together?
    held = {key for shard in shards for key in shard.sound_keys}
    lost = {key for shard in shards for key in shard.keys if key not in held}
    quarantined, num_rescued = _repair(path, shards) if repair else ((), 0)
    return VerifyResult(
        num_sequences=sum(len(shard.keys) for shard in shards),
        bad_shards=tuple(shard.unreadable for shard in shards if shard.unreadable),
        bad_sequences=tuple(text for shard in shards for text in _problem_texts(shard)),
        duplicates=_duplicates(shards),
        equal_sources=tuple(
            map(tuple, equal_sources(s for shard in shards for s in shard.sources))
        ),
        extract_again=tuple(sorted({video_id for video_id, _ in lost})),
        quarantined=quarantined,
        num_rescued=num_rescued,
    )


def _check_shard(path: Path) -> _CheckedShard:
    try:
        opened = EmbeddingStore(path)
        sources = sources_of(opened)
        problems = dict(_problems(opened))
    except (StoreError, OSError) as error:
        if not path.exists():
            raise StoreError(
                f"{path} is gone since it was listed; verify the store again"
            ) from error
        return _CheckedShard(path, unreadable=str(error))
    return _CheckedShard(path, opened=opened, sources=sources, problems=problems)


def _problems(shard: EmbeddingStore) -> Iterator[tuple[int, str]]:
    """Yield (position, what is wrong); of several problems of a sequence the worst comes last."""
    positions = range(shard.num_sequences)
    for i, indices in shard.frame_blocks("source_index", positions):
        if (indices < 0).any():
            yield i, "it has negative frame numbers"
    for i, times in shard.frame_blocks("time_seconds", positions):
        if np.isinf(times).any():
            yield i, "it has infinite frame times"
    for i, checksum in enumerate(shard.column("checksum").tolist()):
        if problem := _embedding_problem(shard, i, checksum):
            yield i, problem


def _embedding_problem(shard: EmbeddingStore, i: int, checksum: str) -> str:
    hasher, num_bad = embedding_hasher(), 0
    try:
        for block in shard.embedding_blocks(i):
            hasher.update(block.tobytes())
            num_bad += int((~np.isfinite(block)).any(axis=1).sum())
    except OSError as error:
        return f"it cannot be read ({error})"
    if hasher.hexdigest() != checksum:
        return "its embeddings changed: they are not what its checksum says"
    return f"{num_bad} of its frames have NaN or infinite embeddings" if num_bad else ""


def _problem_texts(shard: _CheckedShard) -> list[str]:
    keys = shard.keys
    return [f"{_text(keys[i])} in {shard.path}: {what}" for i, what in shard.problems.items()]


def _duplicates(shards: Sequence[_CheckedShard]) -> tuple[str, ...]:
    counts = Counter(key for shard in shards for key in shard.keys)
    within = [shard.opened.duplicates for shard in shards if shard.opened is not None]
    counts.update(key for keys in within for key in keys)
    return tuple(_text(key) for key, count in sorted(counts.items()) if count > 1)


def _text(key: _Key) -> str:
    return f"{key[0]} (view {key[1]})"


def _repair(folder: Path, shards: Sequence[_CheckedShard]) -> tuple[tuple[str, ...], int]:
    """Rescue and move away shard by shard; returns where they went and how much was rescued."""
    held = {key for shard in shards if not shard.bad for key in shard.sound_keys}
    quarantined, num_rescued = [], 0
    for shard in shards:
        if not shard.bad:
            continue
        # What an earlier repair, broken off, rescued is held by its new shard.
        wanted = shard.sound_keys - held
        if shard.opened is not None and wanted:
            positions = [i for i, key in enumerate(shard.keys) if key in wanted]
            write_parts(folder, [Part(shard.opened, 0, np.array(positions))])
        held |= wanted
        num_rescued += len(wanted)
        quarantined.append(str(_move_away(shard.path)))
    return tuple(quarantined), num_rescued


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

"""What a store holds, in numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.equal_content import SOURCE_COLUMNS, changes, equal_sources
from stage1_extract.failures import count_exceptions, read_failures
from stage1_extract.repairing import QUARANTINE
from stage1_extract.store import EmbeddingStore

_HISTOGRAM_BARS = 10
_COUNT_COLUMNS = ("source_stated_frame_count", "source_frame_count")


def describe_store(path: Path) -> dict[str, Any]:
    """Return totals, lengths, settings and provenance of a store, ready for JSON.

    Raises:
        StoreError: The store cannot be trusted.
    """
    store = EmbeddingStore(path)
    columns = store.columns((*_COUNT_COLUMNS, "source_duration_seconds", *SOURCE_COLUMNS))
    stated, found = (columns[name] for name in _COUNT_COLUMNS)
    sources = [columns[name] for name in SOURCE_COLUMNS]
    first_views = changes(store.video_ids)
    failures = read_failures(path) if path.is_dir() else {}
    first, last = store.created
    return {
        "path": str(path),
        "num_sequences": store.num_sequences,
        "num_videos": int(first_views.sum()),
        "num_views": len(np.unique(store.views)),
        "num_frames": int(store.lengths.sum()),
        "total_duration_seconds": total_duration_seconds(
            columns["source_duration_seconds"][first_views], *(s[first_views] for s in sources[1:])
        ),
        "num_shards": store.num_shards,
        "num_quarantined": sum(1 for _ in (path / QUARANTINE).glob("*")),
        "num_duplicates": store.num_duplicates,
        "num_failures": len(failures),
        "failures_by_exception": count_exceptions(failures.values()),
        "num_wrong_headers": int(((stated > 0) & (stated != found)).sum()),
        "num_equal_sources": sum(len(ids) - 1 for ids in equal_sources(store.video_ids, *sources)),
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


def total_duration_seconds(
    duration: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> float:
    """Return the summed duration of clips; unknown ones are 0.

    Args:
        duration: (N,) of the clips' files in seconds.
        start: (N,) where in them the clips begin; NaN for the file's start.
        end: (N,) where they end; NaN for the file's end.
    """
    start = np.nan_to_num(start, nan=0.0)
    end = np.fmin(end, np.where(duration > 0, duration, np.nan))
    return round(float(np.nansum(np.maximum(end - start, 0))), 3)


def _length_summary(lengths: NDArray[np.int64]) -> dict[str, Any]:
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

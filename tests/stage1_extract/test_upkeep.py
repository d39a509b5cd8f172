"""What a store holds, in numbers that were counted by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from stage1_extract.equal_content import equal_sources
from stage1_extract.failures import Failure, append_failure
from stage1_extract.upkeep import describe_store, total_duration_seconds
from tests.conftest import ShardFactory


@pytest.fixture
def shard(tmp_path: Path, make_shard: ShardFactory) -> Path:
    frames = np.random.default_rng(0).random((9, 5)).astype(np.float16)
    sequences = {("a", 0): frames[:4], ("b", 0): frames[4:7], ("b", 1): frames[7:]}
    return make_shard(tmp_path / "store" / "a.h5", sequences)


def test_description_counts_what_is_there(shard: Path, make_shard: ShardFactory) -> None:
    make_shard(shard.with_name("b.h5"), {("a", 0): np.ones((4, 5), np.float16)})
    append_failure(shard.parent, Failure.of("x", Path("x.mp4"), ValueError("bad")))
    description = describe_store(shard.parent)
    expected = {
        "num_sequences": 3,
        "num_videos": 2,
        "num_frames": 9,
        "num_shards": 2,
        "num_duplicates": 1,
        "num_failures": 1,
        "num_wrong_headers": 0,
        "num_equal_sources": 1,
        "num_views": 2,
        "num_quarantined": 0,
        "failures_by_exception": {"ValueError": 1},
        "total_duration_seconds": 4.0,
        "embedding_dim": 5,
        "dtype": "float16",
        "settings": {"backbone": "MobileNet"},
    }
    assert {name: description[name] for name in expected} == expected
    lengths = description["lengths"]
    assert (lengths["min"], lengths["median"], lengths["max"]) == (2, 3, 4)

    assert lengths["histogram"] == {"edges": [2, 3, 4, 5], "counts": [1, 1, 1]}
    created = description["created"]
    assert created["first"] <= created["last"]


def test_histogram_counts_every_length_once(tmp_path: Path, make_shard: ShardFactory) -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 100).tolist()
    frames = np.ones((200, 2), np.float16)
    shard = make_shard(tmp_path / "a.h5", {(f"{i}", 0): frames[:n] for i, n in enumerate(lengths)})
    histogram = describe_store(shard)["lengths"]["histogram"]
    edges = histogram["edges"]
    expected = [sum(low <= n < high for n in lengths) for low, high in itertools.pairwise(edges)]
    assert histogram["counts"] == expected
    assert sum(expected) == 100


def test_equal_sources_are_grouped() -> None:
    """b and a are whole copies of one file, twice; c and e are one part of it."""
    nan = np.nan
    rows = [
        ("b", "h", nan, nan),
        ("a", "h", nan, nan),
        ("a", "h", nan, nan),
        ("c", "h", 0.0, 1.0),
        ("d", "g", nan, nan),
        ("e", "h", 0.0, 1.0),
        ("f", "h", nan, 1.0),
        ("g", "h", 0.0, nan),
    ]
    for chosen in (rows, rows[::-1]):
        assert equal_sources(*map(np.array, zip(*chosen, strict=True))) == [["a", "b"], ["c", "e"]]
    empty = np.empty(0)
    assert equal_sources(np.empty(0, "U1"), np.empty(0, "U1"), empty, empty) == []


@pytest.mark.parametrize(
    ("start", "end", "duration", "expected"),
    [(None, None, 2.0, 2), (0.5, None, 2.0, 1.5), (0.5, 1.5, 2.0, 1), (1.0, 9.0, 2.0, 1)],
)
def test_duration_is_that_of_the_clip(
    start: float | None, end: float | None, duration: float, expected: float
) -> None:
    """Beside it a clip of a file whose duration is unknown, and one with an end."""
    columns = ([duration, np.nan, np.nan], [start, start, start], [end, end, 9.0])
    arrays = (np.array(column, np.float64) for column in columns)
    known = (0 if end is None else end - (start or 0)) + 9 - (start or 0)
    assert total_duration_seconds(*arrays) == expected + known


def test_duration_counts_a_clip_with_views_once(shard: Path) -> None:
    assert describe_store(shard)["total_duration_seconds"] == 4.0


def test_description_counts_damaged_shards_that_were_set_aside(shard: Path) -> None:
    (shard.parent / "quarantine").mkdir()
    (shard.parent / "quarantine" / "b.h5").touch()
    assert describe_store(shard.parent)["num_quarantined"] == 1

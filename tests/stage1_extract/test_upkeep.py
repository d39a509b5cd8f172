"""Looking after a store: totals that were counted by hand, and damage that must be found."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from stage1_extract.failures import Failure, append_failure
from stage1_extract.store import EmbeddingStore, StoreError
from stage1_extract.upkeep import describe_store, num_repeated, verify_store
from tests.conftest import ShardFactory


def offset_of(shard: Path, name: str) -> tuple[int, int]:
    """Return where a dataset's bytes begin and how many there are."""
    with h5py.File(shard) as file:
        return file[name].id.get_offset(), file[name].nbytes


def flip(shard: Path, position: int) -> None:
    content = bytearray(shard.read_bytes())
    content[position] ^= 0x10
    shard.write_bytes(content)


@pytest.fixture
def shard(tmp_path: Path, make_shard: ShardFactory) -> Path:
    frames = np.random.default_rng(0).random((9, 5)).astype(np.float16)
    sequences = {("a", 0): frames[:4], ("b", 0): frames[4:7], ("b", 1): frames[7:]}
    return make_shard(tmp_path / "store" / "a.h5", sequences)


def test_sound_store_verifies(shard: Path) -> None:
    for path in (shard, shard.parent):
        result = verify_store(path)
        assert (result.num_sequences, result.sound) == (3, True)


def test_every_flipped_embedding_byte_is_found_in_its_sequence(shard: Path) -> None:
    start, size = offset_of(shard, "frames/embedding")
    content = shard.read_bytes()
    for position in range(size):
        shard.write_bytes(content)
        flip(shard, start + position)
        name = "a (view 0)" if position < 40 else "b (view 0)" if position < 70 else "b (view 1)"
        result = verify_store(shard.parent)
        assert [text.split(" in ")[0] for text in result.bad_sequences] == [name]


@pytest.mark.parametrize("step", [61, pytest.param(7, marks=pytest.mark.slow)])
def test_flip_anywhere_is_found_or_leaves_the_embeddings_alone(shard: Path, step: int) -> None:
    content = shard.read_bytes()
    store = EmbeddingStore(shard)
    expected = sorted(store.read(i).tobytes() for i in range(3))
    for position in range(0, len(content), step):
        shard.write_bytes(content)
        flip(shard, position)
        if verify_store(shard).sound:
            store = EmbeddingStore(shard)
            assert sorted(store.read(i).tobytes() for i in range(store.num_sequences)) == expected


@pytest.mark.parametrize("bad_name", ["0.h5", "z.h5"])
def test_bad_shard_does_not_hide_the_others(shard: Path, bad_name: str) -> None:
    shard.with_name(bad_name).write_bytes(shard.read_bytes()[:3000])
    start, _ = offset_of(shard, "frames/embedding")
    flip(shard, start)
    result = verify_store(shard.parent)
    assert not result.sound
    assert len(result.bad_shards) == len(result.bad_sequences) == 1
    assert bad_name in result.bad_shards[0]


@pytest.mark.parametrize("value", [b"\xff\xfe", None])
def test_shard_without_readable_checksums_is_bad_and_hides_no_other(
    shard: Path, make_shard: ShardFactory, value: bytes | None
) -> None:
    make_shard(shard.with_name("b.h5"), {("c", 0): np.ones((2, 5), np.float16)})
    with h5py.File(shard, "r+") as file:
        del file["sequences/checksum"]
        if value is not None:
            file["sequences/checksum"] = np.array([value] * 3)
    result = verify_store(shard.parent)
    assert not result.sound
    assert "a.h5" in str(result)
    assert result.num_sequences in (1, 4)


def test_shards_of_different_settings_are_refused(shard: Path, make_shard: ShardFactory) -> None:
    ones = np.ones((1, 5), np.float16)
    make_shard(shard.with_name("b.h5"), {("c", 0): ones}, settings={"backbone": "Other"})
    with pytest.raises(StoreError, match="'MobileNet' against 'Other'"):
        verify_store(shard.parent)


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no store"):
        verify_store(tmp_path / "nothing")
    with pytest.raises(StoreError, match="no shards"):
        verify_store(tmp_path)


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
        "num_equal_sources": 2,
        "embedding_dim": 5,
        "dtype": "float16",
        "settings": {"backbone": "MobileNet"},
    }
    assert {name: description[name] for name in expected} == expected
    lengths = description["lengths"]
    assert (lengths["min"], lengths["median"], lengths["max"]) == (2, 3, 4)


@pytest.mark.parametrize(("values", "expected"), [([], 0), (["a"], 0), (["a", "b", "a", "a"], 2)])
def test_repeated_values_are_those_seen_before(values: list[str], expected: int) -> None:
    assert num_repeated(values) == expected

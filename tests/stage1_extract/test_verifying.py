"""Verifying and repairing a store: damage must be found, and what is sound be kept."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from stage1_extract import repairing
from stage1_extract.store import EmbeddingStore, StoreError
from stage1_extract.verifying import verify_store
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


@pytest.mark.parametrize("step", [61, pytest.param(17, marks=pytest.mark.xslow)])
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


# what verify reports


def write_frames(shard: Path, name: str, row: int, value: float) -> None:
    with h5py.File(shard, "r+") as file:
        file[f"frames/{name}"][row] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("time_seconds", np.inf, "infinite frame times"),
        ("time_seconds", np.nan, ""),
        ("source_index", -1, "negative frame numbers"),
        ("embedding", 0.25, "embeddings changed"),
    ],
)
def test_wrong_frames_are_named(shard: Path, name: str, value: float, message: str) -> None:
    write_frames(shard, name, 5, value)
    problems = verify_store(shard).bad_sequences
    assert len(problems) == bool(message)
    assert all(text.startswith("b (view 0) in") and message in text for text in problems)


def test_values_that_are_not_finite_are_bad_although_the_checksum_is_right(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    frames = np.ones((3, 2), np.float16)
    frames[1, 0] = np.nan
    result = verify_store(make_shard(tmp_path / "a.h5", {("a", 0): frames}))
    assert "1 of its frames have NaN" in result.bad_sequences[0]
    assert result.extract_again == ("a",)


def test_copies_and_equal_content_are_reported_and_no_damage(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("b", 1): np.ones((2, 5), np.float16)})
    result = verify_store(shard.parent)
    assert result.sound
    assert (result.duplicates, result.equal_sources) == (("b (view 1)",), (("a", "b"),))


# repairing


def contents(store_path: Path) -> dict[tuple[str, int], bytes]:
    store = EmbeddingStore(store_path)
    keys = zip(store.video_ids.tolist(), store.views.tolist(), strict=True)
    return {key: store.read(i).tobytes() for i, key in enumerate(keys)}


def test_repair_keeps_sound_sequences_and_moves_the_damaged_shard(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("c", 0): np.ones((2, 5), np.float16)})
    expected = contents(shard.parent)
    write_frames(shard, "embedding", 5, 0.25)
    damaged = shard.read_bytes()
    result = verify_store(shard.parent, repair=True)
    assert (result.sound, result.num_rescued, result.extract_again) == (False, 2, ("b",))
    assert result.quarantined == (str(shard.parent / "quarantine" / "a.h5"),)
    assert Path(result.quarantined[0]).read_bytes() == damaged
    assert contents(shard.parent) == {k: v for k, v in expected.items() if k != ("b", 0)}
    assert verify_store(shard.parent).sound
    assert len(list((shard.parent / "quarantine").iterdir())) == 1


def test_repaired_sequences_keep_times_and_facts(shard: Path) -> None:
    before = EmbeddingStore(shard)
    write_frames(shard, "embedding", 5, 0.25)
    verify_store(shard.parent, repair=True)
    after = EmbeddingStore(shard.parent)
    i = after.find("b", 1)
    assert after.frame_times(i).tolist() == [0.0, 0.1]
    assert after.frame_indices(i).tolist() == [0, 3]
    assert after.column("source_path").tolist() == ["/videos/a.mp4", "/videos/b.mp4"]
    assert (after.settings, after.software) == (before.settings, before.software)


@pytest.mark.parametrize("bad_name", ["0.h5", "z.h5"])
def test_a_sound_copy_elsewhere_makes_extracting_again_needless(shard: Path, bad_name: str) -> None:
    expected = contents(shard.parent)
    bad = shard.with_name(bad_name)
    bad.write_bytes(shard.read_bytes())
    write_frames(bad, "embedding", 5, 0.25)
    result = verify_store(shard.parent, repair=True)
    assert (result.num_rescued, result.extract_again, len(result.duplicates)) == (0, (), 3)
    assert contents(shard.parent) == expected
    assert EmbeddingStore(shard.parent).num_duplicates == 0


def test_repair_broken_off_before_the_move_is_finished_by_the_next(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {k: v for k, v in contents(shard).items() if k != ("b", 0)}
    write_frames(shard, "embedding", 5, 0.25)
    with monkeypatch.context() as patched:
        patched.setattr(repairing, "_move_away", lambda _: sys.exit("killed"))
        with pytest.raises(SystemExit):
            verify_store(shard.parent, repair=True)
    assert {k: v for k, v in contents(shard.parent).items() if k != ("b", 0)} == expected
    result = verify_store(shard.parent, repair=True)
    assert (result.num_rescued, result.extract_again) == (0, ("b",))
    assert contents(shard.parent) == expected
    assert verify_store(shard.parent).duplicates == ()


def test_unreadable_shards_are_moved_whole_under_names_of_their_own(
    shard: Path, make_shard: ShardFactory
) -> None:
    cut = shard.read_bytes()[:3000]
    for _ in range(2):
        shard.with_name("bad.h5").write_bytes(cut)
        result = verify_store(shard.parent, repair=True)
        assert len(result.bad_shards) == 1
    moved = sorted((shard.parent / "quarantine").iterdir())
    assert [(path.name, path.read_bytes() == cut) for path in moved] == [
        ("bad-2.h5", True),
        ("bad.h5", True),
    ]
    assert EmbeddingStore(shard.parent).num_sequences == 3


def test_full_disk_while_repairing_moves_nothing(
    tiny_filesystem: Path, make_shard: ShardFactory
) -> None:
    frames = np.ones((300, 1000), np.float16)
    shard = make_shard(tiny_filesystem / "a.h5", {("a", 0): frames[:10], ("b", 0): frames[10:]})
    write_frames(shard, "time_seconds", 0, np.inf)
    with pytest.raises(OSError, match="No space left"):
        verify_store(tiny_filesystem, repair=True)
    assert [path.name for path in tiny_filesystem.iterdir()] == ["a.h5"]


def test_one_shard_is_not_repaired(shard: Path) -> None:
    with pytest.raises(ValueError, match="give the store's folder"):
        verify_store(shard, repair=True)

"""Compaction: fewer shards with the same content, and nothing lost however it ends."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.compact import CompactResult, compact_store
from stage1_extract.store import EmbeddingStore, Shard, StoreError, shard_paths
from tests.conftest import ShardFactory

ROW_BYTES = 10  # five float16 values


def frames(num_frames: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).random((num_frames, 5)).astype(np.float16)


def contents(path: Path) -> dict[tuple[str, int], tuple[bytes, bytes, bytes, str]]:
    """Return all that is stored of each sequence, by (video_id, view)."""
    store = EmbeddingStore(path)
    sources = store.column("source_path").tolist()
    return {
        (str(store.video_ids[i]), int(store.views[i])): (
            store.read(i).tobytes(),
            store.frame_times(i).tobytes(),
            store.frame_indices(i).tobytes(),
            sources[i],
        )
        for i in range(len(store))
    }


@pytest.fixture
def folder(tmp_path: Path, make_shard: ShardFactory) -> Path:
    """Six shards of 10 to 60 frames, the ids in no order."""
    folder = tmp_path / "store"
    for i in range(6):
        sequences = {(f"v{5 - i}", 0): frames(5 + 5 * i, i), (f"w{i}", 1): frames(5 + 5 * i, -~i)}
        make_shard(folder / f"{i}.h5", sequences)
    return folder


@pytest.mark.parametrize(
    ("shard_bytes", "sizes"),
    [
        (10**6, [210]),
        (100 * ROW_BYTES, [50, 60, 100]),  # 10 + 20 + 30 + 40, then two that are half of it
        (60 * ROW_BYTES, [30, 40, 50, 60, 30]),  # 10 + 20, for 30 is half of it
        (ROW_BYTES, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_small_shards_are_merged_up_to_the_wanted_size(
    folder: Path, shard_bytes: int, sizes: list[int]
) -> None:
    expected = contents(folder)
    result = compact_store(folder, shard_bytes=shard_bytes)
    assert result == CompactResult(6, len(sizes), 12, 0)
    shards = [EmbeddingStore(path) for path in shard_paths(folder)]
    assert [int(shard.lengths.sum()) for shard in shards] == sizes
    assert contents(folder) == expected


def test_without_anything_to_do_no_file_is_touched(folder: Path) -> None:
    compact_store(folder, shard_bytes=100 * ROW_BYTES)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = compact_store(folder, shard_bytes=100 * ROW_BYTES)
    assert result.num_shards_before == result.num_shards_after == 3
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_no_store_is_refused_and_a_single_shard_left_alone(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty holds no shards"):
        compact_store(tmp_path / "empty")
    assert compact_store(folder / "0.h5").num_shards_after == 1
    with pytest.raises(FileNotFoundError, match="no store"):
        compact_store(tmp_path / "nothing")
    with pytest.raises(ValueError, match="shard_bytes is 0"):
        compact_store(folder, shard_bytes=0)


def test_copies_are_removed_and_those_that_were_read_stay(
    folder: Path, make_shard: ShardFactory
) -> None:
    make_shard(folder / "z.h5", {("v0", 0): frames(9, 99), ("v1", 0): frames(9, 98)})
    make_shard(folder / "big.h5", {("v2", 0): frames(100, 97), ("new", 0): frames(200, 96)})
    expected = contents(folder)
    assert EmbeddingStore(folder).num_duplicates == 3
    result = compact_store(folder, shard_bytes=300 * ROW_BYTES)
    assert result.num_duplicates_removed == 3
    assert contents(folder) == expected
    assert EmbeddingStore(folder).num_duplicates == 0


def test_shards_with_and_without_views_stay_apart(tmp_path: Path, make_shard: ShardFactory) -> None:
    plain, views = {"views": None}, {"views": {"count": 1}}
    for i in range(4):
        sequences = {(f"v{i // 2}", i % 2): frames(3, i)}
        make_shard(tmp_path / f"{i}.h5", sequences, settings=views if i % 2 else plain)
    expected = contents(tmp_path)
    assert compact_store(tmp_path).num_shards_after == 2
    shards = [EmbeddingStore(path) for path in shard_paths(tmp_path)]
    assert [(s.settings, s.views.tolist()) for s in shards] == [(plain, [0, 0]), (views, [1, 1])]
    assert contents(tmp_path) == expected


def test_provenance_is_the_first_shards_and_tells_how_many_there_were(
    folder: Path, make_shard: ShardFactory
) -> None:
    before = EmbeddingStore(folder)
    compact_store(folder)
    make_shard(folder / "z.h5", {("z", 0): frames(1)})
    compact_store(folder)
    after = EmbeddingStore(folder)
    assert (after.num_shards, after.fingerprint) == (1, before.fingerprint)
    assert after.software == before.software
    assert after.execution["compacted_from"] == 7
    assert after.execution["batch_size"] == before.execution["batch_size"]
    assert after.created[0] == before.created[0]


# damage


def damage(shard: Path, i: int) -> None:
    opened = EmbeddingStore(shard)
    content = bytearray(shard.read_bytes())
    content[content.index(opened.read(i).tobytes())] ^= 1
    shard.write_bytes(content)


def test_damaged_sequence_stops_it_and_leaves_the_old_shards(folder: Path) -> None:
    damage(folder / "3.h5", 0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=r"v2 \(view 0\) in .*3\.h5.*verify .* --repair"):
        compact_store(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_copy_stays_while_the_one_that_is_read_is_damaged(
    folder: Path, make_shard: ShardFactory
) -> None:
    store = EmbeddingStore(folder)
    make_shard(folder / "z.h5", {("v0", 0): store.read(store.find("v0"))})
    damage(folder / "5.h5", 0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for shard_bytes in (ROW_BYTES, 50 * ROW_BYTES, 10**6):
        with pytest.raises(StoreError, match=r"v0 \(view 0\).*--repair"):
            compact_store(folder, shard_bytes=shard_bytes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_full_disk_loses_nothing(tiny_filesystem: Path, make_shard: ShardFactory) -> None:
    ones = np.ones((100, 1000), np.float16)
    for i in range(4):
        make_shard(tiny_filesystem / f"{i}.h5", {(f"v{i}", 0): ones * i})
    before = {path.name: path.read_bytes() for path in tiny_filesystem.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        compact_store(tiny_filesystem)
    assert {path.name: path.read_bytes() for path in tiny_filesystem.iterdir()} == before


COMPACT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from stage1_extract.compact import compact_store

left = int(sys.argv[2])

def die_at_last(event, arguments):
    # What compaction does to files: read embeddings, sync, rename, remove.
    global left
    if event in ("open", "os.rename", "os.remove"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die_at_last)
compact_store(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_at_any_moment_loses_nothing(folder: Path, tmp_path: Path) -> None:
    expected = contents(folder)
    num_shards = []
    for moment in range(0, 60, 2):
        copy = Path(shutil.copytree(folder, tmp_path / f"{moment}"))
        command = [sys.executable, "-c", COMPACT_AND_DIE, str(copy), str(moment)]
        done = subprocess.run(command, check=False, timeout=60)
        num_shards.append(len(shard_paths(copy)))
        assert contents(copy) == expected
        compact_store(copy)
        assert (len(shard_paths(copy)), contents(copy)) == (1, expected)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0
    assert {6, 7, 1} < set(num_shards)  # killed before the new shard, and while removing the old


@pytest.mark.parametrize("num_removed", [0, 2, 5, 6])
def test_copies_that_a_crash_left_are_resolved_and_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_removed: int
) -> None:
    expected = contents(folder)
    unlink, removed = Path.unlink, list[Path]()

    def unlink_some(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".h5":
            if len(removed) == num_removed:
                sys.exit("killed")
            removed.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_some)
        if num_removed < 6:
            with pytest.raises(SystemExit):
                compact_store(folder)
        else:
            compact_store(folder)
    assert contents(folder) == expected
    compact_store(folder)
    assert len(shard_paths(folder)) == 1
    assert contents(folder) == expected


# others at the same time


def test_shards_added_meanwhile_stay(
    folder: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(folder)
    blocks = Shard.embedding_blocks

    def add_and_read(shard: Shard, ranges: Any) -> Any:
        if not (folder / "late.h5").exists():
            make_shard(folder / "late.h5", {("late", 0): frames(3), ("v0", 0): frames(30)})
        return blocks(shard, ranges)

    monkeypatch.setattr(Shard, "embedding_blocks", add_and_read)
    assert compact_store(folder).num_shards_after == 1
    assert "late.h5" in {path.name for path in shard_paths(folder)}
    assert set(contents(folder)) == {*expected, ("late", 0)}


def test_mapped_shards_are_read_on_and_others_ask_to_open_again(folder: Path) -> None:
    mapped, opened = EmbeddingStore(folder), EmbeddingStore(folder)
    before = [mapped.read(i).tobytes() for i in range(len(mapped))]
    compact_store(folder)
    assert [mapped.read(i).tobytes() for i in range(len(mapped))] == before
    with pytest.raises(StoreError, match="compacted since it was opened; open it again"):
        opened.read(0)


def test_two_at_once_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(folder)
    from stage1_extract import compact

    write = compact.write_parts

    def compact_before_removing(path: Path, parts: Any) -> None:
        write(path, parts)
        monkeypatch.setattr(compact, "write_parts", write)
        compact_store(folder)

    monkeypatch.setattr(compact, "write_parts", compact_before_removing)
    compact_store(folder)
    assert contents(folder) == expected


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, make_shard: ShardFactory) -> None:
    megabytes = 96
    block = np.ones((megabytes, 2**18), np.float32)  # 1 MiB a frame
    for i in range(3):
        make_shard(tmp_path / f"{i}.h5", {(f"v{i}", 0): block})
    del block
    script = (
        "import sys, resource; from pathlib import Path\n"
        "from stage1_extract.compact import compact_store\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "compact_store(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.check_output([sys.executable, "-c", script, str(tmp_path)])
    assert int(grown) * 1024 < 32 * 2**20  # of 288 MiB; Linux counts in KiB
    assert len(shard_paths(tmp_path)) == 1

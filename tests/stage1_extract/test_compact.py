"""Compaction: fewer shards with the same content, and nothing lost however it ends."""

import itertools
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract import compact
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

folder, left = sys.argv[1], int(sys.argv[2])

def die_at_last(event, arguments):
    # What compaction does to the store's files: read embeddings, sync, rename, remove.
    global left
    if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die_at_last)
compact_store(Path(folder))
"""


@pytest.mark.xslow
def test_kill_at_any_moment_loses_nothing(folder: Path, tmp_path: Path) -> None:
    expected = contents(folder)
    num_shards = []
    for moment in itertools.count():
        copy = Path(shutil.copytree(folder, tmp_path / f"{moment}"))
        command = [sys.executable, "-c", COMPACT_AND_DIE, str(copy), str(moment)]
        done = subprocess.run(command, check=False, timeout=300)
        num_shards.append(len(shard_paths(copy)))
        assert contents(copy) == expected
        compact_store(copy)
        assert (len(shard_paths(copy)), contents(copy)) == (1, expected)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    # Killed before the new shard, with it, and after each old one that was removed.
    assert [number for number, _ in itertools.groupby(num_shards)] == [6, 7, 6, 5, 4, 3, 2, 1]


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


def test_one_that_meets_another_at_work_leaves_and_takes_its_shards_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(folder)
    write = compact.write_parts

    def compact_before_removing(path: Path, parts: Any) -> Path:
        written = write(path, parts)
        monkeypatch.setattr(compact, "write_parts", write)
        compact_store(folder)
        return written

    monkeypatch.setattr(compact, "write_parts", compact_before_removing)
    with pytest.raises(StoreError, match=r"another compaction or repair of .*store is at work"):
        compact_store(folder)
    assert len(shard_paths(folder)) == 1
    assert contents(folder) == expected


class Turns:
    """Compactions in threads that write or remove a shard, or look for one, when they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._of_thread = folder, threading.local()
        monkeypatch.setattr(compact, "EmbeddingStore", self._in_turn(EmbeddingStore))
        monkeypatch.setattr(compact, "write_parts", self._in_turn(compact.write_parts))
        monkeypatch.setattr(Path, "unlink", self._in_turn(Path.unlink))

    def _in_turn(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if turn := getattr(self._of_thread, "turn", None):
                turn()
            return action(*arguments, **options)

        return act

    def start(self, shard_bytes: int) -> Iterator[None]:
        """Return an iterator, each step of which lets a compaction act once."""
        go, done, ended = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

        def turn() -> None:
            done.release()
            go.acquire()

        def run() -> None:
            go.acquire()
            self._of_thread.turn = turn
            try:
                with suppress(StoreError):  # it met another one, and left
                    compact_store(self._folder, shard_bytes=shard_bytes)
            finally:
                ended.set()
                done.release()

        threading.Thread(target=run, daemon=True).start()
        while not ended.is_set():
            go.release()
            assert done.acquire(timeout=300)
            yield


@pytest.fixture
def with_copies(tmp_path: Path, make_shard: ShardFactory) -> Path:
    """A store in which s stands three times, and each shard is half of 300 bytes or nearly so."""
    s = frames(3, 9)
    for name, sequences in {
        "0": {"s": s, "a": frames(10, 2)},
        "1": {"b": frames(13, 3)},
        "2": {"s": s, "c": frames(13, 4)},
        "3": {"d": frames(9, 5), "s": s},
    }.items():
        make_shard(tmp_path / "store" / f"{name}.h5", {(n, 0): f for n, f in sequences.items()})
    return tmp_path / "store"


@pytest.mark.xslow
def test_two_at_once_lose_nothing_whatever_their_order(
    with_copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(with_copies)
    for before, within in itertools.product(range(12), range(1, 12)):
        folder = Path(shutil.copytree(with_copies, tmp_path / "copy"))
        with monkeypatch.context() as patched:
            turns = Turns(folder, patched)
            one, other = (turns.start(shard_bytes=300) for _ in range(2))
            for turn in (islice(one, before), islice(other, within), one, other):
                deque(turn, 0)
        assert contents(folder) == expected
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(20))
def test_three_at_once_lose_nothing(
    with_copies: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    expected, rng = contents(with_copies), np.random.default_rng(seed)
    with monkeypatch.context() as patched:
        turns = Turns(with_copies, patched)
        running = [turns.start(shard_bytes) for shard_bytes in (300, 10**6, 200)]
        while running:
            one = running[rng.integers(len(running))]
            if next(one, "ended") == "ended":
                running.remove(one)
    assert contents(with_copies) == expected
    compact_store(with_copies)
    assert EmbeddingStore(with_copies).num_duplicates == 0


def test_shards_that_share_sequences_become_shards_of_the_wanted_size(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    plain, views = {"views": None}, {"views": {"count": 1}}
    for name, ids in {"a": "123", "b": "345", "c": "567", "d": "8", "e": "7"}.items():
        sequences = {(i, 0): frames(10, int(i)) for i in ids}
        make_shard(tmp_path / f"{name}.h5", sequences, settings=views if name == "e" else plain)
    expected = contents(tmp_path)
    result = compact_store(tmp_path, shard_bytes=50 * ROW_BYTES)
    assert result == CompactResult(5, 3, 8, 3)
    lengths = [int(EmbeddingStore(path).lengths.sum()) for path in shard_paths(tmp_path)]
    assert sorted(lengths) == [10, 20, 50]  # d; c without 5; a, and b without 3; nothing of e
    assert contents(tmp_path) == expected


def test_what_was_written_for_shards_that_stay_is_taken_back(
    with_copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write, written = shard_paths(with_copies), compact.write_parts, list[Path]()

    def fill_the_disk(path: Path, parts: Any) -> Path:
        if written:
            raise OSError("no space left")
        written.append(write(path, parts))
        return written[0]

    monkeypatch.setattr(compact, "write_parts", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        compact_store(with_copies, shard_bytes=200)
    assert written
    assert shard_paths(with_copies) == before


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

"""The index of many shards: it spares time, and changes nothing that a reader sees."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract import shard_index, shard_set
from stage1_extract.shard_index import INDEX_NAME, read_index, write_index
from stage1_extract.shard_reading import open_shard
from stage1_extract.store import (
    EmbeddingStore,
    StoreError,
    remove_stale_partials,
    shard_paths,
)
from tests.conftest import ShardFactory

HOUR_NS = 3600 * 10**9


def frames(seed: int, num_frames: int = 2) -> NDArray[Any]:
    return np.random.default_rng(seed).random((num_frames, 3)).astype(np.float16)


def settle(folder: Path, age_ns: int = HOUR_NS) -> None:
    """Make the shards old enough to be indexed."""
    for number, path in enumerate(sorted(folder.glob("*.h5"))):
        modified = time.time_ns() - age_ns + number
        os.utime(path, ns=(modified, modified))


def seen(folder: Path) -> Any:
    """Return all that a reader sees of a store, or the error."""
    try:
        store = EmbeddingStore(folder)
    except StoreError as error:
        return str(error)
    return (
        [
            (str(store.video_ids[i]), int(store.views[i]), store.read(i).tobytes())
            for i in range(len(store))
        ],
        [store.shards[number].path.name for number in store.shard_number.tolist()],
        store.duplicates,
        store.settings,
        store.created,
        store.software,
        store.execution,
        store.column("source_path").tolist(),
        [store.frame_indices(i).tolist() for i in range(len(store))],
    )


def seen_without_index(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_set, "read_index", lambda _: {})
        patched.setattr(shard_set, "is_worth_writing", lambda _: False)
        return seen(folder)


@pytest.fixture
def indexed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes an index of few shards, too."""
    monkeypatch.setattr(shard_index, "_WORTH_SHARDS", 1)


@pytest.fixture
def folder(tmp_path: Path, make_shard: ShardFactory, indexed_early: None) -> Path:
    """A store of three settled shards, with a copy and two settings, and its index."""
    folder = tmp_path / "store"
    make_shard(folder / "a.h5", {("v2", 0): frames(2), ("v0", 0): frames(0, 5)})
    make_shard(
        folder / "b.h5",
        {("v0", 1): frames(9), ("v0", 0): frames(0, 5)},
        settings={"backbone": "MobileNet", "views": {"count": 1}},
    )
    make_shard(folder / "ć.h5", {("ü", 0): frames(7)})
    settle(folder)
    seen(folder)
    assert len(read_index(folder)) == 3
    return folder


@pytest.fixture
def opened_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that opening a store reads, by name."""
    names: list[str] = []

    def open_and_tell(path: Path) -> Any:
        names.append(path.name)
        return open_shard(path)

    monkeypatch.setattr(shard_set, "open_shard", open_and_tell)
    return names


def test_unchanged_shards_are_not_opened(folder: Path, opened_anew: list[str]) -> None:
    store = EmbeddingStore(folder)
    assert opened_anew == []
    assert store.video_ids.tolist() == ["v0", "v0", "v2", "ü"]
    assert store.lengths.tolist() == [5, 2, 2, 2]
    assert store.duplicates == [("v0", 0)]
    assert seen(folder) == seen_without_index(folder)


def test_small_stores_have_no_index(tmp_path: Path, make_shard: ShardFactory) -> None:
    make_shard(tmp_path / "a.h5", {("a", 0): frames(0)})
    settle(tmp_path)
    EmbeddingStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_many_shards_or_many_sequences_have_one(
    tmp_path: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make_shard(tmp_path / "many" / "00.h5", {("a", 0): frames(0)})
    for number in range(1, 32):
        shutil.copy(shard, shard.with_name(f"{number:02}.h5"))
    settle(tmp_path / "many")
    EmbeddingStore(tmp_path / "many")
    assert len(read_index(tmp_path / "many")) == 32
    monkeypatch.setattr(shard_index, "_WORTH_SEQUENCES", 2)
    make_shard(tmp_path / "big" / "a.h5", {("a", 0): frames(0), ("b", 0): frames(0)})
    settle(tmp_path / "big")
    EmbeddingStore(tmp_path / "big")
    assert len(read_index(tmp_path / "big")) == 1


@pytest.mark.parametrize("age_ns", [0, 10**9, -HOUR_NS])
def test_shards_that_may_change_within_a_tick_of_the_clock_are_left_out(
    folder: Path, opened_anew: list[str], monkeypatch: pytest.MonkeyPatch, age_ns: int
) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)  # a slow machine must not make them old
    (folder / INDEX_NAME).unlink()
    settle(folder, age_ns)
    EmbeddingStore(folder)
    assert not (folder / INDEX_NAME).exists()
    assert len(opened_anew) == 3


def test_few_new_shards_leave_the_index_as_it_is(
    folder: Path, make_shard: ShardFactory, opened_anew: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_index, "_WORTH_SHARDS", 2)
    before = (folder / INDEX_NAME).read_bytes()
    os.utime(make_shard(folder / "new1.h5", {("n1", 0): frames(1)}), ns=(1, 1))
    EmbeddingStore(folder)
    assert (folder / INDEX_NAME).read_bytes() == before
    assert opened_anew == ["new1.h5"]
    os.utime(make_shard(folder / "new2.h5", {("n2", 0): frames(1)}), ns=(1, 1))
    EmbeddingStore(folder)
    assert set(read_index(folder)) == {"a.h5", "b.h5", "new1.h5", "new2.h5", "ć.h5"}


# changes


def add(folder: Path, make_shard: ShardFactory) -> None:
    make_shard(folder / "aa.h5", {("new", 0): frames(20), ("v2", 0): frames(2)})


def remove(folder: Path, make_shard: ShardFactory) -> None:
    (folder / "a.h5").unlink()


def replace(folder: Path, make_shard: ShardFactory) -> None:
    size = (folder / "a.h5").stat().st_size
    (folder / "a.h5").unlink()
    make_shard(folder / "a.h5", {("v3", 0): frames(4), ("v1", 0): frames(5, 5)})
    assert (folder / "a.h5").stat().st_size == size


def rename(folder: Path, make_shard: ShardFactory) -> None:
    (folder / "a.h5").rename(folder / "z.h5")


def swap(folder: Path, make_shard: ShardFactory) -> None:
    (folder / "a.h5").rename(folder / "x")
    (folder / "b.h5").rename(folder / "a.h5")
    (folder / "x").rename(folder / "b.h5")


def cut(folder: Path, make_shard: ShardFactory) -> None:
    with (folder / "a.h5").open("r+b") as file:
        file.truncate(4000)


@pytest.mark.parametrize("change", [add, remove, replace, rename, swap, cut])
def test_changed_shards_are_noticed(
    folder: Path, make_shard: ShardFactory, change: Callable[[Path, ShardFactory], None]
) -> None:
    before = seen(folder)
    change(folder, make_shard)
    after = seen(folder)
    assert after != before
    assert after == seen_without_index(folder)


def test_a_shard_cut_short_with_its_time_restored_is_noticed(folder: Path) -> None:
    shard = folder / "a.h5"
    modified = shard.stat().st_mtime_ns
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    os.utime(shard, ns=(modified, modified))
    with pytest.raises(StoreError, match=r"a\.h5"):
        EmbeddingStore(folder)


def test_an_index_goes_with_a_copy_that_keeps_times(
    folder: Path, tmp_path: Path, opened_anew: list[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))  # by copy2: as cp -a, rsync -a
    assert seen(copy) == seen(folder)
    assert opened_anew == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["a.h5", "b.h5", "c.h5"]),
            st.none()
            | st.dictionaries(
                st.tuples(st.text("aé漢😀", min_size=1, max_size=3), st.integers(0, 2)),
                st.integers(0, 3),
                min_size=1,
                max_size=4,
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_happens_to_shards_the_index_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    make_shard: ShardFactory,
    indexed_early: None,
    changes: list[tuple[str, dict[tuple[str, int], int] | None, bool]],
) -> None:
    folder = tmp_path_factory.mktemp("store")
    make_shard(folder / "first.h5", {("a", 0): frames(1)})
    for name, sequences, old in changes:
        (folder / name).unlink(missing_ok=True)
        if sequences is not None:
            make_shard(folder / name, {key: frames(seed) for key, seed in sequences.items()})
            if old:
                settle(folder, HOUR_NS + int(np.random.default_rng().integers(10**9)))
        assert seen(folder) == seen_without_index(folder)


# damage


def test_any_flipped_or_missing_byte_makes_it_unusable(folder: Path) -> None:
    path = folder / INDEX_NAME
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert read_index(folder) == {}
        path.write_bytes(content[:position])
        assert read_index(folder) == {}
    path.write_bytes(content + b"\0")
    assert read_index(folder) == {}


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n", bytes(100), b"shard index 1\n\0\0"])
def test_an_unusable_index_is_written_anew(folder: Path, content: bytes) -> None:
    expected = seen(folder)
    good = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).write_bytes(content)
    assert seen(folder) == expected
    assert (folder / INDEX_NAME).read_bytes() == good


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"offset_bytes": ', b'"offset_bytes": 9'),
        (b'"shape": [7', b'"shape": [3'),
        (b'"num_sequences": 2', b'"num_sequences": 9'),
        (b'"origin": 1', b'"origin": 9'),
        (b'"float16"', b'"complex"'),
        (b'"columns"', b'"colours"'),
        (b'"|S2"', b'"|O8"'),
        (b'{"shards"', b'["shards"'),
    ],
)
def test_an_index_whose_content_makes_no_sense_is_passed_over(
    folder: Path, old: bytes, new: bytes
) -> None:
    """As one of a faulty program: its checksum is right."""
    content = (folder / INDEX_NAME).read_bytes()
    payload = content[48:]
    assert old in payload
    payload = payload.replace(old, new)
    (folder / INDEX_NAME).write_bytes(content[:16] + shard_index._digest(payload) + payload)
    assert read_index(folder) == {}


def test_index_of_another_store_is_no_use(
    folder: Path, tmp_path: Path, make_shard: ShardFactory
) -> None:
    make_shard(tmp_path / "other" / "a.h5", {("other", 0): frames(1)})
    shutil.copy(folder / INDEX_NAME, tmp_path / "other")
    assert [name for name, _, _ in seen(tmp_path / "other")[0]] == ["other"]


# folders that cannot be written, and several at once


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = seen(folder)
    (folder / INDEX_NAME).unlink()
    plain = Path.open

    def refuse(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if "x" in mode or "w" in mode:
            raise PermissionError(30, "Read-only file system", str(path))
        return plain(path, mode, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert seen(folder) == expected
    assert sorted(p.name for p in folder.iterdir()) == ["a.h5", "b.h5", "ć.h5"]
    assert capfd.readouterr() == ("", "")


def test_a_read_only_file_system_is_read(
    tiny_filesystem: Path, make_shard: ShardFactory, indexed_early: None
) -> None:
    make_shard(tiny_filesystem / "a.h5", {("a", 0): frames(0)})
    settle(tiny_filesystem)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_filesystem)], check=True)
    for _ in range(2):
        assert EmbeddingStore(tiny_filesystem).video_ids.tolist() == ["a"]
    assert [path.name for path in tiny_filesystem.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("what", ["write", "rename"])
def test_an_index_that_cannot_be_finished_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    entries = list(read_index(folder).values())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    if what == "write":
        monkeypatch.setattr(shard_index, "_payload", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    write_index(folder, entries[:1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


OPEN_AT_ONCE = """
import sys
from stage1_extract import shard_index
from stage1_extract.store import EmbeddingStore
shard_index._WORTH_SHARDS = 1
sys.stdin.read(1)
for _ in range(30):
    (store := EmbeddingStore(sys.argv[1]))
    print(store.video_ids.tolist(), store.lengths.tolist())
    (store.path / shard_index.INDEX_NAME).unlink(missing_ok=True)
"""


def test_several_openers_at_once_see_the_same_and_leave_a_whole_index(folder: Path) -> None:
    command = [sys.executable, "-c", OPEN_AT_ONCE, str(folder)]
    openers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("x")
        opener.stdin.flush()
    lines = {line for opener in openers for line in opener.communicate()[0].splitlines()}
    assert lines == {"['v0', 'v0', 'v2', 'ü'] [5, 2, 2, 2]"}
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    EmbeddingStore(folder)
    assert len(read_index(folder)) == 3
    assert not list(folder.glob("*.partial"))


DIE_WRITING = """
import os, signal, sys
from stage1_extract import shard_index
from stage1_extract.store import EmbeddingStore
shard_index._WORTH_SHARDS = 1
moment, whole = sys.argv[2], shard_index._payload

def half(entries):
    yield whole(entries)[0]
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "writing":
    shard_index._payload = half
else:
    sys.addaudithook(lambda event, _: event == "os.rename" and os.kill(os.getpid(), 9))
EmbeddingStore(sys.argv[1])
"""


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_kill_while_it_is_written_harms_nothing(folder: Path, moment: str) -> None:
    expected = seen(folder)
    (folder / INDEX_NAME).unlink()
    command = [sys.executable, "-c", DIE_WRITING, str(folder), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (folder / INDEX_NAME).exists()
    (partial,) = folder.glob(".*.partial")
    assert len(shard_paths(folder)) == 3
    assert seen(folder) == expected
    assert len(read_index(folder)) == 3
    os.utime(partial, (1, 1))
    remove_stale_partials(folder)
    assert not partial.exists()

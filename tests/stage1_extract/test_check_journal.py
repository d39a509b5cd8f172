"""A verification that was broken off goes on where it was, and trusts nothing that changed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stage1_extract import check_pool
from stage1_extract.check_journal import JOURNAL_NAME, CheckJournal
from stage1_extract.shard_check import Beat, ShardCheck, check_shard
from stage1_extract.shard_index import ShardState
from stage1_extract.verifying import verify_store
from tests.conftest import ShardFactory


@pytest.fixture
def folder(tmp_path: Path, make_shard: ShardFactory) -> Path:
    """A store of four shards, an hour old."""
    for number, name in enumerate("abcd"):
        frames = np.random.default_rng(number).random((3, 4)).astype(np.float16)
        shard = make_shard(tmp_path / "store" / f"{name}.h5", {(f"v{number}", 0): frames})
        os.utime(shard, (time.time() - 3600, time.time() - 3600))
    return tmp_path / "store"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read whole, by name."""
    names: list[str] = []

    def check(path: Path, state: ShardState, beat: Beat) -> ShardCheck:
        names.append(path.name)
        return check_shard(path, state, beat)

    monkeypatch.setattr(check_pool, "check_shard", check)
    return names


VERIFY_AND_DIE = """
import os, signal, sys
from pathlib import Path
from stage1_extract import check_pool
from stage1_extract.verifying import verify_store

check = check_pool.check_shard

def die_at_third(path, state, beat):
    if path.name == "c.h5":
        os.kill(os.getpid(), signal.SIGKILL)
    return check(path, state, beat)

check_pool.check_shard = die_at_third
verify_store(Path(sys.argv[1]))
"""


@pytest.fixture
def broken_off(folder: Path) -> Path:
    """The store after a verification that was killed within the third shard."""
    command = [sys.executable, "-c", VERIFY_AND_DIE, str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert set(CheckJournal(folder).read()) == {"a.h5", "b.h5"}
    return folder


def break_embedding(shard: Path) -> None:
    """Change a byte, and the file's time, as a write does."""
    content = bytearray(shard.read_bytes())
    content[
        content.index(np.random.default_rng(0).random((3, 4)).astype(np.float16).tobytes())
    ] ^= 1
    shard.write_bytes(content)


def test_killed_verification_goes_on(broken_off: Path, read: list[str]) -> None:
    result = verify_store(broken_off)
    assert read == ["c.h5", "d.h5"]
    assert (result.sound, result.num_sequences, result.num_continued) == (True, 4, 2)
    assert result.continued_since[:2] == "20"
    assert not (broken_off / JOURNAL_NAME).exists()


def test_one_that_ended_is_not_gone_on_with(folder: Path, read: list[str]) -> None:
    for _ in range(2):
        assert verify_store(folder).num_continued == 0
    assert read == ["a.h5", "b.h5", "c.h5", "d.h5"] * 2


def test_restart_reads_everything(broken_off: Path, read: list[str]) -> None:
    assert verify_store(broken_off, restart=True).num_continued == 0
    assert read == ["a.h5", "b.h5", "c.h5", "d.h5"]


def test_changed_shards_are_read_again(
    broken_off: Path, read: list[str], make_shard: ShardFactory
) -> None:
    break_embedding(broken_off / "a.h5")
    (broken_off / "b.h5").unlink()
    make_shard(broken_off / "e.h5", {("v9", 0): np.ones((2, 4), np.float16)})
    result = verify_store(broken_off)
    assert read == ["a.h5", "c.h5", "d.h5", "e.h5"]
    assert len(result.bad_sequences) == 1


def test_damage_is_read_again_and_what_was_sound_is_not(folder: Path, read: list[str]) -> None:
    break_embedding(folder / "a.h5")
    assert not verify_store(folder).sound
    assert not verify_store(folder).sound
    assert verify_store(folder, repair=True).quarantined
    assert read == ["a.h5", "b.h5", "c.h5", "d.h5", "a.h5", "a.h5"]
    assert not (folder / JOURNAL_NAME).exists()


def test_findings_cover_the_shards_that_are_not_read(broken_off: Path) -> None:
    """Copies, lost videos and equal content concern all shards."""
    fresh = verify_store(broken_off, restart=True)
    command = [sys.executable, "-c", VERIFY_AND_DIE, str(broken_off)]
    subprocess.run(command, check=False)
    continued = verify_store(broken_off)
    assert continued.num_continued == 2
    assert (continued.duplicates, continued.equal_sources) == (
        fresh.duplicates,
        fresh.equal_sources,
    )
    assert fresh.equal_sources == (("v0", "v1", "v2", "v3"),)


def test_what_was_read_more_than_a_week_ago_is_read_again(
    broken_off: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 8 * 24 * 3600)
    assert verify_store(broken_off).num_continued == 0
    assert len(read) == 4


def test_young_shards_are_not_noted(folder: Path) -> None:
    """They could change within one tick of the file system's clock."""
    journal = CheckJournal(folder)
    os.utime(folder / "a.h5")
    journal.add("a.h5", ShardState.of(folder / "a.h5"))
    assert journal.read() == {}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"name": "c.h5"}',
        b'{"name": "c.h5", "size_bytes": "1", "modified_ns": 1, "checked": 1e12}',
        b'{"name": "c.h5", "size_bytes": 1, "modified_ns": 1, "checked": "x"}',
        json.dumps({"name": "c.h5", "size_bytes": 1, "modified_ns": 1, "checked": 1e12}).encode(),
    ],
)
def test_lines_that_are_damaged_or_foreign_cost_only_time(
    broken_off: Path, read: list[str], line: bytes
) -> None:
    path = broken_off / JOURNAL_NAME
    path.write_bytes(line + b"\n" + path.read_bytes()[:-9])
    assert verify_store(broken_off).sound
    assert read == ["b.h5", "c.h5", "d.h5"]


def test_folder_that_cannot_be_written_is_verified(folder: Path, read: list[str]) -> None:
    (folder / JOURNAL_NAME).mkdir()
    assert verify_store(folder).sound
    assert verify_store(folder / "a.h5").sound

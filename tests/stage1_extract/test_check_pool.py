"""Checking by several processes: the same findings, and a process that dies costs one shard."""

from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from stage1_extract import check_pool
from stage1_extract.child import ChildProcess
from stage1_extract.provenance import StoreError
from stage1_extract.verifying import verify_store
from tests.conftest import ShardFactory


@pytest.fixture
def folder(tmp_path: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of five shards that counts as large: three sound, one damaged, one unreadable."""
    monkeypatch.setattr(check_pool, "_SMALL_BYTES", 0)
    folder = tmp_path / "store"
    for number, name in enumerate("abcde"):
        frames = np.random.default_rng(number).random((3, 4)).astype(np.float16)
        shard = make_shard(folder / f"{name}.h5", {(f"v{number}", 0): frames})
        if name == "b":
            content = shard.read_bytes()
            shard.write_bytes(content.replace(frames.tobytes(), frames[::-1].tobytes()))
        if name == "d":
            shard.write_bytes(shard.read_bytes()[:1000])
    return folder


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_any_number_of_processes_finds_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    before = children()
    found = verify_store(folder, processes=processes, restart=True)
    assert children() <= before
    monkeypatch.setattr(check_pool, "_SMALL_BYTES", 10**9)
    assert found == verify_store(folder, restart=True)
    assert (found.num_sequences, len(found.bad_shards), found.extract_again) == (4, 1, ("v1",))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes die or block on shards of some names."""
    module = "tests.stage1_extract.faulty_worker"
    monkeypatch.setattr(check_pool, "ChildProcess", lambda _: ChildProcess(module))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("crash.h5", "crashes .*SIGSEGV"),
        pytest.param("hang.h5", "no progress for 5 s", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_shard_on_which_a_process_dies_or_blocks_is_unreadable(
    folder: Path,
    faulty: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    why: str,
    processes: int,
) -> None:
    monkeypatch.setattr(check_pool, "_SILENT_SECONDS", 5.0)
    (folder / "a.h5").rename(folder / name)
    before = children()
    found = verify_store(folder, processes=processes)
    assert children() <= before
    assert found.num_sequences == 3
    assert len(found.bad_shards) == 2
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.bad_shards)


@pytest.mark.slow
def test_a_process_that_is_long_to_start_condemns_no_shard(
    folder: Path, faulty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_pool, "_SILENT_SECONDS", 5.0)
    monkeypatch.setenv("FAULTY_START_SECONDS", "7")
    assert verify_store(folder, processes=1).num_sequences == 4


def test_a_process_that_does_not_start_is_not_waited_for_without_end(
    folder: Path, faulty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_pool, "_START_SECONDS", 0.0)
    monkeypatch.setenv("FAULTY_START_SECONDS", "600")
    before = children()
    with pytest.raises(OSError, match=r"did not start within 0 s.*same command goes on"):
        verify_store(folder, processes=2)
    assert children() <= before


def test_a_process_that_is_killed_from_outside_condemns_no_shard(
    folder: Path, faulty: None
) -> None:
    (folder / "a.h5").rename(folder / "killed.h5")
    before = children()
    with pytest.raises(OSError, match=r"ended \(SIGKILL\).*--processes"):
        verify_store(folder, repair=True, processes=2)
    assert children() <= before
    assert (folder / "killed.h5").exists()


def test_a_shard_that_vanishes_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = partial(ChildProcess, "stage1_extract.check_worker")

    def start_late(_: str) -> ChildProcess:
        (folder / "c.h5").unlink(missing_ok=True)
        return start()

    monkeypatch.setattr(check_pool, "ChildProcess", start_late)
    with pytest.raises(StoreError, match=r"c\.h5 is gone since it was listed"):
        verify_store(folder, processes=1)


def test_no_processes_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="processes is 0; expected 1 or more"):
        verify_store(folder, processes=0)

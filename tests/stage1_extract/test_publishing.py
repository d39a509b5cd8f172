"""Stores at addresses: written shard by shard, gone on with, and fetched."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stage1_extract import targets
from stage1_extract.address_lease import address_lease
from stage1_extract.addresses import Address
from stage1_extract.cli import main
from stage1_extract.extraction import extract
from stage1_extract.failures import Failure, append_failure, read_failures
from stage1_extract.fetching import FetchResult, fetch_store
from stage1_extract.mirrors import Mirror
from stage1_extract.publishing import open_outbox
from stage1_extract.remote import list_folder
from stage1_extract.store import EmbeddingStore, StoreError, shard_paths
from tests.conftest import ShardFactory, VideoFactory
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.test_extraction import SETTINGS, write_manifest

UPLOAD = """
import sys
from pathlib import Path
from stage1_extract import targets
from stage1_extract.address_lease import address_lease
from stage1_extract.addresses import Address
from stage1_extract.remote import upload
upload(Path(sys.argv[1]), Address(sys.argv[2]))
"""
ROWS = np.ones((3, 4), np.float16)


def put_shard(far: Far, make_shard: ShardFactory, tmp_path: Path, name: str, *ids: str) -> bytes:
    path = make_shard(tmp_path / "made" / name, {(i, 0): ROWS for i in ids})
    content = path.read_bytes()
    far.put(f"store/{name}", content)
    return content


@pytest.fixture
def store(far: Far, make_shard: ShardFactory, tmp_path: Path) -> Address:
    """A store at far:// of two shards."""
    (tmp_path / "made").mkdir()
    put_shard(far, make_shard, tmp_path, "a.h5", "v1", "v2")
    put_shard(far, make_shard, tmp_path, "b.h5", "v3")
    return far.address("store")


@pytest.mark.slow
def test_a_run_into_an_address_stores_what_a_folder_would_and_goes_on(
    far: Far, make_video: VideoFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_video("a b.avi", 5)
    make_video("c.avi", 7)
    names = ["a b.avi", "c.avi"]
    local = write_manifest(tmp_path, names)
    extract(local, tmp_path / "local", SETTINGS)
    (tmp_path / "bad.avi").write_bytes(b"no video")
    summary = extract(write_manifest(tmp_path, [*names, "bad.avi"]), far.url("store"), SETTINGS)
    assert (summary.num_stored, len(summary.failures)) == (2, 1)
    assert (far.folder / "store/failures.jsonl").exists()
    result = fetch_store(far.address("store"), tmp_path / "copy")
    assert result.num_shards == result.num_fetched == 1
    ours, theirs = EmbeddingStore(tmp_path / "copy"), EmbeddingStore(tmp_path / "local")
    assert ours.fingerprint == theirs.fingerprint == summary.fingerprint
    assert ours.column("checksum").tolist() == theirs.column("checksum").tolist()
    assert list(read_failures(tmp_path / "copy")) == ["bad"]

    make_video("new.avi", 4)
    more = write_manifest(tmp_path, [*names, "bad.avi", "new.avi"])
    summary = extract(more, far.url("store"), SETTINGS)
    assert (summary.num_stored, summary.num_present, len(summary.failures)) == (1, 2, 1)
    assert [name for name in far.calls("get") if name.endswith(".h5")] == [ours.shards[0].path.name]
    with pytest.raises(StoreError, match=r"^far://\S+store was made with other settings .*'max'"):
        extract(more, far.url("store"), dataclasses.replace(SETTINGS, pooling="max"))
    (tmp_path / "bad.avi").write_bytes((tmp_path / "new.avi").read_bytes())
    summary = extract(more, far.url("store"), dataclasses.replace(SETTINGS, retry_failed=True))
    assert (summary.num_stored, summary.failures) == (1, ())
    assert any("equal content: bad, new" in note for note in summary.notes)
    assert not [name for name in list_folder(far.address("store")) if "failures" in name]
    capsys.readouterr()


@pytest.mark.slow
def test_a_run_that_waited_for_another_of_the_same_manifest_does_nothing_again(
    far: Far, make_video: VideoFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video("a.avi", 5)
    manifest = write_manifest(tmp_path, ["a.avi"])

    @contextmanager
    def after_another(
        store: Address, manifest_sha256: str, tell: Callable[[str], None]
    ) -> Iterator[list[str]]:
        monkeypatch.setattr(targets, "address_lease", address_lease)
        assert extract(manifest, far.url("store"), SETTINGS).num_stored == 1
        with address_lease(store, manifest_sha256, tell) as notes:
            yield notes

    monkeypatch.setattr(targets, "address_lease", after_another)
    summary = extract(manifest, far.url("store"), SETTINGS)
    assert (summary.num_stored, summary.num_present) == (0, 1)
    assert len(list((far.folder / "store").glob("*.h5"))) == 1


def partials(far: Far) -> list[Path]:
    """Return what is half-uploaded."""
    return [path for path in (far.folder / "store").glob(".a.h5.*") if path.suffix == ".partial"]


def test_a_shard_whose_upload_is_killed_is_not_listed(
    far: Far, make_shard: ShardFactory, tmp_path: Path
) -> None:
    shard = make_shard(tmp_path / "a.h5", {("v", 0): np.ones((40_000, 4), np.float16)})
    far.folder.joinpath("store").mkdir()
    far.trouble("store/.a.h5.partial", "hang")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", UPLOAD, str(shard), far.url("store/a.h5")]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 180
        while not any(path.stat().st_size for path in partials(far)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (partial,) = partials(far)
        assert 0 < partial.stat().st_size < shard.stat().st_size
        process.send_signal(signal.SIGKILL)
    mirror = Mirror(far.address("store"), tmp_path / "mirror")
    mirror.folder.mkdir()
    mirror.renew()
    assert not shard_paths(mirror.folder)
    mirror.remove_stale_partials()
    assert partial.exists()  # another run may be writing it
    os.utime(partial, times=(1, 1))
    mirror.remove_stale_partials()
    assert not partial.exists()


def test_what_is_put_into_the_outbox_of_an_address_leaves_this_machine(
    far: Far, make_shard: ShardFactory, tmp_path: Path
) -> None:
    error = ValueError("damaged")
    with open_outbox(far.address("store"), tmp_path / "scratch") as out:
        out.publish(make_shard(out.folder / "a.h5", {("v", 0): ROWS}))
        assert not list(out.folder.iterdir())
        for name in ("x", "y"):
            append_failure(out.folder, Failure.of(name, f"{name}.mp4", error))
            out.publish(out.folder / "failures.jsonl")
    assert not list((tmp_path / "scratch").iterdir())
    (failures,) = (far.folder / "store").glob("failures-*.jsonl")
    assert [json.loads(line)["video_id"] for line in failures.read_text().splitlines()] == [
        "x",
        "y",
    ]
    assert len([name for name in far.calls("put") if "failures" in name]) == 1
    assert EmbeddingStore(far.folder / "store/a.h5").video_ids.tolist() == ["v"]


def test_an_upload_that_keeps_failing_tells_how_to_go_on(
    far: Far, make_shard: ShardFactory, tmp_path: Path
) -> None:
    far.trouble(".a.h5.partial", "forbid")
    (far.folder / "store").mkdir()
    far.trouble("store/.a.h5.partial", "forbid")
    with (
        pytest.raises(OSError, match=r"cannot write into far://\S*store: .*may not .*run the same"),
        open_outbox(far.address("store"), tmp_path / "scratch") as out,
    ):
        out.publish(make_shard(out.folder / "a.h5", {("v", 0): ROWS}))
    assert not list((tmp_path / "scratch").iterdir())


def test_a_mirror_tells_everything_but_frames_and_reads_little(
    far: Far, make_shard: ShardFactory, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    large = np.ones((100_000, 64), np.float16)
    path = make_shard(
        tmp_path / "made/a.h5", {("v1", 0): large, ("v2", 1): ROWS[:, :1].repeat(64, 1)}
    )
    far.put("store/a.h5", path.read_bytes())
    mirror = Mirror(far.address("store"), tmp_path / "mirror")
    mirror.folder.mkdir()
    mirror.renew()
    ours, true = EmbeddingStore(mirror.folder), EmbeddingStore(path)
    assert ours.settings == true.settings
    for name in ("video_id", "checksum", "source_path", "source_modified_ns", "clip_end_seconds"):
        np.testing.assert_array_equal(ours.column(name), true.column(name))
    assert ours.lengths.tolist() == true.lengths.tolist()
    fetched = (mirror.folder / "a.h5").stat().st_blocks * 512
    assert fetched < 0.2 * path.stat().st_size
    assert len(far.calls("cat")) <= 4

    put_shard(far, make_shard, tmp_path, "b.h5", "v3")
    (far.folder / "store/a.h5").unlink()
    mirror.renew()
    assert EmbeddingStore(mirror.folder).video_ids.tolist() == ["v3"]


def test_a_damaged_shard_at_an_address_is_told(far: Far, tmp_path: Path) -> None:
    far.put("store/a.h5", b"\x89HDF\r\n\x1a\n" + bytes(3000))
    mirror = Mirror(far.address("store"), tmp_path)
    with pytest.raises(StoreError, match=r"far://\S*store/a\.h5 cannot be read as a shard"):
        mirror.renew()
    assert not shard_paths(tmp_path)


def test_a_fetch_goes_on_after_a_break_and_fetches_nothing_twice(
    far: Far, store: Address, tmp_path: Path
) -> None:
    far.trouble("store/b.h5", "drop")
    with pytest.raises(OSError, match=r"b\.h5"):
        fetch_store(store, tmp_path / "copy")
    (far.folder / "store/b.h5.trouble").unlink()
    (tmp_path / "copy/a.h5").write_bytes(b"cut short")
    size = sum(path.stat().st_size for path in (far.folder / "store").glob("*.h5"))
    assert fetch_store(store, tmp_path / "copy") == FetchResult(2, 2, size, 0)
    assert EmbeddingStore(tmp_path / "copy").video_ids.tolist() == ["v1", "v2", "v3"]
    assert fetch_store(store, tmp_path / "copy") == FetchResult(2, 0, 0, 0)


def test_a_fetch_removes_what_was_compacted_at_the_address(
    far: Far, store: Address, make_shard: ShardFactory, tmp_path: Path
) -> None:
    fetch_store(store, tmp_path / "copy")
    put_shard(far, make_shard, tmp_path, "c.h5", "v1", "v2", "v3")
    for name in "ab":
        (far.folder / f"store/{name}.h5").unlink()
    result = fetch_store(store, tmp_path / "copy")
    assert (result.num_shards, result.num_fetched, result.num_removed) == (1, 1, 2)
    assert [path.name for path in shard_paths(tmp_path / "copy")] == ["c.h5"]


def test_a_fetch_never_touches_shards_that_did_not_come_from_there(
    far: Far, store: Address, make_shard: ShardFactory, tmp_path: Path
) -> None:
    fetch_store(store, tmp_path / "copy")
    make_shard(tmp_path / "copy/mine.h5", {("mine", 0): ROWS})
    with pytest.raises(StoreError, match=r"1 shards that did not come from .*mine\.h5"):
        fetch_store(store, tmp_path / "copy")
    (tmp_path / "copy/mine.h5").unlink()
    far.put("other/a.h5")
    with pytest.raises(StoreError, match=r"is a copy of far://\S*store; fetch .*other into"):
        fetch_store(far.address("other"), tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match=r"no store at far:.*empty"):
        fetch_store(far.address("empty"), tmp_path / "new")


def test_the_command_says_what_came(
    far: Far, store: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", store.url, str(tmp_path / "copy")]) == 0
    assert "2 shards in" in capsys.readouterr().out
    assert main(["fetch", store.url, str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_fetched"] == 0
    with pytest.raises(SystemExit, match="2"):
        main(["fetch", "here", str(tmp_path / "copy")])
    assert "'here' is no address" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "verify", "compact"])
def test_commands_that_read_a_store_name_the_one_that_fetches_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "s3://bucket/store"]) == 2
    assert "`stage1-extract fetch s3://bucket/store FOLDER`" in capsys.readouterr().err

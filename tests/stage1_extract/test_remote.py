import errno
import importlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stage1_extract import remote, remote_calls
from stage1_extract.addresses import Address
from stage1_extract.content import hash_source
from stage1_extract.remote import (
    RemoteState,
    download,
    hash_remote,
    list_folder,
    read_bytes,
    remote_state,
    remote_states,
    remove,
    upload,
)
from stage1_extract.remote_calls import MissingPackageError, RemoteError, check_scheme
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.far_files import BLOCK_BYTES, FarFileSystem

LARGE = bytes(range(256)) * 1024


def test_an_unknown_scheme_is_named_with_some_that_are_known() -> None:
    with pytest.raises(MissingPackageError, match=r"foo://b/a.mp4: foo:// is not known .* s3, gs"):
        check_scheme(Address("foo://b/a.mp4"))


@pytest.mark.parametrize(
    ("url", "package"),
    [("s3://bucket/a.mp4", "s3fs"), ("gs://b/a.mp4", "gcsfs"), ("https://x.org/a.mp4", "aiohttp")],
)
def test_a_missing_package_is_named_as_pip_takes_it(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    importlib.import_module("fsspec")
    loaded = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(loaded, url.partition(":")[0], raising=False)
    remote_calls.scheme_problem.cache_clear()
    with pytest.raises(MissingPackageError, match=f"pip install {package}$"):
        check_scheme(Address(url))
    remote_calls.scheme_problem.cache_clear()


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    remote_calls.scheme_problem.cache_clear()
    with pytest.raises(MissingPackageError, match=r"pip install 'embed-then-sequence\[remote\]'"):
        check_scheme(Address("s3://bucket/a.mp4"))
    remote_calls.scheme_problem.cache_clear()


@pytest.mark.parametrize("name", ["a.mp4", "50% of a b.mp4", "ä#?&.mp4", "d/e/p%20q.mp4"])
def test_a_download_is_the_file_and_beats_while_it_comes(
    far: Far, tmp_path: Path, name: str
) -> None:
    beats: list[int] = []
    far.put(name, LARGE)
    state = download(far.address(name), tmp_path / "copy", beat=lambda: beats.append(1))
    assert (tmp_path / "copy").read_bytes() == LARGE
    assert len(beats) >= len(LARGE) // BLOCK_BYTES
    status = (far.folder / name).stat()
    assert state.size_bytes == status.st_size
    assert abs(state.modified_ns - status.st_mtime_ns) < 1000


def test_a_broken_transfer_is_tried_again(far: Far, tmp_path: Path) -> None:
    address = far.put("a.mp4", LARGE)
    far.trouble("a.mp4", "drop", times=2)
    download(address, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE
    assert far.calls("get") == ["a.mp4"] * 3


def test_one_that_stays_broken_is_told_and_leaves_nothing(far: Far, tmp_path: Path) -> None:
    address = far.put("a.mp4", LARGE)
    far.trouble("a.mp4", "drop")
    (tmp_path / "copies").mkdir()
    with pytest.raises(RemoteError, match=r"far://\S*a\.mp4 .*FarError: connection reset"):
        download(address, tmp_path / "copies/copy")
    assert far.calls("get") == ["a.mp4"] * 4
    assert not list((tmp_path / "copies").iterdir())


def test_what_cannot_help_is_not_tried_again(far: Far, tmp_path: Path) -> None:
    far.put("a.mp4")
    far.trouble("a.mp4", "forbid")
    with pytest.raises(PermissionError, match=r"far://\S*a\.mp4 may not be read"):
        download(far.address("a.mp4"), tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match=r"no file at far://\S*gone\.mp4"):
        download(far.address("gone.mp4"), tmp_path / "copy")
    assert far.calls("get") == ["a.mp4"]
    assert far.calls("info") == ["a.mp4", "gone.mp4"]


def test_a_file_cut_short_or_replaced_on_the_way_is_no_copy(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = far.put("a.mp4", LARGE)

    def cut(_: Any, rpath: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes(LARGE[:-1])

    def replaced(_: Any, rpath: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes(LARGE)
        os.utime(far.folder / "a.mp4", times=(1, len(far.calls("info"))))

    monkeypatch.setattr(FarFileSystem, "get_file", cut)
    with pytest.raises(RemoteError, match="262143 of 262144 bytes came"):
        download(address, tmp_path / "copy")
    monkeypatch.setattr(FarFileSystem, "get_file", replaced)
    with pytest.raises(RemoteError, match="changed while it was downloaded"):
        download(address, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_full_disk_is_not_blamed_on_the_network(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FarFileSystem, "get_file", full)
    with pytest.raises(OSError, match=r"no room left while far://\S* was copied; .*--scratch"):
        download(far.put("a.mp4"), tmp_path / "copy")
    assert len(far.calls("info")) == 1


def test_an_upload_shows_when_it_is_complete_and_comes_after_troubles(
    far: Far, tmp_path: Path
) -> None:
    (tmp_path / "shard.h5").write_bytes(LARGE)
    far.trouble(".shard.h5.partial", "drop", times=1)
    upload(tmp_path / "shard.h5", far.address("store/shard.h5"))
    far.trouble("store/.other.h5.partial", "drop")
    with pytest.raises(RemoteError):
        upload(tmp_path / "shard.h5", far.address("store/other.h5"))
    names = [name for name in list_folder(far.address("store")) if not name.startswith(".")]
    assert names == ["shard.h5"]
    assert (far.folder / "store/shard.h5").read_bytes() == LARGE


def test_files_are_listed_read_hashed_and_removed(far: Far, tmp_path: Path) -> None:
    address = far.put("d/a b.npz", LARGE)
    (far.folder / "d/inner").mkdir()
    listed = list_folder(far.address("d"))
    assert listed["a b.npz"] == remote_state(address)
    assert listed["inner"].is_folder
    assert list_folder(far.address("missing")) == {}
    assert read_bytes(address, 10, 20) == LARGE[10:20]
    assert hash_remote(address) == hash_source(far.folder / "d/a b.npz")
    remove(address)
    remove(address)
    assert not (far.folder / "d/a b.npz").exists()


def test_many_files_of_a_folder_are_looked_up_by_listing_it_once(far: Far) -> None:
    many = [far.put(f"many/{i}.mp4", b"x" * i) for i in range(20)]
    few = [far.put(f"few/{i}.mp4", b"x" * i) for i in range(3)]
    gone = far.address("few/gone.mp4")
    states = remote_states([*many, *few, gone])
    assert states.pop(gone) is None
    assert [state.size_bytes for state in states.values() if state] == [*range(20), *range(3)]
    assert far.calls("ls") == ["many"]


@pytest.mark.parametrize(
    "told",
    [
        {"mtime": 1700000000.25},
        {"LastModified": datetime(2023, 11, 14, 22, 13, 20, 250000, tzinfo=UTC)},
        {"updated": "2023-11-14T22:13:20.250Z"},
        {"mtime": datetime(2023, 11, 14, 22, 13, 20, 250000)},
    ],
)
def test_file_systems_tell_times_in_their_own_ways(told: dict[str, Any]) -> None:
    assert remote._state({"size": 1, **told}) == RemoteState(1, 1700000000250000000)


def test_a_web_server_tells_whole_seconds_or_nothing() -> None:
    stated = remote._state({"size": None, "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"})
    assert stated == RemoteState(None, 1700000000000000000)
    assert remote._state({"size": 3, "ETag": "x", "mtime": "soon"}) == RemoteState(3, 0)


class _AnswerError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("status", "kind"), [(404, FileNotFoundError), (403, PermissionError), (503, RemoteError)]
)
def test_the_webs_answers_behind_a_missing_file_are_told_apart(
    status: int, kind: type[OSError]
) -> None:
    error = FileNotFoundError("https://x.org/a.mp4")
    error.__cause__ = _AnswerError(status)
    assert type(remote_calls.as_told(error, Address("https://x.org/a.mp4"))) is kind


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, OSError])
def test_errors_show_no_signature(kind: type[OSError]) -> None:
    url = "https://me:key@x.org/a.mp4?Signature=secret"
    error = kind(url)
    error.__cause__ = _AnswerError(503) if kind is FileNotFoundError else OSError(f"at '{url}'")
    told = str(remote_calls.as_told(error, Address(url)))
    assert "https://x.org/a.mp4" in told
    assert "secret" not in told
    assert "key" not in told

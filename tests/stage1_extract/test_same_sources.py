"""Going on with a store whose sources are at addresses, without reading them again."""

import os
from pathlib import Path

import pytest

from stage1_extract.extraction import extract
from stage1_extract.manifest import ManifestError, read_manifest
from stage1_extract.store import EmbeddingStore, StoreError
from tests.conftest import VideoFactory
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.test_extraction import SETTINGS, write_manifest


@pytest.fixture
def manifest(far: Far, make_video: VideoFactory, tmp_path: Path) -> Path:
    """Three videos at addresses, of which the last is not there."""
    for i, name in enumerate(("a b.avi", "50%.avi")):
        far.put(name, make_video(f"{i}.avi", 4 + i).read_bytes())
    return write_manifest(tmp_path, [far.url(n) for n in ("a b.avi", "50%.avi", "gone.avi")])


def test_a_second_run_downloads_nothing_that_is_stored(
    far: Far, manifest: Path, tmp_path: Path
) -> None:
    first = extract(manifest, tmp_path / "store", SETTINGS)
    assert (first.num_stored, [f.path for f in first.failures]) == (2, [far.url("gone.avi")])
    assert "no file at far://" in first.failures[0].reason
    store = EmbeddingStore(tmp_path / "store")
    assert store.video_ids.tolist() == [far.url("50%"), far.url("a b")]
    assert store.column("source_path").tolist() == [far.url("50%.avi"), far.url("a b.avi")]

    far.log.unlink()
    (far.folder / "a b.avi").unlink()  # what is gone cannot differ, and its embedding stays
    second = extract(manifest, tmp_path / "store", SETTINGS)
    assert (second.num_stored, second.num_present) == (0, 2)
    assert not far.calls("get")
    assert not far.calls("open")


@pytest.mark.slow
def test_a_copy_of_another_time_is_read_once_and_another_content_refused(
    far: Far, manifest: Path, tmp_path: Path
) -> None:
    extract(manifest, tmp_path / "store", SETTINGS)
    os.utime(far.folder / "a b.avi", times=(1, 1))
    far.log.unlink()
    assert extract(manifest, tmp_path / "store", SETTINGS).num_present == 2
    assert far.calls("open") == ["a b.avi"]
    content = bytearray((far.folder / "a b.avi").read_bytes())
    content[-1] ^= 1
    (far.folder / "a b.avi").write_bytes(content)
    with pytest.raises(StoreError, match=r"1 clips of the manifest have .*a b"):
        extract(manifest, tmp_path / "store", SETTINGS)


@pytest.mark.slow
def test_without_times_an_equal_size_is_enough_and_another_is_refused(
    far: Far, manifest: Path, tmp_path: Path
) -> None:
    (far.folder / "no-times").touch()
    extract(manifest, tmp_path / "store", SETTINGS)
    assert EmbeddingStore(tmp_path / "store").column("source_modified_ns").tolist() == [0, 0]
    assert extract(manifest, tmp_path / "store", SETTINGS).num_present == 2
    assert not far.calls("open")
    (far.folder / "a b.avi").write_bytes(b"other")
    with pytest.raises(StoreError, match="another file content"):
        extract(manifest, tmp_path / "store", SETTINGS)


def test_a_manifest_may_be_at_an_address_itself(
    far: Far, make_video: VideoFactory, tmp_path: Path
) -> None:
    far.put("set/clips/a.avi", make_video("a.avi", 4).read_bytes())
    far.put("set/list.csv", b"path,label\nclips/a.avi,1\n")
    found = read_manifest(far.url("set/list.csv"))
    assert [clip.path for clip in found.clips] == [far.address("set/clips/a.avi")]
    summary = extract(far.url("set/list.csv"), tmp_path / "store", SETTINGS)
    assert (summary.num_stored, summary.failures) == (1, ())
    assert EmbeddingStore(tmp_path / "store").video_ids.tolist() == ["clips/a"]


def test_schemes_are_checked_before_any_work_and_files_are_not(tmp_path: Path, far: Far) -> None:
    manifest = write_manifest(tmp_path, ["foo://b/a.mp4", far.url("a.mp4")])
    with pytest.raises(ManifestError, match="1 problems in 1 rows") as caught:
        read_manifest(manifest)
    assert "line 2: foo://b/a.mp4: foo:// is not known to fsspec" in str(caught.value)
    assert len(read_manifest(manifest, files_must_exist=False).clips) == 2
    assert not far.calls("info")


def test_a_file_address_is_the_file_itself(make_video: VideoFactory, tmp_path: Path) -> None:
    path = make_video("a b.avi", 4)
    (clip,) = read_manifest(write_manifest(tmp_path, [f"file://{path}"])).clips
    assert (clip.path, clip.video_id) == (path, str(path.with_suffix("")))

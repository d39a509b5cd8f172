"""Clips of files, folders and manifests, and their ids."""

from pathlib import Path

import numpy as np
import pytest

from stage2_temporal.prediction_inputs import find_clips, find_ids, stored_ids
from tests.stage2_temporal.synthetic import write_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in `v`: two videos alike but for the suffix, one deeper, a clip of images."""
    names = ("v/a.mp4", "v/a.avi", "v/s/b2.mp4", "v/s/b10.mp4", "v/i/1.png", "v/i/2.png", "v/n.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*inputs: str) -> dict[str, str]:
    return {
        clip.video_id: clip.file.relative_to(Path.cwd()).as_posix() for clip in find_clips(inputs)
    }


def test_ids_of_a_folder_are_paths_in_it(folder: Path) -> None:
    assert found("v") == {
        **{"a.avi": "v/a.avi", "a.mp4": "v/a.mp4", "i": "v/i"},
        **{"s/b2": "v/s/b2.mp4", "s/b10": "v/s/b10.mp4"},
    }
    assert list(found("v")) == ["a.avi", "a.mp4", "i", "s/b2", "s/b10"]


def test_files_manifests_and_folders_may_be_mixed(folder: Path) -> None:
    manifest = "path,start_seconds,end_seconds,label\na.mp4,,,x\ns/b2.mp4,1,2.5,y\n"
    (folder / "v/m.csv").write_text(manifest)
    clips = find_clips(["v/a.avi", "v/m.csv", "v/s", "v/i"])
    assert [clip.video_id for clip in clips] == ["v/a", "a", "s/b2", "b2", "b10", "v/i"]
    assert (clips[2].start_seconds, clips[2].end_seconds) == (1, 2.5)
    assert clips[-1].path == folder / "v/i"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "nothing to predict"),
        (["v", "w.mp4"], r"1 of 2 inputs are not there: \['w.mp4'\]"),
        (["v", "v/a.mp4", "v"], "two clips have the id 'a.avi'.*column video_id"),
        (["v/s", "v/i/../s"], "two clips have the id 'b2'"),
        (["empty"], "no videos in empty"),
    ],
)
def test_inputs_that_cannot_be_predicted_are_errors(
    folder: Path, inputs: list[str], message: str
) -> None:
    (folder / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_clips(inputs)


def test_names_that_cannot_be_written_are_errors(folder: Path) -> None:
    (folder / "v/s/b\n.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="control characters"):
        find_clips(["v/s"])


def test_names_with_no_break_spaces_are_taken(folder: Path) -> None:
    name = "Screen Recording 2024-05-01 at 3.00.00\u202fPM"
    (folder / f"v/s/{name}.mov").write_bytes(b"x")
    assert name in found("v/s")
    (folder / "m.csv").write_text(f"path\nv/s/{name}.mov\n", "utf-8")
    assert list(found("m.csv")) == [f"v/s/{name}"]


def test_ids_of_a_store_must_be_writable(tmp_path: Path) -> None:
    frames = np.ones((2, 4))
    store = write_store(tmp_path / "good", {"b\u00a0": frames, "a": frames})
    assert stored_ids(store) == store.video_ids.tolist()
    bad = write_store(tmp_path / "bad", {"a\nb": frames, "c": frames})
    with pytest.raises(ValueError, match=r"1 ids that .*control characters: \['a\\nb'\]"):
        stored_ids(bad)


def test_manifests_choose_stored_sequences_without_their_videos(folder: Path) -> None:
    (folder / "m.csv").write_text("path\ngone/x.mp4\ngone/y.mp4\n")
    assert find_ids(["m.csv"]) == ["gone/x", "gone/y"]
    with pytest.raises(ValueError, match="are no manifests"):
        find_ids(["m.csv", "v"])

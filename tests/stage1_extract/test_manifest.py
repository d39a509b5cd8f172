"""Manifests: what is right is read, and every problem is told at once with its row."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stage1_extract.manifest import ManifestError, is_missing, read_manifest
from stage1_extract.sources import Clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few files that a manifest may name."""
    for name in ("a.mp4", "b.avi", "sub/a.mp4", "sub/ü 日本 (1)+[2].mp4", "x,y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_ids_default_to_the_path_without_its_suffix(folder: Path) -> None:
    text = 'path\na.mp4\nsub/a.mp4\nsub/ü 日本 (1)+[2].mp4\n"x,y.mp4"\n'
    manifest = read_manifest(write(folder, text))
    ids = [clip.video_id for clip in manifest.clips]
    assert ids == ["a", "sub/a", "sub/ü 日本 (1)+[2]", "x,y"] == manifest.table["video_id"].tolist()
    assert [clip.path for clip in manifest.clips] == [
        folder / name for name in ("a.mp4", "sub/a.mp4", "sub/ü 日本 (1)+[2].mp4", "x,y.mp4")
    ]


def test_clips_of_one_video_have_their_own_ids_and_times(folder: Path) -> None:
    text = (
        "path,video_id,start_seconds,end_seconds\na.mp4,one,,1.5\na.mp4,two,1.5,\na.mp4,3,0,1e1\n"
    )
    clips = read_manifest(write(folder, text)).clips
    path = folder / "a.mp4"
    assert clips == (
        Clip("one", path, None, 1.5),
        Clip("two", path, 1.5, None),
        Clip("3", path, 0.0, 10.0),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label\na.mp4,x\n",
        b"path,label\r\na.mp4,x\r\n",
        b"path, label\na.mp4, x",
        b"path,label\n\na.mp4,x\n\n",
    ],
    ids=["BOM", "CRLF", "spaces", "blank lines"],
)
def test_habits_of_other_programs_are_understood(folder: Path, content: bytes) -> None:
    manifest = read_manifest(write(folder, content))
    assert [clip.video_id for clip in manifest.clips] == ["a"]
    assert manifest.column("label").tolist() == ["x"]
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()


def test_labels_stay_the_text_that_they_are(folder: Path) -> None:
    manifest = read_manifest(write(folder, "path,label,code\na.mp4,NA,007\nb.avi,1.0,\n"))
    assert manifest.column("label").tolist() == ["NA", "1.0"]
    assert manifest.column("code").tolist() == ["007", ""]


def test_absolute_paths_are_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    (folder / "lists").mkdir()
    manifest = read_manifest(write(folder, f"path\n{folder}/a.mp4\n../b.avi\n", "lists/m.csv"))
    assert [clip.file.resolve() for clip in manifest.clips] == [folder / "a.mp4", folder / "b.avi"]


def test_parquet_keeps_types(folder: Path) -> None:
    table = pd.DataFrame(
        {"path": ["a.mp4", "b.avi"], "video_id": [7, 8], "age": [1.5, None], "end_seconds": [2, 3]}
    )
    table.to_parquet(folder / "m.parquet")
    manifest = read_manifest(folder / "m.parquet")
    assert [(c.video_id, c.start_seconds, c.end_seconds) for c in manifest.clips] == [
        ("7", None, 2.0),
        ("8", None, 3.0),
    ]
    assert manifest.column("age").dtype == float


def test_rows_of_a_filtered_parquet_table_are_counted_from_its_start(folder: Path) -> None:
    table = pd.DataFrame(
        {"path": ["a.mp4", "a.mp4", "b.avi", "gone.mp4"]}, index=["p", "q", "r", "s"]
    )
    table.iloc[1:].to_parquet(folder / "m.parquet")
    assert problems(folder / "m.parquet") == [f"row 2: {str(folder / 'gone.mp4')!r} does not exist"]
    table.iloc[:3].to_parquet(folder / "m.parquet")
    assert [text.split(":")[0] for text in problems(folder / "m.parquet")] == ["row 0", "row 1"]


def test_all_problems_are_listed_with_their_lines(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    text = (
        "path,video_id,start_seconds,end_seconds\n"
        "a.mp4,fine,,\n"
        "gone.mp4,b,,\n"
        "pipe.mp4,d,,\n"
        ",e,,\n"
        "a.mp4,,,\n"
        "a.mp4,f,x,\n"
        "a.mp4,g,-1,\n"
        "a.mp4,h,5,5\n"
        "a.mp4,i,,inf\n"
        'a.mp4,"j\tj",,\n'
        "a.mp4,twice,0,1\n"
        "b.avi,twice,,\n"
    )
    found = problems(write(folder, text))
    expected = [
        ("line 3", "gone.mp4' does not exist"),
        ("line 4", "pipe.mp4' is neither a file nor a folder"),
        ("line 5", "the path is blank"),
        ("line 6", "video_id is blank"),
        ("line 7", "start_seconds is no time"),
        ("line 8", "start_seconds is no time"),
        ("line 9", "start_seconds 5 is not before end_seconds 5"),
        ("line 10", "end_seconds is no time"),
        ("line 11", "control characters"),
        ("line 12", "'twice' stands in lines 12, 13"),
        ("line 13", "'twice' stands in lines 12, 13"),
    ]
    assert len(found) == len(expected)
    for text, (line, what) in zip(found, expected, strict=True):
        assert text.startswith(f"{line}: ")
        assert what in text


def test_ids_may_hold_no_break_spaces_and_joiners(folder: Path) -> None:
    ids = ["3.00.00\u202fPM", "a\u3000b\u00a0c", "\u0915\u094d\u200d\u0937"]
    text = "path,video_id\n" + "".join(f"a.mp4,{video_id}\n" for video_id in ids)
    assert [clip.video_id for clip in read_manifest(write(folder, text)).clips] == ids


def test_equal_default_ids_are_told_with_a_remedy(folder: Path) -> None:
    (folder / "a.avi").touch()
    found = problems(write(folder, "path\na.mp4\na.avi\n"))
    assert len(found) == 2
    assert "(made from the path)" in found[0]
    assert "give each row its own video_id" in found[0]


def test_many_problems_are_counted_and_the_first_shown(folder: Path) -> None:
    path = write(folder, "path\n" + "".join(f"{i}.mp4\n" for i in range(50)))
    found = problems(path)
    assert len(found) == 21
    assert found[-1] == "and 30 more"
    with pytest.raises(ManifestError, match="50 problems in 50 rows"):
        read_manifest(path)


@pytest.mark.parametrize("text", [".", "/", "a" * 5000 + ".mp4"])
def test_paths_that_name_no_file_are_listed_and_hide_no_other(folder: Path, text: str) -> None:
    found = problems(write(folder, f"path\n{text}\ngone.mp4\n"))
    assert found[0].startswith("line 2: ")
    assert found[-1].startswith("line 3: ")


def test_training_needs_no_files(folder: Path) -> None:
    manifest = read_manifest(write(folder, "path\ngone.mp4\n"), files_must_exist=False)
    assert [clip.video_id for clip in manifest.clips] == ["gone"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"path\n", "no rows"),
        (b"file,label\na.mp4,x\n", r"no column 'path'.*\['file', 'label'\]"),
        (b"path;label\na.mp4;x\n", "comma-separated"),
        (b"path,label\na.mp4,x,y\n", "more fields|comma-separated"),
        (b"path,label\na.mp4,x,\nb.avi,y,\n", "more fields"),
        (b"path,label\na.mp4,x\na.mp4,x,y,z\n", "not a comma-separated"),
        (b"path,label,label\na.mp4,x,y\n", r"twice: \['label'\]"),
        (b"path,path\na.mp4,b.avi\n", r"twice: \['path'\]"),
        ("path\nü.mp4\n".encode("latin-1"), "UTF-8"),
        ("path\na.mp4\n".encode("utf-16"), "UTF-8"),
        (b'path\n"a.mp4\nb.avi\n', "comma-separated|problems"),
        (b"\0\0\0\0", "no column|comma-separated|empty"),
    ],
)
def test_other_tables_are_refused_by_name(folder: Path, content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=rf"m\.csv.*({message})"):
        read_manifest(write(folder, content))


def test_broken_parquet_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"m\.parquet cannot be read as a table"):
        read_manifest(write(folder, b"PAR1 and no more", "m.parquet"))


def test_missing_manifest_is_an_error(folder: Path) -> None:
    for name in ("nothing.csv", "sub"):
        with pytest.raises(FileNotFoundError, match=f"no manifest at .*{name}"):
            read_manifest(folder / name)


def test_unknown_column_is_an_error_that_lists_the_columns(folder: Path) -> None:
    manifest = read_manifest(write(folder, "path,label\na.mp4,x\n"))
    with pytest.raises(ManifestError, match=r"no column 'labels'.*'label'"):
        manifest.column("labels")


@pytest.mark.parametrize(
    ("value", "missing"),
    [("", True), (" NaN ", True), ("n/a", True), ("NULL", True), (None, True), (float("nan"), True),
     ("0", False), (0, False), (False, False), ("none", False), ("nano", False)],
)  # fmt: skip
def test_blank_values_are_recognised(value: Any, missing: bool) -> None:
    assert is_missing(pd.Series([value, "x"], dtype=object)).tolist() == [missing, False]


@pytest.mark.parametrize("name", ["lung_ultrasound", "drone_infrared"])
def test_real_manifests_are_read_whole(shared_data: Path, name: str) -> None:
    path = shared_data / name / "manifest.csv"
    manifest = read_manifest(path)
    assert len(manifest.clips) == {"lung_ultrasound": 130, "drone_infrared": 365}[name]
    assert all(clip.file.is_file() for clip in manifest.clips)


@pytest.mark.parametrize("header", ["path,end_seconds ", "path,End_Seconds", "path, Video ID"])
def test_columns_that_nearly_have_a_known_name_do_not_pass_for_others(
    folder: Path, header: str
) -> None:
    path = write(folder, f"{header}\na.mp4,1\n")
    if header.endswith("end_seconds "):
        assert read_manifest(path).clips[0].end_seconds == 1
    else:
        with pytest.raises(ManifestError, match=r"write it '(end_seconds|video_id)'"):
            read_manifest(path)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolon"), ("\t", "tab")])
def test_other_separators_are_recognised(folder: Path, mark: str, name: str) -> None:
    with pytest.raises(ManifestError, match=f"it looks {name}-separated"):
        read_manifest(write(folder, f"path{mark}label\na.mp4{mark}1\n"))

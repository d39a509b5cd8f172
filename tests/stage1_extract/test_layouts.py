"""Manifests from folders: what is a video, in which order, with which labels and splits."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from stage1_extract.folders import VIDEO_SUFFIXES, find_videos
from stage1_extract.layouts import LAYOUTS, LayoutName
from stage1_extract.manifest import read_manifest
from stage1_extract.manifest_writing import WrittenManifest, write_manifest
from stage2_temporal.splits import Split

IMAGES = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp")


def fill(root: Path, *names: str) -> Path:
    """Make files, and the folders that they are in."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_videos(root).paths]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(root: Path, layout: LayoutName, split: int | None = None) -> WrittenManifest:
    return write_manifest(root, root.parent / "m.csv", layout=layout, split=split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


# what counts as a video


def test_every_kind_of_video_is_found_whatever_the_case(root: Path) -> None:
    kinds = [
        *("mp4", "avi", "mov", "mkv", "mpg", "mpeg", "wmv", "webm", "m4v", "flv", "ts", "mts"),
        *("3gp", "gif", "tif", "tiff", "npy", "npz", "dcm", "dicom"),
    ]
    assert {suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES} == set(kinds)
    names = [f"{kind}/a.{kind}" for kind in kinds] + ["upper/a.MP4"]
    fill(root, *names)
    assert found(root) == sorted(names)


def test_natural_order_folder_by_folder(root: Path) -> None:
    names = ["a2/x.mp4", "a10/x.mp4", "B1.mp4", "b2.mp4", "b10.mp4", "B11.mp4", "²/1.mp4"]
    fill(root, *reversed(names))
    assert found(root) == names


@pytest.mark.parametrize("kind", IMAGES)
def test_folder_of_images_is_one_clip(root: Path, kind: str) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for name in ("two/1", "two/2", "class/deep/1", "class/deep/2"):
        path = root / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
    fill(root, "two/notes.txt", "deep.mp4")
    content = find_videos(root)
    names = [path.relative_to(root).as_posix() for path in content.paths]
    assert names == ["class/deep", "deep.mp4", "two"]
    assert content.left_out == {".txt": 1}


def test_one_image_is_no_clip_and_neither_are_those_beside_videos(root: Path) -> None:
    fill(root, "one/a.png", "mixed/a.png", "mixed/b.png", "mixed/v.mp4", "t1.jpg", "t2.jpg")
    content = find_videos(root)
    assert [path.name for path in content.paths] == ["v.mp4"]
    assert content.left_out == {".png": 3, ".jpg": 2}


def test_tiff_files_with_pages_are_videos_each(root: Path) -> None:
    pages = [np.zeros((4, 4), np.uint8)] * 3
    (root / "stacks").mkdir()
    for name in ("a", "b"):
        assert cv2.imwritemulti(str(root / "stacks" / f"{name}.tif"), pages)
    assert found(root) == ["stacks/a.tif", "stacks/b.tif"]


def test_hidden_files_and_folders_do_not_count(root: Path) -> None:
    fill(root, ".a.mp4", ".git/b.mp4", "x/._c.mp4", "x/d.mp4")
    content = find_videos(root)
    assert ([path.name for path in content.paths], content.left_out) == (["d.mp4"], {})


def test_other_files_are_counted_by_suffix(root: Path) -> None:
    fill(root, "a.mp4", "b.txt", "c.TXT", "d/e.db", "README")
    (root / "broken.mp4").symlink_to("nothing")
    assert find_videos(root).left_out == {
        ".txt": 2,
        ".db": 1,
        "broken link": 1,
        "without suffix": 1,
    }


def test_links_are_followed_and_loops_end(root: Path) -> None:
    fill(root.parent, "elsewhere/b.mp4", "elsewhere/deep/c.mp4")
    fill(root, "a/a.mp4")
    (root / "link").symlink_to(root.parent / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "above").symlink_to(root.parent)
    (root.parent / "elsewhere" / "deep" / "back").symlink_to(root / "a")
    (root / "a0").symlink_to(root / "a")
    assert found(root) == ["a/a.mp4", "link/b.mp4", "link/deep/c.mp4"]


# the layouts


def test_first_folder_is_the_label(root: Path) -> None:
    fill(root, "walk/a.mp4", "run/deep/b.avi", "run/c.mp4")
    written = write(root, "class-folders")
    manifest = read_manifest(root.parent / "m.csv")
    assert manifest.table["label"].tolist() == ["run", "run", "walk"]
    assert [clip.path for clip in manifest.clips] == [
        root / "run/c.mp4",
        root / "run/deep/b.avi",
        root / "walk/a.mp4",
    ]
    assert written.labels == {"run": 2, "walk": 1}
    assert (written.num_clips, written.columns) == (3, ("path", "label"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.mp4", "walk/b.mp4"], "1 videos .*no class folder: a.mp4.*--layout flat"),
        (["walk/1.png", "walk/2.png"], "no class folder: walk"),
        (["NA/a.mp4", "walk/b.mp4"], r"\['NA'\] would read as blank"),
    ],
)
def test_videos_without_a_usable_class_are_refused(
    root: Path, names: list[str], message: str
) -> None:
    fill(root, *names)
    with pytest.raises(ValueError, match=message):
        write(root, "class-folders")
    assert not (root.parent / "m.csv").exists()


def ucf(root: Path, *, lists: str | None) -> Path:
    """Make two classes with two groups; the class of one is spelt differently in its files."""
    names = [
        f"{folder}/v_{name}_g{group:02}_c{clip:02}.avi"
        for folder, name in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups"))
        for group in (1, 2)
        for clip in (1, 2)
    ]
    fill(root, *names)
    if lists is not None:
        (root / lists).mkdir(exist_ok=True)
        for number, train in ((1, "_g02"), (2, "_g01")):
            lines: Mapping[str, list[str]] = {
                "train": [f"{name} 1" for name in names if train in name],
                "test": [name for name in names if train not in name],
            }
            for side, text in lines.items():
                path = root / lists / f"{side}list{number:02}.txt"
                path.write_text("\r\n".join(text) + "\r\n")
    return root


@pytest.mark.parametrize("lists", ["", "ucfTrainTestlist"])
@pytest.mark.parametrize(("split", "train_group"), [(None, "g02"), (1, "g02"), (2, "g01")])
def test_ucf101_has_labels_groups_and_the_official_split(
    root: Path, lists: str, split: int | None, train_group: str
) -> None:
    ucf(root, lists=lists)
    write(root, "ucf101", split)
    rows = rows_of(root.parent / "m.csv")
    assert len(rows) == 8
    assert {row["label"] for row in rows} == {"Archery", "HandstandPushups"}
    assert rows[0] == {
        "path": "videos/Archery/v_Archery_g01_c01.avi",
        "label": "Archery",
        "group": "Archery_g01",
        "split": "train" if train_group == "g01" else "test",
    }
    assert all((row["split"] == "train") == row["group"].endswith(train_group) for row in rows)


def test_ucf101_without_lists_has_no_split_unless_one_is_asked_for(root: Path) -> None:
    ucf(root, lists=None)
    assert write(root, "ucf101").columns == ("path", "label", "group")
    with pytest.raises(FileNotFoundError, match=r"no trainlist03\.txt in"):
        write_manifest(root, root.parent / "n.csv", layout="ucf101", split=3)


def test_ucf101_lists_and_videos_must_agree(root: Path) -> None:
    ucf(root, lists="")
    missing = [root / f"Archery/v_Archery_g0{group}_c01.avi" for group in (1, 2)]
    for path in missing:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"2 videos.*{missing[0].name}.*{missing[1].name}"):
        write(root, "ucf101")
    fill(root, *(str(path.relative_to(root)) for path in missing), "Archery/v_Archery_g03_c01.avi")
    with pytest.raises(ValueError, match="1 videos are in no official list: v_Archery_g03_c01"):
        write(root, "ucf101")
    fill(root, "Archery/other.avi")
    with pytest.raises(ValueError, match=r"other\.avi is not named as in UCF101"):
        write(root, "ucf101")


HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"


def test_echonet_keeps_its_columns_and_names_the_sides_as_stage_two_does(root: Path) -> None:
    fill(root, "Videos/0X1.avi", "Videos/0X2.avi", "Videos/0X3.avi", "Videos/extra.avi")
    (root / "FileList.csv").write_text(
        HEADER
        + "0X1,78.49,14.88,69.21,112,112,50,174,VAL\n"
        + "0X2,59.1,40.3,98.7,112,112,50,215,TRAIN\n0X3.avi,1,2,3,112,112,50,9,TEST\n"
    )
    written = write(root, "echonet")
    rows = rows_of(root.parent / "m.csv")
    assert rows[0] == {
        "path": "videos/Videos/0X1.avi",
        **{"EF": "78.49", "ESV": "14.88", "EDV": "69.21", "FrameHeight": "112"},
        **{"FrameWidth": "112", "FPS": "50", "NumberOfFrames": "174", "split": "validation"},
    }
    assert {row["split"] for row in rows} == set(Split.names)
    assert rows[2]["path"].endswith("Videos/0X3.avi")
    assert written.left_out == {"video not in FileList.csv": 1}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, r"no .*FileList\.csv"),
        ("FileName,EF\n0X1,3\n", ValueError, "no column Split"),
        (HEADER + "0X1,1,2,3,4,5,6,7,DEV\n", ValueError, "0X1 has Split 'DEV'"),
        (HEADER + "0X1,1,2,3,4,5,6,7,TEST,9\n", ValueError, "more fields"),
        (HEADER, ValueError, "no videos in"),
        (
            HEADER + "".join(f"0X{i},1,2,3,4,5,6,7,TEST\n" for i in (1, 2, 3)),
            FileNotFoundError,
            r"2 videos .*Videos.*0X2\.avi, 0X3\.avi",
        ),
    ],
)
def test_wrong_echonet_folders_are_refused(
    root: Path, text: str | None, error: type[Exception], message: str
) -> None:
    fill(root, "Videos/0X1.avi")
    if text is not None:
        (root / "FileList.csv").write_text(text)
    with pytest.raises(error, match=message):
        write(root, "echonet")


# the written file


def test_paths_are_relative_to_the_manifest_wherever_it_is(root: Path) -> None:
    fill(root, "a.mp4", "c/1.png", "c/2.png")
    fill(root.parent, "deep/er/x")
    (root.parent / "link").symlink_to(root.parent / "deep/er")
    for folder in (root, root.parent, root.parent / "deep/er", root.parent / "link"):
        write_manifest(root, folder / "m.csv", layout="flat", overwrite=True)
        clips = read_manifest(folder / "m.csv").clips
        assert [os.path.realpath(clip.file) for clip in clips] == [f"{root}/a.mp4", f"{root}/c"]


def test_manifest_in_the_folder_is_not_counted(root: Path) -> None:
    fill(root, "a.mp4", "m.csv")
    assert write_manifest(root, root / "m.csv", layout="flat", overwrite=True).left_out == {}


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a.mp4", "b.avi"], None),
        (["a.avi", "a.mp4", "b.mp4"], ["a.avi", "a.mp4", "b"]),
        (["a.avi", "a.mp4", "a.mp4.mov"], ["a.avi", "a.mp4", "a.mp4.mov"]),
        (["a/1.png", "a/2.png", "a.mp4"], ["a", "a.mp4"]),
        (["s.1/1.png", "s.1/2.png", "s.2/1.png", "s.2/2.png"], ["s.1", "s.2"]),
    ],
)
def test_ids_are_unique(root: Path, names: list[str], ids: list[str] | None) -> None:
    fill(root, *names)
    out = root / "m.csv"
    write_manifest(root, out, layout="flat")
    assert ("video_id" in rows_of(out)[0]) == (ids is not None)
    assert [clip.video_id for clip in read_manifest(out).clips] == (ids or ["a", "b"])


@pytest.mark.parametrize(
    "name", ["a, b.mp4", ' "quoted".mp4', "Ünïcødé 日本.mp4", " lead.mp4", "#1;2.mp4", "=1+1.mp4"]
)
def test_any_name_is_read_back(root: Path, name: str) -> None:
    fill(root, name)
    write(root, "flat")
    assert [clip.path for clip in read_manifest(root.parent / "m.csv").clips] == [root / name]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a\nb.mp4", "control characters"), (os.fsdecode(b"\xff.mp4"), "is not UTF-8; rename")],
)
def test_names_that_no_manifest_can_hold_are_refused(root: Path, name: str, message: str) -> None:
    fill(root, name)
    with pytest.raises(ValueError, match=message):
        write(root, "flat")
    assert [path.name for path in root.parent.iterdir()] == ["videos"]


def test_a_manifest_is_replaced_only_on_demand(root: Path) -> None:
    fill(root, "a.mp4")
    out = fill(root.parent, "m.csv") / "m.csv"
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_manifest(root, out, layout="flat")
    assert out.read_bytes() == b"x"
    write_manifest(root, out, layout="flat", overwrite=True)
    assert len(read_manifest(out).clips) == 1


@pytest.mark.parametrize("layout", ["flat", "class-folders", "ucf101"])
def test_nothing_found_says_what_was_looked_for(root: Path, layout: LayoutName) -> None:
    fill(root, "a.txt", "b.txt", ".hidden.mp4")
    with pytest.raises(ValueError, match=r"no videos.*\.mp4.*two images.*Other files: \.txt 2"):
        write(root, layout)


@pytest.mark.parametrize(
    ("folder", "out", "split", "message"),
    [
        ("nothing", "m.csv", None, "no folder"),
        ("videos", "nothing/m.csv", None, "no folder .*nothing"),
        ("videos", "m.parquet", None, "ends with .csv"),
        ("videos", "m.csv", 1, "--split 1"),
    ],
)
def test_wrong_use_is_refused(
    root: Path, folder: str, out: str, split: int | None, message: str
) -> None:
    fill(root, "a.mp4")
    paths = root.parent / folder, root.parent / out
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_manifest(*paths, layout="flat", split=split)


def test_every_layout_has_a_name() -> None:
    assert set(LAYOUTS) == {"class-folders", "ucf101", "echonet", "flat"}

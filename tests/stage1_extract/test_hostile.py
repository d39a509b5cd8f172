"""Hostile and odd inputs: each fails in words that a person understands, or is read rightly."""

import dataclasses
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageSequence

from stage1_extract.clips import (
    ClipDone,
    ClipJob,
    FrameChunk,
    FrameRecipe,
    Restart,
    read_clip,
)
from stage1_extract.decoder_handle import DecoderLimits
from stage1_extract.decoding import ClipEvent, DecoderPool
from stage1_extract.extraction import ExtractSummary, extract
from stage1_extract.manifest import ManifestError, read_manifest
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip, VideoError
from stage1_extract.store import EmbeddingStore
from stage1_extract.verifying import verify_store
from stage1_extract.videos import open_video
from tests.encode import encode, moving_texture
from tests.stage1_extract.test_extraction import (
    FLAGS,
    SETTINGS,
    contents,
    write_clip,
    write_manifest,
)

SIDE = 64
SQUARE = SIDE, SIDE
NUM_FRAMES = 30
VIDEO_SUFFIXES = [
    *("mp4", "avi", "mov", "mkv", "webm", "gif", "mpg", "ts", "wmv", "flv"),
    *("m4v", "h264", "mjpeg", "ogv", "y4m", "dv", "3gp", "mxf"),
]
NOT_OPENED = "cannot be opened as a video: it is cut short, damaged, or of a kind that FFmpeg"
NO_FRAME = "opens as a video, but no frame can be decoded"


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What came of a clip: (n, SIDE, SIDE, 3) RGB frames, their numbers and times."""

    frames: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    times: NDArray[np.float64]


def decode(
    paths: Sequence[Path], *, min_coverage: float = 0.8
) -> dict[str, Decoded | VideoError | OSError]:
    """Decode files at SIDE x SIDE pixels; returns frames, or the error, by file name."""
    recipe = FrameRecipe(parse_sampling("all"), "squash", SIDE, min_coverage)
    limits = DecoderLimits(stall_seconds=300, memory_mb=2000)
    chunks: dict[str, list[FrameChunk]] = {path.name: [] for path in paths}
    found: dict[str, Decoded | VideoError | OSError] = {}
    with DecoderPool(recipe, num_decoders=2, limits=limits) as pool:
        for event in pool.decode([ClipJob(Clip(path.name, path)) for path in paths]):
            name, content = event.clip.video_id, event.content
            if isinstance(content, FrameChunk):
                chunks[name].append(dataclasses.replace(content, frames=content.frames.copy()))
            elif isinstance(content, Restart):
                chunks[name].clear()
            elif isinstance(content, ClipDone):
                found[name] = joined(chunks[name])
            else:
                found[name] = content
    return found


def joined(chunks: list[FrameChunk]) -> Decoded:
    return Decoded(
        np.concatenate([chunk.frames for chunk in chunks]),
        np.concatenate([chunk.source_index for chunk in chunks]),
        np.concatenate([chunk.time_seconds for chunk in chunks]),
    )


def whole(found: Decoded | VideoError | OSError) -> Decoded:
    assert isinstance(found, Decoded), found
    return found


def pictures(num_frames: int = NUM_FRAMES) -> list[NDArray[np.uint8]]:
    """Return RGB frames of which no two are equal."""
    return [frame[..., ::-1] for frame in moving_texture(num_frames, SQUARE)]


def write_images(path: Path, **options: object) -> Path:
    first, *others = map(Image.fromarray, pictures())
    first.save(path, save_all=True, append_images=others, **options)  # type: ignore[arg-type]
    return path


def write_dicom(path: Path) -> Path:
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns, header.NumberOfFrames = SIDE, SIDE, NUM_FRAMES
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelRepresentation, header.FrameTime = 0, "40"
    header.PixelData = np.stack(pictures())[..., 0].tobytes()
    header.save_as(path, enforce_file_format=True)
    return path


def write_npz(path: Path) -> Path:
    np.savez_compressed(path, frames=np.stack(pictures()))
    return path


def write_npy(path: Path) -> Path:
    np.save(path, np.stack(pictures()))
    return path


def video(
    codec: str, pixel_format: str = "yuv420p", *, b_frames: int = 0
) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        return encode(
            path,
            codec,
            NUM_FRAMES,
            gop=10,
            b_frames=b_frames,
            size=SQUARE,
            pixel_format=pixel_format,
        )

    return write


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mp4": video("libx264", b_frames=2),
    "mov": video("libx264", b_frames=2),
    "mkv": video("libx264", b_frames=2),
    "webm": video("libvpx-vp9"),
    "avi": video("mpeg4"),
    "jpeg.avi": video("mjpeg", "yuvj420p"),
    "flv": video("flv1"),
    "mpg": video("mpeg2video", b_frames=2),
    "gif": lambda path: write_images(path, duration=100),
    "npy": write_npy,
    "npz": write_npz,
    "tif": write_images,
    "lzw.tif": lambda path: write_images(path, compression="tiff_lzw"),
    "dcm": write_dicom,
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound file of every kind, by its suffix."""
    folder = tmp_path_factory.mktemp("intact")
    return {suffix: write(folder / f"whole.{suffix}") for suffix, write in WRITERS.items()}


# files cut short


def cut(path: Path, folder: Path) -> list[Path]:
    """Return copies that end at every tenth of the length, and a few bytes before the end."""
    content = path.read_bytes()
    lengths = [len(content) * k // 10 for k in range(1, 10)] + [len(content) - 7]
    copies = [folder / f"{k + 1}.{path.name}" for k in range(len(lengths))]
    for copy, length in zip(copies, lengths, strict=True):
        copy.write_bytes(content[:length])
    return copies


def differences(part: Decoded, all_frames: Decoded) -> NDArray[np.int64]:
    """Return the greatest difference of each frame from the intact file's of the same time."""
    nearest = np.abs(all_frames.times - part.times[:, None]).argmin(axis=1)
    np.testing.assert_allclose(part.times, all_frames.times[nearest], atol=1e-3)
    change = part.frames.astype(int) - all_frames.frames[nearest]
    return np.asarray(np.abs(change).max(axis=(1, 2, 3)))


@pytest.mark.parametrize("min_coverage", [0.8, 0.0])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "npy", "npz", "tif", "lzw.tif", "dcm"])
def test_cut_files_whose_format_tells_their_length_fail(
    intact: dict[str, Path], tmp_path: Path, suffix: str, min_coverage: float
) -> None:
    copies = cut(intact[suffix], tmp_path)
    for name, found in decode(copies[:9], min_coverage=min_coverage).items():
        assert isinstance(found, VideoError), name
        assert any(word in str(found) for word in ("cut short", "damaged")), found


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "jpeg.avi", "flv"])
def test_cut_files_of_whole_frames_yield_those_that_are_left_and_no_part_of_one(
    intact: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    copies = cut(intact[suffix], tmp_path)
    all_frames = whole(decode([intact[suffix]])[intact[suffix].name])
    accepted = decode(copies, min_coverage=0)
    strict = decode(copies)
    lengths = []
    for copy in copies:
        found = accepted[copy.name]
        if isinstance(found, Decoded):
            assert found.numbers.tolist() == list(range(len(found.numbers)))
            assert not differences(found, all_frames).any()
            lengths.append(len(found.numbers))
        else:
            assert any(words in str(found) for words in (NOT_OPENED, NO_FRAME))
        if not isinstance(found, Decoded) or len(found.numbers) < 0.7 * NUM_FRAMES:
            assert isinstance(strict[copy.name], VideoError), copy
    assert lengths == sorted(lengths)
    assert lengths[-1] >= NUM_FRAMES - 3


def test_a_cut_gif_fails(intact: dict[str, Path], tmp_path: Path) -> None:
    copies = cut(intact["gif"], tmp_path)
    for found in decode(copies, min_coverage=0).values():
        assert "GIF without its end: it is cut short" in str(found)


def test_a_cut_mpeg_stream_cannot_tell_and_yields_a_damaged_end(
    intact: dict[str, Path], tmp_path: Path
) -> None:
    """MPEG streams state no length: what lies at the cut, and hangs on it, may be wrong."""
    all_frames = whole(decode([intact["mpg"]])["whole.mpg"])
    for found in decode(cut(intact["mpg"], tmp_path)).values():
        if isinstance(found, Decoded):
            count = len(found.numbers)
            assert found.numbers.tolist() == list(range(count))
            sound = slice(0, max(0, count - 3))
            assert np.array_equal(found.frames[sound], all_frames.frames[sound])
        else:
            assert "cut short" in str(found)


# one run over everything that cannot be used


def write_audio(path: Path, codec: str, container_format: str | None = None) -> None:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        assert isinstance(stream, av.AudioStream)
        form, kind = ("s16", np.int16) if codec.startswith("pcm") else ("fltp", np.float32)
        for k in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), kind), form, "mono")
            frame.sample_rate, frame.pts = 44100, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.encode()


def claim_gif_size(content: bytearray, side: int) -> None:
    struct.pack_into("<HH", content, 6, side, side)


def claim_npy_size(content: bytearray, side: int) -> None:
    content[:128] = npy_header((NUM_FRAMES, side, side, 3))


def claim_dicom_size(content: bytearray, side: int) -> None:
    for element in (b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US"):
        struct.pack_into("<H", content, content.index(element) + 8, side)


def claim_tiff_size(content: bytearray, side: int) -> None:
    (offset,) = struct.unpack_from("<I", content, 4)
    while offset:
        (count,) = struct.unpack_from("<H", content, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            if struct.unpack_from("<H", content, entry)[0] in (256, 257):  # width, height
                struct.pack_into("<HII", content, entry + 2, 4, 1, side)
        (offset,) = struct.unpack_from("<I", content, offset + 2 + 12 * count)


def claims(intact: dict[str, Path]) -> Iterator[tuple[str, bytes, str]]:
    """Yield (name, content, reason) of files that claim absurd sizes."""
    for suffix, claim, sides, reasons in (
        # A GIF whose screen is 0x0 is as large as its pictures: browsers show it.
        ("gif", claim_gif_size, (65535,), ("GIF is damaged",)),
        ("npy", claim_npy_size, (0, 100_000), ("none of them 0", "takes 900000000000 bytes")),
        ("tif", claim_tiff_size, (0, 100_000), ("page 0 cannot be read",) * 2),
        ("dcm", claim_dicom_size, (0, 65535), ("'Columns' value of '0'", "is cut short")),
    ):
        for side, reason in zip(sides, reasons, strict=True):
            content = bytearray(intact[suffix].read_bytes())
            claim(content, side)
            yield f"claims {side}.{suffix}", bytes(content), reason


class Planted:
    """Unpickling this would create a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def write_planted_objects(folder: Path) -> dict[str, str]:
    planted = np.full((3, 4, 4), Planted(folder / "planted"), object)
    np.save(folder / "objects.npy", planted, allow_pickle=True)
    np.savez(folder / "objects.npz", frames=planted)
    np.save(folder / "fields.npy", np.zeros((3, 4, 4), [("a", object)]), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps(planted))
    (folder / "pickle.npz").write_bytes(pickle.dumps(planted))
    refusal = "arrays of Python objects are never loaded"
    names = dict.fromkeys(("objects.npy", "objects.npz", "fields.npy"), refusal)
    return names | dict.fromkeys(("pickle.npy", "pickle.npz"), "is no numpy file")


def write_bad_files(folder: Path, intact: dict[str, Path]) -> dict[str, str]:
    """Write files that are no use; returns a part of the expected reason by name."""
    rng = np.random.default_rng(0)
    expected = write_planted_objects(folder)
    for suffix in VIDEO_SUFFIXES:
        for size in (1, 200, 100_000):
            (folder / f"random {size}.{suffix}").write_bytes(rng.bytes(size))
            expected[f"random {size}.{suffix}"] = "as a video"
    for suffix, kind in {"npy": "numpy", "npz": "numpy", "tif": "TIFF", "dcm": "DICOM"}.items():
        (folder / f"random.{suffix}").write_bytes(rng.bytes(5000))
        expected[f"random.{suffix}"] = f"is no {kind} file"
    for suffix in WRITERS:
        (folder / f"header.{suffix}").write_bytes(intact[suffix].read_bytes()[:64])
        expected[f"header.{suffix}"] = "damaged|cut short|as a video|is no DICOM file"
    for name, content, reason in claims(intact):
        (folder / name).write_bytes(content)
        expected[name] = reason
    for name, codec, container in (
        ("sound.mp4", "aac", None),
        ("sound.mkv", "aac", None),
        ("sound.mov", "pcm_s16le", None),
        ("sound.avi", "pcm_s16le", None),
        ("wave.avi", "pcm_s16le", "wav"),
    ):
        write_audio(folder / name, codec, container)
        expected[name] = "as a video"
    return expected | write_other_bad_files(folder, intact)


def write_other_bad_files(folder: Path, intact: dict[str, Path]) -> dict[str, str]:
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(intact["dcm"])
    header.NumberOfFrames = 10**9
    header.save_as(folder / "many frames.dcm")
    del header.PixelData
    header.save_as(folder / "no pixels.dcm")
    with (folder / "explodes.npy").open("wb") as file:  # whose length is as stated, without blocks
        file.write(npy_header((3, 100_000, 100_000, 3)))
        file.truncate(128 + 3 * 100_000 * 100_000 * 3)
    (folder / "notes.mp4").write_text("This is no video.\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "no images").mkdir()
    (folder / "no images" / "readme.txt").write_text("nothing here")
    (folder / "circle").mkdir()
    (folder / "circle" / "itself").symlink_to(folder / "circle")
    (folder / 'of "two"\nlines.mp4').write_bytes(b"no video")
    return {
        "many frames.dcm": "is cut short",
        "no pixels.dcm": "is a DICOM file without pixels",
        "explodes.npy": "needs more than the 2000 MB that a decoder may use",
        "notes.mp4": NOT_OPENED,
        "empty.mp4": r"is empty \(0 bytes\)",
        "no images": r"is a folder without images \(.png",
        "circle": "is a folder without images",
        'of "two"\nlines.mp4': NOT_OPENED,
    }


@dataclasses.dataclass(frozen=True)
class BadRun:
    folder: Path
    summary: ExtractSummary
    expected: dict[str, str]


def write_rows(folder: Path, names: Sequence[str]) -> Path:
    """Write a manifest whose ids are the rows' numbers."""
    rows = ['"{}",{}\n'.format(name.replace('"', '""'), k) for k, name in enumerate(names)]
    manifest = folder / "manifest.csv"
    manifest.write_bytes(("path,video_id\n" + "".join(rows)).encode())
    return manifest


@pytest.fixture(scope="module")
def bad_run(intact: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> BadRun:
    """A run over all bad files, with good clips before, among and behind them."""
    folder = tmp_path_factory.mktemp("bad")
    expected = write_bad_files(folder, intact)
    names = sorted(expected)
    for k in range(5):
        write_clip(folder / f"good {k}.mp4", seed=k)
        names.insert(k * len(expected) // 4 + k, f"good {k}.mp4")
    settings = dataclasses.replace(SETTINGS, decoder_memory_mb=2000, decoders=2)
    manifest = write_rows(folder, names)
    return BadRun(folder, extract(manifest, folder / "store", settings), expected)


def test_every_bad_file_fails_with_a_reason_that_fits(bad_run: BadRun) -> None:
    lines = (bad_run.folder / "store" / "failures.jsonl").read_text("utf-8").splitlines()
    recorded = {Path(entry["path"]).name: entry for entry in map(json.loads, lines)}
    assert len(lines) == len(recorded)
    assert set(recorded) == set(bad_run.expected)
    for name, reason in bad_run.expected.items():
        assert recorded[name]["exception"] == "VideoError"
        with pytest.raises(VideoError, match=reason):
            raise VideoError(recorded[name]["reason"])
        assert recorded[name]["reason"].startswith(str(bad_run.folder / name))


def test_good_clips_among_bad_ones_are_stored_as_if_alone(bad_run: BadRun, tmp_path: Path) -> None:
    assert bad_run.summary.num_stored == 5
    for k in range(5):
        shutil.copy(bad_run.folder / f"good {k}.mp4", tmp_path)
    alone = write_manifest(tmp_path, [f"good {k}.mp4" for k in range(5)])
    extract(alone, tmp_path / "store", SETTINGS)
    stored = sorted(contents(bad_run.folder / "store").values())
    assert stored == sorted(contents(tmp_path / "store").values())
    assert verify_store(bad_run.folder / "store").sound


def test_planted_pickles_are_never_loaded(bad_run: BadRun) -> None:
    assert not (bad_run.folder / "planted").exists()
    (bad_run.folder / "planted").mkdir()
    with pytest.raises(FileExistsError):  # loading them does try to make the folder
        np.load(bad_run.folder / "objects.npy", allow_pickle=True)
    (bad_run.folder / "planted").rmdir()


# what is no file


@pytest.fixture
def special_files(tmp_path: Path) -> dict[str, str]:
    """Special files, and what they are called in the refusal."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, target in {
        "zero.avi": "/dev/zero",
        "null.npy": "/dev/null",
        "a": "b",
        "b": "a",
    }.items():
        (tmp_path / name).symlink_to(target)
    refused = dict.fromkeys(("pipe.mp4", "zero.avi", "null.npy"), "is neither a file nor a folder")
    return refused | dict.fromkeys(("a", "b"), "does not exist")


def test_pipes_devices_and_circular_links_are_refused_before_work_begins(
    special_files: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="5 problems in 5 rows") as raised:
        read_manifest(write_manifest(tmp_path, list(special_files)))
    for name, reason in special_files.items():
        assert f"{name}' {reason}" in str(raised.value)


def test_a_file_that_became_a_pipe_or_device_does_not_block_its_decoder(
    special_files: dict[str, str], tmp_path: Path
) -> None:
    good = write_npy(tmp_path / "good.npy")
    found = decode([*(tmp_path / name for name in special_files), good])
    for name, reason in special_files.items():
        assert isinstance(found[name], VideoError)
        assert ("no file at" if reason == "does not exist" else "is not a file") in str(found[name])
    assert len(whole(found["good.npy"]).numbers) == NUM_FRAMES


@pytest.mark.slow
def test_a_file_without_permission_fails_alone(tmp_path: Path) -> None:
    for name in ("good.mp4", "secret.mp4"):
        write_clip(tmp_path / name, seed=0)
    manifest = write_manifest(tmp_path, ["good.mp4", "secret.mp4"])
    (tmp_path / "secret.mp4").chmod(0)
    command = [
        sys.executable,
        "-m",
        "stage1_extract",
        "run",
        str(manifest),
        str(tmp_path / "store"),
    ]
    run = subprocess.run(
        [*without_privilege(), *command, *FLAGS], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert "Permission denied" in run.stdout
    assert EmbeddingStore(tmp_path / "store").video_ids.tolist() == ["good"]


def without_privilege() -> list[str]:
    """Return what makes a command obey permissions, which root otherwise need not."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root without setpriv cannot give up its right to read any file")
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"]


# names


def test_files_of_any_name_are_embedded_alike(tmp_path: Path) -> None:
    names = ["a\nb.mp4", "quote\"s'.mp4", "tab\t.mp4", "%d;,.mp4", "\u202eright to left.mp4"]
    for name in names:
        write_clip(tmp_path / name, seed=0)
    extract(write_rows(tmp_path, names), tmp_path / "store", SETTINGS)
    stored = contents(tmp_path / "store")
    assert len(stored) == len(names)
    assert len(set(stored.values())) == 1


@pytest.fixture
def latin_folder(tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8, as archives of older systems leave them."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    return folder


def test_arrays_and_images_whose_names_are_not_utf8_are_embedded(
    latin_folder: Path, tmp_path: Path
) -> None:
    images = latin_folder / "images"
    images.mkdir()
    for number, frame in enumerate(pictures(3)):
        cv2.imwrite(str(tmp_path / "image.png"), frame)
        (tmp_path / "image.png").rename(images / os.fsdecode(b"%d\xff.png" % number))
    np.save(latin_folder / "array.npy", np.stack(pictures(3)))
    manifest = write_manifest(latin_folder, ["array.npy", "images"])
    summary = extract(manifest, tmp_path / "store", SETTINGS)
    assert (summary.num_stored, summary.failures) == (2, ())
    store = EmbeddingStore(tmp_path / "store")
    assert store.column("source_path")[store.find("array")].endswith(r"caf\xe9/array.npy")
    assert extract(manifest, tmp_path / "store", SETTINGS).num_present == 2


def test_a_video_whose_name_is_not_utf8_is_refused_and_crashes_nothing(
    latin_folder: Path, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mp4", seed=0)
    moved = Path(shutil.move(tmp_path / "clip.mp4", latin_folder))
    (tmp_path / "link.mp4").symlink_to(moved)
    found = decode([moved, tmp_path / "link.mp4"])
    for name in ("clip.mp4", "link.mp4"):
        assert "has a name that is not UTF-8; rename" in str(found[name])


# files that change while they are read


def act_at_first_chunk(path: Path, action: Callable[[], object]) -> ClipEvent:
    """Decode a file of so many frames that its decoder waits, act, and return the last event."""
    recipe = FrameRecipe(parse_sampling("all"), "squash", 8, 0.8)
    acted = False
    with DecoderPool(recipe, num_decoders=1) as pool:
        for event in pool.decode([ClipJob(Clip("victim", path))]):
            if not acted:
                assert isinstance(event.content, FrameChunk)
                action()
                acted = True
    return event


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1000))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGED = "changed while it was read|cut short|damaged|No such file or directory"


@pytest.mark.parametrize("suffix", ["npy", "npz", "avi", "mkv"])
@pytest.mark.parametrize("change", [grow, replace, shorten, Path.unlink])
def test_a_file_that_changes_under_its_decoder_fails(
    tmp_path: Path, suffix: str, change: Callable[[Path], None]
) -> None:
    path = tmp_path / f"victim.{suffix}"
    frames = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    if suffix == "npy":
        np.save(path, frames)
    elif suffix == "npz":
        np.savez(path, frames)
    else:
        encode(path, "mpeg4", 400, size=(32, 32))
    last = act_at_first_chunk(path, lambda: change(path))
    assert isinstance(last.content, VideoError | OSError)
    assert str(path) in str(last.content)
    with pytest.raises((VideoError, OSError), match=CHANGED):
        raise last.content


# odd files that are sound


ODD_FORMATS = {
    "h264 10 bit.mkv": ("libx264", "yuv420p10le"),
    "h264 444.mkv": ("libx264", "yuv444p"),
    "h264 grey.mkv": ("libx264", "gray"),
    "hevc 10 bit.mp4": ("libx265", "yuv420p10le"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
    "prores alpha.mov": ("prores_ks", "yuva444p10le"),
    "ffv1 rgb.mkv": ("ffv1", "bgr0"),
    "ffv1 rgb 10 bit.mkv": ("ffv1", "gbrp10le"),
    "ffv1 alpha.mkv": ("ffv1", "bgra"),
    "ffv1 yuv alpha.mkv": ("ffv1", "yuva420p"),
    "ffv1 grey 16 bit.mkv": ("ffv1", "gray16le"),
    "ffv1 12 bit.mkv": ("ffv1", "yuv420p12le"),
    "png alpha.mov": ("png", "rgba"),
    "qtrle alpha.mov": ("qtrle", "argb"),
    "vp9 alpha.webm": ("libvpx-vp9", "yuva420p"),
    "raw.avi": ("rawvideo", "bgr24"),
    "huffyuv.avi": ("huffyuv", "rgb24"),
    "full range.avi": ("mjpeg", "yuvj444p"),
}
BICUBIC = 4  # how OpenCV has FFmpeg bring colours to full size


@pytest.fixture(scope="module")
def odd_formats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("formats")
    for name, (codec, pixel_format) in ODD_FORMATS.items():
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else None
        encode(folder / name, codec, 4, size=SQUARE, pixel_format=pixel_format, options=quiet)
    return folder, dict(decode([folder / name for name in ODD_FORMATS]))


@pytest.mark.parametrize("name", ODD_FORMATS)
def test_odd_pixel_formats_have_the_colours_that_ffmpeg_gives_them(
    odd_formats: tuple[Path, dict[str, object]], name: str
) -> None:
    folder, decoded = odd_formats
    found = decoded[name]
    assert isinstance(found, Decoded), found
    with av.open(str(folder / name)) as container:
        expected = [
            frame.reformat(format="rgb24", interpolation=BICUBIC).to_ndarray().astype(int)
            for frame in container.decode(video=0)
        ]
    assert len(found.frames) == len(expected) == 4
    assert np.abs(found.frames - np.stack(expected)).max() <= 6
    if "grey" not in name:
        original = np.stack(pictures(4)).astype(int)
        rgb, bgr = (np.abs(f - original).mean() for f in (found.frames, found.frames[..., ::-1]))
        assert rgb < 0.75 * bgr  # what FFmpeg's quartering of the colours leaves of such noise


def moving_disc(num_frames: int, *, transparent: bool) -> list[Image.Image]:
    """Return frames of which only a small part changes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    back = noise.quantize(64).convert("RGBA")
    frames = []
    for k in range(num_frames):
        frame = Image.new("RGBA", SQUARE) if transparent else back.copy()
        ImageDraw.Draw(frame).ellipse((5 * k, 8, 5 * k + 20, 28), fill=(250, 10 * k, 90, 255))
        frames.append(frame if transparent else frame.convert("RGB"))
    return frames


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("disposal", [0, 1, 2, [1, 3, 3, 1, 3, 2, 1, 3]])
def test_gifs_of_partial_frames_are_composed_as_viewers_show_them(
    tmp_path: Path, disposal: int | list[int], transparent: bool
) -> None:
    first, *others = moving_disc(8, transparent=transparent)
    path = tmp_path / "partial.gif"
    delays = [100, 20, 500, 40, 40, 1000, 30, 100]
    first.save(path, save_all=True, append_images=others, duration=delays, disposal=disposal)
    with Image.open(path) as image:
        shown = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    opaque = [np.where(frame[..., 3:] > 0, frame[..., :3], 0) for frame in shown]
    found = whole(decode([path])["partial.gif"])
    assert np.array_equal(found.frames, np.stack(opaque))  # transparent parts are black
    np.testing.assert_allclose(found.times, np.cumsum([0, *delays[:-1]]) / 1000)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_frames_at_varying_intervals_keep_their_times(tmp_path: Path, suffix: str) -> None:
    path = encode(
        tmp_path / f"v.{suffix}", "libx264", NUM_FRAMES, b_frames=2, size=SQUARE, varying=True
    )
    with av.open(str(path)) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    found = whole(decode([path])[path.name])
    np.testing.assert_allclose(found.times, np.array(times) - times[0], atol=1e-3)
    assert np.ptp(np.diff(found.times)) > 0.03


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "ts", "webm"])
def test_files_whose_times_begin_late_are_whole_unless_cut(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = encode(tmp_path / f"a.{suffix}", codec, 50, size=SQUARE, first_seconds=7.0)
    recipe = FrameRecipe(parse_sampling("all"), "squash", 16, 0.8)
    found = list(read_clip(ClipJob(Clip("a", path)), recipe))
    times = np.concatenate([c.time_seconds for c in found if isinstance(c, FrameChunk)])
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=1e-3)
    if suffix in ("mkv", "webm"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(VideoError, match=r"states 50 frames, but only \d+ can be decoded"):
            list(read_clip(ClipJob(Clip("a", path)), recipe))


@pytest.mark.parametrize("size", [(SIDE - 3, SIDE - 1), (SIDE - 1, SIDE), (SIDE, SIDE - 1)])
@pytest.mark.parametrize("codec", ["mpeg4", "ffv1", "libvpx-vp9"])
def test_videos_of_odd_size_have_the_pixels_that_ffmpeg_gives_them(
    tmp_path: Path, size: tuple[int, int], codec: str
) -> None:
    path = encode(tmp_path / "a.mkv", codec, 4, size=size)
    with av.open(str(path)) as container:
        expected = [
            frame.reformat(format="rgb24", interpolation=BICUBIC).to_ndarray()
            for frame in container.decode(video=0)
        ]
    with open_video(path) as video:
        frames = [frame.copy() for _, frame in video.wanted(np.arange(4), to_the_end=True)]
    found = np.stack(frames)[..., ::-1].astype(int)
    assert np.abs(found - np.stack(expected)).max() <= 6


def test_colours_of_interlaced_high_definition_are_those_of_its_standard(tmp_path: Path) -> None:
    options = {"x264-params": "interlaced=1:colormatrix=bt709:colorprim=bt709:transfer=bt709"}
    path = encode(tmp_path / "a.mp4", "libx264", 3, options=options)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    planes = (
        frame.to_ndarray()[:120].astype(float),
        *(
            np.frombuffer(bytes(plane), np.uint8).reshape(60, -1)[:, :80].astype(float)
            for plane in frame.planes[1:]
        ),
    )
    luma, blue, red = (float(plane.mean()) for plane in planes)
    # BT.709, limited range: the mean of a linear transform is the transform of the means.
    scaled = 255 / 219 * (luma - 16)
    expected = [
        scaled + 1.7927 * (red - 128),
        scaled - 0.2132 * (blue - 128) - 0.5329 * (red - 128),
        scaled + 2.1124 * (blue - 128),
    ]
    recipe = FrameRecipe(parse_sampling("all"), "squash", 120, 0.8)
    chunks = [c for c in read_clip(ClipJob(Clip("a", path)), recipe) if isinstance(c, FrameChunk)]
    np.testing.assert_allclose(chunks[-1].frames[0].mean(axis=(0, 1)), expected, atol=2)


@pytest.mark.parametrize("with_pyav", [True, False])
def test_av1_takes_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyav: bool) -> None:
    path = encode(tmp_path / "a.mp4", "libsvtav1", 5, size=(64, 64))
    recipe = FrameRecipe(parse_sampling("all"), "squash", 64, 0.8)
    if not with_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(VideoError, match=r"OpenCV lacks .*embed-then-sequence\[av\]"):
            list(read_clip(ClipJob(Clip("a", path)), recipe))
        return
    chunks = [c for c in read_clip(ClipJob(Clip("a", path)), recipe) if isinstance(c, FrameChunk)]
    found = np.concatenate([chunk.frames for chunk in chunks])
    assert found.shape == (5, 64, 64, 3)
    original = np.stack(pictures(5))
    assert np.corrcoef(found.ravel(), original.ravel())[0, 1] > 0.8


def test_damage_in_an_interlaced_video_is_judged_as_in_others(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "a.mp4", "libx264", 60, gop=10, options={"x264-params": "interlaced=1"}
    )
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 3
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    recipe = FrameRecipe(parse_sampling("all"), "squash", 32, 0.8)
    accepting = dataclasses.replace(recipe, min_coverage=0)
    assert isinstance(list(read_clip(ClipJob(Clip("a", path)), accepting))[-1], ClipDone)


INTERLACED = {
    "h264.mp4": ("libx264", {"x264-params": "interlaced=1"}),
    "mpeg2.ts": ("mpeg2video", {"flags": "+ilme+ildct"}),
    "mpeg4.avi": ("mpeg4", {"flags": "+ilme+ildct"}),
}


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_videos_are_read_as_whole_frames(tmp_path: Path, name: str) -> None:
    codec, options = INTERLACED[name]
    path = encode(tmp_path / name, codec, NUM_FRAMES, size=SQUARE, options=options)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in frames)
    found = whole(decode([path])[path.name]).frames
    assert len(found) == len(frames) == NUM_FRAMES
    for ours, frame in zip(found, frames, strict=True):
        brightness = ours @ np.array([0.299, 0.587, 0.114])
        expected = (frame.to_ndarray()[:SIDE].astype(float) - 16) * 255 / 219
        assert np.corrcoef(brightness.ravel(), expected.ravel())[0, 1] > 0.98
        assert np.abs(brightness - expected).mean() < 5


@pytest.mark.parametrize("suffix", ["mp4", "avi", "jpeg.avi"])
@pytest.mark.parametrize("side", [0, 65535])
def test_a_videos_own_size_beats_what_its_container_claims(
    intact: dict[str, Path], tmp_path: Path, suffix: str, side: int
) -> None:
    content = bytearray(intact[suffix].read_bytes())
    if suffix == "mp4":  # ISO 14496-12, 8.3.2 and 12.1.3
        struct.pack_into(
            ">HH", content, content.index(b"avc1", content.index(b"stsd")) + 28, side, side
        )
        struct.pack_into(">II", content, content.index(b"tkhd") + 80, side << 16, side << 16)
    else:
        struct.pack_into("<II", content, content.index(b"avih") + 40, side, side)
        struct.pack_into("<ii", content, content.index(b"strf") + 12, side, side)
    path = tmp_path / f"claims.{suffix}"
    path.write_bytes(content)
    found = decode([path, intact[suffix]])
    assert np.array_equal(whole(found[path.name]).frames, whole(found[f"whole.{suffix}"]).frames)

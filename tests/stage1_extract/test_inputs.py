"""Every row of the README's table of inputs: its frames reach the backbone as they were written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stage1_extract.extraction import extract
from stage1_extract.store import EmbeddingStore
from tests.encode import encode
from tests.stage1_extract.test_extraction import SETTINGS, write_manifest

Frames = NDArray[np.uint8]
NUM_FRAMES = 6
ALL = replace(SETTINGS, sampling="all", assumed_fps=4.0)


def colourful() -> Frames:
    """Return (T, 32, 32, 3) RGB blocks, of the size of the backbone's input: nothing is resized."""
    blocks = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, 4, 4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(blocks, 8, axis=1), 8, axis=2)


def grey(frames: Frames) -> Frames:
    return np.asarray(frames[..., :1].repeat(3, axis=-1), np.uint8)


def image_folder(folder: Path, frames: Frames) -> Path:
    (folder / "images").mkdir()
    for number, frame in enumerate(frames, 8):  # frame 10 comes after frame 9
        cv2.imwrite(str(folder / "images" / f"frame{number}.png"), frame[..., ::-1])
    return folder / "images"


def npy(folder: Path, frames: Frames) -> Path:
    np.save(folder / "a.npy", frames)
    return folder / "a.npy"


def npy_grey(folder: Path, frames: Frames) -> Path:
    np.save(folder / "a.npy", frames[..., 0])
    return folder / "a.npy"


def npy_alpha(folder: Path, frames: Frames) -> Path:
    np.save(folder / "a.npy", np.concatenate([frames, frames[..., :1]], axis=-1))
    return folder / "a.npy"


def npy_16_bit(folder: Path, frames: Frames) -> Path:
    np.save(folder / "a.npy", frames.astype(np.uint16) * 257)
    return folder / "a.npy"


def npz(folder: Path, frames: Frames) -> Path:
    np.savez_compressed(folder / "a.npz", frames=frames, other=np.zeros(3))
    return folder / "a.npz"


def tiff(folder: Path, frames: Frames) -> Path:
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    return folder / "a.tif"


def gif(folder: Path, frames: Frames) -> Path:
    pages = [Image.fromarray(frame[..., 0]) for frame in frames]
    pages[0].save(folder / "a.gif", save_all=True, append_images=pages[1:], duration=250)
    return folder / "a.gif"


def dicom(folder: Path, frames: Frames) -> Path:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Secret^Name"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = dataset.PixelRepresentation = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.FrameTime = 250  # milliseconds
    dataset.PixelData = frames.tobytes()
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


ROWS = {
    "folder of images": (image_folder, colourful()),
    ".npy": (npy, colourful()),
    ".npy, grey": (npy_grey, grey(colourful())),
    ".npy, alpha": (npy_alpha, colourful()),
    ".npy, 16 bit": (npy_16_bit, colourful()),
    ".npz": (npz, colourful()),
    "TIFF": (tiff, colourful()),
    "GIF": (gif, grey(colourful())),
    "DICOM": (dicom, colourful()),
}


@pytest.mark.parametrize("row", ROWS)
def test_an_input_is_embedded_as_the_array_of_its_frames(row: str, tmp_path: Path) -> None:
    write, expected = ROWS[row]
    np.save(tmp_path / "expected.npy", expected)
    path = write(tmp_path, colourful())
    manifest = write_manifest(tmp_path, [path.name, "expected.npy"])
    summary = extract(manifest, tmp_path / "store", ALL)
    assert not summary.failures
    store = EmbeddingStore(tmp_path / "store")
    i, j = store.find(str(Path(path.name).with_suffix(""))), store.find("expected")
    np.testing.assert_allclose(store.read(i), store.read(j), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(store.frame_times(i), np.arange(NUM_FRAMES) / 4)
    assert store.column("source_width")[i] == store.column("source_height")[i] == 32


def test_no_patient_data_enters_the_store(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [dicom(tmp_path, colourful()).name])
    extract(manifest, tmp_path / "store", ALL)
    assert b"Secret" in (tmp_path / "a.dcm").read_bytes()
    for path in (tmp_path / "store").iterdir():
        assert b"Secret" not in path.read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".mpg", ".webm", ".wmv"])
def test_videos_of_many_kinds_are_embedded(suffix: str, tmp_path: Path) -> None:
    codec = {".mpg": "mpeg2video", ".webm": "libvpx-vp9", ".wmv": "wmv2"}.get(suffix, "libx264")
    encode(tmp_path / f"a{suffix}", codec, 30)
    manifest = write_manifest(tmp_path, [f"a{suffix}"])
    summary = extract(manifest, tmp_path / "store", ALL)
    assert (summary.num_stored, summary.num_frames) == (1, 30)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("frame", lambda frames: [(f * (255 / f.max())).round() for f in frames]),
        ("clip", lambda frames: (frames * (255 / frames.max())).round()),
    ],
)
def test_brightness_is_stretched_before_the_backbone(
    normalise: str, expected: Callable[[Frames], Frames], tmp_path: Path
) -> None:
    dark = np.asarray(colourful() // np.array([2, 3, 4, 5, 6, 7])[:, None, None, None], np.uint8)
    np.save(tmp_path / "dark.npy", dark)
    np.save(tmp_path / "expected.npy", np.asarray(expected(dark), np.uint8))
    manifest = write_manifest(tmp_path, ["dark.npy"])
    extract(manifest, tmp_path / "store", replace(ALL, normalise=normalise))
    found = EmbeddingStore(tmp_path / "store")
    extract(write_manifest(tmp_path, ["expected.npy"]), tmp_path / "plain", ALL)
    plain = EmbeddingStore(tmp_path / "plain")
    np.testing.assert_allclose(found.read(0), plain.read(0), rtol=1e-5, atol=1e-6)

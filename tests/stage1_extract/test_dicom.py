"""DICOM files written with pydicom: pixels against hand-worked values and pydicom's own, times."""

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from stage1_extract.scaling import ValueRange
from stage1_extract.sources import VideoError
from stage1_extract.stacks import FrameStack, StackOptions, stack_opener

RNG = np.random.default_rng(0)
GREY_LEVELS = RNG.integers(0, 256, (4, 6, 8), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
"""(T, H, W, 3) RGB."""
PERSON = "Secret^Name"


def write(
    path: Path, frames: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, **attributes: Any
) -> Path:
    """Write frames (T, H, W[, 3]) as they are, with more or other attributes."""
    dataset = dataset_of(frames, syntax)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def dataset_of(frames: NDArray[Any], syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return frames (T, H, W[, 3]) as a data set, grey (MONOCHROME2) or RGB."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = PERSON
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    dataset.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    bits = 8 * frames.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    big = syntax == ExplicitVRBigEndian
    dataset.PixelData = frames.astype(frames.dtype.newbyteorder(">" if big else "<")).tobytes()
    return dataset


def opened(path: Path, options: StackOptions | None = None) -> Any:
    opener = stack_opener(path)
    assert opener is not None
    return opener(path, options or StackOptions())


def frames_of(path: Path, bounds: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Return all frames (n, H, W, 3)."""
    stack: FrameStack
    with opened(path, StackOptions(ValueRange(bounds))) as stack:
        return np.stack(list(stack.frames(np.arange(stack.index.num_frames))))


def grey_of(path: Path, bounds: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Return all frames (n, H, W), after checking that they are grey."""
    frames = frames_of(path, bounds)
    assert (frames == frames[..., :1]).all()
    return frames[..., 0]


# pixels


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_eight_bits_stay_as_they_are(tmp_path: Path, syntax: str) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS, syntax=syntax)
    np.testing.assert_array_equal(grey_of(path), GREY_LEVELS)
    path = write(tmp_path / "b.dcm", COLOURS, syntax=syntax)
    np.testing.assert_array_equal(frames_of(path), COLOURS[..., ::-1])


def test_frames_are_read_by_number(tmp_path: Path) -> None:
    with opened(write(tmp_path / "a.dcm", GREY_LEVELS)) as stack:
        for wanted in ([1, 3], [0, 2]):
            shown = [frame[..., 0] for frame in stack.frames(np.array(wanted))]
            np.testing.assert_array_equal(shown, GREY_LEVELS[wanted])
        assert list(stack.frames(np.array([], np.int64))) == []


def test_planes_of_colour_are_put_together(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(COLOURS.transpose(0, 3, 1, 2))
    path = write(tmp_path / "a.dcm", COLOURS, PlanarConfiguration=1, PixelData=planes.tobytes())
    np.testing.assert_array_equal(frames_of(path), COLOURS[..., ::-1])


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(grey_of(path), 255 - GREY_LEVELS)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours_are_looked_up(tmp_path: Path, bits: int) -> None:
    palette = RNG.integers(0, 256, (3, 256))
    entries = (palette * (1 if bits == 8 else 257)).astype(f"<u{bits // 8}")
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in zip(("Red", "Green", "Blue"), entries, strict=True):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        attributes[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    path = write(tmp_path / "a.dcm", GREY_LEVELS, **attributes)
    np.testing.assert_array_equal(frames_of(path), np.moveaxis(palette[::-1, GREY_LEVELS], 0, -1))


@pytest.mark.parametrize("halved", [False, True])
def test_luma_and_chroma_become_colours(tmp_path: Path, halved: bool) -> None:
    """Against JPEG's formula (PS3.3 C.7.6.3.1.2), in every frame."""
    luma = RNG.integers(0, 256, (3, 4, 6)).astype(float)
    chroma = RNG.integers(0, 256, (2, 3, 4, 3)).repeat(2, axis=3).astype(float)
    blue, red = chroma - 128
    expected = np.stack(
        [luma + 1.772 * blue, luma - 0.344136 * blue - 0.714136 * red, luma + 1.402 * red], axis=-1
    )
    if halved:
        pairs = [luma[..., ::2], luma[..., 1::2], *chroma[..., ::2]]
        stored, kind = np.stack(pairs, axis=-1), "YBR_FULL_422"
    else:
        stored, kind = np.stack([luma, *chroma], axis=-1), "YBR_FULL"
    path = write(
        tmp_path / "a.dcm",
        np.zeros((3, 4, 6, 3), np.uint8),
        PhotometricInterpretation=kind,
        PixelData=stored.astype(np.uint8).tobytes(),
    )
    difference = frames_of(path) - np.clip(expected, 0, 255)
    assert np.abs(difference).max() <= 1.5


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("frames", [GREY_LEVELS, COLOURS], ids=["grey", "colour"])
def test_lossless_compression_changes_nothing(
    tmp_path: Path, syntax: str, frames: NDArray[np.uint8]
) -> None:
    dataset = dataset_of(np.repeat(np.repeat(frames, 8, axis=1), 8, axis=2))
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    shown = frames_of(tmp_path / "a.dcm")[:, ::8, ::8]
    expected = frames if frames.ndim == 4 else frames[..., None].repeat(3, axis=3)
    np.testing.assert_array_equal(shown, expected[..., ::-1])


def test_jpeg_frames_are_those_of_another_decoder(tmp_path: Path) -> None:
    codes, expected = [], []
    for number in range(3):
        code = tmp_path / f"{number}.jpg"
        smooth = np.full((16, 24, 3), (40 * number, 90, 200), np.uint8)
        Image.fromarray(smooth).save(code, quality=90)
        codes.append(code.read_bytes())
        expected.append(np.asarray(Image.open(code))[..., ::-1])
    path = write(
        tmp_path / "a.dcm",
        np.zeros((3, 16, 24, 3), np.uint8),
        syntax=JPEGBaseline8Bit,
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=encapsulate(codes),
    )
    assert np.abs(frames_of(path).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    "name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_expb"]
)
def test_files_of_other_writers_are_equal_however_stored(name: str) -> None:
    paths = [get_testdata_file(f"{stem}.dcm", download=False) for stem in ("MR_small", name)]
    plain, other = (frames_of(Path(str(path))) for path in paths)
    np.testing.assert_array_equal(plain, other)
    assert plain.std() > 10


def test_lossless_jpeg_shows_the_colours_of_the_plain_file() -> None:
    paths = [get_testdata_file(f"SC_rgb_{n}.dcm", download=False) for n in ("jpeg_gdcm", "rle")]
    lossless, plain = (frames_of(Path(str(path))) for path in paths)
    np.testing.assert_array_equal(lossless, plain)


# brightness


def test_pixels_without_a_window_use_the_bits_stored(tmp_path: Path) -> None:
    stored = np.array([[[0, 8, 9, 2048, 4095]]], np.uint16)
    path = write(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11)
    assert grey_of(path).tolist() == [[[0, 0, 1, 128, 255]]]
    signed = np.array([[[-2048, 0, 2047]]], np.int16)
    path = write(tmp_path / "b.dcm", signed, BitsStored=12, HighBit=11)
    assert grey_of(path).tolist() == [[[0, 128, 255]]]


def test_rescale_decides_what_bounds_mean_and_may_invert(tmp_path: Path) -> None:
    stored = np.array([[[0, 1000, 3000, 4095]]], np.uint16)
    attributes: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1000}
    path = write(tmp_path / "a.dcm", stored, RescaleSlope=1, **attributes)
    assert grey_of(path).tolist() == [[[0, 62, 187, 255]]]
    assert grey_of(path, (0, 2000)).tolist() == [[[0, 0, 255, 255]]]
    path = write(tmp_path / "b.dcm", stored, RescaleSlope=-1, **attributes)
    assert grey_of(path).tolist() == [[[255, 193, 68, 0]]]


@pytest.mark.parametrize(
    ("center", "width", "function", "expected"),
    [
        # ((x - (c - 0.5)) / (w - 1) + 0.5) * 255 by hand
        (100, 101, "LINEAR", [0, 0, 1, 129, 255, 255]),
        (128, 256, "LINEAR", [0, 49, 50, 100, 150, 255]),
        (100, 1, "LINEAR", [0, 0, 0, 255, 255, 255]),
        # ((x - c) / w + 0.5) * 255
        (100, 100, "LINEAR_EXACT", [0, 0, 0, 128, 255, 255]),
        # 255 / (1 + exp(-4 (x - c) / w))
        (100, 100, "SIGMOID", [5, 29, 30, 128, 225, 254]),
        ([100, 7], [1, 7], None, [0, 0, 0, 255, 255, 255]),
    ],
)
def test_first_window_is_applied(
    tmp_path: Path, center: Any, width: Any, function: str | None, expected: list[int]
) -> None:
    stored = np.array([[[0, 49, 50, 100, 150, 255]]], np.uint16)
    window = {"WindowCenter": center, "WindowWidth": width}
    if function:
        window["VOILUTFunction"] = function
    path = write(tmp_path / "a.dcm", stored, **window)
    assert grey_of(path).tolist() == [[expected]]
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(dataset.pixel_array, dataset) / 65535 * 255
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9


def lookup_table(entries: NDArray[Any], first: int, bits: int) -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [len(entries), first, bits]
    table.LUTData = entries.astype("<u2").tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    return table


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables_are_applied(tmp_path: Path, name: str) -> None:
    stored = np.array([[[0, 10, 11, 12, 13, 500]]], np.uint16)
    table = lookup_table(np.array([0, 1000, 4095]), 10, 12)
    attributes: dict[str, Any] = {name: [table]}
    path = write(tmp_path / "a.dcm", stored, **attributes)
    assert grey_of(path, None if name == "VOILUTSequence" else (0, 4095)).tolist() == [
        [[0, 0, 62, 255, 255, 255]]
    ]


def test_angiography_is_shown_without_its_way_back_to_intensities(tmp_path: Path) -> None:
    table = lookup_table(np.arange(256)[::-1] * 257, 0, 16)
    attributes: dict[str, Any] = {"Modality": "XA", "ModalityLUTSequence": [table]}
    path = write(tmp_path / "a.dcm", GREY_LEVELS, PixelIntensityRelationship="LOG", **attributes)
    np.testing.assert_array_equal(grey_of(path), GREY_LEVELS)
    path = write(tmp_path / "b.dcm", GREY_LEVELS, **attributes)
    np.testing.assert_array_equal(grey_of(path), 255 - GREY_LEVELS)


def group(name: str, **attributes: float) -> Dataset:
    """Return a functional group with one macro."""
    macro, functional_group = Dataset(), Dataset()
    for key, value in attributes.items():
        setattr(macro, key, value)
    setattr(functional_group, name, [macro])
    return functional_group


def test_functional_groups_hold_for_their_frames(tmp_path: Path) -> None:
    stored = np.tile(np.array([[0, 100, 200]], np.uint16), (2, 1, 1))
    windows = [
        group("FrameVOILUTSequence", WindowCenter=center, WindowWidth=1) for center in (60, 160)
    ]
    shared = group("PixelValueTransformationSequence", RescaleSlope=1, RescaleIntercept=-50)
    path = write(
        tmp_path / "a.dcm",
        stored,
        PerFrameFunctionalGroupsSequence=windows,
        SharedFunctionalGroupsSequence=[shared],
    )
    assert grey_of(path).tolist() == [[[0, 0, 255]], [[0, 0, 0]]]
    assert grey_of(path, (0, 100))[1].tolist() == [[0, 128, 255]]


def test_flat_grey_for_lack_of_a_window_is_refused(tmp_path: Path) -> None:
    stored = RNG.integers(1000, 3000, (3, 6, 8), dtype=np.uint16)
    stored[0, 0, :2] = 1000, 2999
    path = write(tmp_path / "a.dcm", stored, RescaleSlope=2, RescaleIntercept=-500)
    with pytest.raises(
        VideoError, match=r"a\.dcm has 16-bit pixels, but all from 1000 to 2999 .* 1500:5498$"
    ):
        frames_of(path)
    assert grey_of(path, (1500, 5498)).std() > 50


# times


@pytest.mark.parametrize(
    ("attributes", "assumed_fps", "times", "fps"),
    [
        ({"FrameTime": 40.0}, None, [0, 0.04, 0.08, 0.12], 25),
        ({"FrameTime": 40.0, "CineRate": 10}, 7.0, [0, 0.04, 0.08, 0.12], 25),
        ({"FrameTimeVector": [0, 30, 50, 40]}, None, [0, 0.03, 0.08, 0.12], 25),
        ({"FrameTimeVector": [0, 0, 0, 0], "CineRate": 10}, None, [0, 0.1, 0.2, 0.3], 10),
        ({"FrameTimeVector": [0, 30], "FrameTime": 50.0}, None, [0, 0.05, 0.1, 0.15], 20),
        ({"CineRate": 20, "RecommendedDisplayFrameRate": 10}, None, [0, 0.05, 0.1, 0.15], 20),
        ({"FrameTime": 0.0, "RecommendedDisplayFrameRate": 10}, None, [0, 0.1, 0.2, 0.3], 10),
        ({}, 5.0, [0, 0.2, 0.4, 0.6], 5),
        ({}, None, [np.nan] * 4, 0),
    ],
)
def test_times_come_from_the_file_before_the_user(
    tmp_path: Path,
    attributes: dict[str, Any],
    assumed_fps: float | None,
    times: list[float],
    fps: float,
) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS, **attributes)
    with opened(path, StackOptions(assumed_fps=assumed_fps)) as stack:
        np.testing.assert_allclose(stack.index.times, times, rtol=1e-12)
        assert stack.index.fps == pytest.approx(fps)
        assert stack.index.stated_frames == 4


def test_file_without_number_of_frames_has_one(tmp_path: Path) -> None:
    dataset = dataset_of(GREY_LEVELS[:1])
    del dataset.NumberOfFrames
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(grey_of(tmp_path / "a.dcm"), GREY_LEVELS[:1])


# refusals


def test_file_without_pixels_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(GREY_LEVELS)
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(VideoError, match=r"a\.dcm is a DICOM file without pixels"):
        frames_of(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("lost_bytes", [20, 150])
def test_files_cut_short_are_refused(tmp_path: Path, syntax: str, lost_bytes: int) -> None:
    dataset = dataset_of(GREY_LEVELS)
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    with pytest.raises(VideoError, match=r"a\.dcm is cut short: "):
        frames_of(path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"syntax": MPEG4HP41, "PixelData": encapsulate([b"video."])},
            "as MPEG-4 AVC/H.264 .*it is a video: take it out",
        ),
        ({"syntax": DeflatedExplicitVRLittleEndian}, "is deflated as a whole"),
        ({"PhotometricInterpretation": "CMYK"}, "interpretation CMYK, expected one of MONOCHROME1"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "LINEAR window of width 0, expected a positive"),
        ({"Rows": None}, "cannot be decoded: "),
    ],
)
def test_other_kinds_are_refused_in_plain_words(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS[:1], **attributes)
    with pytest.raises(VideoError, match=rf"a\.dcm.*{message}") as caught:
        frames_of(path)
    assert PERSON not in str(caught.value)


def test_unknown_transfer_syntax_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS)
    known = str(ExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes().replace(known.encode(), b"1.2.840.99999.1.2.1"))
    with pytest.raises(VideoError, match=r"frames as 1\.2\.840\.99999\.1\.2\.1, which cannot"):
        frames_of(path)


@pytest.mark.parametrize("content", [b"text", b"\0" * 500])
def test_other_content_under_the_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.dcm is no DICOM file: DICM is not at byte 128"):
        frames_of(tmp_path / "a.dcm")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what it mends
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_damaged_bytes_are_refused_or_shown(tmp_path: Path, syntax: str) -> None:
    dataset = dataset_of(GREY_LEVELS[:1].repeat(8, axis=1).repeat(8, axis=2))
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    for position in range(132, len(whole), 11):
        path.write_bytes(whole[:position] + b"\xa5" + whole[position + 1 :])
        try:
            assert frames_of(path).shape[-1] == 3
        except VideoError as error:
            assert PERSON not in str(error)  # noqa: PT017 - either outcome is right


def test_missing_extra_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.dcm", GREY_LEVELS)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(VideoError, match=r"pip install 'embed-then-sequence\[dicom\]'"):
        frames_of(path)


def test_memory_grows_with_the_frame_not_with_the_file(tmp_path: Path) -> None:
    frames = np.arange(80, dtype=np.uint8).repeat(10**6).reshape(80, 1000, 1000)
    path = write(tmp_path / "a.dcm", frames)
    del frames
    tracemalloc.start()
    with opened(path) as stack:
        shown = [int(frame[5, 5, 0]) for frame in stack.frames(np.arange(0, 80, 20))]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown == [0, 20, 40, 60]
    assert peak_bytes < 20e6  # of 80

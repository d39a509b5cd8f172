"""Frames and their times of DICOM files, through pydicom; nothing else is taken from them."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.dicom_display import COLOUR, GREY, PALETTE, check_contrast, displayed
from stage1_extract.scaling import ScalingError, ValueRange, probe_numbers
from stage1_extract.sources import FrameIndex, VideoError, nominal_times, rising

if TYPE_CHECKING:
    from pydicom import Dataset

_INSTALL = "pip install 'embed-then-sequence[dicom]'"
_RATES = ("CineRate", "RecommendedDisplayFrameRate")
_WANTED = (
    *("FrameTime", "FrameTimeVector", *_RATES),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("Modality", "PixelIntensityRelationship", "RescaleSlope", "RescaleIntercept"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(
        f"{segmented}{colour}PaletteColorLookupTable{part}"
        for segmented in ("", "Segmented")
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
        if not (segmented and part == "Descriptor")
    ),
)
_PIXEL_DATA = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
_DECODERS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG Extended
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000, lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
}
"""Preferred to GDCM, which pydicom tries first: damaged JPEG can crash it, its OpenJPEG is old."""


class DicomFrames:
    """The frames of a DICOM file, as a viewer shows them at first.

    Attributes:
        index: Times from the file's frame times or rates, else from the assumed rate, else NaN.
    """

    def __init__(self, path: Path, header: "Dataset", value_range: ValueRange, index: FrameIndex):
        self.index = index
        self._path = path
        self._header = header
        self._value_range = value_range

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield the (H, W, 3) uint8 BGR frames of the rising numbers."""
        for number in numbers.tolist():
            with _in_plain_words(f"{self._path}: frame {number}"):
                stored = _decode(self._path, self._header, number)
                frame = displayed(stored, self._header, number, self._value_range)
            yield frame


@contextmanager
def open_dicom(
    path: Path, value_range: ValueRange, *, assumed_fps: float | None = None
) -> Iterator[DicomFrames]:
    """Open a DICOM file of one or many frames.

    Args:
        path: The file.
        value_range: Bounds in the units after the modality's rescale, instead of the file's window.
        assumed_fps: Frames per second where the file states neither times nor a rate.

    Raises:
        VideoError: No DICOM file, one without pixels, cut short, or of a kind that cannot be shown;
            or pydicom is not installed.
        OSError: The file cannot be read.
    """
    if not _has_magic(path):
        raise VideoError(f"{path} is no DICOM file: DICM is not at byte 128")
    header = _read_header(path)
    with _in_plain_words(f"{path}"):
        index = frame_index(header, assumed_fps)
        if value_range.bounds is None:
            probes = probe_numbers(index.num_frames).tolist()
            check_contrast((_decode(path, header, number) for number in probes), header)
    yield DicomFrames(path, header, value_range, index)


def frame_index(header: "Dataset", assumed_fps: float | None) -> FrameIndex:
    """Return the number and times of a file's frames, the first at 0 s.

    FrameTimeVector and FrameTime (milliseconds, PS3.3 C.7.6.5) come before CineRate and
    RecommendedDisplayFrameRate, and these before `assumed_fps`; what makes no sense is passed over.
    """
    count = _num_frames(header)
    intervals = np.atleast_1d(np.array(header.get("FrameTimeVector") or [], np.float64))
    if len(intervals) == count > 1:
        times = (np.cumsum(intervals) - intervals[0]) / 1000
        if rising(times):
            return FrameIndex(times, count, float((count - 1) / times[-1]))
    interval = _positive(header.get("FrameTime"))
    stated = 1000 / interval if interval else 0.0
    rates = (stated, *(_positive(header.get(name)) for name in _RATES), assumed_fps or 0.0)
    fps = next(filter(None, rates), 0.0)
    return FrameIndex(nominal_times(count, fps), count, fps)


def _positive(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number if 0 < number < np.inf else 0.0


def _num_frames(header: "Dataset") -> int:
    return max(1, int(header.get("NumberOfFrames") or 1))


def _decode(path: Path, header: "Dataset", number: int) -> NDArray[Any]:
    from pydicom.pixels import iter_pixels

    plugin = _DECODERS.get(header.file_meta.TransferSyntaxUID, "")
    # One frame a call: asked for several, pydicom 3.0 mistakes all but the first of YBR_FULL_422.
    decoded = iter_pixels(path, indices=[number], decoding_plugin=plugin)
    frame = next(decoded)
    decoded.close()  # type: ignore[attr-defined]
    return frame


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_header(path: Path) -> "Dataset":
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise VideoError(f"{path} is DICOM, which needs pydicom: {_INSTALL}") from error
    # The error's text is left out: it may quote what the file says of a person.
    with path.open("rb") as file, _in_plain_words(f"{path}: its header", quote=False):
        header = dcmread(file, stop_before_pixels=True, specific_tags=[*_WANTED])
        problem = _problem(file, header, path.stat().st_size)
    if problem:
        raise VideoError(f"{path} {problem}")
    return header


def _damage() -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise on damaged files and those they do not know."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        *(ValueError, AttributeError, EOFError, LookupError, RuntimeError, OverflowError),
        *(TypeError, OSError, struct.error, BytesLengthException, InvalidDicomError),
    )


def _problem(file: IO[bytes], header: "Dataset", size_bytes: int) -> str:
    """Return why the pixels that follow in the file cannot be used; empty where they can."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        return "does not say how it is encoded (no TransferSyntaxUID)"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"stores its frames as {syntax.name}, which cannot be decoded{_advice(syntax.name)}"
    if syntax.is_deflated:
        return "is deflated as a whole; save it with another transfer syntax"
    order = "<" if syntax.is_little_endian else ">"
    element = file.read(8 if syntax.is_implicit_VR else 12)
    if len(element) < 8 or struct.unpack_from(f"{order}HH", element) not in _PIXEL_DATA:
        return "is a DICOM file without pixels, or cut short before them"
    if not decoder.is_available:
        return f"stores its frames as {syntax.name}, which needs a decoder: {_INSTALL}"
    if header.PhotometricInterpretation not in (*GREY, *COLOUR, PALETTE):
        return (
            f"has the photometric interpretation {header.PhotometricInterpretation}, expected one "
            f"of {', '.join((*GREY, *COLOUR, PALETTE))}"
        )
    return _shortage(file, header, size_bytes)


def _advice(syntax_name: str) -> str:
    is_video = "MPEG" in syntax_name or "HEVC" in syntax_name
    return "; it is a video: take it out of the file and name it instead" if is_video else ""


def _shortage(file: IO[bytes], header: "Dataset", size_bytes: int) -> str:
    from pydicom.encaps import parse_basic_offsets, parse_fragments
    from pydicom.pixels.utils import get_expected_length

    num_frames = _num_frames(header)
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        expected, found = get_expected_length(header), size_bytes - file.tell()
        short = found < expected
        return f"is cut short: {expected} bytes of pixels, found {found}" if short else ""
    parse_basic_offsets(file)
    count, starts = parse_fragments(file)
    if starts:
        file.seek(starts[-1] + 4)
        (length,) = struct.unpack("<L", file.read(4))
        count -= starts[-1] + 8 + length > size_bytes
    short = count < num_frames or count < len(starts)
    return f"is cut short: {num_frames} frames, found {count} whole pieces" if short else ""


@contextmanager
def _in_plain_words(name: str, *, quote: bool = True) -> Iterator[None]:
    try:
        yield
    except ScalingError as error:
        raise VideoError(f"{name} {error}") from error
    except _damage() as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's error, not the file's
        reason = " ".join(str(error).split()) if quote else type(error).__name__
        raise VideoError(f"{name} cannot be decoded: {reason}") from (error if quote else None)

"""The folder strips/ of a run: small frames of wrong clips, and how predictions came about."""

import dataclasses
import io
import itertools
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from stage2_temporal.run_folder import write_json
from stage2_temporal.run_shapes import check_shape
from stage2_temporal.run_tables import check_is_file, incomplete

STRIPS = "strips"
MAX_STRIPS = 12
NUM_SHOWN = 8
FRAME_SIZE = 96
"""Height and width of a frame in pixels."""
MAX_IMAGE_BYTES = 440_000
"""Of all images together; as data: URIs a third more."""

_INDEX = "strips.json"
_FORMAT, _VERSION = "stage2-strips", 1
_NAME = re.compile(r"[0-9]{1,3}\.jpg")
_NUMBER = (int, float)
_NULL = type(None)
_SHAPE: dict[str, Any] = {
    **{"format": str, "format_version": int, "note": str},
    "clips": [
        {"target": str, "video_id": str, "file": (str, _NULL), "problem": str}
        | {"num_frames": int, "shown": [int], "seconds": [(*_NUMBER, _NULL)]}
        | {"attention": [_NUMBER], "prefixes": [int]}
        | {"curves": [{"name": str, "role": str, "values": [_NUMBER]}]}
    ],
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a model predicts of one thing after each of some prefixes of a sequence.

    Attributes:
        name: The class or label; blank for a value.
        role: target, prediction (of another class), label or value.
        values: (P,) probabilities, or values.
    """

    name: str
    role: str
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Strip:
    """A test clip that was predicted wrongly.

    Attributes:
        target: The target's name.
        video_id: The clip.
        num_frames: T, length of its sequence.
        shown: Positions in the sequence, from 0, of the frames in the image, left to right.
        seconds: When they are shown in the source; None where unknown.
        attention: Weights of the sequence's frames, or of equal parts of it; empty without.
        prefixes: (P,) rising numbers of frames, after which `curves` tell the prediction.
        curves: Predictions.
        image: JPEG of the frames side by side; None if they could not be had.
        problem: Why not; blank where frames were not wanted.
    """

    target: str
    video_id: str
    num_frames: int
    shown: tuple[int, ...] = ()
    seconds: tuple[float | None, ...] = ()
    attention: tuple[float, ...] = ()
    prefixes: tuple[int, ...] = ()
    curves: tuple[Curve, ...] = ()
    image: bytes | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Strips:
    """The strips of a run, by target the most wrong clip first; `note` says what holds for all."""

    clips: tuple[Strip, ...] = ()
    note: str = ""


def save_strips(run_folder: Path, strips: Strips) -> None:
    """Write the folder strips/ anew."""
    folder = run_folder / STRIPS
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped at this place
    folder.mkdir()
    documents = []
    for number, strip in enumerate(strips.clips):
        document = dataclasses.asdict(strip)
        image = document.pop("image")
        document["file"] = None if image is None else f"{number}.jpg"
        if image is not None:
            (folder / f"{number}.jpg").write_bytes(image)
        documents.append(document)
    head = {"format": _FORMAT, "format_version": _VERSION, "note": strips.note}
    write_json(folder / _INDEX, head | {"clips": documents})


def read_strips(run_folder: Path, targets: Sequence[str]) -> Strips | None:
    """Read and check the folder strips/ of a run; None if it has none.

    Args:
        run_folder: The run folder.
        targets: Names of its targets.

    Raises:
        FileNotFoundError: A file that the index names is missing.
        ValueError: The index or an image is not what a run holds.
    """
    folder = run_folder / STRIPS
    if not folder.exists():
        return None
    path = folder / _INDEX
    check_is_file(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise incomplete(path, f"not JSON ({error})") from error
    check_shape(path, document, _SHAPE)
    if (document["format"], document["format_version"]) != (_FORMAT, _VERSION):
        raise incomplete(path, f"expected {_FORMAT}, version {_VERSION}")
    if len(document["clips"]) > MAX_STRIPS:
        raise incomplete(path, f"{len(document['clips'])} clips, expected up to {MAX_STRIPS}")
    return Strips(
        tuple(_strip(folder, clip, n, targets) for n, clip in enumerate(document["clips"])),
        document["note"],
    )


def _strip(folder: Path, clip: Mapping[str, Any], number: int, targets: Sequence[str]) -> Strip:
    path, where = folder / _INDEX, f"clips[{number}]"
    _check_clip(path, clip, where, targets)
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in clip.items()
        if name in {field.name for field in dataclasses.fields(Strip)}
    }
    curves = (Curve(c["name"], c["role"], tuple(c["values"])) for c in clip["curves"])
    image = None if clip["file"] is None else _image(folder, clip["file"], where)
    return Strip(**facts | {"curves": tuple(curves), "image": image})


def _check_clip(path: Path, clip: Mapping[str, Any], where: str, targets: Sequence[str]) -> None:
    last, prefixes = clip["num_frames"] - 1, clip["prefixes"]
    places = [("shown", clip["shown"], 0), ("prefixes", [n - 1 for n in prefixes], 0)]
    if clip["target"] not in targets:
        raise incomplete(path, f"{where}.target is {clip['target']!r}, expected one of {targets}")
    for name, positions, first in places:
        rising = all(a < b for a, b in itertools.pairwise(positions))
        if not rising or any(not first <= position <= last for position in positions):
            raise incomplete(path, f"{where}.{name} is {clip[name]}, expected rising frames")
    if len(clip["seconds"]) != len(clip["shown"]) or len(clip["shown"]) > NUM_SHOWN:
        raise incomplete(path, f"{where}: shown and seconds differ, or are more than {NUM_SHOWN}")
    if any(len(curve["values"]) != len(prefixes) for curve in clip["curves"]):
        raise incomplete(path, f"{where}.curves: expected {len(prefixes)} values each")


def _image(folder: Path, name: str, where: str) -> bytes:
    """Return a JPEG of the folder itself; an index from elsewhere must not point out of it."""
    path = folder / name
    if not _NAME.fullmatch(name) or path.is_symlink():
        problem = f"{where}.file is {name!r}, expected the name of a file such as 0.jpg"
        raise incomplete(folder / _INDEX, problem)
    check_is_file(path)
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise incomplete(path, f"{path.stat().st_size} bytes, expected up to {MAX_IMAGE_BYTES}")
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            size = image.size
    except UnidentifiedImageError as error:
        raise incomplete(path, "not a JPEG image") from error
    if size[1] != FRAME_SIZE or size[0] > NUM_SHOWN * FRAME_SIZE:
        raise incomplete(path, f"{size[0]} x {size[1]} pixels, expected {FRAME_SIZE} high")
    return content

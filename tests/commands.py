"""The commands and code of documents, run on small videos and with random weights."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np

from stage1_extract import cli as stage1
from stage2_temporal import cli as stage2

ROOT = Path(__file__).parents[1]
PROGRAMS = {"stage1-extract": stage1, "stage2-temporal": stage2}
NUM_CLIPS = 24
# Small enough for a test; a later flag beats an earlier one.
_EXTRACT = "--backbone MobileNet --alpha 0.25 --input-size 32 --weights random --dtype float32"
_TRAIN = "--epochs 2 --resamples 20"
_OTHER_VIDEOS = (
    *("clips/ill/a.mp4", "clips/healthy/b.mp4", "new/a.mp4", "new/b.mp4", "new.mp4"),
    *("new_videos/a.mp4", *(f"others/{number}.mp4" for number in range(4))),
)
SMALL = {
    "run": _EXTRACT,
    "train": f"{_TRAIN} --units 4 --repeats 1 --overwrite",
    "find-rate": "--units 4",
    "sweep": f"{_TRAIN} --trials 2 --validation-folds 2 --refit-seeds 1 --jobs 1",
    "predict": "--overwrite",
    "features": "--overwrite",
    "manifest": "--overwrite",
}
"""Flags that make a command small, or let it run again, by its name."""


def commands_of(text: str) -> list[str]:
    """Return the commands of both programs that stand in a document's indented blocks."""
    found: list[str] = re.findall(rf"^    ((?:{'|'.join(PROGRAMS)}) .+)$", text, re.MULTILINE)
    return found


def code_of(text: str, language: str) -> list[str]:
    """Return a document's fenced blocks of a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


def run(command: str) -> int:
    """Run a command in the working folder, made small, and return its exit code."""
    program, name, *words = shlex.split(command, comments=True)
    small = shlex.split(SMALL.get(name, ""))
    if "kfold" in words:
        small += ["--folds", "2"]
    code: int = PROGRAMS[program].main([name, *words, *small])
    return code


def write_inputs(folder: Path) -> None:
    """Write what the documents' commands name: manifests, videos, arrays, measurements."""
    rng = np.random.default_rng(0)
    header = "path,abnormal,label,patient,site,age,effusion,b_lines"
    rows, measurements = [header], ["video_id,weight"]
    for number in range(NUM_CLIPS):
        write_video(folder / f"{number}.mp4", rng)
        age = 30.5 + number if number % 5 else ""
        signs = f"{number // 2 % 2},{number // 4 % 2}"
        label = f"{number % 2},{('healthy', 'ill')[number % 2]}"
        rows.append(f"{number}.mp4,{label},pat_{number // 2},s{number % 3},{age},{signs}")
        measurements.append(f"{number},{60 + number % 7}")
    _write(folder / "videos.csv", rows)
    _write(folder / "measurements.csv", measurements)
    for name in _OTHER_VIDEOS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, rng)
    np.save(folder / "frames.npy", rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    _write(folder / "arrays.csv", ["path", "frames.npy"])
    other = [f"others/{n}.mp4,{n % 2},{('healthy', 'ill')[n % 2]},new_{n}" for n in range(4)]
    _write(folder / "other.csv", ["path,abnormal,label,patient", *other])
    _write(folder / "extract.toml", ["batch_size = 8"])
    _write(folder / "train.toml", ['target = "abnormal"', 'group = "patient"'])
    _write(folder / "sweep.toml", ['target = "label"', "[search]", "units = [4, 8]"])


def write_video(path: Path, rng: np.random.Generator) -> None:
    """Write five frames of noise at 10 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
    for _ in range(5):
        writer.write(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    writer.release()


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", "utf-8")

"""The main process' memory while it extracts: few and many videos, short and long ones."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.results import record
from tests.encode import encode

CODE = """
import pathlib, sys
from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract

settings = ExtractSettings(
    "MobileNet", alpha=0.25, weights="random", input_size=64, dtype="float32",
    sampling=sys.argv[3], decoders=2,
)
summary = extract(sys.argv[1], sys.argv[2], settings)
assert not summary.failures, summary.failures
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss knows the parent's too
print(summary.num_frames, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def peak_megabytes(manifest: Path, store: Path, sampling: str) -> tuple[int, float]:
    """Extract in a process of its own; returns the number of frames and its peak memory."""
    command = [sys.executable, "-c", CODE, str(manifest), str(store), sampling]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    frames, megabytes = output.split()
    return int(frames), float(megabytes)


def many_clips(folder: Path, count: int) -> Path:
    """Return the manifest of `count` videos of one second."""
    folder.mkdir()
    first = encode(folder / "first.mp4", "mpeg4", 25)
    for number in range(count):
        os.link(first, folder / f"{number}.mp4")
    manifest = folder / "manifest.csv"
    manifest.write_text("path\n" + "".join(f"{number}.mp4\n" for number in range(count)))
    return manifest


def long_clip(folder: Path, seconds: int) -> Path:
    """Return the manifest of one video."""
    folder.mkdir()
    encode(folder / "a.mp4", "mpeg4", 10 * seconds, fps=10)
    (folder / "manifest.csv").write_text("path\na.mp4\n")
    return folder / "manifest.csv"


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [
            ("10 videos of a second", many_clips(folder / "10", 10)),
            ("1000 videos of a second", many_clips(folder / "1000", 1000)),
            ("one video of 10 seconds", long_clip(folder / "short", 10)),
            ("one video of an hour, all frames", long_clip(folder / "long", 3600)),
        ]
        for title, manifest in cases:
            frames, megabytes = peak_megabytes(manifest, manifest.parent / "store", "all")
            rows.append(f"| {title} | {frames} | {megabytes:.0f} |")
    record(
        "Memory of the main process",
        "`python -m tests.benchmarks.bench_memory`: peak resident MB of extraction with MobileNet "
        "(alpha 0.25, 64 px), Keras on TensorFlow, 2 decoders.",
        ["| videos | frames | MB |", "|---|---|---|", *rows],
        append=not arguments.dry,
    )


if __name__ == "__main__":
    main()

"""A few frames of a long video: by seeking, and by decoding from the start; the same frames."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.passes import VideoPass
from stage1_extract.sampling import spread_evenly
from stage1_extract.seeking import worth_seeking
from stage1_extract.videos import scan_video
from tests.benchmarks.results import record
from tests.encode import encode

MINUTES = 10
FPS = 25
NUM_WANTED = 16
KINDS = {
    "H.264, keyframe every 50 frames": ("libx264", 50, 2, {"preset": "veryfast"}),
    "H.264, keyframe every 250 frames": ("libx264", 250, 2, {"preset": "veryfast"}),
    "MPEG-4, keyframe every 12 frames": ("mpeg4", 12, 0, {}),
}


def frames_of(
    path: Path, *, seeks: bool
) -> tuple[float, float, dict[int, NDArray[np.uint8]], bool]:
    """Return seconds of scanning and of decoding, the frames, and whether seeking is chosen."""
    start = time.perf_counter()
    index = scan_video(path)
    scanned = time.perf_counter()
    wanted = spread_evenly(index.num_frames, NUM_WANTED)
    chosen = worth_seeking(index, wanted, to_the_end=True)
    video = VideoPass(path, index, wanted, seeks=seeks, to_the_end=True, beat=lambda: None)
    frames = {number: frame.copy() for number, frame in video()}
    return scanned - start, time.perf_counter() - scanned, frames, chosen


def row(name: str, path: Path, rounds: int) -> str:
    """Measure both ways in turn and return a table row."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        found = {}
        for seeks in (False, True):
            scan, decode, found[seeks], chosen = frames_of(path, seeks=seeks)
            seconds[seeks].append(scan + decode)
        if not all(np.array_equal(found[True][k], found[False][k]) for k in found[False]):
            raise RuntimeError(f"{name}: seeking found other frames")
    sequential, seeking = (statistics.median(seconds[seeks]) for seeks in (False, True))
    return (
        f"| {name} | {sequential:.2f} | {seeking:.2f} | {sequential / seeking:.1f} | "
        f"{'yes' if chosen else 'no'} |"
    )


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (codec, gop, b_frames, options)) in enumerate(KINDS.items()):
            path = encode(
                Path(folder) / f"{number}.mp4",
                codec,
                MINUTES * 60 * FPS,
                gop=gop,
                b_frames=b_frames,
                size=(640, 480),
                options=options,
            )
            rows.append(row(name, path, arguments.rounds))
    record(
        "Few frames of a long video",
        f"`python -m tests.benchmarks.bench_sparse`: {NUM_WANTED} frames of {MINUTES} minutes, "
        "640x480; scanning the packets and proving the seeks included; the frames are the same; "
        f"median of {arguments.rounds} rounds.",
        [
            "| video | from the start, s | seeking, s | ratio | chosen |",
            "|---|---|---|---|---|",
            *rows,
        ],
        append=not arguments.dry,
    )


if __name__ == "__main__":
    main()

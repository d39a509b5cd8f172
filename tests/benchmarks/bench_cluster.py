"""Extraction on two Ray nodes of one core each, beside the same work without Ray on two cores.

Real videos of moving texture; both ways in turn, round after round, each as a user starts it, in a
process of its own. Then 10,000 small clips on the same cluster, with the memory of the run's own
process watched: it must not grow with the clips. The tables are appended to RESULTS.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from stage1_extract.store import EmbeddingStore
from tests.benchmarks.bench_extract import Case, write_clips
from tests.benchmarks.results import record
from tests.encode import encode
from tests.loopback_cluster import LoopbackCluster

CASES = [
    Case("48 clips, 640x480", "MobileNetV2", 48, 200, (640, 480)),
    Case("16 clips, 640x480", "ResNet50", 16, 200, (640, 480)),
]
COMMAND = "`python -m tests.benchmarks.bench_cluster`"
SPEED_HEADER = (
    "| | two cores, frames/s | two nodes, frames/s | ratio | two cores, s | two nodes, s | values "
    "equal |"
)
MANY_HEADER = "| clips | clips/s | MiB, middle | MiB, end | shards | all there, once |"
SMALL_TEXT = (
    "--backbone MobileNet --alpha 0.25 --weights random --input-size 32 --sampling uniform:4 "
    "--dtype float32"
)


def extract(manifest: Path, store: Path, *flags: str) -> "subprocess.Popen[str]":
    """Start the command."""
    command = [str(Path(sys.executable).with_name("stage1-extract")), "run", str(manifest)]
    return subprocess.Popen(
        [*command, str(store), *flags, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def summary_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return what a run printed at its end."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}")
    found: dict[str, Any] = json.loads(output)
    return found


def are_equal(first: Path, second: Path) -> bool:
    """Return whether two stores hold the same values."""
    one, other = EmbeddingStore(first), EmbeddingStore(second)
    return one.video_ids.tolist() == other.video_ids.tolist() and all(
        one.read(i).tobytes() == other.read(i).tobytes() for i in range(one.num_sequences)
    )


def compare(case: Case, cluster: LoopbackCluster, folder: Path, rounds: int) -> list[str]:
    """Return a row: speeds without and with Ray, and their ratio."""
    videos = folder / f"{case.backbone} videos"
    videos.mkdir()
    manifest = Path(str(write_clips(videos, case).path))
    flags = ["--backbone", case.backbone, "--weights", "random", "--sampling", "stride:5"]
    flags += ["--dtype", "float32"]
    speeds: dict[str, list[float]] = {"alone": [], "cluster": []}
    wall: dict[str, list[float]] = {"alone": [], "cluster": []}
    for number in range(rounds):
        for way, more in (("alone", []), ("cluster", ["--ray", cluster.address])):
            started = time.perf_counter()
            done = summary_of(
                extract(manifest, folder / f"{case.backbone} {way} {number}", *flags, *more)
            )
            wall[way].append(time.perf_counter() - started)
            speeds[way].append(done["num_frames"] / done["seconds"])
    last = [folder / f"{case.backbone} {way} {rounds - 1}" for way in ("alone", "cluster")]
    ratio = statistics.median(speeds["cluster"]) / statistics.median(speeds["alone"])
    return [
        f"{case.backbone}, {case.name}",
        *(f"{statistics.median(speeds[way]):.1f}" for way in ("alone", "cluster")),
        f"{ratio:.2f}",
        *(f"{statistics.median(wall[way]):.0f}" for way in ("alone", "cluster")),
        "yes" if are_equal(*last) else "NO",
    ]


def write_small_clips(folder: Path, count: int) -> Path:
    """Write clips of other contents, and their manifest."""
    folder.mkdir()
    content = encode(folder / "first.mp4", "libx264", 6, gop=6, size=(64, 48)).read_bytes()
    names = [f"{i:06}.mp4" for i in range(count)]
    for i, name in enumerate(names):
        # Bytes after the last box: another content, and nothing else to decode.
        (folder / name).write_bytes(content + i.to_bytes(4, "big"))
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(["path", *names, ""]))
    return manifest


def many(cluster: LoopbackCluster, folder: Path, count: int) -> list[str]:
    """Return a row: speed of many small clips, and the run's memory on the way."""
    manifest = write_small_clips(folder / "small", count)
    process = extract(manifest, folder / "many", *SMALL_TEXT.split(), "--ray", cluster.address)
    watched, curve = psutil.Process(process.pid), []
    while process.poll() is None:
        try:
            curve.append(watched.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        time.sleep(1)
    done = summary_of(process)
    third = max(1, len(curve) // 3)
    early, late = max(curve[third : 2 * third]), max(curve[2 * third :])
    store = EmbeddingStore(folder / "many")
    complete = store.num_sequences == count and not store.num_duplicates
    return [
        f"{count:,}",
        f"{count / done['seconds']:.0f}",
        f"{early:.0f}",
        f"{late:.0f}",
        str(store.num_shards),
        "yes" if complete else "NO",
    ]


def main() -> None:
    """Measure, print and append the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--only", choices=["speed", "many"])
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LoopbackCluster() as cluster:
        cluster.add_node()
        folder = Path(name)
        if arguments.only != "many":
            rows = [compare(case, cluster, folder, arguments.rounds) for case in CASES]
            record(
                "Extraction on two Ray nodes of one core",
                f"{COMMAND}: medians of {arguments.rounds} rounds, random "
                "weights, every 5th frame; seconds with the start of all processes.",
                [SPEED_HEADER, "|---|---|---|---|---|---|---|", *map(as_row, rows)],
                append=not arguments.dry,
            )
        if arguments.only != "speed":
            row = many(cluster, folder, arguments.clips)
            record(
                "Many small clips on two Ray nodes",
                f"{COMMAND}: clips of 6 frames, 4 of which a tiny backbone embeds; memory of the "
                "run's own process, greatest in the middle and in the last third of its time.",
                [MANY_HEADER, "|---|---|---|---|---|---|", as_row(row)],
                append=not arguments.dry,
            )


def as_row(cells: list[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()

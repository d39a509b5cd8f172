"""Extraction end to end, beside what its parts allow and beside loops written by hand.

All are measured in turn, round after round, in one run; the table shows medians. Machines are
noisy: read the ratios. On CPUs decoding and computing share the cores, so the bound that the parts
allow is 1 / (1/decode + 1/engine). The table is appended to RESULTS.md.
"""

import argparse
import dataclasses
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.backbones import Embedder
from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage1_extract.local import load_embedder
from stage1_extract.manifest import Manifest, read_manifest
from tests.benchmarks.results import record
from tests.encode import encode

STRIDE = 5
FEW_FRAMES = 48


@dataclasses.dataclass(frozen=True)
class Case:
    """Videos of one kind, and the backbone that embeds every 5th of their frames."""

    name: str
    backbone: str
    num_clips: int
    frames_per_clip: int
    size: tuple[int, int]

    @property
    def settings(self) -> ExtractSettings:
        """Random weights: values do not change the speed."""
        return ExtractSettings(
            self.backbone, weights="random", sampling=f"stride:{STRIDE}", dtype="float32"
        )


CASES = [
    Case("short clips, 640x480", "MobileNetV2", 24, 200, (640, 480)),
    Case("720p clips", "MobileNetV2", 8, 300, (1280, 720)),
    Case("short clips, 640x480", "ResNet50", 8, 200, (640, 480)),
]
ENGINES = {
    "extract, Keras": {},
    "extract, OpenVINO": {"engine": "openvino"},
    "extract, OpenVINO bfloat16": {
        "engine": "openvino",
        "precision": "bfloat16",
        "max_precision_error": float("inf"),
    },
}


def write_clips(folder: Path, case: Case) -> Manifest:
    """Write H.264 videos of moving texture, as cameras do, and their manifest."""
    lines = ["path"]
    first = encode(folder / "000.mp4", "libx264", case.frames_per_clip, gop=50, b_frames=2,
                   size=case.size, options={"preset": "veryfast"})  # fmt: skip
    for number in range(case.num_clips):
        name = f"{number:03}.mp4"
        if number:
            # Bytes after the last box: another content, and nothing else to decode.
            (folder / name).write_bytes(first.read_bytes() + bytes(number))
        lines.append(name)
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_manifest(path)


def wanted_frames(path: Path, size: int) -> Iterator[NDArray[np.uint8]]:
    """Decode a video as a good script does: every frame grabbed, the wanted ones converted."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    number = 0
    while capture.grab():
        if number % STRIDE == 0:
            frame = cv2.resize(capture.retrieve()[1], (size, size), interpolation=cv2.INTER_AREA)
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        number += 1


def decode_alone(manifest: Manifest, size: int) -> int:
    """Decode all videos on both cores, and do nothing with the frames."""
    with ThreadPoolExecutor(2) as pool:
        counts = pool.map(
            lambda clip: sum(1 for _ in wanted_frames(clip.file, size)), manifest.clips
        )
        return sum(counts)


def engine_alone(embedder: Embedder, num_frames: int) -> int:
    """Embed frames that are in memory already, with as many batches in flight as extraction has."""
    shape = (embedder.batch_size, embedder.input_size, embedder.input_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pending = []
    num_batches = max(2, num_frames // len(frames))
    for _ in range(num_batches):
        pending.append(embedder.submit(frames))
        if len(pending) == embedder.max_in_flight:
            pending.pop(0).result()
    for left in pending:
        left.result()
    return num_batches * len(frames)


def hand_written_loop(manifest: Manifest, model: "KerasModel") -> int:
    """Decode in a thread; predict batches of 32 that run across videos."""
    batches: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(4)

    def decode() -> None:
        frames = []
        for clip in manifest.clips:
            for frame in wanted_frames(clip.file, model.size):
                frames.append(frame)
                if len(frames) == 32:
                    batches.put(np.stack(frames))
                    frames = []
        if frames:
            batches.put(np.stack(frames))
        batches.put(None)

    thread = threading.Thread(target=decode)
    thread.start()
    count = 0
    while (batch := batches.get()) is not None:
        model.predict_on_batch(batch)
        count += len(batch)
    thread.join()
    return count


def predict_per_video(manifest: Manifest, model: "KerasModel") -> int:
    """Read a video, call `predict` on it, and so on: the better tutorials."""
    count = 0
    for clip in manifest.clips[:4]:
        frames = np.stack(list(wanted_frames(clip.file, model.size)))
        model.predict(frames)
        count += len(frames)
    return count


def predict_per_frame(manifest: Manifest, model: "KerasModel") -> int:
    """Call `predict` on every frame: most tutorials."""
    count = 0
    for clip in manifest.clips:
        for frame in wanted_frames(clip.file, model.size):
            model.predict(frame[np.newaxis])
            count += 1
            if count == FEW_FRAMES:
                return count
    return count


class KerasModel:
    """The plain Keras model that a user would build."""

    def __init__(self, backbone: str) -> None:
        import keras

        self.size = 224
        network = getattr(keras.applications, backbone)(
            include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
        )
        frames = keras.Input((224, 224, 3), dtype="uint8")
        scaled = keras.layers.Rescaling(1 / 127.5, -1)(frames)
        self._model = keras.Model(frames, network(scaled, training=False))

    def predict_on_batch(self, frames: NDArray[np.uint8]) -> None:
        """One batch."""
        self._model.predict_on_batch(frames)

    def predict(self, frames: NDArray[np.uint8]) -> None:
        """Keras' own loop."""
        self._model.predict(frames, verbose=0)


def extract_with(case: Case, changes: dict[str, object], manifest: Manifest) -> tuple[int, float]:
    """Extract into a new store; returns frames and seconds without loading the backbone."""
    settings = dataclasses.replace(case.settings, **changes)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        summary = extract(manifest, folder, settings)
    if summary.failures:
        raise RuntimeError(f"clips failed: {summary.failures}")
    return summary.num_frames, summary.seconds


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """Run work that returns a number of frames; returns it and the seconds."""
    start = time.perf_counter()
    count = work()
    return count, time.perf_counter() - start


def measure(case: Case, rounds: int, engines: list[str]) -> dict[str, float]:
    """Return the median frames/s of each way, and the bound of each engine."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_clips(Path(folder), case)
        model = KerasModel(case.backbone)
        count = decode_alone(manifest, model.size)
        ways: dict[str, Callable[[], tuple[int, float]]] = {
            "decode alone": lambda: timed(lambda: decode_alone(manifest, model.size)),
            "one predict a frame": lambda: timed(lambda: predict_per_frame(manifest, model)),
            "one predict a video": lambda: timed(lambda: predict_per_video(manifest, model)),
            "hand-written loop": lambda: timed(lambda: hand_written_loop(manifest, model)),
        }
        for name in engines:
            changes = ENGINES[name]
            embedder = load_embedder(dataclasses.replace(case.settings, **changes))  # type: ignore[arg-type]
            embedder.warm_up()
            alone = name.replace("extract,", "alone,")
            ways[alone] = lambda e=embedder: timed(lambda: engine_alone(e, count))  # type: ignore[misc]
            ways[name] = lambda c=changes: extract_with(case, c, manifest)  # type: ignore[misc]
        for name in ("one predict a frame", "one predict a video", "hand-written loop"):
            ways[name]()  # traces
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                frames, seconds = way()
                speeds[name].append(frames / seconds)
    return {name: statistics.median(values) for name, values in speeds.items()}


def rows(case: Case, speed: dict[str, float], engines: list[str]) -> list[str]:
    """Return the table's rows."""
    loop = speed["hand-written loop"]
    head = f"{case.name}, {case.backbone}"
    lines = [
        f"| {head} | {name} | {speed[name]:.1f} | {speed[name] / loop:.2f} | |"
        for name in ("one predict a frame", "one predict a video", "hand-written loop")
    ]
    for name in engines:
        alone = speed[name.replace("extract,", "alone,")]
        bound = 1 / (1 / speed["decode alone"] + 1 / alone)
        parts = (
            f"{speed['decode alone']:.0f} and {alone:.0f}: {speed[name] / bound:.2f} of the bound"
        )
        lines.append(
            f"| {head} | {name} | {speed[name]:.1f} | {speed[name] / loop:.2f} | {parts} |"
        )
    return lines


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", type=int, action="append", help="number of a case; default: all")
    parser.add_argument("--engine", action="append", choices=list(ENGINES))
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    engines = arguments.engine or list(ENGINES)
    lines = []
    for number in arguments.case or range(len(CASES)):
        case = CASES[number]
        lines += rows(case, measure(case, arguments.rounds, engines), engines)
    record(
        "Extraction",
        f"`python -m tests.benchmarks.bench_extract`: H.264, every {STRIDE}th frame, batches of "
        f"32; median of {arguments.rounds} rounds in one run.",
        [
            "| videos | way | frames/s | to the hand-written loop | decoder and engine alone |",
            "|---|---|---|---|---|",
            *lines,
        ],
        append=not arguments.dry,
    )


if __name__ == "__main__":
    main()

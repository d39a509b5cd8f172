"""Extraction end to end, beside decoding alone, the backbone alone, and a hand-written loop.

Prints a table: median of three rounds, all measured in turn in one run. Machines are noisy: read
the ratios. On CPU decoding and computing share the cores, so the bound that the parts allow is
1 / (1/decode + 1/backbone).
"""

import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.backbones import Embedder
from stage1_extract.clips import FrameChunk, FrameRecipe
from stage1_extract.config import ExtractSettings
from stage1_extract.decoding import decode_clips
from stage1_extract.extract import extract
from stage1_extract.manifest import Clip, Manifest, read_manifest
from stage1_extract.sampling import parse_sampling

ROUNDS = 3
NUM_CLIPS = 24
FRAMES_PER_CLIP = 200
STRIDE = 5
SIZE = (640, 480)
SETTINGS = ExtractSettings(
    backbone="MobileNetV2", weights="random", sampling=f"stride:{STRIDE}", dtype="float32"
)


def write_clips(folder: Path) -> Manifest:
    """Write videos of moving coarse noise and their manifest."""
    rng = np.random.default_rng(0)
    lines = ["path"]
    for number in range(NUM_CLIPS):
        name = f"{number:03}.mp4"
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        texture = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(folder / name), fourcc, 25, SIZE)
        for step in range(FRAMES_PER_CLIP):
            writer.write(np.roll(texture, (2 * step, 3 * step), axis=(0, 1)))
        writer.release()
        lines.append(name)
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_manifest(path)


def decode_alone(clips: tuple[Clip, ...], size: int) -> int:
    """Decode and fit the wanted frames of all clips; returns their number."""
    recipe = FrameRecipe(parse_sampling(SETTINGS.sampling), SETTINGS.fit, size, min_coverage=0)
    events = decode_clips(clips, recipe, num_decoders=SETTINGS.decoders)
    return sum(len(e.content.frames) for e in events if isinstance(e.content, FrameChunk))


def backbone_alone(embedder: Embedder, num_frames: int) -> int:
    """Embed frames that are in memory already."""
    frames = np.zeros((SETTINGS.batch_size, embedder.input_size, embedder.input_size, 3), np.uint8)
    num_batches = num_frames // len(frames)
    for _ in range(num_batches):
        embedder.embed(frames)
    return num_batches * len(frames)


def hand_written_loop(clips: tuple[Clip, ...], embedder: Embedder) -> int:
    """Decode in a thread with grab and retrieve; predict batches that run across videos."""
    batches: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(4)

    def decode() -> None:
        frames = []
        for clip in clips:
            capture = cv2.VideoCapture(str(clip.path))
            number = 0
            while capture.grab():
                if number % STRIDE == 0:
                    frame = cv2.resize(capture.retrieve()[1], (embedder.input_size,) * 2)
                    frames.append(np.asarray(frame[..., ::-1], np.uint8))
                number += 1
                if len(frames) == SETTINGS.batch_size:
                    batches.put(np.stack(frames))
                    frames = []
        if frames:
            batches.put(np.stack(frames))
        batches.put(None)

    thread = threading.Thread(target=decode)
    thread.start()
    count = 0
    while (batch := batches.get()) is not None:
        embedder.model.predict_on_batch(batch)
        count += len(batch)
    thread.join()
    return count


def end_to_end(manifest: Manifest, folder: Path) -> tuple[int, float]:
    """Extract into a new store; returns frames and seconds without loading the backbone."""
    summary = extract(manifest, Path(tempfile.mkdtemp(dir=folder)), SETTINGS)
    if summary.failures:
        raise RuntimeError(f"clips failed: {summary.failures}")
    return summary.num_frames, summary.seconds


def frames_per_second(work: Callable[[], int]) -> float:
    """Time one call that returns a number of frames."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_clips(folder)
        embedder = Embedder("MobileNetV2", weights="random", batch_size=SETTINGS.batch_size)
        backbone_alone(embedder, 2 * SETTINGS.batch_size)  # compiles
        num_frames = decode_alone(manifest.clips, embedder.input_size)
        rounds: dict[str, list[float]] = {"decode": [], "backbone": [], "loop": [], "extract": []}
        size = embedder.input_size
        for _ in range(ROUNDS):
            rounds["decode"].append(frames_per_second(lambda: decode_alone(manifest.clips, size)))
            rounds["backbone"].append(
                frames_per_second(lambda: backbone_alone(embedder, num_frames))
            )
            rounds["loop"].append(
                frames_per_second(lambda: hand_written_loop(manifest.clips, embedder))
            )
            count, seconds = end_to_end(manifest, folder)
            rounds["extract"].append(count / seconds)
    median = {name: statistics.median(values) for name, values in rounds.items()}
    bound = 1 / (1 / median["decode"] + 1 / median["backbone"])
    print(f"MobileNetV2, {NUM_CLIPS} clips {SIZE[0]}x{SIZE[1]}, every {STRIDE}th frame, frames/s")
    print("| decode alone | backbone alone | bound | hand-written loop | extract | of the bound |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {median['decode']:.0f} | {median['backbone']:.0f} | {bound:.0f} | {median['loop']:.0f} "
        f"| {median['extract']:.0f} | {median['extract'] / bound:.2f} |"
    )


if __name__ == "__main__":
    main()

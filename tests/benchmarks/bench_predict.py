"""Predicting new clips, beside the bare cost of decoding, embedding and the head.

The bare cost is a loop written by hand in the same process, for these clips and this model alone:
it decodes in a thread, embeds one batch a clip, and calls the head; nothing is checked, hashed,
seeked or written. Both are measured in turn, round after round; the table shows medians.
`predict` is measured with models, backbone and decoder processes at work already (as `Predictor`
keeps them), and with decoders that are started anew. What a command takes from nothing is given,
too. The table is appended to RESULTS.md.
"""

import argparse
import dataclasses
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage2_temporal.config import TrainSettings
from stage2_temporal.predict_settings import PredictSettings
from stage2_temporal.predicting import Predictor
from stage2_temporal.training import train
from tests.benchmarks.results import record
from tests.encode import encode

NUM_CLIPS = 40
NUM_TRAINED = 16
NUM_FRAMES = 32
LENGTH = 160
SIZE = (640, 480)


@dataclasses.dataclass(frozen=True)
class Case:
    """A trained run and new clips."""

    run: Path
    clips: list[Path]


def make_case(folder: Path, backbone: str, num_clips: int) -> Case:
    """Write H.264 clips of moving texture, and train a run on their embeddings."""
    first = encode(folder / "first.mp4", "libx264", LENGTH, gop=50, b_frames=2, size=SIZE,
                   options={"preset": "veryfast"})  # fmt: skip
    clips = []
    for number in range(num_clips):
        clips.append(folder / f"{number:03}.mp4")
        # Bytes after the last box: another content, and nothing else to decode.
        clips[-1].write_bytes(first.read_bytes() + bytes(number))
    names = [f"train{number:02}.mp4" for number in range(NUM_TRAINED)]
    for number, name in enumerate(names):  # of other lengths, so of other frames
        encode(folder / name, "libx264", LENGTH + 5 * number)
    table = pd.DataFrame({"path": names, "label": np.arange(NUM_TRAINED) % 2})
    table.to_csv(folder / "m.csv", index=False)
    settings = ExtractSettings(backbone, weights="random", sampling=f"uniform:{NUM_FRAMES}",
                               dtype="float32")  # fmt: skip
    extract(folder / "m.csv", folder / "store", settings)
    train(folder / "store", folder / "m.csv", folder / "run", TrainSettings("label", epochs=2))
    return Case(folder / "run", clips)


class Bare:
    """The plain Keras models, and a loop that a user would write."""

    def __init__(self, predictor: Predictor, backbone: str) -> None:
        import keras

        self._head = predictor.bundle.models[0]
        keras.utils.set_random_seed(0)
        network = getattr(keras.applications, backbone)(
            include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
        )
        frames = keras.Input((224, 224, 3), dtype="uint8")
        scaled = keras.layers.Rescaling(1 / 127.5, -1)(frames)
        self._backbone = keras.Model(frames, network(scaled, training=False))

    def predict(self, clips: Sequence[Path]) -> None:
        """Decode the clips in a thread; embed and predict each when it is there."""
        decoded: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(4)

        def decode() -> None:
            for clip in clips:
                decoded.put(wanted_frames(clip))
            decoded.put(None)

        thread = threading.Thread(target=decode)
        thread.start()
        while (frames := decoded.get()) is not None:
            embedding = np.asarray(self._backbone.predict_on_batch(frames))[None]
            mask = np.ones(embedding.shape[:2], bool)
            self._head.predict_on_batch({"embedding": embedding, "mask": mask})
        thread.join()


def wanted_frames(path: Path) -> NDArray[np.uint8]:
    """Decode the middles of 32 equal parts, as a good script does."""
    wanted = set(((np.arange(NUM_FRAMES) + 0.5) * LENGTH / NUM_FRAMES).astype(int).tolist())
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames, number = [], 0
    while capture.grab():
        if number in wanted:
            frame = cv2.resize(capture.retrieve()[1], (224, 224), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        number += 1
    return np.asarray(np.stack(frames), np.uint8)


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def predict_new(predictor: Predictor, clips: Sequence[Path], *, decoders_start: bool) -> None:
    """Predict into a new file."""
    with tempfile.TemporaryDirectory() as folder:
        if decoders_start:
            predictor.runner.end_decoders()
        result = predictor.predict(clips, Path(folder) / "p.csv")
        if result.failures:
            raise RuntimeError(f"clips failed: {result.failures}")


def measure(case: Case, backbone: str, rounds: int) -> dict[str, dict[int, float]]:
    """Return median seconds of each way, by number of clips."""
    cv2.setNumThreads(1)
    ways: dict[str, dict[int, list[float]]] = {}
    with Predictor(case.run, PredictSettings(Path("p.csv"))) as predictor:
        predictor.prepare()
        bare = Bare(predictor, backbone)
        works: dict[str, Callable[[Sequence[Path]], None]] = {
            "bare loop": bare.predict,
            "predict": lambda c: predict_new(predictor, c, decoders_start=False),
            "predict, decoders start": lambda c: predict_new(predictor, c, decoders_start=True),
        }
        for work in works.values():
            work(case.clips[:2])  # traces
        for _ in range(rounds):
            for name, work in works.items():
                for count in (1, len(case.clips)):
                    seconds = seconds_of(lambda w=work, c=count: w(case.clips[:c]))  # type: ignore[misc]
                    ways.setdefault(name, {}).setdefault(count, []).append(seconds)
    return {
        name: {count: statistics.median(values) for count, values in by_count.items()}
        for name, by_count in ways.items()
    }


def from_nothing(case: Case, rounds: int) -> float:
    """Return median seconds of a new process that predicts one clip."""
    code = (
        "import sys; from pathlib import Path; from stage2_temporal.predicting import predict; "
        "from stage2_temporal.predict_settings import PredictSettings; "
        "predict(sys.argv[1], [sys.argv[2]], PredictSettings(Path(sys.argv[3])))"
    )
    values = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "p.csv")
            command = [sys.executable, "-c", code, str(case.run), str(case.clips[0]), out]
            values.append(seconds_of(lambda c=command: subprocess.run(c, check=True)))  # type: ignore[misc]
    return statistics.median(values)


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=NUM_CLIPS)
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), arguments.backbone, arguments.clips)
        found = measure(case, arguments.backbone, arguments.rounds)
        start = from_nothing(case, 3)
    count = arguments.clips
    lines = [
        f"| {name} | {by[1]:.3f} | {by[1] / found['bare loop'][1]:.2f} | {by[count]:.2f} | "
        f"{by[count] / found['bare loop'][count]:.2f} |"
        for name, by in found.items()
    ]
    record(
        "Prediction",
        f"`python -m tests.benchmarks.bench_predict`: {arguments.backbone}, H.264 of 640x480, "
        f"{NUM_FRAMES} of {LENGTH} frames a clip; median of {arguments.rounds} rounds in one run. "
        f"A new process needs {start:.1f} s for one clip, imports and loading included.",
        [
            f"| way | one clip, s | to the bare loop | {count} clips, s | to the bare loop |",
            "|---|---|---|---|---|",
            *lines,
        ],
        append=not arguments.dry,
    )


if __name__ == "__main__":
    main()

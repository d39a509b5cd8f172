"""What lower precision gains in speed and costs in fidelity, on genuine weights and real clips.

Prints a table for each network: frames/s of every engine and precision, how far its embeddings lie
from float32 Keras, and the accuracy of a logistic regression on them (lung ultrasound, `abnormal`,
mean of eight frames a clip, five folds by patient). Speeds are medians of five rounds, all measured
in turn in one run. Machines are noisy: read the ratios.

The rows "first ... float32" cut the network in two: its first convolutions are computed in float32
and the rest in bfloat16, or the other way round.
"""

import csv
import functools
import importlib
import os
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

from stage1_extract.backbones import Embedder
from stage1_extract.cores import available_cores
from stage1_extract.engines import Engine
from stage1_extract.fitting import fit_frame
from stage1_extract.openvino_engine import check_openvino, export_model
from stage1_extract.precision import Embed, measure_precision

SHARED = Path(__file__).parents[3] / "shared"
NETWORKS = (
    ("MobileNet", 0.75, "mobilenet_7_5_224_tf_no_top.rebuilt.h5"),
    ("MobileNetV2", 0.35, "mobilenet_v2_0.35_224_no_top.rebuilt.h5"),
)
VARIANTS = tuple((e, p) for e in ("keras", "openvino") for p in ("float32", "float16", "bfloat16"))
SPLITS = tuple(
    (part, first, second)
    for part in (0.1, 0.25, 0.5, 0.9)
    for first, second in (("float32", "bfloat16"), ("bfloat16", "float32"))
)
ROUNDS = 5
BATCH_SIZE = 32
TIMED_FRAMES = 256
FRAMES_PER_CLIP = 8
SIZE = 224


class SplitEngine:
    """Two parts of one exported network, each compiled for a precision of its own."""

    name = "openvino-split"
    max_in_flight = 2

    def __init__(self, folder: Path, part: float, first: str, second: str) -> None:
        openvino = importlib.import_module("openvino")
        core, model = openvino.Core(), folder / "model.xml"
        cut = _cut_after(core.read_model(model), part)
        head, tail = _halves(openvino, core.read_model(model), core.read_model(model), cut)
        self._parts = [_compile(core, head, first), _compile(core, tail, second)]
        self._threads = ThreadPoolExecutor(available_cores())
        self._local = threading.local()

    def submit(self, frames: NDArray[np.uint8]) -> "Joined":
        """Start embedding frames (B, S, S, 3)."""
        return Joined([self._threads.submit(self._embed_one, frame[None]) for frame in frames])

    def _embed_one(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if not hasattr(self._local, "requests"):
            self._local.requests = [part.create_infer_request() for part in self._parts]
        for request in self._local.requests:
            values = request.infer(values, share_inputs=True, share_outputs=True)[0]
        return np.array(values, np.float32)


class Joined:
    """Embeddings of frames that are computed one by one."""

    def __init__(self, rows: list[Future[NDArray[np.float32]]]) -> None:
        self._rows = rows

    def result(self) -> NDArray[np.float32]:
        """Wait for the embeddings (B, D) and return them."""
        return np.concatenate([row.result() for row in self._rows])


def _save(keras_model: Any, folder: Path) -> None:
    """Write the model so that its operations have the same names at every reading."""
    openvino = importlib.import_module("openvino")
    export_model(keras_model, str(folder))
    model = openvino.Core().read_model(folder)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _cut_after(model: Any, part: float) -> str:
    """Name the last operation that all data pass, with at most that part of the convolutions."""
    order: list[tuple[str, str]] = []
    last_use: dict[str, int] = {}
    for operation in model.get_ordered_ops():
        names = {i.get_source_output().get_node().get_friendly_name() for i in operation.inputs()}
        if operation.get_type_name() == "Parameter" or names & last_use.keys():  # no constant
            last_use |= dict.fromkeys(names & last_use.keys(), len(order))
            last_use[operation.get_friendly_name()] = len(order)
            order.append((operation.get_friendly_name(), operation.get_type_name()))
    num_convolutions = sum("Convolution" in kind for _, kind in order)
    cut, seen = "", 0
    for place, (name, kind) in enumerate(order):
        seen += "Convolution" in kind
        still_needed = [other for other, _ in order[: place + 1] if last_use[other] > place]
        if seen <= part * num_convolutions and still_needed == [name]:
            cut = name
    return cut


def _halves(openvino: Any, head: Any, tail: Any, cut: str) -> tuple[Any, Any]:
    def output_of(model: Any) -> Any:
        return next(o for o in model.get_ops() if o.get_friendly_name() == cut).output(0)

    between = output_of(tail)
    values = openvino.opset13.parameter(list(between.shape), np.float32)
    for target in list(between.get_target_inputs()):
        target.replace_source_output(values.output(0))
    return (
        openvino.Model([output_of(head)], head.get_parameters()),
        openvino.Model(tail.get_results(), [values]),
    )


def _compile(core: Any, model: Any, precision: str) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "NUM_STREAMS": available_cores(),
        "INFERENCE_NUM_THREADS": available_cores(),
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", options)


def read_frames(path: Path, count: int) -> NDArray[np.uint8]:
    """Return `count` frames (count, SIZE, SIZE, 3) RGB, spread evenly over a video."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (read := capture.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    chosen = (2 * np.arange(count) + 1) * len(frames) // (2 * count)
    fitted = [fit_frame(frames[number], SIZE, "squash") for number in chosen]
    return np.stack([frame[..., ::-1] for frame in fitted])


def read_rows(name: str) -> list[dict[str, str]]:
    """Return a manifest's rows."""
    with (SHARED / "data" / name / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def embed_in_turn(engine: Engine | Embedder, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed any number of frames, with as many batches in flight as the engine asks for."""
    missing = -len(frames) % BATCH_SIZE
    padded = np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)])
    pending: deque[Any] = deque()
    embeddings: list[NDArray[np.float32]] = []
    for start in range(0, len(padded), BATCH_SIZE):
        pending.append(engine.submit(padded[start : start + BATCH_SIZE]))
        if len(pending) >= engine.max_in_flight:
            embeddings.append(pending.popleft().result())
    embeddings += [batch.result() for batch in pending]
    return np.concatenate(embeddings)[: len(frames)]


def make_variants(network: tuple[str, float, str], folder: Path) -> dict[str, Engine | Embedder]:
    """Return every engine and precision that this machine offers, and the split networks."""
    backbone, alpha, file = network
    weights = str(SHARED / "weights" / file)
    variants: dict[str, Engine | Embedder] = {}
    for engine, precision in VARIANTS:
        try:
            variants[f"{engine} {precision}"] = Embedder(
                backbone,
                weights=weights,
                alpha=alpha,
                batch_size=BATCH_SIZE,
                engine=engine,
                precision=precision,
            )
        except ValueError as error:
            print(f"left out: {error}")
    keras_model = getattr(variants["keras float32"], "model", None)
    if "openvino bfloat16" in variants:
        _save(keras_model, folder)
        for part, first, second in SPLITS:
            name = f"openvino first {part:.0%} {first}, rest {second}"
            variants[name] = SplitEngine(folder, part, first, second)
    return variants


def speeds(embed: Mapping[str, Embed], frames: NDArray[np.uint8]) -> dict[str, float]:
    """Return the median frames/s of each, measured in turn."""
    rounds: dict[str, list[float]] = {name: [] for name in embed}
    for _ in range(ROUNDS):
        for name, embed_one in embed.items():
            start = time.perf_counter()
            embed_one(frames)
            rounds[name].append(len(frames) / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rounds.items()}


def predictions(
    embedding: NDArray[np.float32], labels: NDArray[np.str_], groups: NDArray[np.str_]
) -> NDArray[np.str_]:
    """Return what a logistic regression says of each clip, fitted on other patients' clips."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clips = embedding.reshape(len(labels), FRAMES_PER_CLIP, -1).mean(axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(model, clips, labels, groups=groups, cv=folds))


def report(network: tuple[str, float, str], lung: NDArray[np.uint8], mixed: Any) -> None:
    """Measure one network and print its table."""
    rows = read_rows("lung_ultrasound")
    labels = np.array([row["abnormal"] for row in rows])
    groups = np.array([row["patient"] for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        variants = make_variants(network, Path(folder))

    embed = {name: functools.partial(embed_in_turn, engine) for name, engine in variants.items()}
    embeddings = {name: embed[name](lung) for name in variants}  # warms up, too
    rates = speeds(embed, lung[:TIMED_FRAMES])
    said = {name: predictions(e, labels, groups) for name, e in embeddings.items()}
    reference = "keras float32"
    print(f"\n{network[0]} {network[1]}, {len(mixed)} frames of both data sets, {len(rows)} clips")
    print("| | frames/s | of Keras float32 | rel. L2 mean | max | cosine min | accuracy | agrees |")
    print("|---|---|---|---|---|---|---|---|")
    for name in variants:
        far = measure_precision(embed[reference], embed[name], mixed)
        right, same = (said[name] == labels).mean(), (said[name] == said[reference]).mean()
        print(
            f"| {name} | {rates[name]:.0f} | {rates[name] / rates[reference]:.2f} "
            f"| {far.relative_l2_mean:.4f} | {far.relative_l2_max:.4f} | {far.cosine_min:.4f} "
            f"| {right:.3f} | {same:.3f} |"
        )


def main() -> None:
    """Measure and print the tables."""
    files = [SHARED / "weights" / file for _, _, file in NETWORKS]
    if missing := [str(path) for path in (*files, SHARED / "data") if not path.exists()]:
        print(f"skipped: it takes genuine weights and real clips, and there is no {missing}")
        return
    try:
        check_openvino()
    except ValueError as error:
        print(f"without OpenVINO: {error}")
    folder = SHARED / "data"
    lung = np.concatenate(
        [
            read_frames(folder / "lung_ultrasound" / row["path"], FRAMES_PER_CLIP)
            for row in read_rows("lung_ultrasound")
        ]
    )
    drones = [
        read_frames(folder / "drone_infrared" / row["path"], 1)
        for row in read_rows("drone_infrared")[::4]
    ]
    mixed = np.concatenate([lung[::12], *drones])
    for network in NETWORKS:
        report(network, lung, mixed)


if __name__ == "__main__":
    main()

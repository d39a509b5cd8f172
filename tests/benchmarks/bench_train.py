"""Training speed: from the store, from arrays in memory, and a plain PyTorch loop over HDF5."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stage1_extract.store import EmbeddingStore
from tests.benchmarks.results import record, ways_at_hand
from tests.benchmarks.synthetic_store import write_synthetic_store
from tests.stage2_temporal.device_trainings import divide_cpu

NUM_SEQUENCES, NUM_STEPS, DIM, UNITS, BATCH = 640, 64, 1280, 128, 32
ROUNDS, EPOCHS = 5, 3
DIVIDED = ("tensorflow divided", "jax divided")
"""From the store, on two parts of the CPU: what it costs to divide batches, without any gain."""
WAYS = ("pytorch", "tensorflow memory", "tensorflow store", "jax memory", "jax store", *DIVIDED)


def main() -> None:
    """Measure every way in processes of its own, in turn, and print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(sequences_per_second(arguments.way, arguments.store)))
        return
    ways = ways_at_hand(arguments.ways, {"pytorch": ("torch", "torch")})
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        store = write_synthetic_store(
            Path(name) / "store", NUM_SEQUENCES, num_steps=NUM_STEPS, dim=DIM, same_length=True
        )
        write_hdf5(store)
        for _ in range(arguments.rounds):
            for way in ways:
                found[way].append(in_own_process(way, store))
    rows = []
    for way, speeds in found.items():
        others = ("pytorch", way.replace("store", "memory"), way.replace("divided", "store"))
        ratios = " | ".join(compared(found, way, other) for other in others)
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}"
        rows.append(f"| {way} | {statistics.median(speeds):.0f} | {spread} | {ratios} |")
    head = "| way | sequences/s | least to most | to PyTorch | to memory | to undivided |"
    record(
        "Training speed",
        f"`python -m tests.benchmarks.bench_train`: LSTM({UNITS}), T={NUM_STEPS}, D={DIM}, batches "
        f"of {BATCH}, {NUM_SEQUENCES} sequences; {EPOCHS} epochs after one to warm up, median of "
        f"{arguments.rounds} processes each, in turn; ratios of neighbouring processes, median. "
        "PyTorch: nn.LSTM, DataLoader with 1 worker over one HDF5 dataset a video, float16. "
        "Divided: from the store, on two parts of the CPU as two devices.",
        [head, "|---|---|---|---|---|---|", *rows],
        append=not arguments.dry,
    )


def compared(found: dict[str, list[float]], way: str, other: str) -> str:
    """Return the median ratio of two ways, of processes that ran one after the other."""
    if other not in found or other == way:
        return ""
    ratios = [a / b for a, b in zip(found[way], found[other], strict=True)]
    return f"{statistics.median(ratios):.2f}"


def in_own_process(way: str, store: Path) -> float:
    """Measure a way in a process of its own."""
    backend = {"pytorch": "torch"}.get(way, way.split()[0])
    command = [sys.executable, "-m", "tests.benchmarks.bench_train", "--way", way]
    output = subprocess.run(
        [*command, "--store", str(store)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    ).stdout
    return float(json.loads(output.splitlines()[-1]))


def sequences_per_second(way: str, store: Path) -> float:
    """Train for one epoch, then measure the next ones."""
    if way in DIVIDED:
        divide_cpu(way.split()[0], 2)
    epoch = pytorch_epoch(store) if way == "pytorch" else keras_epoch(store, way.split()[1])
    epoch()
    start = time.perf_counter()
    for _ in range(EPOCHS):
        epoch()
    return EPOCHS * NUM_SEQUENCES / (time.perf_counter() - start)


def keras_epoch(path: Path, source: str) -> Callable[[], None]:
    """Return a function that trains for an epoch, as `train` does."""
    from stage2_temporal.config import TrainSettings
    from stage2_temporal.dataset import EmbeddingSequence
    from stage2_temporal.devices import devices_of
    from stage2_temporal.epoch_loop import train_epochs
    from stage2_temporal.epochs import EpochKeeper, Validation
    from stage2_temporal.fitting import compile_model
    from stage2_temporal.models import BuiltModel, Output, build_model
    from stage2_temporal.statistics import FeatureStatistics

    store = EmbeddingStore(path)
    settings = TrainSettings(
        "y",
        head="lstm",
        units=UNITS,
        skip=False,
        projection=0,
        layer_norm=False,
        input_dropout=0.0,
        dropout=0.0,
    )
    statistics_ = FeatureStatistics(np.zeros(DIM), np.ones(DIM))
    outputs = [Output("target_0", "binary", 1)]
    devices = devices_of("cpu,cpu" if source == "divided" else None)
    with devices.building():
        model = build_model(settings, statistics_, outputs, dtype="float16").model
        model = devices.trainee(model)
        compile_model(model, outputs, settings)
    labels = {"target_0": (np.arange(NUM_SEQUENCES) % 2).astype(np.float32)[:, None]}
    if source != "memory":
        batches = EmbeddingSequence(
            store,
            np.arange(NUM_SEQUENCES),
            labels,
            weights={"target_0": np.ones(NUM_SEQUENCES, np.float32)},
            batch_size=BATCH,
            seed=0,
            workers=settings.workers,
        )
        built = BuiltModel(model, model, None, ())
        keeper = EpochKeeper(built, settings, lambda: Validation(np.zeros(1), {}))
        keeper.start()
        epochs = itertools.count()

        def epoch() -> None:
            first = next(epochs)
            with devices.training():
                train_epochs(model, batches, keeper, first=first, last=first + 1)

        return epoch
    inputs = {
        "embedding": np.stack([store.read(i) for i in range(NUM_SEQUENCES)]),
        "mask": np.ones((NUM_SEQUENCES, NUM_STEPS), bool),
    }
    return lambda: model.fit(inputs, labels, batch_size=BATCH, verbose=0) and None


def pytorch_epoch(path: Path) -> Callable[[], None]:
    """Return a function that trains for an epoch as most PyTorch code does."""
    import torch

    dataset: Any = torch.utils.data.Dataset
    module: Any = torch.nn.Module

    class Videos(dataset):  # type: ignore[misc]
        def __init__(self) -> None:
            self.file: Any = None

        def __len__(self) -> int:
            return NUM_SEQUENCES

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            self.file = self.file or h5py.File(path.with_suffix(".per_video.h5"), "r")
            frames = torch.from_numpy(self.file[f"{index}"][:]).float()
            return frames, torch.tensor([float(index % 2)])

    class Model(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(DIM, UNITS, batch_first=True)
            self.head = torch.nn.Linear(UNITS, 1)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(frames)[0][:, -1])

    loader = torch.utils.data.DataLoader(Videos(), BATCH, shuffle=True, num_workers=1)
    model, loss = Model(), torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def epoch() -> None:
        for frames, labels in loader:
            optimizer.zero_grad()
            loss(model(frames), labels).backward()
            optimizer.step()

    return epoch


def write_hdf5(store: Path) -> None:
    """Write the same sequences with one dataset a video."""
    opened = EmbeddingStore(store)
    with h5py.File(store.with_suffix(".per_video.h5"), "w") as file:
        for number in range(NUM_SEQUENCES):
            file[f"{number}"] = opened.read(number)


if __name__ == "__main__":
    main()

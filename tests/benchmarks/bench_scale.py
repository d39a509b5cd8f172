"""Feeding from a store of a million sequences: opening time, memory, and speed of batches."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.results import record
from tests.benchmarks.synthetic_store import write_synthetic_store

NUM_STEPS, DIM, ROUNDS, BATCHES = 8, 64, 3, 4000

CODE = """
import json, pathlib, sys, time
import numpy as np
from stage1_extract.store import EmbeddingStore
from stage2_temporal.dataset import EmbeddingSequence

def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024

libraries = resident()
start = time.perf_counter()
store = EmbeddingStore(sys.argv[1])
opened = time.perf_counter() - start
labels = {"target_0": np.zeros((store.num_sequences, 1), np.float32)}
start = time.perf_counter()
batches = EmbeddingSequence(store, np.arange(store.num_sequences), labels, seed=0)
planned = time.perf_counter() - start
count, most, times = int(sys.argv[2]), 0.0, []
for number in range(2 * count):
    start = time.perf_counter()
    batches[number % len(batches)]
    times.append(time.perf_counter() - start)
    if number % 100 == 0:
        most = max(most, resident())
print(json.dumps({
    "opened": opened, "planned": planned, "memory": most - libraries,
    "batch": float(np.median(times[count:])),
}))
"""


def feed(store: Path) -> dict[str, Any]:
    """Open a store in a process of its own, and take batches from it."""
    command = [sys.executable, "-c", CODE, str(store), str(BATCHES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    rows, batch = [], []
    with tempfile.TemporaryDirectory() as name:
        sizes = (1000, 1_000_000)
        stores = [
            write_synthetic_store(Path(name) / str(n), n, num_steps=NUM_STEPS, dim=DIM)
            for n in sizes
        ]
        rounds = [[feed(store) for store in stores] for _ in range(ROUNDS)]
    for i, size in enumerate(sizes):
        median = {key: statistics.median(r[i][key] for r in rounds) for key in rounds[0][i]}
        batch.append(median["batch"])
        rows.append(
            f"| {size:,} | {median['opened']:.2f} | {median['planned']:.2f} | "
            f"{median['memory']:.0f} | {1e3 * median['batch']:.3f} | {batch[i] / batch[0]:.2f} |"
        )
    head = "| sequences | opens, s | plans an epoch, s | resident MB more | ms a batch | to 1,000 |"
    record(
        "Feeding from a store of a million sequences",
        f"`python -m tests.benchmarks.bench_scale`: {NUM_STEPS // 2} to {NUM_STEPS} frames, "
        f"D={DIM}, float16, batches of 32 in random order; median of {ROUNDS} processes, of "
        f"{BATCHES} batches each after as many to warm up. Resident memory is the greatest seen, "
        "beyond the interpreter and its libraries.",
        [head, "|---|---|---|---|---|---|", *rows],
        append=not arguments.dry,
    )


if __name__ == "__main__":
    main()

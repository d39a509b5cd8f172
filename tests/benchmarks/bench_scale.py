"""A store of a million sequences: feeding from it, and looking after it in 1,000 shards."""

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

import numpy as np

from stage1_extract.shard_index import INDEX_NAME
from tests.benchmarks.results import record
from tests.benchmarks.synthetic_store import clip_name, write_synthetic_store

NUM_STEPS, DIM, ROUNDS, BATCHES = 8, 64, 3, 4000
NUM_SEQUENCES = 1_000_000

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


MEASURE = """
import json, pathlib, resource, sys, time
{imports}
store, manifest = map(pathlib.Path, sys.argv[1:])
{before}
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss knows the parent's too
peak = int(status.split("VmHWM:")[1].split()[0])
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak / 1024, worker / 1024]))
"""
_OPEN = ("from stage1_extract.store import EmbeddingStore", "", "opened = EmbeddingStore(store)")
_OPENED = "opened = EmbeddingStore(store)"
_FEED = f"""
{_OPENED}
labels = {{"target_0": np.zeros((len(opened), 1), np.float32)}}
"""
_EPOCH = """
batches = EmbeddingSequence(opened, np.arange(len(opened)), labels, seed=0)
for number in range(len(batches)):
    batches[number]
"""


def _verify(processes: int) -> tuple[str, str, str]:
    code = f"assert verify_store(store, processes={processes}).sound"
    return "from stage1_extract.verifying import verify_store", "", code


STEPS = {
    "open, no index yet, files not in memory": _OPEN,
    "open, no index yet": _OPEN,
    "open": _OPEN,
    "a column of texts": (_OPEN[0], _OPENED, "opened.column('source_hash')"),
    "a column of numbers": (_OPEN[0], _OPENED, "opened.column('source_fps')"),
    "info": ("from stage1_extract.upkeep import describe_store", "", "describe_store(store)"),
    "verify, 1 process": _verify(1),
    "verify, 2 processes": _verify(2),
    "start of training: read the manifest, join, split, check": (
        "from stage2_temporal.partition import load_data\n"
        "from stage2_temporal.config import TrainSettings",
        "",
        "load_data(store, manifest, TrainSettings(target=('label',), group='patient'))",
    ),
    "an epoch's batches of 32, one thread": (
        "import numpy as np\nfrom stage2_temporal.dataset import EmbeddingSequence\n" + _OPEN[0],
        _FEED,
        _EPOCH,
    ),
    "compact into one shard": (
        "from stage1_extract.compact import compact_store",
        "",
        "compact_store(store)",
    ),
}


def measure(step: tuple[str, str, str], store: Path, manifest: Path) -> list[float]:
    """Do a step in a process of its own; returns seconds, its peak MB and its children's."""
    imports, before, code = step
    script = MEASURE.format(imports=imports, before=before, code=code)
    command = [sys.executable, "-c", script, str(store), str(manifest)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[float] = json.loads(output.splitlines()[-1])
    return found


def forget_files(folder: Path) -> None:
    """Take a folder's files out of the system's memory."""
    os.sync()
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def write_manifest(path: Path) -> Path:
    """Write the manifest of the store of a million sequences, in another order."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, NUM_SEQUENCES).tolist()
    with path.open("w") as file:
        file.write("path,video_id,label,patient\n")
        for i in rng.permutation(NUM_SEQUENCES).tolist():
            name = clip_name(i)
            file.write(f"{name}.mp4,{name},class{labels[i]},{name.partition('/')[0]}\n")
    return path


def look_after(*, append: bool) -> None:
    """Measure every step on a store of 1,000 shards."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = write_synthetic_store(
            Path(name) / "store", NUM_SEQUENCES, num_steps=8, dim=16, shard_sequences=1000
        )
        manifest = write_manifest(Path(name) / "manifest.csv")
        for path in store.iterdir():  # old enough to be indexed
            os.utime(path, (time.time() - 60, time.time() - 60))
        for title, step in STEPS.items():
            if "no index" in title:
                (store / INDEX_NAME).unlink(missing_ok=True)
            if "not in memory" in title:
                forget_files(store)
            seconds, peak, worker = measure(step, store, manifest)
            more = f" + {worker:.0f} a process" if "process" in title else ""
            rows.append(f"| {title} | {seconds:.1f} | {peak:.0f}{more} |")
            print(rows[-1], flush=True)
    record(
        "A million sequences in 1,000 shards",
        "`python -m tests.benchmarks.bench_scale`: 4 to 8 frames, D=16, float16, 50,000 groups; "
        "each step once, in a process of its own, files in memory unless said; peak resident MB, "
        "libraries included.",
        ["| step | s | peak MB |", "|---|---|---|", *rows],
        append=append,
    )


def main() -> None:
    """Measure, print and append the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--only", choices=["feed", "shards"], help="one of the two tables")
    arguments = parser.parse_args()
    if arguments.only != "feed":
        look_after(append=not arguments.dry)
    if arguments.only != "shards":
        compare_sizes(append=not arguments.dry)


def compare_sizes(*, append: bool) -> None:
    """Feed from a store of a thousand and of a million sequences."""
    rows, batch = [], []
    with tempfile.TemporaryDirectory() as name:
        sizes = (1000, NUM_SEQUENCES)
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
        append=append,
    )


if __name__ == "__main__":
    main()

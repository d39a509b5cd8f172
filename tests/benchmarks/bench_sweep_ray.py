"""A sweep on two Ray nodes of one core: by the sweep's own driver, and by Ray Tune (`ray[tune]`).

Both run the same trials' code on the same folds, so they differ in how trials reach the workers.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stage1_extract.cluster_settings import ClusterSettings
from stage2_temporal.sweep_settings import SweepSettings
from tests.benchmarks.bench_defaults import prepared
from tests.benchmarks.bench_sweep import DROPOUT, HIGH, LOW, SEED, TASK, UNITS, settings, swept
from tests.benchmarks.results import record, ways_at_hand
from tests.loopback_cluster import LoopbackCluster

TUNE = "Ray Tune on two Ray nodes"
WAYS = ("two processes", "two Ray nodes", TUNE)
_RUNNERS: dict[str, Any] = {}
"""Of this process: Ray Tune's workers keep it from trial to trial, as the sweep's do."""


def main() -> None:
    """Measure every way in a process of its own, and print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--stores", type=Path, help="folder that keeps the store for a next time")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--paths", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measured(arguments)))
        return
    with tempfile.TemporaryDirectory() as name, LoopbackCluster() as cluster:
        cluster.add_node()
        paths = prepared(arguments.stores or Path(name), TASK)
        rows = []
        for way in ways_at_hand(arguments.ways, {TUNE: ("pydantic", "ray[tune]")}):
            command = [sys.executable, "-m", "tests.benchmarks.bench_sweep_ray", "--way", way]
            command += ["--trials", str(arguments.trials), "--address", cluster.address, "--paths"]
            output = subprocess.run(
                [*command, *map(str, paths), str(Path(name) / way)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            found = json.loads(output.splitlines()[-1])
            print(way, found, flush=True)
            speed = 3600 * len(found["values"]) / found["seconds"]
            best, median = max(found["values"]), statistics.median(found["values"])
            seconds = f"{found['seconds']:.0f}"
            rows.append(f"| {way} | {seconds} | {speed:.0f} | {best:.3f} | {median:.3f} |")
    record(
        "Searching settings on Ray",
        f"`python -m tests.benchmarks.bench_sweep_ray`: {TASK.name}, {arguments.trials} random "
        "trials as in `bench_sweep`; one run each, start of all workers included. Ray Tune keeps "
        "its workers from trial to trial (`reuse_actors`); its draws are others.",
        ["| way | seconds | trials/h | best | median |", "|---|---|---|---|---|", *rows],
        append=not arguments.dry,
    )


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, and return seconds and the trials' values."""
    store, manifest, folder = arguments.paths
    asked = settings(arguments.trials, 2)
    start = time.perf_counter()
    if arguments.way == "two processes":
        values = swept(store, manifest, folder, asked)
    elif arguments.way == "two Ray nodes":
        on_ray = dataclasses.replace(asked, cluster=ClusterSettings(ray=arguments.address))
        values = swept(store, manifest, folder, on_ray)
    else:
        values = tuned(store, manifest, folder, asked, arguments.address)
    return {"seconds": time.perf_counter() - start, "values": values}


def tuned(
    store: Path, manifest: Path, folder: Path, asked: SweepSettings, address: str
) -> list[float]:
    """Return the values of Ray Tune's trials."""
    import ray
    from ray import tune

    folder.mkdir(parents=True)
    environment = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": environment})
    search = {
        "head": tune.choice(["gru", "lstm"]),
        "units": tune.choice(UNITS),
        "dropout": tune.choice(DROPOUT),
        "learning_rate": tune.loguniform(LOW, HIGH),
    }
    trial = tune.with_parameters(run_trial, store=store, manifest=manifest, asked=asked)
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space=search,
        tune_config=tune.TuneConfig(
            metric="value", mode="max", num_samples=asked.trials, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(folder.absolute()), verbose=0),
    )
    return [float(result.metrics["value"]) for result in tuner.fit()]


def run_trial(
    parameters: dict[str, Any], *, store: Path, manifest: Path, asked: SweepSettings
) -> dict[str, float]:
    """Run a trial with the sweep's own code."""
    from stage2_temporal.sweep_worker import trial_runner

    if "runner" not in _RUNNERS:
        cache = Path(tempfile.mkdtemp())
        _RUNNERS["runner"] = trial_runner(str(store), str(manifest), asked, cache)
    base = dataclasses.replace(asked.base, seed=SEED, **parameters)
    with tempfile.TemporaryDirectory() as name:
        result = _RUNNERS["runner"].run(base, str(store), Path(name), lambda *_: None)
    return {"value": result.value}


if __name__ == "__main__":
    main()

"""A sweep on a real two-node Ray cluster: the same trials, and none is lost with a node."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from stage1_extract.cluster_settings import ClusterSettings
from stage2_temporal.config import TrainSettings
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import read_trials
from stage2_temporal.sweeping import sweep
from tests.loopback_cluster import LoopbackCluster, LoopbackNode
from tests.stage2_temporal.sweep_fakes import (
    KILLED,
    NUM_FOLDS,
    WAITS,
    computed,
    is_gone,
    pids,
    run_fake,
    sweep_settings,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed"),
]

SWEEP = """
import json, sys
from pathlib import Path
from stage1_extract.cluster_settings import ClusterSettings
from tests.stage2_temporal.sweep_fakes import run_fake, sweep_settings

folder, address, units, options = sys.argv[1:]
settings = sweep_settings(
    f"units = {units}", sampler="grid", jobs="auto", cluster=ClusterSettings(ray=address)
)
run_fake(Path(folder), settings, show_progress=True, **json.loads(options))
"""


@pytest.fixture
def cluster() -> Iterator[LoopbackCluster]:
    with LoopbackCluster() as cluster:
        yield cluster


def start(
    folder: Path,
    cluster: LoopbackCluster,
    units: list[int],
    environment: Mapping[str, str] | None = None,
    **options: object,
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SWEEP, str(folder), cluster.address]
    return subprocess.Popen(
        [*command, json.dumps(units), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environment or {})},
    )


def finish(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outcomes(folder: Path) -> list[tuple[object, ...]]:
    """Return what was tried and found; the order in which trials ended may differ."""
    return sorted((r.parameters["units"], r.state, r.value) for r in read_trials(folder))


def test_two_nodes_find_what_one_machine_finds(cluster: LoopbackCluster, tmp_path: Path) -> None:
    cluster.add_node()
    units, gate = [WAITS, 8, 16, 32, 64], tmp_path / "gate"
    run = start(
        tmp_path / "cluster",
        cluster,
        units,
        {"KERAS_BACKEND": "jax"},  # which the nodes were not started with
        gate=str(gate),
        backend="jax",
    )
    # One process is held up, so the other one does the rest.
    wait_for(run, lambda: len(computed(tmp_path / "cluster")) == 2 + 4 * NUM_FOLDS)
    gate.touch()
    assert "2 at a time" in finish(run)
    assert len(set(pids(tmp_path / "cluster"))) == 2
    run_fake(tmp_path / "alone", sweep_settings(f"units = {units}", sampler="grid"), gate=gate)
    assert outcomes(tmp_path / "cluster") == outcomes(tmp_path / "alone")


TAKEN = """
import sys, time
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init(address=sys.argv[1], log_to_driver=False)
first = min(node["NodeID"] for node in ray.nodes())


@ray.remote(num_cpus=1)
class Other:
    def begin(self):
        return "begun"


other = Other.options(scheduling_strategy=NodeAffinitySchedulingStrategy(first, False)).remote()
print(ray.get(other.begin.remote()), flush=True)
time.sleep(600)
"""


@pytest.mark.xslow
@pytest.mark.parametrize("units", [[8], [8, 16, 32]])
def test_trials_do_not_wait_for_a_node_that_others_use(
    cluster: LoopbackCluster, tmp_path: Path, units: list[int]
) -> None:
    """The node is the one that the sweep asks first."""
    cluster.add_node()
    command = [sys.executable, "-c", TAKEN, cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "begun\n"
            finish(start(tmp_path / "sweep", cluster, units))
        finally:
            other.kill()
    assert {record.state for record in read_trials(tmp_path / "sweep")} == {"complete"}
    assert len(computed(tmp_path / "sweep")) == len(units) * NUM_FOLDS
    assert len(set(pids(tmp_path / "sweep"))) == 1


def has_process(node: LoopbackNode, pid: int) -> bool:
    return pid in {process.pid for process in node.processes()}


@pytest.mark.xslow
@pytest.mark.parametrize("what", ["node", "relay"])
def test_trial_of_a_killed_node_goes_on_elsewhere(tmp_path: Path, what: str) -> None:
    with LoopbackCluster(num_cpus=0) as cluster:  # the head has no room: killed, it ends all
        _kill_and_go_on(cluster, tmp_path, what)


def _kill_and_go_on(cluster: LoopbackCluster, tmp_path: Path, what: str) -> None:
    gate = tmp_path / "gate"
    nodes = [cluster.add_node(), cluster.add_node()]
    run = start(tmp_path / "sweep", cluster, [WAITS, 8, 16, 32], gate=str(gate))
    wait_for(run, lambda: len(computed(tmp_path / "sweep")) == 2 + 3 * NUM_FOLDS)
    lines = (tmp_path / "sweep" / "computed").read_text().splitlines()
    waiting = next(int(line.split()[3]) for line in lines if f" 1 {WAITS} " in line)
    if what == "node":
        next(node for node in nodes if has_process(node, waiting)).kill()
    else:
        psutil.Process(waiting).parent().kill()  # type: ignore[union-attr]
    # A process that trains ends with its relay.
    wait_for(run, lambda: is_gone(waiting))
    gate.touch()
    text = finish(run)
    assert "goes on elsewhere" in text
    assert [record.state for record in read_trials(tmp_path / "sweep")] == ["complete"] * 4
    done = computed(tmp_path / "sweep")
    assert len(done) == 4 * NUM_FOLDS + 1  # the fold in the midst alone was computed again
    assert len(set(done)) == 4 * NUM_FOLDS


@pytest.mark.xslow
def test_killed_driver_goes_on_with_another_number_of_nodes(
    cluster: LoopbackCluster, tmp_path: Path
) -> None:
    units = [8, 16, 32, 64]
    run = start(tmp_path / "sweep", cluster, units, seconds=0.5)
    wait_for(run, lambda: len(computed(tmp_path / "sweep")) >= NUM_FOLDS + 2)
    run.kill()
    run.communicate()
    cluster.add_node()
    finish(start(tmp_path / "sweep", cluster, units, seconds=0.5))
    assert [record.state for record in read_trials(tmp_path / "sweep")] == ["complete"] * 4
    done = computed(tmp_path / "sweep")
    assert len(done) <= 4 * NUM_FOLDS + 2
    assert len(set(done)) == 4 * NUM_FOLDS


@pytest.mark.xslow
def test_process_that_dies_of_its_trial_costs_the_trial(
    cluster: LoopbackCluster, tmp_path: Path
) -> None:
    finish(start(tmp_path / "sweep", cluster, [8, KILLED, 32]))
    first, failed, last = read_trials(tmp_path / "sweep")
    assert [first.state, failed.state, last.state] == ["complete", "failed", "complete"]
    assert failed.reason.startswith("its process ended with SIGKILL")


REAL = """
import sys
from tests.stage2_temporal.test_sweep_cluster import real_sweep

real_sweep("swept", sys.argv[1])
"""


def real_sweep(folder: str, address: str | None) -> None:
    """Train on the data of the current folder, all paths relative to it."""
    base = TrainSettings(
        target=["label"], group="patient", gain_confidence=0.0, units=4, epochs=2, resamples=20
    )
    search = ('feature_table = ["", "table.h5"]', "learning_rate = [0.001, 0.01]")
    settings = SweepSettings(
        base,
        search,
        sampler="grid",
        jobs="auto" if address else 1,
        validation_folds=2,
        refit_seeds=0,
        cluster=ClusterSettings(ray=address),
    )
    sweep("store", "m.csv", folder, settings)


@pytest.mark.xslow
def test_real_trials_on_nodes_in_another_folder_are_those_of_one_machine(
    whole_data: Path, tmp_path: Path
) -> None:
    with LoopbackCluster(cwd=tmp_path) as cluster:
        cluster.add_node()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(
            [sys.executable, "-c", REAL, cluster.address],
            cwd=whole_data,
            env=environment,
            check=True,
            timeout=600,
        )
    with contextlib.chdir(whole_data):
        real_sweep("swept-alone", None)

    def found(folder: str) -> list[tuple[object, ...]]:
        records = read_trials(whole_data / folder)
        return sorted((json.dumps(r.parameters), r.state, r.value) for r in records)

    assert len(found("swept")) == 4
    assert found("swept") == found("swept-alone")

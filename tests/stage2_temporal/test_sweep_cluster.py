"""A sweep on a real two-node Ray cluster: the same trials, and none is lost with a node."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from stage2_temporal.sweep_storage import read_trials
from tests.loopback_cluster import LoopbackCluster, LoopbackNode
from tests.stage2_temporal.sweep_fakes import (
    KILLED,
    NUM_FOLDS,
    WAITS,
    computed,
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
    folder: Path, cluster: LoopbackCluster, units: list[int], **options: object
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SWEEP, str(folder), cluster.address]
    return subprocess.Popen(
        [*command, json.dumps(units), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def finish(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outcomes(folder: Path) -> list[tuple[object, ...]]:
    """Return what was tried and found; the order in which trials ended may differ."""
    return sorted((r.parameters["units"], r.state, r.value) for r in read_trials(folder))


def test_two_nodes_find_what_one_machine_finds(cluster: LoopbackCluster, tmp_path: Path) -> None:
    cluster.add_node()
    units = [8, 16, 32, 64, 128, 256]
    text = finish(start(tmp_path / "cluster", cluster, units, seconds=0.6))
    assert "2 at a time" in text
    assert len(set(pids(tmp_path / "cluster"))) == 2
    run_fake(tmp_path / "alone", sweep_settings(f"units = {units}", sampler="grid"))
    assert outcomes(tmp_path / "cluster") == outcomes(tmp_path / "alone")


TAKEN = """
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False)


@ray.remote(num_cpus=1)
class Other:
    def begin(self):
        return "begun"


other = Other.remote()
print(ray.get(other.begin.remote()), flush=True)
time.sleep(600)
"""


@pytest.mark.xslow
def test_trial_that_waits_for_room_is_done_by_another(
    cluster: LoopbackCluster, tmp_path: Path
) -> None:
    cluster.add_node()
    command = [sys.executable, "-c", TAKEN, cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        finish(start(tmp_path / "sweep", cluster, [8, 16, 32]))
        other.kill()
    assert [record.state for record in read_trials(tmp_path / "sweep")] == ["complete"] * 3
    assert len(set(pids(tmp_path / "sweep"))) == 1


def has_process(node: LoopbackNode, pid: int) -> bool:
    return pid in {process.pid for process in node.processes()}


def test_trial_of_a_killed_node_goes_on_elsewhere(cluster: LoopbackCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    node = cluster.add_node()
    run = start(tmp_path / "sweep", cluster, [WAITS, 8, 16, 32], gate=str(gate))
    wait_for(run, lambda: len(computed(tmp_path / "sweep")) == 2 + 3 * NUM_FOLDS)
    lines = (tmp_path / "sweep" / "computed").read_text().splitlines()
    waiting = next(int(line.split()[3]) for line in lines if f" 1 {WAITS} " in line)
    holder = node if has_process(node, waiting) else cluster.head
    orphan = psutil.Process(waiting)
    if holder is cluster.head:
        orphan.parent().kill()  # type: ignore[union-attr] # its relay
    else:
        node.kill()
    psutil.wait_procs([orphan], timeout=60)
    assert not orphan.is_running(), "a process that trains ends with its relay"
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

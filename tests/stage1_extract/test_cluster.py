"""Extraction on a real two-node Ray cluster: the store is that of one machine, come what may."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psutil
import pytest

import stage1_extract
from stage1_extract import cluster_crew
from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.extraction import extract
from stage1_extract.failures import read_failures
from stage1_extract.fetching import fetch_store
from stage1_extract.keras_setup import load_keras
from stage1_extract.ray_session import ClusterError, load_ray
from stage1_extract.shard_index import INDEX_NAME
from stage1_extract.store import EmbeddingStore, shard_paths
from stage1_extract.verifying import verify_store
from tests.loopback_cluster import LoopbackCluster, LoopbackNode
from tests.marks import xslow
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.test_extraction import FLAGS, SETTINGS, write_clip, write_manifest
from tests.stage1_extract.test_faults import Contents, contents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed"),
]

NUM_CLIPS = 40
NUM_MANY = 5 * NUM_CLIPS
SLOW = dataclasses.replace(SETTINGS, input_size=128, sampling="all", shard_seconds=0.0)
"""Each clip takes a moment, and makes a shard."""
SLOW_FLAGS = (*FLAGS, "--input-size", "128", "--sampling", "all", "--shard-seconds", "0")
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of clips of unequal length."""
    folder = tmp_path_factory.mktemp("clips")
    names = [f"{i:02}.mp4" for i in range(NUM_CLIPS)]
    for i, name in enumerate(names):
        write_clip(folder / name, seed=i, num_frames=20 + i)
    return write_manifest(folder, names)


@pytest.fixture(scope="module")
def alone(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What a run without a cluster stores."""
    store = tmp_path_factory.mktemp("alone")
    extract(clips, store, SLOW)
    return contents(store)


@pytest.fixture(scope="module")
def pair() -> Iterator[LoopbackCluster]:
    """Two nodes, for tests that leave them as they are."""
    with LoopbackCluster() as cluster:
        cluster.add_node()
        yield cluster


@pytest.fixture
def cluster() -> Iterator[LoopbackCluster]:
    """One node, to which a test may add others, and do harm."""
    with LoopbackCluster() as cluster:
        yield cluster


@pytest.fixture
def start_run(clips: Path, tmp_path: Path) -> Iterator[Run]:
    """A starter of runs into `tmp_path/store`."""
    started = []

    def begin(
        cluster: LoopbackCluster,
        *flags: str,
        manifest: Path = clips,
        store: str = str(tmp_path / "store"),
    ) -> "subprocess.Popen[str]":
        # The installed command: of `python -m`, Ray gives the working folder to the workers too.
        command = [str(Path(sys.executable).with_name("stage1-extract")), "run", str(manifest)]
        command += [store, *SLOW_FLAGS, "--ray", cluster.address, *flags]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            cwd=tmp_path,
            # A job in the background of a shell starts with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[str]", seconds: float = 900) -> tuple[int, str]:
    """Return the exit code, and all that was printed."""
    output, messages = process.communicate(timeout=seconds)
    return process.returncode, output + messages


class SeenShards(threading.Thread):
    """Notes the sequences of each shard as it appears, before the end of a run merges them.

    Each shard that a worker writes under `SLOW_FLAGS` holds one.
    """

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._ended = threading.Event()
        self._names = set[str]()
        self.keys: Counter[tuple[str, int]] = Counter()

    def run(self) -> None:
        while not self._ended.wait(0.01):
            for path in shard_paths(self._store):
                if path.name not in self._names:
                    self._names.add(path.name)
                    self._note(path)

    def _note(self, path: Path) -> None:
        try:
            shard = EmbeddingStore(path)
        except FileNotFoundError:  # merged meanwhile
            return
        if shard.num_sequences == 1:
            self.keys[shard.video_ids[0], int(shard.views[0])] += 1

    def __enter__(self) -> Self:
        self._store.mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@contextmanager
def held_up(run: "subprocess.Popen[str]", node: LoopbackNode) -> Iterator[None]:
    """Have a node's worker stand still, as soon as there is one, for the time of the block."""
    wait_for(run, lambda: bool(node.workers))
    held = node.workers
    for worker in held:
        worker.suspend()
    try:
        yield
    finally:
        for worker in held:
            worker.resume()


def decodes(node: LoopbackNode) -> bool:
    """Whether a node's worker has come so far as to have decoders."""
    return any(worker.children() for worker in node.workers)


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.01)


def test_two_nodes_make_the_store_that_one_machine_makes(
    clips: Path, pair: LoopbackCluster, start_run: Run, alone: Contents, tmp_path: Path
) -> None:
    manifest = Path(os.path.relpath(clips, tmp_path))  # the nodes were started in other folders
    with SeenShards(tmp_path / "store") as seen:
        code, text = finish(start_run(pair, manifest=manifest, store="store"))
    assert code == 0, text
    assert f"{NUM_CLIPS} embedded now" in text
    assert contents(tmp_path / "store") == alone
    assert set(seen.keys.values()) == {1}
    left = {path.name for path in (tmp_path / "store").iterdir() if path.suffix != ".h5"}
    assert left <= {INDEX_NAME}


@pytest.fixture
def many_clips(clips: Path, tmp_path: Path) -> Path:
    """A manifest of the clips, each under several ids, so that a run takes a while."""
    rows = [f"{clips.parent}/{i:02}.mp4,{i:02}-{n}" for n in range(5) for i in range(NUM_CLIPS)]
    manifest = tmp_path / "many.csv"
    manifest.write_text("\n".join(["path,video_id", *rows, ""]))
    return manifest


@pytest.mark.xslow
def test_killed_node_costs_nothing_but_time(
    cluster: LoopbackCluster, start_run: Run, many_clips: Path, alone: Contents, tmp_path: Path
) -> None:
    node = cluster.add_node()
    with SeenShards(tmp_path / "store") as seen:
        run = start_run(cluster, manifest=many_clips)
        with held_up(run, cluster.head):
            wait_for(run, lambda: len(seen.keys) >= 6)
        node.kill()
        code, text = finish(run)
    assert code == 0, text
    assert "lost a worker of node" in text
    found = contents(tmp_path / "store")
    assert len(found) == NUM_MANY
    for (video_id, view), content in found.items():
        assert content == alone[video_id.partition("-")[0], view]
    assert set(seen.keys.values()) == {1}
    assert verify_store(tmp_path / "store").sound


@pytest.mark.xslow
def test_killed_worker_is_replaced_on_its_node(
    cluster: LoopbackCluster, start_run: Run, alone: Contents, tmp_path: Path
) -> None:
    run = start_run(cluster)
    wait_for(run, lambda: len(shard_paths(tmp_path / "store")) >= 3)
    cluster.head.workers[0].kill()
    code, text = finish(run)
    assert code == 0, text
    assert "lost a worker of node" in text
    assert contents(tmp_path / "store") == alone


@pytest.mark.xslow
def test_worker_that_is_stuck_is_done_without(
    cluster: LoopbackCluster,
    clips: Path,
    alone: Contents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_crew, "STUCK_SECONDS", 20.0)
    stopped = list[psutil.Process]()

    def stop_one() -> None:
        while not (shard_paths(tmp_path / "store") and decodes(cluster.head)):
            time.sleep(0.01)
        stopped.extend(cluster.head.workers)
        stopped[0].suspend()

    cluster.add_node()
    settings = dataclasses.replace(SLOW, cluster=ClusterSettings(ray=cluster.address))
    stopper = threading.Thread(target=stop_one, daemon=True)
    stopper.start()
    summary = extract(clips, tmp_path / "store", settings)
    stopper.join()
    assert len(stopped) == 1
    assert (summary.num_stored, summary.failures) == (NUM_CLIPS, ())
    assert contents(tmp_path / "store") == alone


@pytest.mark.xslow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_driver_goes_on_with_another_number_of_nodes(
    cluster: LoopbackCluster, start_run: Run, many_clips: Path, tmp_path: Path, number: int
) -> None:
    run = start_run(cluster, manifest=many_clips)
    wait_for(run, lambda: len(shard_paths(tmp_path / "store")) >= 5)
    run.send_signal(number)
    code, text = finish(run)
    assert code == (130 if number == signal.SIGINT else -number), text
    wait_until_gone(cluster)
    stored = EmbeddingStore(tmp_path / "store").num_sequences
    assert 5 <= stored < NUM_MANY
    cluster.add_node()
    code, text = finish(start_run(cluster, manifest=many_clips))
    assert code == 0, text
    assert f"{NUM_MANY - stored} embedded now, {stored} already there" in text
    store = EmbeddingStore(tmp_path / "store")
    assert (store.num_sequences, store.num_duplicates) == (NUM_MANY, 0)
    assert verify_store(tmp_path / "store").sound


@pytest.mark.xslow
def test_killed_head_is_named_and_the_run_ends_before_ray_ends_it(
    start_run: Run, many_clips: Path, tmp_path: Path
) -> None:
    with LoopbackCluster(num_cpus=0) as cluster:
        cluster.add_node()
        run = start_run(cluster, manifest=many_clips)
        wait_for(run, lambda: bool(shard_paths(tmp_path / "store")))
        cluster.head.kill()
        code, text = finish(run)
    assert code == 2, text
    assert "the head of the Ray cluster at" in text
    assert not list((tmp_path / "store").glob(".run-*"))


def wait_until_gone(cluster: LoopbackCluster) -> None:
    """Wait for Ray to end the workers of a run that ended."""
    deadline = time.monotonic() + 180
    while any(node.workers for node in cluster.nodes):
        assert time.monotonic() < deadline, "workers outlive their run"
        time.sleep(0.1)


# nodes and clusters that cannot do the work


def test_no_cluster_at_the_address_is_told_at_once(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    settings = dataclasses.replace(SLOW, cluster=ClusterSettings(ray=f"127.0.0.1:{port}"))
    monkeypatch.setattr(load_ray(), "init", lambda **_: pytest.fail("Ray tries for two minutes"))
    with pytest.raises(
        ClusterError, match=f"no Ray cluster answers at 127.0.0.1:{port}.*ray start"
    ):
        extract(clips, tmp_path / "store", settings)


BLOCKED = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "stage1_extract":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
"""


def without_the_package(folder: Path) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(BLOCKED)
    return {"PYTHONPATH": str(folder)}


def with_another_version(folder: Path) -> dict[str, str]:
    shutil.copytree(Path(stage1_extract.__file__).parent, folder / "stage1_extract")
    with (folder / "stage1_extract" / "fitting.py").open("a") as file:
        file.write("# changed\n")
    return {"PYTHONPATH": str(folder)}


def with_a_clock_ahead(folder: Path) -> dict[str, str]:
    ahead = "import time\n\nright = time.time\ntime.time = lambda: right() + 600\n"
    (folder / "sitecustomize.py").write_text(ahead)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.xslow
@pytest.mark.parametrize(
    ("make_environment", "reason"),
    [
        (without_the_package, "cannot import stage1_extract .*install embed-then-sequence there"),
        (with_another_version, "has another version of stage1_extract"),
        (with_a_clock_ahead, r"has a clock that is \+\d+ s apart .*synchronise them"),
    ],
)
def test_node_that_differs_is_named(
    cluster: LoopbackCluster,
    start_run: Run,
    tmp_path: Path,
    make_environment: Callable[[Path], dict[str, str]],
    reason: str,
) -> None:
    environment = tmp_path / "environment"
    environment.mkdir()
    cluster.add_node(environment=make_environment(environment))
    code, text = finish(start_run(cluster))
    assert code == 2
    assert re.search(rf"not all nodes .*\n  node \S+ \([0-9.]+, \w+\) {reason}", text), text
    assert not shard_paths(tmp_path / "store")


def hidden_from_a_node(folder: Path, size: str = "1m") -> list[str]:
    """Return a command prefix after which another, empty folder is mounted there."""
    folder.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, str(folder)]
    if os.geteuid() or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("hiding a folder from a process takes root and the right to mount")
    return prefix


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        ("store", "does not share the folder .*/store"),
        *xslow(
            ("weights", "cannot read the weights file .*No such file"),
            ("videos", "does not see 40 of 40 videos"),
        ),
    ],
)
def test_node_that_does_not_see_a_folder_is_named(
    clips: Path, cluster: LoopbackCluster, start_run: Run, tmp_path: Path, hidden: str, reason: str
) -> None:
    weights = tmp_path / "weights" / "w.weights.h5"
    weights.parent.mkdir()
    write_weights(weights)
    folder = clips.parent if hidden == "videos" else tmp_path / hidden
    cluster.add_node(prefix=hidden_from_a_node(folder))
    code, text = finish(start_run(cluster, "--weights", str(weights)))
    assert code == 2
    assert re.search(rf"  node \S+ \([0-9.]+, \w+\) {reason}", text), text
    assert text.count("  node ") == 1
    assert list((tmp_path / "store").iterdir()) == []


def write_weights(path: Path) -> None:
    keras = load_keras()
    keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, input_shape=(128, 128, 3)
    ).save_weights(path)


@pytest.mark.xslow
def test_same_manifest_started_twice_is_refused_the_second_time(
    many_clips: Path, pair: LoopbackCluster, start_run: Run, tmp_path: Path
) -> None:
    first = start_run(pair, manifest=many_clips)
    with held_up(first, pair.head), held_up(first, pair.nodes[1]):
        code, text = finish(start_run(pair, manifest=many_clips))
    assert code == 2
    assert (
        f"another run embeds the same manifest into {tmp_path}/store: process {first.pid}" in text
    )
    code, text = finish(first)
    assert code == 0, text
    store = EmbeddingStore(tmp_path / "store")
    assert (store.num_sequences, store.num_duplicates) == (NUM_MANY, 0)


@pytest.mark.xslow
def test_failed_clips_are_listed_once_and_the_others_stored(
    pair: LoopbackCluster, start_run: Run, tmp_path: Path
) -> None:
    names = [f"{i}.mp4" for i in range(6)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i)
    for name in names[::2]:
        (tmp_path / name).write_bytes(b"no video")
    code, text = finish(start_run(pair, manifest=write_manifest(tmp_path, names)))
    assert code == 1, text
    assert sorted(read_failures(tmp_path / "store")) == ["0", "2", "4"]
    assert EmbeddingStore(tmp_path / "store").video_ids.tolist() == ["1", "3", "5"]


@pytest.fixture
def far_clips(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of clips at addresses, which the nodes can read."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))  # for the nodes, and the run
    names = [f"{i:02}.mp4" for i in range(NUM_CLIPS)]
    for i, name in enumerate(names):
        write_clip(far.folder / name, seed=i, num_frames=40)
    manifest = tmp_path / "far.csv"
    rows = [f"{far.url(name)},{name}" for name in names]
    manifest.write_text("\n".join(["path,video_id", *rows, ""]))
    return manifest


@pytest.mark.xslow
def test_videos_and_store_may_be_at_addresses(
    far: Far, far_clips: Path, start_run: Run, tmp_path: Path
) -> None:
    with far_clips.open("a") as file:
        file.write(f"{far.url('gone.mp4')},gone\n")
    with LoopbackCluster() as cluster:
        code, text = finish(start_run(cluster, manifest=far_clips, store=far.url("store")))
    assert code == 1, text
    fetch_store(far.address("store"), tmp_path / "copy")
    assert list(read_failures(tmp_path / "copy")) == ["gone"]
    plain = tmp_path / "plain.csv"
    rows = [f"far/{name:02}.mp4,{name:02}.mp4" for name in range(NUM_CLIPS)]
    plain.write_text("\n".join(["path,video_id", *rows, ""]))
    extract(plain, tmp_path / "alone", SLOW)
    assert contents(tmp_path / "copy") == contents(tmp_path / "alone")


@pytest.mark.xslow
def test_node_whose_disk_is_full_leaves_its_clips_to_others(
    far_clips: Path, start_run: Run, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    with LoopbackCluster() as cluster:
        full = cluster.add_node(prefix=hidden_from_a_node(scratch, size="4k"))
        run = start_run(cluster, "--scratch", str(scratch), manifest=far_clips)
        with held_up(run, cluster.head):  # it might do all clips before the full one is tried
            wait_for(run, lambda: bool(full.workers))
            wait_for(run, lambda: not full.workers)
        code, text = finish(run)
    assert code == 0, text
    assert re.search(r"lost a worker of node .*no room left", text), text
    assert EmbeddingStore(tmp_path / "store").num_sequences == NUM_CLIPS
    assert not list(scratch.iterdir())

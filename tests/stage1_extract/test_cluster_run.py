"""A run on a cluster whose workers die, hang or cannot work, told to it by a pretended Ray."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage1_extract import cluster, cluster_crew, newcomers, node_watch
from stage1_extract.backbones import WeightsError
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_crew import Crew, Lost
from stage1_extract.cluster_run import ClusterRun
from stage1_extract.config import ExtractSettings
from stage1_extract.failures import read_failures
from stage1_extract.node_checks import Needs
from stage1_extract.node_watch import NodeWatch
from stage1_extract.precision import PrecisionError
from stage1_extract.ray_session import ClusterError
from stage1_extract.run_loop import RunResult
from stage1_extract.targets import Target, open_target
from tests.conftest import ShardFactory
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.pretended_ray import FRAMES, PROVENANCE, PretendedRay, jobs, node

NEEDS = Needs(folder=None, packages=(), distributions=())
Install = Callable[..., PretendedRay]


class Messages:
    """Progress that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.num_clips = 0

    def __enter__(self) -> "Messages":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_frames(self, count: int) -> None:
        pass

    def finish_clip(self, *, failed: bool = False) -> None:
        self.num_clips += 1

    def take_back(self, count: int) -> None:
        self.num_clips -= count

    def show_place(self, place: str) -> None:
        pass

    def write(self, message: str) -> None:
        self.written.append(message)

    @property
    def text(self) -> str:
        return "\n".join(self.written)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A maker of pretended clusters."""
    monkeypatch.setattr(node_watch, "_LOOK_SECONDS", 0.0)

    def make(*names: str, **what: Any) -> PretendedRay:
        return PretendedRay([node(name) for name in names], **what).install(monkeypatch)

    return make


@pytest.fixture
def messages() -> Messages:
    return Messages()


def go(
    ray: PretendedRay,
    target: Target,
    clips: Sequence[ClipJob],
    messages: Messages,
    *,
    check_interrupt: Callable[[], None] = lambda: None,
    **settings: Any,
) -> RunResult:
    """Run to the end, and return what was done; as far as it came, if it raises."""
    given = ExtractSettings(**settings)
    run = ClusterRun(
        given,
        Crew(given, target.store, ray.nodes),
        clips,
        target,
        messages,
        needs=NEEDS,
        provenance=PROVENANCE,
    )
    run.go(check_interrupt)
    return run.result


@pytest.fixture
def target(tmp_path: Path) -> Any:
    with open_target(tmp_path / "store", None) as opened:
        opened.begin()
        yield opened


INNOCENT = [f"clip{i}" for i in range(30)]


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_clip_that_ends_its_workers_fails_and_no_other_does(
    install: Install, target: Target, messages: Messages, num_nodes: int
) -> None:
    ray = install(*"abc"[:num_nodes], deadly={"deadly"})
    result = go(ray, target, jobs([*INNOCENT[:3], "deadly", *INNOCENT[3:]]), messages)
    assert result.num_stored == len(INNOCENT)
    assert result.num_frames == len(INNOCENT) * FRAMES
    assert [failure.video_id for failure in result.failures] == ["deadly"]
    assert list(read_failures(target.folder)) == ["deadly"]
    assert messages.num_clips == len(INNOCENT) + 1
    assert "the last of them had no other: it died" in result.failures[0].reason


def test_several_clips_that_end_workers_fail_alone(
    install: Install, target: Target, messages: Messages
) -> None:
    deadly = {"d1", "d2", "d3"}
    result = go(install("a", deadly=deadly), target, jobs([*deadly, *INNOCENT]), messages)
    assert {failure.video_id for failure in result.failures} == deadly
    assert result.num_stored == len(INNOCENT)


def test_clips_that_are_no_suspects_are_not_tried_one_by_one(
    install: Install, target: Target, messages: Messages
) -> None:
    ray = install("a", deadly={"clip5"})
    go(ray, target, jobs(INNOCENT), messages)
    alone = [names for _, names in ray.handed if len(names) == 1]
    assert len(alone) <= 8 + 2  # those that were with it twice; itself twice more


def test_shard_that_a_lost_worker_did_not_tell_of_counts(
    install: Install, target: Target, messages: Messages, make_shard: ShardFactory
) -> None:
    def store_one(clips: Sequence[ClipJob]) -> None:
        ray.deadly.clear()
        rows = np.ones((FRAMES, 4), np.float16)
        make_shard(target.folder / "untold.h5", {(clips[0].clip.video_id, 0): rows})

    ray = install("a", deadly={"clip0"}, before_death=store_one)
    result = go(ray, target, jobs(INNOCENT), messages)
    assert result.num_stored == len(INNOCENT)
    assert result.num_frames == len(INNOCENT) * FRAMES
    assert sum("clip0" in names for _, names in ray.handed) == 1


def test_untold_shard_at_an_address_counts_too(
    far: Far, install: Install, messages: Messages, make_shard: ShardFactory, tmp_path: Path
) -> None:
    def store_one(clips: Sequence[ClipJob]) -> None:
        ray.deadly.clear()
        rows = np.ones((FRAMES, 4), np.float16)
        made = make_shard(tmp_path / "made.h5", {(clips[0].clip.video_id, 0): rows})
        far.put("store/untold.h5", made.read_bytes())

    ray = install("a", deadly={"clip0"}, broken={"clip1"}, before_death=store_one)
    with open_target(far.address("store"), tmp_path) as target:
        result = go(ray, target, jobs(INNOCENT), messages)
    assert result.num_stored == len(INNOCENT) - 1
    assert sum("clip0" in names for _, names in ray.handed) == 1
    assert '"clip1"' in (far.folder / "store/failures.jsonl").read_text()


def test_untold_shards_of_workers_that_are_lost_together_all_count(
    install: Install, target: Target, messages: Messages, make_shard: ShardFactory
) -> None:
    stored = list[str]()

    def store_first_of_each(_: Sequence[ClipJob]) -> None:
        if stored:
            ray.deadly.clear()
            return
        rows = np.ones((FRAMES, 4), np.float16)
        for first in (names[0] for _, names in ray.handed):
            stored.append(first)
            make_shard(target.folder / f"untold-{first}.h5", {(first, 0): rows})

    ray = install("a", "b", deadly=set(INNOCENT), before_death=store_first_of_each)
    result = go(ray, target, jobs(INNOCENT), messages)
    assert len(stored) == 2
    assert result.num_stored == messages.num_clips == len(INNOCENT)
    assert result.num_frames == len(INNOCENT) * FRAMES
    handed = Counter(name for _, names in ray.handed for name in names)
    assert [handed[name] for name in stored] == [1, 1]


def test_shard_torn_with_its_machine_is_told_and_ends_nothing(
    install: Install, target: Target, messages: Messages
) -> None:
    def tear(clips: Sequence[ClipJob]) -> None:
        ray.deadly.clear()
        (target.folder / "torn.h5").write_bytes(b"half")

    ray = install("a", deadly={"clip0"}, before_death=tear)
    assert go(ray, target, jobs(INNOCENT), messages).num_stored == len(INNOCENT)
    assert "a shard is taken for empty" in messages.text
    assert "torn.h5" in messages.text


def test_failures_are_kept_at_the_address_however_the_run_ends(
    far: Far, install: Install, messages: Messages, tmp_path: Path
) -> None:
    def stop_it() -> None:
        if messages.num_clips:
            raise KeyboardInterrupt

    ray = install("a", broken=set(INNOCENT))
    with (
        open_target(far.address("store"), tmp_path) as target,
        pytest.raises(KeyboardInterrupt),
    ):
        go(ray, target, jobs(INNOCENT), messages, check_interrupt=stop_it)
    assert '"clip0"' in (far.folder / "store/failures.jsonl").read_text()


def test_worker_whose_work_stands_still_is_done_without(
    install: Install, target: Target, messages: Messages
) -> None:
    ray = install("a", "b", blocked={"a"})
    assert go(ray, target, jobs(INNOCENT), messages).num_stored == len(INNOCENT)
    assert "node a (10.0.0.1, a) (its work did not go on for 900 s" in messages.text


def test_worker_that_never_comes_to_work_is_done_without(
    install: Install, target: Target, messages: Messages
) -> None:
    ray = install("a", "b", loading={"a"}, deadly={"clip0"})
    assert go(ray, target, jobs(INNOCENT), messages).num_stored == len(INNOCENT) - 1
    assert messages.text.count("(its backbone was not loaded for 3600 s") == 1


@pytest.mark.parametrize("is_seen_here", [True, False])
def test_clips_that_a_node_alone_does_not_see_go_to_others(
    install: Install, target: Target, messages: Messages, tmp_path: Path, *, is_seen_here: bool
) -> None:
    clips = jobs(INNOCENT, tmp_path)
    if is_seen_here:
        for job in clips:
            job.clip.file.touch()
    result = go(install("a", "b", blind={"a"}), target, clips, messages)
    assert result.num_stored + len(result.failures) == len(INNOCENT)
    assert (result.num_stored == len(INNOCENT)) == is_seen_here
    told = f"lost a worker of node a (10.0.0.1, a) (it does not see {tmp_path}/clip0.mp4, which"
    assert (told in messages.text) == is_seen_here


@pytest.mark.parametrize("kind", [OSError, WeightsError])
@pytest.mark.parametrize("when", ["load_answers", "work_answers"])
def test_node_that_cannot_work_is_left_out(
    install: Install, target: Target, messages: Messages, kind: type[Exception], when: str
) -> None:
    ray = install("a", "b", **{when: {"a": kind("no room left")}})
    assert go(ray, target, jobs(INNOCENT), messages).num_stored == len(INNOCENT)
    assert messages.text.count("lost a worker of node a (10.0.0.1, a) (no room left)") == 1


def test_last_error_of_each_node_is_told_if_none_can_work(
    install: Install, target: Target, messages: Messages
) -> None:
    broken = Lost("ZeroDivisionError: division by zero", traceback="Traceback: embed, line 7")
    ray = install("a", "b", work_answers={"a": OSError("no room left"), "b": broken})
    with pytest.raises(ClusterError) as caught:
        go(ray, target, jobs(INNOCENT), messages)
    assert "30 clips are not embedded" in str(caught.value)
    assert "node a (10.0.0.1, a): no room left" in str(caught.value)
    assert "node b (10.0.0.1, b): ZeroDivisionError" in str(caught.value)
    assert messages.text.count("Traceback: embed, line 7") == 1


def test_precision_too_low_for_the_videos_ends_the_run(
    install: Install, target: Target, messages: Messages
) -> None:
    ray = install("a", "b", work_answers={"a": PrecisionError("too far off")})
    with pytest.raises(PrecisionError, match="too far off"):
        go(ray, target, jobs(INNOCENT), messages)


def test_first_failure_stops_each_worker_once_if_it_is_to_be_fast(
    install: Install, target: Target, messages: Messages
) -> None:
    ray = install("a", "b", broken={"clip0", "clip1", "clip2"})
    result = go(ray, target, jobs(INNOCENT), messages, fail_fast=True)
    assert [failure.video_id for failure in result.failures] == ["clip0", "clip1", "clip2"]
    assert ray.num_stops == 2


def test_interrupt_that_is_told_again_and_again_stops_each_worker_once(
    install: Install, target: Target, messages: Messages
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    ray = install("a", "b")
    with pytest.raises(KeyboardInterrupt):
        go(ray, target, jobs(INNOCENT), messages, check_interrupt=interrupted)
    assert ray.num_stops == 2


def test_nodes_that_join_are_checked_one_by_one(
    install: Install, target: Target, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(nodes: Sequence[Any], needs: Needs) -> None:
        if nodes[0].host == "unfit":
            raise ClusterError("unfit lacks the weights")

    monkeypatch.setattr(newcomers, "check_nodes", check)
    ray = install("a", blocked={"a"})
    monkeypatch.setattr(cluster_crew, "BLOCKED_SECONDS", float("inf"))  # it waits for the others

    def join() -> None:
        if len(ray.nodes) == 1:
            ray.nodes += [node("unfit"), node("small", num_cpus=0), node("fit")]
        elif ray.handed and ray.handed[-1][0] == "fit":
            ray.blocked.clear()

    result = go(ray, target, jobs(INNOCENT), messages, check_interrupt=join)
    assert result.num_stored == len(INNOCENT)
    assert {host for host, _ in ray.handed} == {"a", "fit"}
    assert "node unfit (10.0.0.1, unfit) joined the cluster and is not used: unfit" in messages.text


def test_waiting_for_room_is_told_once(
    install: Install, target: Target, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "ROOM_SECONDS", 0.0)
    ray = install("a")
    watch = NodeWatch(Crew(ExtractSettings(), target.store, ray.nodes), NEEDS, messages)
    for _ in range(3):
        watch.look()
    watch.close()
    assert messages.text.count("1 workers wait for room") == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"load_answers": {"a": Lost("it was killed")}}, "it was killed"),
        ({"load_answers": {"a": WeightsError("no weights")}}, "no weights"),
        ({"loading": {"a"}}, "its backbone was not loaded for 3600 s: does a file server hang"),
    ],
)
def test_workers_none_of_which_can_be_loaded_are_told(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: dict[str, Any],
    reason: str,
) -> None:
    ray = install("a", **what)
    monkeypatch.setattr(cluster, "joined_cluster", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "alive_nodes", lambda: ray.nodes)
    monkeypatch.setattr(cluster, "check_nodes", lambda nodes, needs: None)
    with (
        open_target(tmp_path / "store", None) as target,
        pytest.raises(ClusterError, match=rf"no worker could be loaded:\n  node a .*{reason}"),
    ):
        cluster.ClusterRunner(ExtractSettings(), target)

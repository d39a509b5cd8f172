"""Runs that are killed, stopped, hung or out of disk: finished work stays, the rest resumes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from stage1_extract.clips import ClipDone
from stage1_extract.decoding import DecoderPool
from stage1_extract.extraction import extract
from stage1_extract.failures import read_failures
from stage1_extract.shard_index import INDEX_NAME
from stage1_extract.store import EmbeddingStore, shard_paths
from stage1_extract.verifying import verify_store
from tests.conftest import VideoFactory
from tests.encode import encode
from tests.stage1_extract.conftest import Far
from tests.stage1_extract.test_decoding import RECIPE, jobs, last_events
from tests.stage1_extract.test_extraction import FLAGS, SETTINGS, write_clip, write_manifest

NUM_CLIPS = 60
WITH_VIEWS = dataclasses.replace(SETTINGS, views=1, shard_seconds=0.0)
VIEW_FLAGS = "--views", "1", "--shard-seconds", "0"
Contents = dict[tuple[str, int], tuple[bytes, bytes, bytes]]


def contents(folder: Path) -> Contents:
    """Return embeddings, times and frame numbers by (video_id, view)."""
    store = EmbeddingStore(folder)
    keys = zip(store.video_ids.tolist(), store.views.tolist(), strict=True)
    return {
        key: (
            store.read(i).tobytes(),
            store.frame_times(i).tobytes(),
            store.frame_indices(i).tobytes(),
        )
        for i, key in enumerate(keys)
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of clips of unequal length."""
    folder = tmp_path_factory.mktemp("clips")
    names = [f"{i:02}.mp4" for i in range(NUM_CLIPS)]
    for i, name in enumerate(names):
        write_clip(folder / name, seed=i, num_frames=4 + i % 12)
    return write_manifest(folder, names)


@pytest.fixture(scope="module")
def calm(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What an undisturbed run with two decoders stores."""
    store = tmp_path_factory.mktemp("calm")
    extract(clips, store, dataclasses.replace(WITH_VIEWS, decoders=2))
    found = contents(store)
    assert len(found) == 2 * NUM_CLIPS
    return found


@pytest.mark.xslow
@pytest.mark.parametrize("num_decoders", [1, 4])
def test_stores_of_one_two_and_four_decoders_are_equal(
    clips: Path, calm: Contents, tmp_path: Path, num_decoders: int
) -> None:
    extract(clips, tmp_path / "store", dataclasses.replace(WITH_VIEWS, decoders=num_decoders))
    assert contents(tmp_path / "store") == calm


# the run itself is stopped


class Run:
    """The command in a process group of its own, as a terminal starts it."""

    def __init__(self, manifest: Path, store: Path, *flags: str) -> None:
        self.store = store
        self.process = start(manifest, store, flags)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the run never came so far"
            time.sleep(0.002)

    @property
    def decoders(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid).children()
        return [child for child in own if any("decoder_process" in p for p in child.cmdline())]

    def stop(self, number: int) -> tuple[int, str, float]:
        """Signal the group; returns the exit code, stderr, and the seconds until the end of all."""
        decoders = self.decoders
        started = time.monotonic()
        os.killpg(self.process.pid, number)
        _, messages = self.process.communicate(timeout=300)
        _, lingering = psutil.wait_procs(decoders, timeout=120)
        assert not lingering
        return self.process.returncode, messages, time.monotonic() - started


def start(manifest: Path, store: Path, flags: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stage1_extract", "run", str(manifest), str(store)]
    return subprocess.Popen(
        [*command, *FLAGS, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # A job in the background of a shell starts with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def start_run() -> Iterator[Callable[..., Run]]:
    """A starter of runs, which ends those that a failed test leaves."""
    runs: list[Run] = []

    def begin(manifest: Path, store: Path, *flags: str) -> Run:
        runs.append(Run(manifest, store, *flags))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.communicate()


@pytest.mark.xslow
@pytest.mark.parametrize("num_decoders", [4])
def test_a_run_killed_at_random_moments_and_resumed_equals_an_undisturbed_one(
    clips: Path, calm: Contents, start_run: Callable[..., Run], tmp_path: Path, num_decoders: int
) -> None:
    rng = np.random.default_rng(num_decoders)
    store = tmp_path / "store"
    stored = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        run = start_run(clips, store, *VIEW_FLAGS, "--decoders", str(num_decoders))
        wanted = stored + int(rng.integers(1, 25))
        run.wait_for(lambda wanted=wanted: len(shard_paths(store)) >= wanted)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.03))  # anywhere within the making of a shard
        code, _, _ = run.stop(number)
        assert code == -number
        result = verify_store(store)
        assert result.sound
        assert stored < result.num_sequences
        stored = len(shard_paths(store))
    summary = extract(clips, store, dataclasses.replace(WITH_VIEWS, decoders=num_decoders))
    assert 0 < summary.num_stored < NUM_CLIPS
    assert contents(store) == calm
    for name in leftovers(store):  # they might be another run's, so they go only when they are old
        assert name.endswith(".partial")
        os.utime(store / name, (1, 1))
    assert extract(clips, store, WITH_VIEWS).num_present == NUM_CLIPS
    assert leftovers(store) == []


def leftovers(store: Path) -> list[str]:
    """Return what lies in a store beside its shards and their index."""
    names = {path.name for path in store.iterdir() if path.suffix != ".h5"}
    return sorted(names - {INDEX_NAME})


@dataclasses.dataclass(frozen=True)
class Huge:
    """A file that keeps a decoder busy, and the bytes it has read when it is in the midst of it."""

    path: Path
    read_bytes: float


@pytest.fixture
def huge(tmp_path: Path, request: pytest.FixtureRequest) -> Huge:
    if request.param == "hashed":
        path = tmp_path / "huge.avi"
        path.touch()
        os.truncate(path, 10**12)  # without blocks on the disk
        return Huge(path, 10**8)
    once = encode(tmp_path / "once.mjpeg", "mjpeg", 100, size=(16, 16), pixel_format="yuvj420p")
    path = tmp_path / "huge.mjpeg"
    path.write_bytes(once.read_bytes() * 10_000)
    # Hashed once, scanned once, then decoded.
    return Huge(path, path.stat().st_size * {"scanned": 1.05, "decoded": 2.05}[request.param])


@pytest.mark.xslow
@pytest.mark.parametrize(
    "huge",
    ["hashed", "scanned", "decoded"],
    indirect=True,
)
def test_ctrl_c_amid_a_huge_file_stops_within_seconds_and_keeps_finished_clips(
    huge: Huge, start_run: Callable[..., Run], tmp_path: Path
) -> None:
    names = [f"{i}.mp4" for i in range(8)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i)
    manifest = write_manifest(tmp_path, [huge.path.name, *names])
    store = tmp_path / "store"
    run = start_run(manifest, store, "--shard-seconds", "0", "--decoders", "2")
    run.wait_for(lambda: len(shard_paths(store)) >= 4)  # the last ones wait for a whole batch
    run.wait_for(lambda: any(busy_with(huge, decoder) for decoder in run.decoders))
    code, messages, seconds = run.stop(signal.SIGINT)
    assert code == 130
    assert seconds < 120  # it would take minutes
    assert "run it again to go on" in messages
    assert "Traceback" not in messages
    assert set(EmbeddingStore(store).video_ids.tolist()) <= {Path(name).stem for name in names}
    assert verify_store(store).sound
    assert leftovers(store) == []


def busy_with(huge: Huge, decoder: psutil.Process) -> bool:
    names = [file.path for file in decoder.open_files()]
    return str(huge.path) in names and decoder.io_counters().read_chars > huge.read_bytes


# decoders are killed, or hang


def has_video(child: psutil.Process) -> bool:
    """Return whether a process is a decoder at work."""
    try:
        return any(file.path.endswith(".mp4") for file in child.open_files())
    except psutil.Error:
        return False  # it has just ended


class Saboteur(threading.Thread):
    """Signals a random decoder at work each time that the store has grown."""

    def __init__(self, store: Path, number: int, times: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._store, self._number, self._times = store, number, times
        self._over = threading.Event()

    def run(self) -> None:
        rng = np.random.default_rng(0)
        seen = 0
        while self.done < self._times and not self._over.wait(0.002):
            count = len(shard_paths(self._store)) if self._store.is_dir() else 0
            children = psutil.Process().children()
            if count <= seen or not (busy := [child for child in children if has_video(child)]):
                continue
            try:
                busy[rng.integers(len(busy))].send_signal(self._number)
            except psutil.NoSuchProcess:
                continue  # the run has just ended
            self.done += 1
            seen = count + 3

    def __enter__(self) -> "Saboteur":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.xslow
@pytest.mark.parametrize(
    ("number", "times", "reason"),
    [
        (signal.SIGKILL, 8, "crashed its decoder (SIGKILL)"),
        (signal.SIGSTOP, 2, "blocked its decoder: no progress in 1 s"),
    ],
)
@pytest.mark.usefixtures("held_up_is_not_blocked")
def test_decoders_struck_at_random_cost_clips_that_a_retry_brings_back(
    clips: Path, calm: Contents, tmp_path: Path, number: int, times: int, reason: str
) -> None:
    store = tmp_path / "store"
    settings = dataclasses.replace(WITH_VIEWS, decoders=2, stall_seconds=1.0)
    with Saboteur(store, number, times) as saboteur:
        struck = extract(clips, store, settings)
    assert 0 < len(struck.failures) <= saboteur.done
    assert all(reason in failure.reason for failure in struck.failures)
    assert struck.num_stored == NUM_CLIPS - len(struck.failures)
    assert contents(store).items() < calm.items()
    again = extract(clips, store, dataclasses.replace(settings, retry_failed=True))
    assert (again.num_stored, again.failures) == (len(struck.failures), ())
    assert contents(store) == calm
    assert leftovers(store) == []


def test_a_decoder_killed_while_it_has_nothing_to_do_costs_nothing(
    make_video: VideoFactory,
) -> None:
    first, *others = jobs(*(make_video(f"{i}.avi", 5) for i in range(4)))
    with DecoderPool(RECIPE, num_decoders=1) as pool:
        assert isinstance(last_events(pool, [first])["0"].content, ClipDone)
        os.kill(pool.process_ids[0], signal.SIGKILL)
        psutil.Process(pool.process_ids[0]).wait()
        contents = [event.content for event in last_events(pool, others).values()]
    # The death may be noticed only after the next clip was handed over.
    assert [type(content) for content in contents].count(ClipDone) >= 2


# the disk is full, or a record is torn


@pytest.mark.xslow
def test_a_full_disk_stops_the_run_and_with_space_again_it_completes(
    clips: Path, calm: Contents, tiny_filesystem: Path
) -> None:
    ballast, store = tiny_filesystem / "ballast", tiny_filesystem / "store"
    ballast.write_bytes(bytes(700_000))
    with pytest.raises(OSError, match=r"(?s)cannot write a shard into .*: .*make space") as raised:
        extract(clips, store, WITH_VIEWS)
    assert "No space left" in str(raised.value)
    kept = contents(store)
    assert 0 < len(kept) < len(calm)
    assert kept.items() < calm.items()
    assert verify_store(store).sound
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny_filesystem)], check=True)
    summary = extract(clips, store, WITH_VIEWS)
    assert summary.failures == ()
    assert contents(store) == calm
    assert leftovers(store) == []


def test_full_scratch_folder_stops_the_run_and_is_no_clips_failure(
    far: Far, tiny_filesystem: Path, tmp_path: Path
) -> None:
    for i in range(3):
        write_clip(far.folder / f"{i}.mp4", seed=i)
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["path", *(far.url(f"{i}.mp4") for i in range(3)), ""]))
    settings = dataclasses.replace(SETTINGS, scratch=str(tiny_filesystem / "scratch"), decoders=1)
    ballast = tiny_filesystem / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(tiny_filesystem).free))
    with pytest.raises(OSError, match=r"no room left while .*mp4 was copied; .*--scratch"):
        extract(manifest, tmp_path / "store", settings)
    assert read_failures(tmp_path / "store") == {}
    ballast.unlink()
    assert extract(manifest, tmp_path / "store", settings).num_stored == 3


def test_a_failure_whose_record_was_torn_is_tried_again(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    write_clip(tmp_path / "good.mp4", seed=0)
    manifest = write_manifest(tmp_path, ["a.mp4", "b.mp4", "good.mp4"])
    settings = dataclasses.replace(SETTINGS, decoders=1)
    extract(manifest, tmp_path / "store", settings)
    record = tmp_path / "store" / "failures.jsonl"
    os.truncate(record, record.stat().st_size - 10)
    again = extract(manifest, tmp_path / "store", settings)
    assert (again.num_present, {failure.video_id for failure in again.failures}) == (1, {"a", "b"})
    entries = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    assert [entry["video_id"] for entry in entries] == ["a", "b"]

"""Decoder processes: every clip's events in order, bounded, and no fault costs another clip."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, FrameRecipe
from stage1_extract.decoder_handle import DecoderError, DecoderHandle, DecoderLimits
from stage1_extract.decoding import ClipEvent, DecoderPool
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip, VideoError
from tests.conftest import VideoFactory, numbers_shown

RECIPE = FrameRecipe(parse_sampling("all"), "squash", 8, 0.8)
LARGE = FrameRecipe(parse_sampling("all"), "squash", 224, 0.8)


def jobs(*paths: Path) -> list[ClipJob]:
    return [ClipJob(Clip(path.stem, path)) for path in paths]


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("decoder_process" in part for part in child.cmdline())
    ]


def last_events(pool: DecoderPool, wanted: list[ClipJob]) -> dict[str, ClipEvent]:
    return {event.clip.video_id: event for event in pool.decode(wanted)}


def long_array(path: Path, num_frames: int = 3000, side: int = 224) -> Path:
    """Write frames that take a while to decode, and little disk."""
    np.lib.format.open_memmap(path, "w+", np.uint8, (num_frames, side, side, 3)).flush()
    return path


@pytest.mark.parametrize("num_decoders", [1, 2, 4])
def test_each_clip_comes_whole_and_ends_with_its_facts(
    make_video: VideoFactory, num_decoders: int
) -> None:
    wanted = jobs(*(make_video(f"v{i}.avi", 1 + 9 * i) for i in range(8)))
    shown: dict[str, list[int]] = {job.clip.video_id: [] for job in wanted}
    ended = []
    with DecoderPool(RECIPE, num_decoders=num_decoders) as pool:
        for event in pool.decode(wanted):
            name = event.clip.video_id
            assert name not in ended
            if isinstance(event.content, FrameChunk):
                shown[name] += numbers_shown(event.content.frames)
            else:
                assert isinstance(event.content, ClipDone)
                assert event.content.facts.source_frame_count == len(shown[name])
                ended.append(name)
    assert sorted(ended) == sorted(shown)
    for i, numbers in enumerate(shown.values()):
        assert numbers == [number % 24 for number in range(1 + 9 * i)]
    assert not children()


def test_bad_files_end_with_their_error_and_stop_no_other(
    make_video: VideoFactory, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    make_video("good.mp4", 3)
    names = ["text", "pipe", "good", "gone", "empty"]
    with DecoderPool(RECIPE, num_decoders=2) as pool:
        last = last_events(pool, jobs(*(tmp_path / f"{name}.mp4" for name in names)))
    kinds = {name: type(last[name].content) for name in names}
    assert kinds == dict.fromkeys(names, VideoError) | {"good": ClipDone}
    assert "pipe.mp4 is not a file" in str(last["pipe"].content)


def test_without_clips_nothing_comes() -> None:
    with DecoderPool(RECIPE, num_decoders=1) as pool:
        assert not list(pool.decode([]))


def test_leaving_early_ends_the_processes_at_once(tmp_path: Path) -> None:
    wanted = jobs(*(long_array(tmp_path / f"{name}.npy", 10**6) for name in "ab"))
    with DecoderPool(LARGE, num_decoders=2) as pool:
        next(iter(pool.decode(wanted)))
        assert len(children()) == 2
        started = time.monotonic()
    assert time.monotonic() - started < 120  # decoding takes longer
    assert not children()


def test_stalled_consumer_bounds_what_is_decoded_ahead(tmp_path: Path) -> None:
    wanted = jobs(*(long_array(tmp_path / f"{name}.npy", 10**6) for name in "ab"))
    limits = SimpleNamespace(stall_seconds=600.0, clip_seconds=600.0, memory_mb=4096)
    with DecoderPool(LARGE, num_decoders=2, limits=limits) as pool:  # type: ignore[arg-type]
        events = iter(pool.decode(wanted))
        next(events)
        wait_for_rest(pool)
        limits.stall_seconds = 0.5
        time.sleep(1.5)  # longer than the limit: who waits for the consumer is not blocked
        limits.stall_seconds = 600.0
        assert all(isinstance(next(events).content, FrameChunk) for _ in range(20))


def wait_for_rest(pool: DecoderPool) -> None:
    """Wait until all decoders have filled their slots and do nothing more."""
    until, seen, now = time.monotonic() + 120, [-1.0], [0.0]
    while seen != now or any(handle._num_taken < 4 for handle in pool._handles):
        assert time.monotonic() < until, "decoders go on and on"
        time.sleep(0.5)
        seen, now = now, [child.cpu_times().user for child in children()]


def at_first_chunk(
    pool: DecoderPool, wanted: list[ClipJob], do: Callable[[], None]
) -> list[ClipEvent]:
    """Run the pool, doing something to it as soon as the clip `victim` has begun."""
    events = []
    done = False
    for event in pool.decode(wanted):
        events.append(event)
        if event.clip.video_id == "victim" and not done:
            done = True
            do()
    return events


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, r"victim.npy crashed its decoder \(SIGSEGV\)"),
        (signal.SIGKILL, r"victim.npy crashed its decoder \(SIGKILL\)"),
        (signal.SIGSTOP, r"victim.npy blocked its decoder: no progress in 1 s"),
    ],
)
@pytest.mark.usefixtures("held_up_is_not_blocked")
def test_a_decoder_that_crashes_or_blocks_costs_its_clip_alone(
    make_video: VideoFactory, tmp_path: Path, number: int, reason: str
) -> None:
    wanted = jobs(
        long_array(tmp_path / "victim.npy"), *(make_video(f"{i}.mp4", 5) for i in range(4))
    )
    with DecoderPool(LARGE, num_decoders=1, limits=DecoderLimits(stall_seconds=1)) as pool:
        events = at_first_chunk(pool, wanted, lambda: os.kill(pool.process_ids[0], number))
    last = {event.clip.video_id: event.content for event in events}
    with pytest.raises(VideoError, match=reason):
        raise last.pop("victim")  # type: ignore[misc]
    assert [type(content) for content in last.values()] == [ClipDone] * 4
    assert not children()


def test_a_clip_that_takes_too_long_is_given_up(
    make_video: VideoFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue = DecoderHandle.overdue

    def overdue_of_victim(handle: DecoderHandle) -> VideoError | None:
        is_victim = handle.job is not None and handle.job.clip.video_id == "victim"
        return overdue(handle) if is_victim else None  # a busy machine may be late with the other

    monkeypatch.setattr(DecoderHandle, "overdue", overdue_of_victim)
    wanted = jobs(long_array(tmp_path / "victim.npy", 10**7, 64), make_video("good.mp4", 5))
    limits = DecoderLimits(clip_seconds=0.5)
    with DecoderPool(RECIPE, num_decoders=1, limits=limits) as pool:
        last = last_events(pool, wanted)
    assert "was not decoded within 0.5 s" in str(last["victim"].content)
    assert isinstance(last["good"].content, ClipDone)


def test_a_source_that_explodes_in_memory_costs_itself_alone(
    make_video: VideoFactory, tmp_path: Path
) -> None:
    # A few kB of zip that hold 4 GB; in Fortran order the array must be had as a whole.
    header = b"\x93NUMPY\x01\x00"
    text = (
        "{'descr': '|u1', 'fortran_order': True, 'shape': (4000, 1000, 1000), }".ljust(117) + "\n"
    )
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("frames.npy", "w", force_zip64=True) as member,
    ):
        member.write(header + len(text).to_bytes(2, "little") + text.encode())
        for _ in range(400):
            member.write(bytes(10_000_000))
    wanted = jobs(tmp_path / "bomb.npz", make_video("good.mp4", 5))
    with DecoderPool(RECIPE, num_decoders=1, limits=DecoderLimits(memory_mb=1000)) as pool:
        last = last_events(pool, wanted)
    assert "needs more than the 1000 MB that a decoder may use" in str(last["bomb"].content)
    assert isinstance(last["good"].content, ClipDone)


def test_decoders_that_cannot_start_are_no_clips_fault(
    make_video: VideoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = jobs(make_video("good.mp4", 5))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecoderPool(RECIPE, num_decoders=1) as pool, pytest.raises(DecoderError, match="code 1"):
        list(pool.decode(wanted))


def test_an_unforeseen_error_in_a_decoder_surfaces(make_video: VideoFactory) -> None:
    broken = FrameRecipe(parse_sampling("all"), "no such fit", 8, None)  # type: ignore[arg-type]
    wanted = jobs(make_video("good.mp4", 5))
    with DecoderPool(broken, num_decoders=1) as pool, pytest.raises(DecoderError, match="Trace"):
        list(pool.decode(wanted))


def test_decoders_are_added_while_the_consumer_starves(tmp_path: Path) -> None:
    paths = [long_array(tmp_path / f"{i}.npy", 60_000, 64) for i in range(6)]
    with DecoderPool(RECIPE) as pool:
        pool._max_decoders = 3
        assert pool.num_decoders == 2
        most = 0
        for _ in pool.decode(jobs(*paths)):
            most = max(most, pool.num_decoders)
            if most == 3:
                break
    assert most == 3


@pytest.fixture
def killed_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that decodes without end, to be killed."""
    path = long_array(tmp_path / "a.npy", 10**6)
    code = (
        "import sys, pathlib; from tests.stage1_extract.test_decoding import *\n"
        "with DecoderPool(LARGE, num_decoders=2) as pool:\n"
        f"    for event in pool.decode(jobs(pathlib.Path({str(path)!r}))):\n"
        "        print(*pool.process_ids, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_decoders_of_a_killed_run_do_not_linger(killed_run: subprocess.Popen[str]) -> None:
    assert killed_run.stdout is not None
    numbers = [int(word) for word in killed_run.stdout.readline().split()]
    decoders = [psutil.Process(number) for number in numbers]
    killed_run.kill()
    killed_run.wait()
    _, alive = psutil.wait_procs(decoders, timeout=120)
    assert not alive

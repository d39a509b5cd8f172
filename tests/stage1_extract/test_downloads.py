"""Clips at addresses, decoded by processes of their own."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stage1_extract.addresses import Address
from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, FrameRecipe
from stage1_extract.content import hash_source
from stage1_extract.decoding import DecoderPool
from stage1_extract.downloads import Downloads, read_source
from stage1_extract.remote_calls import RemoteError
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip, VideoError
from tests.conftest import VideoFactory, numbers_shown
from tests.stage1_extract.conftest import Far


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def recipe(scratch: Path) -> FrameRecipe:
    return FrameRecipe(parse_sampling("all"), "squash", 8, 0.8, scratch=scratch)


def put_video(far: Far, make_video: VideoFactory, name: str, num_frames: int) -> Address:
    made = make_video(f"made{Path(name).suffix}", num_frames)
    return far.put(name, made.read_bytes())


def job(address: Address, start: float | None = None, end: float | None = None) -> ClipJob:
    return ClipJob(Clip(f"{address.name} from {start}", address, start, end))


def ends(recipe: FrameRecipe, jobs: list[ClipJob]) -> dict[str, object]:
    """Return what each clip ended with."""
    with DecoderPool(recipe, num_decoders=1) as pool:
        return {event.clip.video_id: event.content for event in pool.decode(jobs)}


@pytest.mark.parametrize("name", ["a.mp4", "d/50% of a b.avi"])
def test_a_clip_is_that_of_the_file_and_tells_its_address(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe, scratch: Path, name: str
) -> None:
    address = put_video(far, make_video, name, 30)
    with DecoderPool(recipe, num_decoders=1) as pool:
        contents = [event.content for event in pool.decode([job(address)])]
    shown = [n for c in contents if isinstance(c, FrameChunk) for n in numbers_shown(c.frames)]
    assert shown == [number % 24 for number in range(30)]
    assert isinstance(done := contents[-1], ClipDone)
    status = (far.folder / name).stat()
    assert done.facts.source_path == f"far://{far.folder}/{name}"
    assert done.facts.source_size_bytes == status.st_size
    assert abs(done.facts.source_modified_ns - status.st_mtime_ns) < 1000
    assert done.facts.source_hash == hash_source(far.folder / name)
    assert not list(scratch.iterdir())


def test_arrays_are_known_by_content_or_suffix_as_local_ones(
    far: Far, recipe: FrameRecipe, tmp_path: Path
) -> None:
    np.savez(tmp_path / "made.npz", frames=np.full((5, 8, 8), 90, np.uint8))
    address = far.put("a.npz", (tmp_path / "made.npz").read_bytes())
    (ended,) = ends(recipe, [job(address)]).values()
    assert isinstance(ended, ClipDone)
    assert ended.facts.source_frame_count == 5


def test_clips_cut_from_one_file_share_its_download(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe
) -> None:
    one, two = (put_video(far, make_video, f"{name}.avi", 40) for name in "ab")
    wanted = [job(one, start, start + 1.0) for start in (0.0, 1.0, 2.0)] + [job(two)]
    assert all(isinstance(end, ClipDone) for end in ends(recipe, wanted).values())
    assert far.calls("get") == ["a.avi", "b.avi"]


def test_a_copy_is_gone_as_soon_as_another_file_is_wanted(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe, scratch: Path
) -> None:
    local = ClipJob(Clip("local", make_video("local.avi", 3)))
    downloads = Downloads(scratch)
    for wanted in (job(put_video(far, make_video, f"{i}.avi", 3)) for i in range(3)):
        list(read_source(wanted, recipe, downloads))
        assert len(list(scratch.glob("*/*"))) == 1
    list(read_source(local, recipe, downloads))
    assert not list(scratch.glob("*/*"))
    downloads.close()
    assert not list(scratch.iterdir())


def test_each_failure_names_its_address_and_costs_no_other_clip(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe, scratch: Path
) -> None:
    sound = put_video(far, make_video, "sound.avi", 3)
    far.put("text.mp4", b"no video")
    far.put("secret.mp4")
    far.trouble("secret.mp4", "forbid")
    (far.folder / "images").mkdir()
    names = ["gone.mp4", "text.mp4", "secret.mp4", "images"]
    ended = ends(recipe, [*(job(far.address(name)) for name in names), job(sound)])
    assert isinstance(ended.pop("sound.avi from None"), ClipDone)
    kinds = [FileNotFoundError, VideoError, PermissionError, VideoError]
    assert [type(error) for error in ended.values()] == kinds
    for name, error in zip(names, ended.values(), strict=True):
        assert f"far //{far.folder}/{name} " in str(error).replace(":", " ") + " "
        assert str(scratch) not in str(error)
    assert "folders of images are read from the disk alone" in str(ended["images from None"])


def test_a_transfer_that_broke_off_is_tried_again_by_the_decoder(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe
) -> None:
    address = put_video(far, make_video, "a.avi", 3)
    far.trouble("a.avi", "drop", times=1)
    (ended,) = ends(recipe, [job(address)]).values()
    assert isinstance(ended, ClipDone)
    assert far.calls("get") == ["a.avi", "a.avi"]


def test_one_that_always_breaks_off_is_the_clips_failure(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe
) -> None:
    address = put_video(far, make_video, "a.avi", 3)
    far.trouble("a.avi", "drop")
    with pytest.raises(RemoteError, match="connection reset"):
        list(read_source(job(address), recipe, Downloads(recipe.scratch)))


@pytest.mark.slow
def test_a_hung_download_is_a_stall_and_a_slow_one_is_not(
    far: Far, recipe: FrameRecipe, scratch: Path
) -> None:
    """The decoder has imported all it needs before the limit is as low as a test wants it."""
    limits = SimpleNamespace(stall_seconds=600.0, clip_seconds=600.0, memory_mb=4096)
    header, num_blocks = b"\x93NUMPY", 48
    first, slow, hung = (
        job(far.put(f"{name}.npy", header + bytes(num_blocks * 64 * 1024)))
        for name in ("first", "slow", "hung")
    )
    far.trouble("slow.npy", "slow")
    far.trouble("hung.npy", "hang")
    ended, times = [], []
    with DecoderPool(recipe, num_decoders=1, limits=limits) as pool:  # type: ignore[arg-type]
        for event in pool.decode([first, slow, hung]):
            limits.stall_seconds = 5.0
            ended.append(str(event.content))
            times.append(time.monotonic())
    assert times[1] - times[0] > 5
    assert "hung.npy blocked its decoder: no progress in 5 s" in ended[2]
    assert "slow.npy" in ended[1]
    assert "blocked" not in ended[1]
    assert not list(scratch.iterdir())


def test_the_copy_of_a_killed_decoder_is_removed(
    far: Far, make_video: VideoFactory, recipe: FrameRecipe, scratch: Path
) -> None:
    hung = put_video(far, make_video, "hung.avi", 3)
    far.trouble("hung.avi", "hang")
    sound = put_video(far, make_video, "sound.avi", 3)
    with DecoderPool(recipe, num_decoders=1) as pool:
        (first,) = pool.process_ids

        def kill() -> None:
            if list(scratch.glob("*/.*.partial")) and pool.process_ids == [first]:
                os.kill(first, signal.SIGKILL)

        events = list(pool.decode([job(hung), job(sound)], while_waiting=kill))
        assert len(list(scratch.iterdir())) == 1
    assert "hung.avi crashed its decoder (SIGKILL)" in str(events[0].content)
    assert isinstance(events[-1].content, ClipDone)
    assert not list(scratch.iterdir())

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.cli import main
from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage1_extract.keras_setup import load_keras
from stage1_extract.precision import PrecisionError
from stage1_extract.store import EmbeddingStore, StoreError, shard_paths
from stage1_extract.verifying import verify_store
from stage1_extract.views import ViewSettings
from tests.encode import encode
from tests.marks import xslow

SETTINGS = ExtractSettings(
    backbone="MobileNet",
    alpha=0.25,
    weights="random",
    input_size=32,
    sampling="uniform:6",
    dtype="float32",
    batch_size=8,
)
FLAG_TEXT = (
    "--backbone MobileNet --alpha 0.25 --weights random --input-size 32 --sampling uniform:6 "
    "--dtype float32 --batch-size 8"
)
FLAGS = FLAG_TEXT.split()


def write_clip(
    path: Path, seed: int, num_frames: int = 12, size: tuple[int, int] = (64, 48)
) -> None:
    """Write a video of coarse noise, which survives compression."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for _ in range(num_frames):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        writer.write(cv2.resize(coarse, size, interpolation=cv2.INTER_NEAREST))
    writer.release()


def write_manifest(folder: Path, names: list[str]) -> Path:
    manifest = folder / "manifest.csv"
    manifest.write_text("path\n" + "".join(f'"{name}"\n' for name in names), "utf-8")
    return manifest


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A manifest of five clips of unequal length."""
    names = [f"clip {i}.mp4" for i in range(5)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i, num_frames=3 + 5 * i)
    return write_manifest(tmp_path, names)


def contents(folder: Path) -> dict[str, tuple[bytes, bytes, bytes]]:
    store = EmbeddingStore(folder)
    return {
        video_id: (
            store.read(i).tobytes(),
            store.frame_times(i).tobytes(),
            store.frame_indices(i).tobytes(),
        )
        for i, video_id in enumerate(store.video_ids.tolist())
    }


def plain_embeddings(path: Path, wanted: list[int]) -> NDArray[np.float32]:
    """Embed frames the straightforward way: read all, resize, swap colours, predict."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        done, frame = capture.read()
        if not done:
            break
        frames.append(frame)
    keras = load_keras()
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, pooling="avg", input_shape=(32, 32, 3)
    )
    chosen = [
        cv2.resize(frames[i], (32, 32), interpolation=cv2.INTER_AREA)[..., ::-1] for i in wanted
    ]
    pixels = np.stack(chosen).astype(np.float32) / 127.5 - 1
    return np.asarray(network.predict(pixels, verbose=0))


def test_every_clip_is_stored_as_plain_keras_and_opencv_embed_it(
    clips: Path, tmp_path: Path
) -> None:
    summary = extract(clips, tmp_path / "store", SETTINGS)
    assert (summary.num_clips, summary.num_stored, summary.failures) == (5, 5, ())
    store = EmbeddingStore(tmp_path / "store")
    # Middles of 6 equal parts of 23 frames: 23/12 = 1.9, then steps of 23/6 = 3.8.
    for i, wanted in ((0, [0, 1, 2]), (4, [1, 5, 9, 13, 17, 21])):
        position = store.find(f"clip {i}")
        assert store.frame_indices(position).tolist() == wanted
        np.testing.assert_allclose(store.frame_times(position), np.array(wanted) / 10)
        actual = store.read(position)
        expected = plain_embeddings(tmp_path / f"clip {i}.mp4", wanted)
        product = (actual * expected).sum(axis=1)
        lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
        assert (product / lengths).min() > 0.9999
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_second_run_embeds_nothing_and_changes_no_shard(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in shard_paths(tmp_path / "store")}
    summary = extract(clips, tmp_path / "store", SETTINGS)
    assert (summary.num_present, summary.num_stored, summary.num_frames) == (5, 0, 0)
    assert {p: p.stat().st_mtime_ns for p in shard_paths(tmp_path / "store")} == before


@pytest.mark.parametrize(
    "change", [{"decoders": 4}, *xslow({"decoders": 1}, {"shard_seconds": 0.0})]
)
def test_the_store_does_not_depend_on_decoders_or_shards(
    clips: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    extract(clips, tmp_path / "a", SETTINGS)
    extract(clips, tmp_path / "b", replace(SETTINGS, **change))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_bad_videos_cost_only_themselves(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "clip 1.mp4").write_bytes(b"no video")
    (tmp_path / "clip 3.mp4").write_bytes(b"")
    summary = extract(clips, tmp_path / "store", SETTINGS)
    assert EmbeddingStore(tmp_path / "store").video_ids.tolist() == ["clip 0", "clip 2", "clip 4"]
    lines = (tmp_path / "store" / "failures.jsonl").read_text().splitlines()
    recorded = {entry["video_id"]: entry for entry in map(json.loads, lines)}
    assert (
        set(recorded) == {failure.video_id for failure in summary.failures} == {"clip 1", "clip 3"}
    )
    assert "cannot be opened as a video" in recorded["clip 1"]["reason"]
    assert "is empty (0 bytes)" in recorded["clip 3"]["reason"]


def test_failed_videos_are_tried_again_only_on_demand(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "clip 1.mp4").write_bytes(b"no video")
    extract(clips, tmp_path / "store", SETTINGS)
    write_clip(tmp_path / "clip 1.mp4", seed=1)
    again = extract(clips, tmp_path / "store", SETTINGS)
    assert (again.num_stored, [f.video_id for f in again.failures]) == (0, ["clip 1"])
    retried = extract(clips, tmp_path / "store", replace(SETTINGS, retry_failed=True))
    assert (retried.num_stored, retried.failures) == (1, ())
    assert not (tmp_path / "store" / "failures.jsonl").exists()


def test_fail_fast_stops_at_the_first_failure(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    names = ["bad.mp4"] + [f"{i}.mp4" for i in range(40)]
    for i, name in enumerate(names[1:]):
        write_clip(tmp_path / name, seed=i)
    manifest = write_manifest(tmp_path, names)
    summary = extract(manifest, tmp_path / "store", replace(SETTINGS, fail_fast=True, decoders=1))
    assert [failure.video_id for failure in summary.failures] == ["bad"]
    assert summary.num_stored < 40
    assert summary.num_not_tried == 40 - summary.num_stored
    again = extract(manifest, tmp_path / "store", replace(SETTINGS, fail_fast=True))
    assert (again.num_stored, len(again.failures)) == (0, 1)


def test_other_settings_are_refused_with_both_sides_shown(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    unloaded = replace(SETTINGS, sampling="stride:2", weights="not needed to tell.h5")
    with pytest.raises(StoreError, match="'uniform:6' against 'stride:2'") as raised:
        extract(clips, tmp_path / "store", unloaded)
    assert "weights_sha256" not in str(raised.value)
    with pytest.raises(StoreError, match="weights_sha256"):
        extract(clips, tmp_path / "store", replace(SETTINGS, seed=1))


def test_an_id_that_names_another_file_now_is_refused(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    write_clip(tmp_path / "clip 2.mp4", seed=9, num_frames=40)
    with pytest.raises(StoreError, match=r"another file content.*'clip 2'"):
        extract(clips, tmp_path / "store", SETTINGS)


def test_files_of_one_size_that_were_swapped_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.mp4", 1), ("b.mp4", 2)):
        write_clip(tmp_path / name, seed=content)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.mp4", "b.mp4")]
    with (tmp_path / "ab"[sizes.index(min(sizes))]).with_suffix(".mp4").open("ab") as smaller:
        smaller.write(bytes(max(sizes) - min(sizes)))  # padding behind the last box
    manifest = write_manifest(tmp_path, ["a.mp4", "b.mp4"])
    extract(manifest, tmp_path / "store", SETTINGS)
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / f"{old}.mp4").rename(tmp_path / f"{new}.mp4")
    with pytest.raises(StoreError, match=r"2 clips .* another file content"):
        extract(manifest, tmp_path / "store", SETTINGS)


def test_a_copied_file_of_another_time_is_the_same_file(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    os.utime(tmp_path / "clip 2.mp4", (1, 1))
    assert extract(clips, tmp_path / "store", SETTINGS).num_present == 5


def test_clips_cut_from_one_file_are_sequences_of_their_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "long.mp4", seed=0, num_frames=40)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,video_id,start_seconds,end_seconds\nlong.mp4,a,,1.0\nlong.mp4,b,1.0,2.05\n"
    )
    extract(manifest, tmp_path / "store", replace(SETTINGS, sampling="all"))
    store = EmbeddingStore(tmp_path / "store")
    assert store.frame_indices(store.find("a")).tolist() == list(range(10))
    assert store.frame_indices(store.find("b")).tolist() == list(range(10, 21))


def test_embeddings_that_float16_spoils_fail_with_the_remedy(tmp_path: Path) -> None:
    # A random MobileNetV2 has embeddings near 1e-12, which float16 turns into zeros.
    write_clip(tmp_path / "a.mp4", seed=0)
    settings = replace(SETTINGS, backbone="MobileNetV2", alpha=0.35, dtype="float16")
    summary = extract(write_manifest(tmp_path, ["a.mp4"]), tmp_path / "store", settings)
    assert [failure.exception for failure in summary.failures] == ["EmbeddingError"]
    assert "--dtype float32" in summary.failures[0].reason
    assert not shard_paths(tmp_path / "store")


EXTRACT_AND_STOP = """
import os, sys
from stage1_extract.cli import main

left, number = map(int, sys.argv[1:3])

def stop_at_last(event, arguments):
    global left
    if event == "os.rename" and str(arguments[1]).endswith(".h5"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

sys.addaudithook(stop_at_last)
sys.exit(main(sys.argv[3:]))
"""


def extract_and_stop(
    manifest: Path, store: Path, num_shards: int, number: int
) -> subprocess.CompletedProcess[str]:
    """Run the command, which has a signal sent to itself at a shard."""
    command = [sys.executable, "-c", EXTRACT_AND_STOP, str(num_shards), str(int(number))]
    return subprocess.run(
        [*command, "run", str(manifest), str(store), *FLAGS, "--shard-seconds", "0"],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        # A job in the background of a shell starts with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def many_clips(tmp_path: Path) -> Path:
    names = [f"{i:03}.mp4" for i in range(120)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i, num_frames=12)
    return write_manifest(tmp_path, names)


@pytest.mark.xslow
def test_a_run_killed_twice_ends_equal_to_an_undisturbed_one(
    many_clips: Path, tmp_path: Path
) -> None:
    extract(many_clips, tmp_path / "calm", SETTINGS)
    killed = tmp_path / "killed"
    for num_shards in (3, 40):
        done = extract_and_stop(many_clips, killed, num_shards, signal.SIGKILL)
        assert done.returncode == -signal.SIGKILL, done.stderr
        verify_store(killed)
    summary = extract(many_clips, killed, SETTINGS)
    assert 0 < summary.num_stored < 120
    assert summary.num_stored + summary.num_present == 120
    assert contents(killed) == contents(tmp_path / "calm")
    assert verify_store(killed).sound


@pytest.mark.slow
def test_ctrl_c_stops_soon_and_keeps_what_is_finished(many_clips: Path, tmp_path: Path) -> None:
    done = extract_and_stop(many_clips, tmp_path / "store", 3, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert "run it again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert 3 <= verify_store(tmp_path / "store").num_sequences < 120


def test_the_command_reports_failures_by_its_exit_code(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    assert main(["run", str(clips), store, *FLAGS]) == 0
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    manifest = write_manifest(tmp_path, ["clip 0.mp4", "bad.mp4"])
    assert main(["run", str(manifest), store, *FLAGS]) == 1
    assert "1 failed" in capsys.readouterr().out
    assert main(["run", str(manifest), store, *FLAGS, "--sampling", "all"]) == 2
    assert "made with other settings" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.csv"), store]) == 2
    assert "no manifest at" in capsys.readouterr().err


def test_views_are_added_to_a_store_without_embedding_its_clips_again(
    clips: Path, tmp_path: Path
) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    before = contents(tmp_path / "store")
    added = extract(clips, tmp_path / "store", replace(SETTINGS, views=2))
    num_frames = sum(min(3 + 5 * i, 6) for i in range(5))
    assert (added.num_stored, added.num_frames) == (5, 2 * num_frames)
    store = EmbeddingStore(tmp_path / "store")
    assert sorted(store.views.tolist()) == [0] * 5 + [1] * 5 + [2] * 5
    for video_id, (embedding, *_) in before.items():
        found = [store.read(store.find(video_id, view)).tobytes() for view in (0, 1, 2)]
        assert found[0] == embedding
        assert len(set(found)) == 3
    extract(clips, tmp_path / "at once", replace(SETTINGS, views=2))
    at_once = EmbeddingStore(tmp_path / "at once")
    for i in range(15):
        np.testing.assert_array_equal(store.read(i), at_once.read(i))
    assert added.fingerprint == store.fingerprint == at_once.fingerprint
    assert extract(clips, tmp_path / "store", SETTINGS).num_present == 5


def test_views_drawn_otherwise_are_refused(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", replace(SETTINGS, views=1))
    other = replace(SETTINGS, views=2, view_settings=ViewSettings(view_flip=True))
    with pytest.raises(StoreError, match="view_flip: False against True"):
        extract(clips, tmp_path / "store", other)


def test_a_run_of_many_shards_ends_with_few(clips: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, shard_seconds=0.0, views=1)
    extract(clips, tmp_path / "store", settings)  # a shard each for 5 clips and their views
    assert len(shard_paths(tmp_path / "store")) == 1
    assert verify_store(tmp_path / "store").num_sequences == 10


def test_a_lower_precision_is_measured_stored_and_limited(clips: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, precision="bfloat16")
    with pytest.raises(PrecisionError, match="--max-precision-error"):
        extract(clips, tmp_path / "store", replace(settings, max_precision_error=1e-6))
    assert not shard_paths(tmp_path / "store")
    extract(clips, tmp_path / "store", replace(settings, max_precision_error=1.0))
    store = EmbeddingStore(tmp_path / "store")
    assert store.settings["precision"] == "bfloat16"
    error = store.execution["precision_error"]
    assert 1e-5 < error["relative_l2_mean"] <= error["relative_l2_max"] < 1
    with pytest.raises(StoreError, match="precision: 'bfloat16' against 'float32'"):
        extract(clips, tmp_path / "store", SETTINGS)


def test_a_renamed_copy_is_reported(clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "store", SETTINGS)
    (tmp_path / "clip 2.mp4").rename(tmp_path / "renamed.mp4")
    manifest = write_manifest(tmp_path, ["clip 0.mp4", "renamed.mp4"])
    summary = extract(manifest, tmp_path / "store", SETTINGS)
    assert (summary.num_present, summary.num_stored) == (1, 1)
    assert summary.notes == ("equal content: clip 2, renamed",)


def test_how_often_seeking_was_used_is_reported(tmp_path: Path) -> None:
    encode(tmp_path / "long.mp4", "mpeg4", 600)
    encode(tmp_path / "short.mp4", "mpeg4", 20)
    manifest = write_manifest(tmp_path, ["long.mp4", "short.mp4"])
    summary = extract(manifest, tmp_path / "store", SETTINGS)
    assert (summary.num_stored, summary.num_sought) == (2, 1)

"""Several devices: the same store as with one, and nothing lost when one of them dies."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from stage1_extract import devices
from stage1_extract.devices import DeviceError, DeviceGroup
from stage1_extract.extraction import extract
from stage1_extract.store import EmbeddingStore, StoreError, shard_paths
from stage1_extract.verifying import verify_store
from tests.stage1_extract.test_extraction import SETTINGS, contents, write_clip, write_manifest

TWO = replace(SETTINGS, devices="cpu,cpu", decoders=1)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    names = [f"{i}.mp4" for i in range(7)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    return write_manifest(tmp_path, [*names, "bad.mp4"])


@pytest.mark.xslow
def test_two_devices_make_the_store_that_one_makes(clips: Path, tmp_path: Path) -> None:
    one = extract(clips, tmp_path / "one", SETTINGS)
    two = extract(clips, tmp_path / "two", TWO)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert (two.num_stored, two.num_frames) == (one.num_stored, one.num_frames) == (7, 42)
    assert [failure.video_id for failure in two.failures] == ["bad"]
    assert two.fingerprint == one.fingerprint
    assert len(shard_paths(tmp_path / "two")) == 2
    assert extract(clips, tmp_path / "one", TWO).num_present == 7


def device_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [c for c in children if any("stage1_extract.devices" in word for word in c.cmdline())]


@pytest.mark.xslow
def test_a_device_that_dies_is_named_and_the_next_run_completes(tmp_path: Path) -> None:
    names = [f"{i:03}.mp4" for i in range(60)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i)
    manifest = write_manifest(tmp_path, names)
    settings = replace(TWO, shard_seconds=0.0)

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while len(shard_paths(tmp_path / "store")) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(device_processes()[1].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(DeviceError, match=r"device cpu \(process 1\) ended \(SIGKILL\)"):
        extract(manifest, tmp_path / "store", settings)
    killer.join()
    assert not device_processes()
    assert verify_store(tmp_path / "store").sound
    assert 4 <= EmbeddingStore(tmp_path / "store").num_sequences < 60
    assert extract(manifest, tmp_path / "store", settings).num_stored < 56
    extract(manifest, tmp_path / "calm", SETTINGS)
    assert contents(tmp_path / "store") == contents(tmp_path / "calm")


@pytest.mark.xslow
def test_errors_of_a_device_come_as_they_would_without(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights file at /.*/nowhere\.h5"):
        extract(clips, tmp_path / "store", replace(TWO, weights="nowhere.h5"))
    extract(clips, tmp_path / "store", SETTINGS)
    with pytest.raises(StoreError, match="weights_sha256"):
        extract(clips, tmp_path / "store", replace(TWO, seed=1))
    assert not device_processes()


@pytest.mark.xslow
def test_fail_fast_stops_the_others_and_counts_what_they_stored(tmp_path: Path) -> None:
    names = [f"{i:03}.mp4" for i in range(80)]
    for i, name in enumerate(names):
        write_clip(tmp_path / name, seed=i)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    manifest = write_manifest(tmp_path, ["bad.mp4", *names])
    summary = extract(manifest, tmp_path / "store", replace(TWO, fail_fast=True))
    assert [failure.video_id for failure in summary.failures] == ["bad"]
    stored = EmbeddingStore(tmp_path / "store").num_sequences if summary.num_stored else 0
    assert stored == summary.num_stored
    assert summary.num_not_tried == 80 - stored > 0
    assert not device_processes()


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="device 7: tensorflow sees no such GPU"):
        extract(clips, tmp_path / "store", replace(SETTINGS, devices="7"))
    assert not shard_paths(tmp_path / "store")


def test_numbers_count_the_gpus_that_the_run_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-1a2b")
    with pytest.raises(DeviceError, match=r"may use 2 GPUs .*'4,GPU-1a2b'.* from 0"):
        DeviceGroup(replace(SETTINGS, devices="2"))
    shown = [devices._visibility(name)["CUDA_VISIBLE_DEVICES"] for name in ("0", "1", "cpu")]
    assert shown == ["4", "GPU-1a2b", "-1"]
    for hidden in ("", "-1", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        with pytest.raises(DeviceError, match="may use 0 GPUs"):
            devices._visibility("0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices._visibility("2")["CUDA_VISIBLE_DEVICES"] == "2"

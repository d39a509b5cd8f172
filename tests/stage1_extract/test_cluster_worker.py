"""What a worker of a cluster tells of its work, without a cluster."""

from pathlib import Path

import pytest

from stage1_extract.clips import ClipJob
from stage1_extract.cluster_worker import ClusterWorker
from stage1_extract.sources import Clip
from tests.stage1_extract.test_extraction import SETTINGS, write_clip


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterWorker:
    monkeypatch.setattr("stage1_extract.cluster_worker._limit", lambda cores, *, has_gpu: None)
    return ClusterWorker(SETTINGS, tmp_path, num_cpus=1, has_gpu=False)


def test_clips_whose_files_it_does_not_see_are_told_apart_from_damaged_ones(
    worker: ClusterWorker, tmp_path: Path
) -> None:
    write_clip(tmp_path / "sound.mp4", seed=1)
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    names = ["sound", "damaged", "gone"]
    worker.load()
    worker.give([ClipJob(Clip(name, tmp_path / f"{name}.mp4")) for name in names])
    worker.close()
    worker.embed([])
    news = worker.hear(0)
    worker.clear()
    assert sorted(failure.video_id for failure in news.failures) == ["damaged", "gone"]
    assert news.unseen == {"gone"}
    assert [key[0] for keys in news.stored.values() for key in keys] == ["sound"]

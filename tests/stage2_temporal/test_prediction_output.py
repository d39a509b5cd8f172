"""Who may write a prediction, and what of an earlier one is kept."""

import os
from pathlib import Path
from typing import Any

import pytest

from stage2_temporal.prediction_output import AskedClip, PredictionOutput

CLIPS = [AskedClip("a", "a.mp4"), AskedClip("b", "b.mp4")]


def output(out: Path, clips: list[AskedClip] | None = None, **changes: Any) -> PredictionOutput:
    given: dict[str, Any] = {
        "columns": ["video_id", "path", "value"],
        "timeline_columns": None,
        "request": {"run": "x"},
        "clips": CLIPS if clips is None else clips,
        "overwrite": False,
    }
    return PredictionOutput(out, **{**given, **changes})


def test_two_cannot_write_at_once(tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    with output(out) as first:
        first.add("b", ["1"])
        first.add("a", ["2"])
        for _ in ("as it grows", "after it was sorted"):
            before = out.read_bytes()
            for changes in ({}, {"overwrite": True}, {"request": {"run": "y"}, "overwrite": True}):
                with pytest.raises(ValueError, match=r"another process is writing .*p.csv; wait"):
                    output(out, **changes)
            assert out.read_bytes() == before
            first.finish()
    with output(out) as second:
        assert second.present == {"a", "b"}
    assert out.read_text() == "video_id,path,value\na,a.mp4,2\nb,b.mp4,1\n"


@pytest.mark.parametrize("finished", [False, True])
def test_a_file_that_is_written_anew_is_noticed(tmp_path: Path, *, finished: bool) -> None:
    out, file = tmp_path / "p.csv", tmp_path / "a.mp4"
    file.write_bytes(b"one")
    clips = [AskedClip("a", str(file), file=file), AskedClip("b", "b.mp4")]
    with output(out, clips) as first:
        first.add("a", ["1"])
        if finished:
            first.finish()
    with output(out, clips) as again:
        assert again.present == {"a"}
    file.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"1 clips that .*the file changed since: \['a'\]"):
        output(out, clips)
    with output(out, clips, overwrite=True) as replaced:
        assert not replaced.present
        replaced.add("a", ["2"])
    with output(out, clips) as again:
        assert again.present == {"a"}


def test_a_file_of_the_same_size_is_noticed_by_its_time(tmp_path: Path) -> None:
    out, file = tmp_path / "p.csv", tmp_path / "a.mp4"
    file.write_bytes(b"one")
    clips = [AskedClip("a", str(file), file=file)]
    with output(out, clips) as first:
        first.add("a", ["1"])
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**6))
    with pytest.raises(ValueError, match="the file changed since"):
        output(out, clips)


def test_a_kill_at_the_very_beginning_leaves_something_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.csv"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stage2_temporal.prediction_file.ClipTable._read", killed)
        with pytest.raises(KeyboardInterrupt):
            output(out)
    assert out.exists()
    with output(out) as again:
        again.add("a", ["1"])
    assert "a.mp4" in out.read_text()


def test_an_empty_file_is_taken_as_new(tmp_path: Path) -> None:
    (tmp_path / "p.csv").touch()
    with output(tmp_path / "p.csv") as found:
        assert not found.present

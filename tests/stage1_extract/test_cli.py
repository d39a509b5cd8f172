"""The commands of stage one: what they print, as text and as JSON, and their exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage1_extract import cli, extraction
from stage1_extract.extraction import ExtractSummary
from stage1_extract.failures import Failure, append_failure
from stage1_extract.printing import histogram_lines, readable_duration, readable_size
from stage1_extract.store import EmbeddingStore, shard_paths
from tests.conftest import ShardFactory


def run_main(*words: object) -> int:
    return cli.main([str(word) for word in words])


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the one JSON value on stdout; anything else there is an error."""
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def shard(tmp_path: Path, make_shard: ShardFactory) -> Path:
    return make_shard(tmp_path / "store" / "a.h5", {("v", 0): np.ones((3, 4), np.float16)})


SUMMARY = ExtractSummary(
    num_clips=4,
    num_present=1,
    num_stored=1,
    num_frames=32,
    num_sought=0,
    seconds=2.0,
    failures=(Failure("bad", "/v/bad.mp4", "it is cut short", "VideoError", "2026-01-01"),),
    notes=("odd: 3 frames found, its header states 9",),
    fingerprint="f" * 32,
)


@pytest.fixture
def noisy_extract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the extraction by one that prints, as Keras does when it downloads weights."""

    def extract_noisily(*_: object, **__: object) -> ExtractSummary:
        print("Downloading data from ...")
        return SUMMARY

    monkeypatch.setattr(extraction, "extract", extract_noisily)


@pytest.mark.usefixtures("noisy_extract")
def test_run_prints_one_json_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("run", "m.csv", "store", "--json") == 1
    told = printed_json(capsys)
    assert (told["num_clips"], told["num_stored"], told["num_not_tried"]) == (4, 1, 1)
    assert told["failures"][0]["exception"] == "VideoError"
    assert told["notes"] == list(SUMMARY.notes)
    assert (told["fingerprint"], told["store"]) == (SUMMARY.fingerprint, "store")


@pytest.mark.usefixtures("noisy_extract")
def test_run_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("run", "m.csv", "store") == 1
    shown = capsys.readouterr().out
    assert "4 clips: 1 embedded now, 1 already there, 1 failed; 32 frames in 2.0 s" in shown
    assert "bad: it is cut short" in shown
    assert "1 clips were not tried" in shown


def test_info_prints_what_the_store_holds(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("info", shard.parent, "--json") == 0
    description = json.loads(capsys.readouterr().out)
    assert (description["num_sequences"], description["num_frames"]) == (1, 3)
    assert run_main("info", shard.parent) == 0
    assert "num_frames: 3" in capsys.readouterr().out


def test_verify_exits_with_1_when_something_changed(
    shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("verify", shard.parent) == 0
    assert "every checksum right" in capsys.readouterr().out
    content = bytearray(shard.read_bytes())
    content[content.index(np.ones(12, np.float16).tobytes())] ^= 1
    shard.write_bytes(content)
    assert run_main("verify", shard.parent) == 1
    assert "v (view 0)" in capsys.readouterr().out
    assert run_main("verify", shard.parent, "--json") == 1
    assert json.loads(capsys.readouterr().out)["sound"] is False
    shard.write_bytes(content[:5000])
    assert run_main("verify", shard.parent) == 1
    assert "unreadable shards" in capsys.readouterr().out


def test_info_shows_sizes_lengths_and_failures_as_people_read_them(
    tmp_path: Path, make_shard: ShardFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.ones((12, 4), np.float16)
    sequences = {(f"v{i}", 0): frames[: 12 if i else 3] for i in range(5)}
    shard = make_shard(tmp_path / "store" / "a.h5", sequences, settings={"views": {"seed": 3}})
    for name, error in (("x", OSError("a")), ("y", OSError("b")), ("z", ValueError("c"))):
        append_failure(shard.parent, Failure.of(name, Path("v.mp4"), error))
    assert run_main("info", shard.parent) == 0
    shown = capsys.readouterr().out
    assert "  OSError: 2\n  ValueError: 1\n" in shown
    assert "total_duration: 0:00:10" in shown
    assert f"size: {shard.stat().st_size / 1000:.1f} kB" in shown
    assert "  views:\n    seed: 3\n" in shown
    assert f"  12  {'#' * 40} 4" in shown
    assert f"   3  {'#' * 10} 1" in shown


def test_info_ends_silently_when_its_reader_leaves(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    settings = {f"setting_{i}": "x" * 100 for i in range(2000)}  # more than a pipe holds
    ones = np.ones((1, 2), np.float16)
    store = make_shard(tmp_path / "a.h5", {("v", 0): ones}, settings=settings)
    command = (
        f"{sys.executable} -m stage1_extract info {store} | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.startswith("path: ")


def test_verify_repairs_on_demand(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard.with_name("bad.h5").write_bytes(shard.read_bytes()[:3000])
    assert run_main("verify", shard.parent) == 1
    assert "--repair` moves" in capsys.readouterr().out
    assert run_main("verify", shard.parent, "--repair", "--json") == 1
    assert printed_json(capsys)["quarantined"] == [str(shard.parent / "quarantine" / "bad.h5")]
    assert run_main("verify", shard.parent) == 0


def test_compact_merges(
    shard: Path, make_shard: ShardFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shard(shard.with_name("b.h5"), {("w", 0): np.ones((2, 4), np.float16)})
    assert run_main("compact", shard.parent, "--shard-mb", 1) == 0
    assert "2 shards before, 1 now; 2 sequences, 0 copies removed" in capsys.readouterr().out
    assert len(shard_paths(shard.parent)) == 1
    assert EmbeddingStore(shard.parent).num_sequences == 2
    assert run_main("compact", shard.parent, "--json") == 0
    assert printed_json(capsys)["num_shards_after"] == 1


def test_manifest_lists_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("walk/a.mp4", "run/b.mp4", "run/c.mp4", "walk/notes.txt"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).write_bytes(b"x")
    words = ("manifest", tmp_path / "v", tmp_path / "m.csv", "--layout", "class-folders")
    assert run_main(*words) == 0
    shown = capsys.readouterr().out
    assert "3 clips in" in shown
    assert "  run: 2\n" in shown
    assert "1 other files left out: .txt 1" in shown
    assert run_main(*words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_main(*words, "--overwrite", "--json") == 0
    assert printed_json(capsys)["labels"] == {"run": 2, "walk": 1}


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_are_in_powers_of_1000(num_bytes: int, text: str) -> None:
    assert readable_size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (3661.2, "1:01:01"), (360_000, "100:00:00")]
)
def test_durations_are_in_hours(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text


def test_bars_are_proportional_and_small_counts_show() -> None:
    lines = histogram_lines({"edges": [1, 2, 11, 12], "counts": [800, 1, 0]})
    assert lines == [f"        1  {'#' * 40} 800", "  2 to 10  # 1", "       11   0"]

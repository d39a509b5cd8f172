import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stage1_extract.clips import ClipDone, ClipJob, FrameRecipe, read_clip
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip
from stage2_temporal import strip_curves, strip_frames
from stage2_temporal.clip_strips import WrongClip, worst_and_most_confident
from stage2_temporal.strip_curves import predict_prefixes, prefix_lengths
from stage2_temporal.strip_files import (
    FRAME_SIZE,
    MAX_IMAGE_BYTES,
    Curve,
    Strip,
    Strips,
    read_strips,
    save_strips,
)
from stage2_temporal.strip_frames import WantedFrames, as_jpegs, read_frames
from tests.conftest import VideoFactory, numbers_shown
from tests.stage2_temporal.synthetic import write_store
from tests.stage2_temporal.whole_runs import WholeRun, predictions, read_json

STORE: dict[str, Any] = {
    **{"sampling": "uniform:12", "fit": "squash", "value_range": "dtype"},
    **{"assumed_fps": None, "normalise": "none"},
}


# which clips


def wrong_clip(clip: int, wrongness: float, confidence: float) -> WrongClip:
    return WrongClip(0, 0, clip, np.zeros(3), wrongness, confidence)


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [0]), (2, [0, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3])]
)
def test_the_worst_and_the_most_confident_are_taken_in_turn(
    number: int, expected: list[int]
) -> None:
    values = [(0.9, 0.5), (0.8, 0.6), (0.7, 0.4), (0.6, 0.6)]
    wrong = [wrong_clip(clip, *pair) for clip, pair in enumerate(values)]
    wrong[3] = wrong_clip(3, 0.6, 0.61)
    found = worst_and_most_confident(wrong[::-1], number)
    assert [one.clip for one in found] == expected


# frames


def wanted(path: Path, numbers: list[int], sampling: str = "uniform:12") -> WantedFrames:
    clip = Clip(path.name, path)
    recipe = FrameRecipe(parse_sampling(sampling), "squash", FRAME_SIZE, 0.0)
    done = [c for c in read_clip(ClipJob(clip), recipe) if isinstance(c, ClipDone)]
    return WantedFrames(clip, np.array(numbers), done[0].facts.source_hash)


def test_frames_are_those_that_were_embedded(make_video: VideoFactory) -> None:
    one = wanted(make_video("a.avi", 24), [3, 9, 21])  # uniform:12 takes the odd ones
    frames = read_frames([one], STORE)["a.avi"]
    assert isinstance(frames, np.ndarray)
    assert numbers_shown(frames) == [3, 9, 21]
    assert frames.shape == (3, FRAME_SIZE, FRAME_SIZE, 3)


def test_a_bad_video_costs_its_own_frames_only(make_video: VideoFactory, tmp_path: Path) -> None:
    good = wanted(make_video("good.avi", 24), [1])
    changed = wanted(make_video("changed.avi", 24), [1])
    make_video("changed.avi", 30)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 100)
    many = [
        good,
        changed,
        WantedFrames(Clip("garbage", garbage), np.array([0]), ""),
        WantedFrames(Clip("gone", tmp_path / "gone.mp4"), np.array([0]), ""),
    ]
    found = read_frames(many, STORE)
    assert isinstance(found["good.avi"], np.ndarray)
    assert "changed since it was embedded" in str(found["changed.avi"])
    assert "garbage.mp4" in str(found["garbage"])
    assert found["gone"] == f"no video at {tmp_path / 'gone.mp4'}"


def test_reading_ends_in_time(make_video: VideoFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    one = wanted(make_video("a.avi", 24), [3])
    monkeypatch.setattr(strip_frames, "MAX_SECONDS", 0.0)
    assert "took more than" in str(read_frames([one], STORE)["a.avi"])


def test_a_store_that_does_not_tell_its_sampling_has_no_frames(make_video: VideoFactory) -> None:
    one = wanted(make_video("a.avi", 24), [3])
    found = read_frames([one], {"backbone": "x", "fit": "squash"})
    assert found == {
        "a.avi": "the store does not tell its sampling, value_range, assumed_fps, normalise"
    }


def test_images_hold_the_frames_side_by_side() -> None:
    frames = np.repeat(np.array([40, 120, 200], np.uint8), FRAME_SIZE**2 * 3)
    [content] = as_jpegs([frames.reshape(3, FRAME_SIZE, FRAME_SIZE, 3)])
    image = np.asarray(Image.open(io.BytesIO(content)).convert("L"), float)
    assert image.shape == (FRAME_SIZE, 3 * FRAME_SIZE)
    middles = image[:, FRAME_SIZE // 2 :: FRAME_SIZE].mean(axis=0)
    assert middles.tolist() == pytest.approx([40, 120, 200], abs=3)


def test_noise_does_not_make_large_images() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (12, 8, FRAME_SIZE, FRAME_SIZE, 3)).astype(np.uint8)
    files = as_jpegs(list(noise))
    assert len(files) == 12
    assert sum(map(len, files)) <= MAX_IMAGE_BYTES
    assert as_jpegs([]) == []


# prefixes


@pytest.mark.parametrize("num_frames", [1, 2, 63, 64, 65, 1000])
def test_prefixes_rise_to_the_whole_sequence(num_frames: int) -> None:
    lengths = prefix_lengths(num_frames)
    assert lengths[0] == 1 or num_frames == 1
    assert lengths[-1] == num_frames
    assert (np.diff(lengths) > 0).all()
    assert len(lengths) == min(num_frames, 64)


# the folder


def image(width: int = 2 * FRAME_SIZE, height: int = FRAME_SIZE, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, kind)
    return buffer.getvalue()


STRIP = Strip(
    **{"target": "label", "video_id": "clip <1>", "num_frames": 9, "shown": (2, 6)},  # type: ignore[arg-type]
    **{"seconds": (0.5, None), "attention": (0.25, 0.75), "prefixes": (1, 9)},  # type: ignore[arg-type]
    curves=(Curve("a", "target", (0.1, 0.9)),),
    image=image(),
)


def test_strips_are_read_as_they_were_saved(tmp_path: Path) -> None:
    strips = Strips((STRIP, Strip("label", "other", 5, problem="no video at x")), "a note")
    save_strips(tmp_path, strips)
    assert read_strips(tmp_path, ["label"]) == strips
    save_strips(tmp_path, Strips())
    assert read_strips(tmp_path, ["label"]) == Strips()
    assert [path.name for path in (tmp_path / "strips").iterdir()] == ["strips.json"]


def test_a_run_may_have_no_strips(tmp_path: Path) -> None:
    assert read_strips(tmp_path, ["label"]) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file", "../0.jpg", "expected the name of a file"),
        ("file", "/etc/passwd", "expected the name of a file"),
        ("file", "strips.json", "expected the name of a file"),
        ("file", 7, "file is 7"),
        ("target", "other", "expected one of"),
        ("shown", [6, 2], "expected rising"),
        ("shown", [2, 9], "expected rising"),
        ("seconds", [1.0], "differ"),
        ("prefixes", [0, 9], "expected rising"),
        ("prefixes", [1], "expected 1 values each"),
        ("curves", [{"name": "a"}], r"curves\[0\].role is missing"),
        ("num_frames", "9", "num_frames"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    save_strips(tmp_path, Strips((STRIP,)))
    path = tmp_path / "strips" / "strips.json"
    document = json.loads(path.read_text())
    document["clips"][0][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"strips\.json.*{message}"):
        read_strips(tmp_path, ["label"])


def a_link(path: Path) -> None:
    path.rename(path.with_name("real.jpg"))
    path.symlink_to(path.with_name("real.jpg"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda path: path.write_bytes(b"<svg onload=alert(1)>"), "not a JPEG"),
        (lambda path: path.write_bytes(image(kind="PNG")), "not a JPEG"),
        (lambda path: path.write_bytes(image(height=4000)), "expected 96 high"),
        (lambda path: path.write_bytes(image() + b"0" * 10**6), "expected up to"),
        (lambda path: path.unlink(), "no such file"),
        (a_link, "expected the name of a file"),
    ],
)
def test_wrong_images_are_refused(
    tmp_path: Path, change: Callable[[Path], object], error: str
) -> None:
    save_strips(tmp_path, Strips((STRIP,)))
    change(tmp_path / "strips" / "0.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        read_strips(tmp_path, ["label"])


# whole runs


def test_the_last_prefix_predicts_what_the_run_predicted(folds_run: WholeRun) -> None:
    strips = read_strips(folds_run.folder, ["label", "ef"])
    assert strips is not None
    assert {strip.target for strip in strips.clips} == {"label", "ef"}
    for number, target in enumerate(("label", "ef")):
        table = predictions(folds_run.folder, number)
        table = table[(table["split"] == "test") & table["fold"].isin([0, 1])]
        rows = table.set_index("video_id")
        for strip in [one for one in strips.clips if one.target == target]:
            row, last = rows.loc[strip.video_id], strip.curves[0].values[-1]
            name = f"probability_{row['target']}" if target == "label" else "prediction"
            assert last == pytest.approx(float(str(row[name])), rel=1e-3)
            assert strip.prefixes[-1] == strip.num_frames == 8
            assert len(strip.attention) == 8
            assert sum(strip.attention) == pytest.approx(1, abs=1e-3)
            assert strip.problem.startswith("no video at ")


def test_long_clips_have_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path / "s", {"a": np.ones((8, 3)), "b": np.ones((9, 3))})
    inputs: Any = SimpleNamespace(store=store, positions=np.arange(2))
    asked: list[list[int]] = []

    def note(_folder: Path, _inputs: Any, _fold: int, clips: list[int], *_: Any) -> dict[int, Any]:
        asked.append(clips)
        return {}

    monkeypatch.setattr(strip_curves, "_of_members", note)
    monkeypatch.setattr(strip_curves, "MAX_FRAMES", 8)
    predict_prefixes(tmp_path, inputs, [(0, 0), (0, 1)], [1])
    assert asked == [[0]]


def test_only_wrong_clips_have_strips(folds_run: WholeRun) -> None:
    strips = read_strips(folds_run.folder, ["label", "ef"])
    assert strips is not None
    table = predictions(folds_run.folder)
    table = table[(table["split"] == "test") & table["fold"].isin([0, 1])]
    wrong = table[(table["prediction"] != table["target"]) & (table["target"] != "")]
    shown = [strip.video_id for strip in strips.clips if strip.target == "label"]
    assert set(shown) <= set(wrong["video_id"])
    assert len(shown) == min(6, len(wrong))


def test_the_run_says_that_frames_may_be_kept(folds_run: WholeRun) -> None:
    assert read_json(folds_run.folder / "settings.json")["settings"]["strips"] is True

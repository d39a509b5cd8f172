"""The demo's claims: imbalanced, grouped, and readable from the order of the frames alone."""

import csv
import importlib.util
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

SCRIPT = Path(__file__).parents[1] / "data" / "demo.py"
NUM_CLIPS = 100
Row = dict[str, str]
Clips = list[tuple[Row, NDArray[np.uint8]]]


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


demo = _load_script()


def _rows(manifest: Path) -> list[Row]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _frames(path: Path) -> NDArray[np.uint8]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(frame)
    capture.release()
    return np.asarray(frames, dtype=np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = demo.write_demo(tmp_path_factory.mktemp("demo"), num_clips=NUM_CLIPS)
    assert isinstance(written, Path)
    return written


@pytest.fixture(scope="module")
def clips(manifest: Path) -> Clips:
    return [(row, _frames(manifest.parent / row["path"])) for row in _rows(manifest)]


def test_manifest_has_the_documented_columns(manifest: Path) -> None:
    assert manifest.name == "manifest.csv"
    assert list(_rows(manifest)[0]) == ["path", "motion", "speed", "digit_image", "digit"]


def test_every_video_opens_with_20_to_28_square_frames_at_12_fps(
    manifest: Path, clips: Clips
) -> None:
    for row, frames in clips:
        capture = cv2.VideoCapture(str(manifest.parent / row["path"]))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)
        capture.release()
        assert 20 <= len(frames) <= 28
        assert frames.shape[1:] == (96, 96, 3)


def test_every_clip_shows_whole_cycles_below_the_nyquist_limit(clips: Clips) -> None:
    for row, frames in clips:
        cycles = float(row["speed"]) * len(frames) / 12
        assert cycles == pytest.approx(round(cycles), abs=1e-4)
        assert 0 < float(row["speed"]) < 12 / 2 / 2


def test_classes_are_imbalanced_as_documented(manifest: Path) -> None:
    counts = Counter(row["motion"] for row in _rows(manifest))
    assert counts == {"approach": 60, "recede": 28, "pulse": 12}


def test_speeds_are_skewed_to_the_slow(manifest: Path) -> None:
    speeds = np.array([float(row["speed"]) for row in _rows(manifest)])
    assert np.mean(((speeds - speeds.mean()) / speeds.std()) ** 3) > 0.3


def test_a_digit_image_has_one_digit_and_several_motions(manifest: Path) -> None:
    digits, motions = defaultdict(set), defaultdict(set)
    for row in _rows(manifest):
        digits[row["digit_image"]].add(row["digit"])
        motions[row["digit_image"]].add(row["motion"])
    assert len(motions) == NUM_CLIPS / 4
    assert all(len(found) == 1 for found in digits.values())
    assert all(len(found) >= 2 for found in motions.values())


@pytest.mark.parametrize("motion", ["approach", "recede", "pulse"])
@pytest.mark.parametrize("statistic", [np.mean, np.std, np.median])
def test_brightness_without_the_order_of_frames_does_not_tell_the_class(
    clips: Clips, motion: str, statistic: Callable[[NDArray[np.float64]], float]
) -> None:
    scores = [float(statistic(frames.mean(axis=(1, 2, 3)))) for _, frames in clips]
    assert 0.3 < roc_auc_score([row["motion"] == motion for row, _ in clips], scores) < 0.7


def test_a_single_frame_does_not_tell_the_class(clips: Clips) -> None:
    scores = [float(frames[0].mean()) for _, frames in clips]
    truth = [row["motion"] == "approach" for row, _ in clips]
    assert 0.35 < roc_auc_score(truth, scores) < 0.65


def test_the_share_of_growing_steps_tells_the_class(clips: Clips) -> None:
    growing = defaultdict(list)
    for row, frames in clips:
        steps = np.diff(frames.mean(axis=(1, 2, 3)))
        growing[row["motion"]].append(float(np.mean(steps > 0)))
    assert min(growing["approach"]) > max(growing["pulse"])
    assert max(growing["recede"]) < min(growing["pulse"])


def test_a_frame_keeps_no_trace_of_the_frame_before_it(tmp_path: Path) -> None:
    small, large, same = (np.full((96, 96, 3), 40, dtype=np.uint8) for _ in range(3))
    small[40:50, 40:50], large[10:90, 10:90], same[30:60, 30:60] = 220, 220, 220
    demo.write_video(tmp_path / "grows.mp4", [small, same])
    demo.write_video(tmp_path / "shrinks.mp4", [large, same])
    grown, shrunk = (_frames(tmp_path / name)[1] for name in ("grows.mp4", "shrinks.mp4"))
    np.testing.assert_array_equal(grown, shrunk)


def test_same_seed_gives_the_same_manifest_and_frames(tmp_path: Path) -> None:
    first, second, other = (
        demo.write_demo(tmp_path / name, num_clips=4, seed=seed)
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    for row in _rows(first):
        frames = [_frames(manifest.parent / row["path"]) for manifest in (first, second, other)]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert not np.array_equal(frames[0], frames[2])


def test_a_finished_folder_is_kept_and_an_unfinished_one_completed(tmp_path: Path) -> None:
    manifest = demo.write_demo(tmp_path, num_clips=4)
    kept, lost = (tmp_path / row["path"] for row in _rows(manifest)[:2])
    before = kept.stat().st_mtime_ns
    demo.write_demo(tmp_path, num_clips=4)
    assert kept.stat().st_mtime_ns == before
    lost.unlink()
    demo.write_demo(tmp_path, num_clips=4)
    assert len(_frames(lost)) >= 20
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("num_clips", [0, -1, 100_000])
def test_an_impossible_number_of_clips_is_refused(tmp_path: Path, num_clips: int) -> None:
    with pytest.raises(ValueError, match=f"num_clips must be between 1 and .*, got {num_clips}"):
        demo.write_demo(tmp_path, num_clips=num_clips)
    assert not list(tmp_path.iterdir())

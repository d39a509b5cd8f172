"""RandAugment: what Keras itself makes of each frame, the same for all, in every process."""

import hashlib
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.randaugment import confine_tensorflow, rand_augment
from stage1_extract.views import ViewSettings, draw_view, transform_frames, view_transform

SEEDS = range(12)
"""Two operations each: together they draw all eleven."""


def smooth_frames(count: int = 3, size: int = 24) -> NDArray[np.uint8]:
    """Frames without sharp edges, each with other colours."""
    x = np.arange(size) / size
    waves = [
        np.outer(np.sin(3 * x + i), np.cos(2 * x * (i + 1)))[..., None] * [1, 0.8, 0.5]
        for i in range(count)
    ]
    return np.asarray(120 + 90 * np.stack(waves), np.uint8)


def augmenter(seed: int, num_operations: int = 2, magnitude: float = 0.5) -> Any:
    return rand_augment(num_operations=num_operations, magnitude=magnitude, seed=seed, size=24)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_frame_becomes_what_keras_makes_of_it(seed: int) -> None:
    frames = smooth_frames()
    layer = load_keras().layers.RandAugment
    alone = [np.asarray(layer(num_ops=2, factor=0.5, seed=seed)(frame[None])) for frame in frames]
    expected = np.rint(np.concatenate(alone)).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(augmenter(seed)(frames), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frame_does_not_depend_on_the_others(seed: int) -> None:
    frames = smooth_frames(4)
    augment = augmenter(seed)
    whole = augment(frames)
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(augment(frame[None])[0], whole[i])
    assert whole.shape == frames.shape
    assert whole.dtype == np.uint8


def test_equal_frames_stay_equal_and_seeds_differ() -> None:
    still = np.repeat(smooth_frames(1), 3, axis=0)
    views = [augmenter(seed)(still) for seed in range(12)]
    assert all((view == view[0]).all() for view in views)
    assert len({view.tobytes() for view in views}) > 6


@pytest.mark.parametrize("magnitude", [0, 1.0])
def test_any_magnitude_works(magnitude: float) -> None:
    for seed in range(6):
        assert augmenter(seed, magnitude=magnitude)(smooth_frames()).dtype == np.uint8


def test_no_frames_give_no_frames() -> None:
    assert augmenter(0)(smooth_frames()[:0]).shape == (0, 24, 24, 3)


def test_a_view_is_moved_first_and_then_randaugmented() -> None:
    settings = ViewSettings(randaugment=1, randaugment_magnitude=0.3)
    frames = smooth_frames()
    drawn = draw_view(settings, video_id="a", view=2)
    augment = augmenter(drawn.randaugment_seed, num_operations=1, magnitude=0.3)
    np.testing.assert_array_equal(
        view_transform(settings, video_id="a", view=2, size=24)(frames),
        augment(transform_frames(frames, drawn, size=24)),
    )


_IN_A_CONFINED_PROCESS = """
import hashlib, os
os.environ["KERAS_BACKEND"] = "jax"  # as a process of a run on JAX would inherit it
from stage1_extract.randaugment import confine_tensorflow
confine_tensorflow()
from stage1_extract.views import ViewSettings, view_transform
from tests.stage1_extract.test_randaugment import smooth_frames
for view in range(1, 13):
    settings = ViewSettings(randaugment=2)
    views = view_transform(settings, video_id="a", view=view, size=24)(smooth_frames())
    print(hashlib.sha256(views.tobytes()).hexdigest())
"""


@pytest.mark.xslow
def test_a_view_is_the_same_in_every_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CONFINED_PROCESS],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    views = [
        view_transform(ViewSettings(randaugment=2), video_id="a", view=view, size=24)
        for view in range(1, 13)
    ]
    here = [hashlib.sha256(view(smooth_frames()).tobytes()).hexdigest() for view in views]
    assert done.stdout.split() == here


def test_keras_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on_jax = ModuleType("keras")
    vars(on_jax)["backend"] = SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", on_jax)
    with pytest.raises(ValueError, match=r"process of their own.*Keras already runs on jax"):
        augmenter(0)


def test_confined_processes_see_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": "0,1"})
    confine_tensorflow()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"

"""What is predicted after each frame is what is predicted of a clip that ends there."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal import head_batches
from stage2_temporal.bundle import Bundle
from stage2_temporal.head_batches import ClipSequence, HeadBatches
from stage2_temporal.timeline import timeline_rows
from stage2_temporal.training import TrainResult


def sequence(length: int, name: str = "clip") -> ClipSequence:
    rng = np.random.default_rng(length)
    embedding = rng.normal(size=(length, 3)).astype(np.float32)
    times, numbers = np.arange(length) / 4, np.arange(length) * 5
    return ClipSequence(name, embedding, times, numbers, np.empty(0, np.float32))


def cut(whole: ClipSequence, length: int) -> ClipSequence:
    return ClipSequence(
        f"{length}",
        whole.embedding[:length],
        whole.time_seconds[:length],
        whole.source_index[:length],
        whole.features,
    )


def numbers_of(row: list[str]) -> NDArray[np.float64]:
    """The three probabilities of the first target."""
    return np.array(row[3:6], float)


@pytest.fixture(scope="module")
def bundle(holdout_run: TrainResult) -> Bundle:
    return Bundle.open(holdout_run.folder)


@pytest.mark.parametrize("batch_values", [head_batches._BATCH_VALUES, 8 * 3 * 2, 1])
def test_each_row_is_the_prediction_of_the_clip_cut_there(
    bundle: Bundle, batch_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_batches, "_BATCH_VALUES", batch_values)  # 8, 2 or 1 at once
    whole = sequence(19)
    rows = list(timeline_rows(bundle, whole, several_models=False))
    assert [row[:2] for row in rows] == [[str(5 * i), repr(i / 4)] for i in range(19)]
    batches = HeadBatches(bundle)
    done = [clip for n in range(1, 20) for clip in batches.add(cut(whole, n))] + batches.flush()
    of_cut = {int(clip.sequence.video_id): clip.predictions[0].mean[0] for clip in done}
    for length, row in enumerate(rows, start=1):
        np.testing.assert_array_equal(numbers_of(row), of_cut[length])


def test_rows_are_those_of_plain_keras_without_padding(
    bundle: Bundle, holdout_run: TrainResult
) -> None:
    model = load_keras().saving.load_model(Path(holdout_run.folder) / "model.keras")
    whole = sequence(11)
    for length, row in enumerate(timeline_rows(bundle, whole, several_models=False), start=1):
        inputs = {"embedding": whole.embedding[None, :length], "mask": np.ones((1, length), bool)}
        expected = np.asarray(model.predict_on_batch(inputs)["target_0"][0])
        np.testing.assert_allclose(numbers_of(row), expected, rtol=1e-5, atol=1e-7)


def test_a_prediction_does_not_depend_on_other_clips_or_their_order(bundle: Bundle) -> None:
    clips = [sequence(length, f"{length}") for length in range(1, 30)]

    def predicted(order: list[int]) -> dict[str, bytes]:
        batches = HeadBatches(bundle)
        done = [clip for i in order for clip in batches.add(clips[i])] + batches.flush()
        return {clip.sequence.video_id: clip.predictions[0].mean.tobytes() for clip in done}

    together = predicted(list(range(29)))
    assert predicted(list(range(28, -1, -1))) == together
    for number in (0, 12, 28):
        assert predicted([number])[f"{number + 1}"] == together[f"{number + 1}"]


def test_what_waits_is_bounded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_batches, "_WAITING_VALUES", 3 * 40)
    batches = HeadBatches(bundle)
    assert batches.add(sequence(20, "a")) == []
    assert batches.waiting_since is not None
    assert {clip.sequence.video_id for clip in batches.add(sequence(30, "b"))} == {"a", "b"}
    assert batches.waiting_since is None

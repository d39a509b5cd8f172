import numpy as np
import pytest

from stage2_temporal.metrics import scores
from stage2_temporal.report_clips import clip_plates, label_grids
from stage2_temporal.report_curves import calibration_plates, missing_curves, ranking_plates
from tests.stage2_temporal.shown import drawing_of, shown_clips
from tests.stage2_temporal.test_figures import svg_in


def captions(plates: object) -> str:
    assert isinstance(plates, list)
    return " ".join(caption for _, caption in plates)


def test_binary_curves_tell_the_scores() -> None:
    clips = shown_clips("binary", 90)
    truth = (clips.target == clips.classes[1]).astype(int)
    text = captions(clip_plates(drawing_of(clips), ""))
    for model, name in (("recurrent", "sequence model"), ("mean_pool", "baseline")):
        found = scores("binary", truth, clips.probabilities[model][:, 1])
        for score in ("auroc", "auprc", "ece"):
            assert f"{name} {found[score]:.3f}" in text
    assert f"{truth.mean():.3f}, the share of positive clips" in text
    assert "bootstrap resamples by patient" in text


def test_top_label_calibration_tells_the_score() -> None:
    clips = shown_clips("multiclass", 90, 4)
    truth = np.array([clips.classes.index(name) for name in clips.target])
    found = scores("multiclass", truth, clips.probabilities["recurrent"])
    assert f"ECE: sequence model {found['ece']:.3f}" in captions(
        calibration_plates(drawing_of(clips))
    )


@pytest.mark.parametrize(
    ("task", "num_classes", "num_figures"),
    [("binary", 2, 5), ("multiclass", 3, 6), ("multilabel", 2, 4), ("multiclass", 9, 4)],
)
def test_figures_of_each_task(task: str, num_classes: int, num_figures: int) -> None:
    plates = clip_plates(drawing_of(shown_clips(task, 60, num_classes)), "")
    assert len(plates) == num_figures
    assert sum(len(picture.uri) for picture, _ in plates) < 700_000
    assert all(picture.alt and "nan" not in picture.alt for picture, _ in plates)


def test_alternative_texts_tell_the_numbers() -> None:
    clips = shown_clips("multiclass", 60, 3)
    drawing = drawing_of(clips)
    roc, precision = (picture.alt for picture, _ in ranking_plates(drawing))
    for label, ranking in drawing.rankings["recurrent"].items():
        assert f"{label}: sequence model {ranking.roc.area:.3f}" in roc
        assert f"{label}: sequence model {ranking.precision_recall.area:.3f}" in precision


@pytest.mark.parametrize("num_clips", [1, 2])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_few_clips_leave_figures_out_and_say_so(task: str, num_clips: int) -> None:
    drawing = drawing_of(shown_clips(task, num_clips, 2 if task == "binary" else 3))
    clip_plates(drawing, "")
    label_grids(drawing)
    told = "No calibration diagram" in missing_curves(drawing)
    assert told
    assert not calibration_plates(drawing)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_one_class_in_the_test_leaves_curves_out(task: str) -> None:
    clips = shown_clips(task, 20, 2 if task == "binary" else 3, only_class=1)
    drawing = drawing_of(clips)
    assert ranking_plates(drawing) == []
    assert "every test clip is of one class" in missing_curves(drawing)


def test_classes_without_a_test_clip_are_counted() -> None:
    drawing = drawing_of(shown_clips("multiclass", 3, 6))
    missing = 6 - len(drawing.rankings["recurrent"])
    assert f"No curves of {missing} classes" in missing_curves(drawing)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_constant_predictions_are_drawn(task: str) -> None:
    clips = shown_clips(task, 30, 2 if task == "binary" else 3, constant=True)
    drawing = drawing_of(clips)
    assert len(ranking_plates(drawing)) == 2
    assert drawing.rankings["recurrent"][clips.classes[-1]].roc.area == 0.5


def test_a_single_group_has_no_band() -> None:
    clips = shown_clips("binary", 30)
    clips.groups[:] = "p0"
    assert "No interval: too few patients" in captions(ranking_plates(drawing_of(clips)))


def test_many_classes_are_drawn_small() -> None:
    plates = clip_plates(drawing_of(shown_clips("multiclass", 100, 2000)), "")
    assert "Of 2,000, the 100 most frequent in the test" in captions(plates)
    assert all(len(picture.uri) < 400_000 for picture, _ in plates)


@pytest.mark.slow
def test_many_clips_are_drawn_small() -> None:
    plates = clip_plates(drawing_of(shown_clips("multiclass", 20_000, 3)), "")
    assert all(len(picture.uri) < 400_000 for picture, _ in plates)


def test_the_same_clips_give_the_same_figures() -> None:
    first, second = (clip_plates(drawing_of(shown_clips("binary", 40)), "") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("label", ["$\\frac{$", "<script>x</script>", "\ud800"])
def test_hostile_labels_are_drawn_as_plain_text(label: str) -> None:
    clips = shown_clips("multiclass", 40, labels=[label, "other", "third"])
    start = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)[:6]
    plates = [*ranking_plates(drawing_of(clips)), *calibration_plates(drawing_of(clips))]
    assert all("<script" not in svg_in(picture) for picture, _ in plates)
    assert start in plates[0][0].alt

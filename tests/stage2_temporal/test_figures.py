import base64
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from stage2_temporal import (
    figures,
    length_figures,
    picture,
    prediction_figures,
    ranking_figures,
)
from stage2_temporal.curve_bands import Band
from stage2_temporal.ranking_curves import Curve

HOSTILE = ["$a_1$", "$\\frac{$", "<script>x</script>", "_hidden", "a\x00b\nc", "動作", "\ud800"]


def svg_of(figure: Figure) -> str:
    return svg_in(picture.embed(figure, "alt"))


def svg_in(embedded: picture.Picture) -> str:
    prefix = "data:image/svg+xml;base64,"
    assert embedded.uri.startswith(prefix)
    return base64.b64decode(embedded.uri.removeprefix(prefix)).decode("utf-8")


def texts_of(figure: Figure) -> list[str]:
    # S314: the SVG was made a line above.
    root = ElementTree.fromstring(svg_of(figure))  # noqa: S314
    nodes = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()).strip() for node in nodes]


def curve(area: float) -> Curve:
    return Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), area)


def panel(title: str, **areas: float) -> ranking_figures.Panel:
    return ranking_figures.Panel(title, {k: curve(v) for k, v in areas.items()}, None, 0.25)


def test_confusion_counts_by_hand() -> None:
    counts = prediction_figures.confusion_counts(
        ["a", "a", "a", "b", "c"], ["a", "b", "b", "b", "a"], ["c", "b", "a", "never"]
    )
    # Rows are targets, columns predictions, both in the order given.
    assert counts.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]


def test_confusion_figure_shows_counts_and_shares_of_the_row() -> None:
    shown = texts_of(prediction_figures.confusion_figure(np.array([[3, 1], [0, 7]]), ["no", "yes"]))
    for text in ("3", "75%", "1", "25%", "7", "100%", "no", "yes", "target", "predicted"):
        assert text in shown


@pytest.mark.parametrize("num_classes", [2, 9, 20])
def test_confusion_figure_writes_every_label_and_count(num_classes: int) -> None:
    labels = [f"label {i}" for i in range(num_classes)]
    counts = 1000 + np.arange(num_classes**2).reshape(num_classes, num_classes)
    shown = set(texts_of(prediction_figures.confusion_figure(counts, labels)))
    assert set(labels) <= shown
    written = {text.replace(",", "") for text in shown}
    assert {str(count) for count in counts.flat} <= written


@pytest.mark.parametrize("axis", [ranking_figures.ROC, ranking_figures.PRECISION_RECALL])
def test_overlay_names_the_worst_four_of_many_classes(axis: ranking_figures.Axis) -> None:
    curves = {f"c{i}": curve(0.5 + i / 100) for i in range(12)}
    shown = " ".join(texts_of(ranking_figures.overlay_figure(curves, axis)))
    assert all(f"c{i}" in shown for i in range(4))
    assert "c4" not in shown
    assert axis.area in shown


def test_overlay_names_all_of_a_few_classes_with_their_area() -> None:
    curves = {"a": curve(0.9125), "_b": curve(0.5)}
    shown = " ".join(texts_of(ranking_figures.overlay_figure(curves, ranking_figures.ROC)))
    assert "0.912" in shown
    assert "_b" in shown


def test_a_crowd_of_curves_is_rasterised() -> None:
    x = np.linspace(0, 1, 1000)
    curves = {f"c{i}": Curve(x, np.sqrt(x), 0.5) for i in range(50)}
    drawn = svg_of(ranking_figures.overlay_figure(curves, ranking_figures.ROC))
    assert "data:image/png" in drawn
    assert len(drawn) < 300_000


def test_panels_name_classes_models_and_areas() -> None:
    found = [panel("_covid", gru=0.875, mean=0.5), panel("$flu$", gru=0.75, mean=0.25)]
    for axis in (ranking_figures.ROC, ranking_figures.PRECISION_RECALL):
        shown = " ".join(texts_of(ranking_figures.ranking_figure(found, axis)))
        for text in ("_covid", "$flu$", "gru", "mean", "0.875 / 0.500", "0.750 / 0.250", axis.x):
            assert text in shown


def test_a_single_panel_shows_the_band() -> None:
    band = Band(np.array([0.0, 1.0]), np.array([0.0, 0.5]), np.array([0.5, 1.0]))
    found = ranking_figures.Panel("", {"gru": curve(0.875)}, band, None)
    shown = texts_of(ranking_figures.ranking_figure([found], ranking_figures.ROC))
    assert "95% band" in shown
    assert "0.875  gru" in shown


def test_length_figure_names_parts() -> None:
    every = np.array([1.0, 2.0, 2.0, 900.0])
    parts = {"$a$": every[:1], "<b>": every}
    shown = texts_of(length_figures.length_figure(every, parts, name="frames"))
    assert {"$a$", "<b>", "frames", "clips"} <= set(shown)
    assert "frames" in texts_of(length_figures.length_figure(every / 7, {}, name="frames"))


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_labels_are_drawn_as_plain_text(label: str) -> None:
    classes = [label, "other"]
    drawn = [
        prediction_figures.confusion_figure(np.eye(2, dtype=np.int64), classes),
        ranking_figures.overlay_figure({label: curve(0.9)}, ranking_figures.ROC),
        ranking_figures.ranking_figure([panel(label, a=0.9)] * 2, ranking_figures.ROC),
        figures.distribution_figure(classes, [1, 2], [2, 2]),
        figures.interval_figure({label: (0.5, 0.4, 0.6)}, name=label),
    ]
    start = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)[:6]
    for figure in drawn:
        assert start in " ".join(texts_of(figure))


def test_markup_in_labels_is_escaped_in_the_svg() -> None:
    assert "<script" not in svg_of(figures.distribution_figure(["<script>"], [1], None))


def test_the_same_figure_is_the_same_bytes() -> None:
    def draw() -> str:
        return svg_of(figures.distribution_figure(["a", "b"], [1, 2], [2, 2]))

    assert draw() == draw()


def test_curve_figure_marks_the_chosen_epoch_and_bears_gaps() -> None:
    values = {"training": np.array([3.0, np.nan, 1.0]), "validation": np.array([3.0, 2.0, np.nan])}
    epochs = np.array([1, 2, 3])
    marked = figures.curve_figure(epochs, values, name="loss", best_epoch=2)
    assert "chosen: epoch 2" in texts_of(marked)
    unmarked = figures.curve_figure(epochs, values, name="loss", best_epoch=None)
    assert not any("chosen" in text for text in texts_of(unmarked))


def test_scatter_of_many_points_is_rasterised() -> None:
    few, many = (np.linspace(0, 1, n) for n in (20, 20_000))
    assert "data:image/png" not in svg_of(
        prediction_figures.scatter_figure(few, few, limits=(0, 1))
    )
    large = svg_of(prediction_figures.scatter_figure(many, many, limits=(0, 1)))
    assert "data:image/png" in large
    assert len(large) < 500_000


def test_scatter_of_one_constant_value_has_an_axis() -> None:
    picture.embed(prediction_figures.scatter_figure(np.ones(3), np.ones(3), limits=(1, 1)), "alt")


@pytest.mark.parametrize(("count", "named"), [(40, True), (41, False)])
def test_distribution_names_bars_while_they_can_be_read(count: int, named: bool) -> None:
    figure = figures.distribution_figure([f"k{i}" for i in range(count)], [1] * count, None)
    assert ("k7" in texts_of(figure)) is named


def test_shorten_keeps_both_ends() -> None:
    assert picture.shorten("short") == "short"
    assert picture.shorten("abcdefghij", 7) == "abc…hij"


@pytest.mark.parametrize("count", [40, 41, 10_000])
def test_distribution_says_what_balancing_made(count: int) -> None:
    figure = figures.distribution_figure(
        [f"k{i}" for i in range(count)], [1] * count, [2] * count, after_is="sum of weights"
    )
    shown = texts_of(figure)
    assert "before: clips" in shown
    assert "after: sum of weights" in shown
    assert len(svg_of(figure)) < 500_000


def test_median_curve_ends_where_fewer_than_half_go_on() -> None:
    # By hand: medians of {3, 5, 10}, {2, 4, nan}, and one of three values alone.
    curves = [
        (np.array([0, 1, 2]), np.array([3.0, 2.0, 1.0])),
        (np.array([0, 1]), np.array([5.0, 4.0])),
        (np.array([0]), np.array([10.0])),
    ]
    epochs, values = figures.median_curve(curves)
    assert epochs.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(values, [5.0, 3.0, np.nan])


def test_curves_figure_names_trainings_median_and_choice() -> None:
    curve = (np.array([0, 1, 2]), np.array([3.0, 2.0, 2.5]), 1)
    shown = texts_of(figures.curves_figure([curve, curve], name="loss"))
    assert {"each training", "median", "chosen epoch", "loss"} <= set(shown)


def test_strip_figure_bears_gaps_and_many_folds() -> None:
    values = {"model": np.linspace(0, 1, 2000), "none": np.full(2000, np.nan)}
    figure = figures.strip_figure(values, name="AUROC")
    assert {"model", "none", "mean", "AUROC"} <= set(texts_of(figure))
    assert len(svg_of(figure)) < 200_000

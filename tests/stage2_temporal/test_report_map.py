import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal import report_map
from stage2_temporal.report_map import HEIGHT, WIDTH, ClipMap, View, clip_map
from stage2_temporal.run_files import read_run
from tests.stage2_temporal.written_runs import edit, make_run


def map_of(folder: Path) -> ClipMap:
    return clip_map(read_run(folder))


def view(found: ClipMap, name: str) -> View:
    return next(view for view in found.views if view.name == name)


def counts(found: View) -> dict[str, int]:
    return {layer.label: layer.num_clips for layer in found.layers}


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"M([-\d.]+),([-\d.]+)", path)]


def test_points_are_coloured_by_label_group_and_error(tmp_path: Path) -> None:
    found = map_of(make_run(tmp_path))
    assert [view.name for view in found.views] == ["label", "patient", "error"]
    assert counts(view(found, "label")) == {"0": 5, "1": 4}  # eight by turns, and one that trains
    # Of seven test clips all are predicted as 0; four are 1.
    assert counts(view(found, "error")) == {"right": 3, "wrong": 4, "not a test clip": 2}
    assert sum(counts(view(found, "patient")).values()) == 9
    for one in found.views:
        looks = [(layer.colour, layer.marker) for layer in one.layers]
        assert len(set(looks)) == len({marker for _, marker in looks}) == len(looks)


def test_test_clips_are_filled(tmp_path: Path) -> None:
    layers = view(map_of(make_run(tmp_path)), "error").layers
    assert [(len(points(layer.tested)), len(points(layer.others))) for layer in layers] == [
        *[(3, 0), (4, 0), (0, 2)]
    ]


def test_axes_have_one_scale_and_y_points_up(tmp_path: Path) -> None:
    found = map_of(make_run(tmp_path))  # clip i is at (2 i, -i)
    x, y = np.array([point[:2] for point in found.points]).T
    assert np.diff(x) == pytest.approx(2 * np.diff(y), abs=0.2)
    assert (np.diff(y) > 0).all()  # down on the screen
    assert (x >= 0).all()
    assert (x <= WIDTH).all()
    assert (y >= 0).all()
    assert (y <= HEIGHT).all()


def test_clips_in_one_place_are_in_the_middle(tmp_path: Path) -> None:
    path = make_run(tmp_path) / "clips.csv"
    pd.read_csv(path, dtype=str).assign(x="3", y="1e-30").to_csv(path, index=False)
    assert {point[:2] for point in map_of(tmp_path).points} == {(WIDTH / 2, HEIGHT / 2)}


@pytest.mark.parametrize("values", [[5.0] * 9, [*range(8), ""], [""] * 9])
def test_values_become_bins(tmp_path: Path, values: list[Any]) -> None:
    path = make_run(tmp_path, "regression") / "clips.csv"
    pd.read_csv(path, dtype=str).assign(target_abnormal=values).to_csv(path, index=False)
    found = counts(view(map_of(tmp_path), "label"))
    assert sum(found.values()) == 9
    assert found.get("no label", 0) == values.count("")
    assert len(found) <= 6
    errors = counts(view(map_of(tmp_path), "error"))
    assert errors["not a test clip"] == 2


def test_of_many_categories_the_rarest_share_a_marker(tmp_path: Path) -> None:
    classes = [f"action {i}" for i in range(30)]
    path = make_run(tmp_path, "multiclass", classes, folds=3) / "clips.csv"
    table = pd.read_csv(path, dtype=str)
    table["target_abnormal"] = [f"action {min(i, 9)}" for i in range(len(table))]
    table.to_csv(path, index=False)
    found = counts(view(map_of(tmp_path), "label"))
    assert len(found) == 8
    assert next(iter(found.items())) == ("action 9", len(table) - 9)
    assert found["3 others"] == 3


def test_many_clips_are_drawn_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, folds=3)
    monkeypatch.setattr(report_map, "MAX_POINTS", 10)
    found = map_of(tmp_path)
    assert len(found.points) == 10
    assert found.caption.startswith("10 of 25 clips, drawn by chance")
    assert found == map_of(tmp_path)


def test_several_targets_have_views_of_their_own(tmp_path: Path) -> None:
    found = map_of(make_run(tmp_path, second="regression", group=None))
    names = ["abnormal", "other", "error of abnormal", "error of other"]
    assert [view.name for view in found.views] == names


def test_words_tell_what_the_map_shows(tmp_path: Path) -> None:
    make_run(tmp_path)
    edit(tmp_path / "data.json", "map_variance", value=[0.375, 0.125])
    found = map_of(tmp_path)
    assert found.axes == (
        "first component, 38% of the variance",
        "second component, 12% of the variance",
    )
    assert "50% of the variance" in found.caption
    assert found.points[1][2] == "clip_1: 1, predicted 0"
    assert found.points[-1][2] == "train: 0"

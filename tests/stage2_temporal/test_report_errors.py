from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.report_errors import density_plates, residual_plates, scatter_plates
from stage2_temporal.report_target import target_view
from stage2_temporal.run_files import Run, read_run
from tests.stage2_temporal.shown import drawing_of, shown_clips
from tests.stage2_temporal.written_runs import make_run


def run_of(folder: Path, learnt: Sequence[str] = (), **options: Any) -> Run:
    """Return a regression with tested values of 20 to 80, and others to learn from by choice."""
    path = make_run(folder, "regression", **options) / "clips.csv"
    table = pd.read_csv(path, dtype=str)
    tested = table[table["video_id"].isin(read_run(folder).tested["abnormal"].video_ids)]
    more = table.iloc[[0] * len(learnt)].assign(
        video_id=[f"other {i}" for i in range(len(learnt))], target_abnormal=list(learnt)
    )
    pd.concat([tested, more]).to_csv(path, index=False)
    return read_run(folder)


def density(run: Run) -> str:
    drawing = drawing_of(run.tested["abnormal"])
    return " ".join(picture.alt for picture, _ in density_plates(drawing, run, "abnormal"))


def test_bias_and_limits_are_told() -> None:
    clips = shown_clips("regression", 60)
    errors = clips.predictions["recurrent"] - clips.target
    half = 1.96 * errors.std(ddof=1)
    [(picture, caption), _] = residual_plates(drawing_of(clips))
    for value in (errors.mean(), errors.mean() - half, errors.mean() + half):
        assert f"{value:.3f} [" in caption
    assert "running median" in picture.alt


@pytest.mark.parametrize("num_clips", [1, 2, 29, 2000])
@pytest.mark.parametrize("constant", [True, False])
def test_any_number_of_clips_can_be_drawn(num_clips: int, constant: bool) -> None:
    drawing = drawing_of(shown_clips("regression", num_clips, constant=constant))
    plates = [*scatter_plates(drawing), *residual_plates(drawing)]
    assert len(plates) == 4
    assert all("nan" not in picture.alt for picture, _ in plates)
    assert sum(len(picture.uri) for picture, _ in plates) < 1_500_000
    told = "No running median" in plates[2][1]
    assert told == (num_clips < 30)


def test_density_counts_clips_to_learn_from_and_errors_of_tested_ones(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["10", "", "20", "30", "40", "10.5"])
    run.settings["settings"]["bins"] = 3
    text = density(run)
    # The tested clips are 20, 30, 40 and, beyond what was learnt from, 50 to 80; all are predicted
    # as 44.5, by the baseline as 45.5.
    for expected in (
        "10 to 20: 2 clips, sequence model undefined",
        "20 to 30: 1 clips, sequence model 24.500, baseline 25.500",
        "30 to 40: 2 clips, sequence model 9.500, baseline 10.500",  # errors 14.5 and 4.5
        "above 40: 0 clips, sequence model 20.500",  # 5.5, 15.5, 25.5 and 35.5
    ):
        assert expected in text
    assert "training and validation clips" in text


def test_folds_learn_from_all_clips(tmp_path: Path) -> None:
    text = density(run_of(tmp_path, folds=3))
    assert "each of 3 folds trains on most" in text
    assert "74 to 80: 3 clips" in text  # of three folds one each


@pytest.mark.parametrize("learnt", [["5", "5"], [""], []])
def test_no_density_where_training_values_have_no_range(tmp_path: Path, learnt: list[str]) -> None:
    assert density(run_of(tmp_path, learnt)) == ""


def test_the_page_has_scatter_errors_and_density(tmp_path: Path) -> None:
    run = run_of(tmp_path, features=True, folds=2)
    view = target_view(run, run.data["targets"][0])
    assert len(view["plates"]) == 3 + 3 + 1
    assert np.isfinite([picture.width for picture, _ in view["plates"]]).all()

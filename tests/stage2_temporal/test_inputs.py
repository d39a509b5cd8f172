"""What a model reads of each clip: side features in the clips' order, scaled by training alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.feature_file import FeatureError
from stage2_temporal.feature_import import import_features
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.inputs import FeatureMatrix, SideFeatures, open_features
from tests.stage2_temporal.synthetic import quick

IDS = np.array([f"clip{i}" for i in range(8)])
AGE = np.array([40.0, 50, 60, 70, 80, 90, 1000, 2000])
TRAIN = np.arange(6)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in another order than the clips, with one more clip; `blood` is blank for clip1."""
    folder = tmp_path_factory.mktemp("features")
    blood = np.where(np.arange(8) == 1, np.nan, np.arange(8.0))
    rows = pd.DataFrame({"video_id": IDS, "age": AGE, "blood": blood})
    rows = pd.concat([rows, pd.DataFrame({"video_id": ["other"], "age": [7.0], "blood": [7.0]})])
    rows.iloc[[5, 8, 1, 7, 0, 3, 2, 6, 4]].to_csv(folder / "t.csv", index=False)
    import_features(folder / "t.csv", folder / "t.h5", FeatureImportSettings())
    return folder / "t.h5"


def opened(table: Path, *feature: str) -> SideFeatures:
    found = open_features(quick(feature_table=table, feature=feature), IDS)
    assert found is not None
    return found


def test_without_a_table_there_are_none() -> None:
    assert open_features(quick(), IDS) is None


@pytest.mark.parametrize("clips", [[0, 1, 2], [7, 0, 7, 3], [6], []])
def test_rows_are_those_of_the_clips_scaled_by_training_clips(
    table: Path, clips: list[int]
) -> None:
    side = opened(table, "age")
    found = side.rows(np.array(clips, np.intp), side.scaler(TRAIN))
    expected = (AGE[clips] - AGE[TRAIN].mean()) / AGE[TRAIN].std()
    np.testing.assert_allclose(found, expected[:, None], rtol=1e-6)
    assert found.dtype == np.float32


def test_all_columns_are_used_by_default_and_blanks_are_marked(table: Path) -> None:
    side = opened(table)
    matrix = FeatureMatrix(side, side.scaler(TRAIN))
    assert side.columns == ("age", "blood")
    assert matrix.shape == (8, 3)
    assert matrix.scaler.outputs == ("age", "blood", "blood is blank")
    assert matrix[np.array([1, 5])][:, 2].tolist() == [1, 0]
    assert matrix[np.array([1])][0, 1] == 0  # the mean of the training clips


def test_columns_come_in_the_order_asked(table: Path) -> None:
    side = opened(table, "blood", "age")
    found = side.table.read(side.positions[[0, 7]], side.columns)
    assert found.tolist() == [[0, 40], [7, 2000]]


@pytest.mark.parametrize(
    ("feature", "message"),
    [(("agee",), "no side feature 'agee'; it has 2"), (("age", "age"), "name a column twice")],
)
def test_wrong_columns_are_refused_before_training(
    table: Path, feature: tuple[str, ...], message: str
) -> None:
    with pytest.raises(FeatureError, match=message):
        opened(table, *feature)


def test_a_clip_without_a_row_is_named(table: Path) -> None:
    with pytest.raises(FeatureError, match=r"no row for 1 clips, e\.g\. .*nobody"):
        open_features(quick(feature_table=table), np.array([*IDS, "nobody"]))


def test_a_table_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_features(quick(feature_table=tmp_path / "t.h5"), IDS)

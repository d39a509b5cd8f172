"""Side features in training: every row belongs to its clip, and only training clips set a scale."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stage2_temporal import features as features_module
from stage2_temporal.feature_file import FeatureBlock, FeatureError, write_features
from stage2_temporal.features import FeatureScaler, FeatureTable, fit_feature_scaler

NUM_ROWS = 200


def write(path: Path, values: Any, ids: list[str] | None = None) -> FeatureTable:
    values = np.asarray(values, np.float32)
    ids = ids or [f"v{i}" for i in range(len(values))]
    write_features(
        path,
        [FeatureBlock(0, 0, values, ids)],
        columns=[f"f{i}" for i in range(values.shape[1])],
        num_rows=len(values),
        id_bytes=max(len(i.encode()) for i in ids),
        attributes={"source": "t.csv", "source_sha256": "0" * 64},
    )
    return FeatureTable(path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    """Row `v<n>` holds n, 2n and 3n; the rows are shuffled."""
    numbers = np.random.default_rng(0).permutation(NUM_ROWS)
    values = numbers[:, None] * np.array([1, 2, 3])
    return write(tmp_path_factory.mktemp("f") / "t.h5", values, [f"v{n}" for n in numbers])


# Reading


@settings(deadline=None)
@given(st.lists(st.integers(0, NUM_ROWS - 1), max_size=40))
def test_rows_belong_to_their_ids_in_any_order(planted: FeatureTable, numbers: list[int]) -> None:
    """Reordered, a part of them, some repeatedly."""
    positions = planted.positions(np.array([f"v{n}" for n in numbers], np.str_))
    found = planted.read(positions)
    assert found.dtype == np.float32
    expected = np.array(numbers, np.float32).reshape(-1, 1) * [1, 2, 3]
    np.testing.assert_array_equal(found, expected)


def test_columns_come_in_the_order_asked(planted: FeatureTable) -> None:
    positions = planted.positions(["v5", "v4"])
    np.testing.assert_array_equal(planted.read(positions, ["f2", "f0"]), [[15, 5], [12, 4]])
    assert planted.read(positions, []).shape == (2, 3)
    with pytest.raises(FeatureError, match=r"no side feature 'g'; it has 3: \['f0', 'f1', 'f2'\]"):
        planted.read(positions, ["g"])
    with pytest.raises(FeatureError, match="name a column twice"):
        planted.read(positions, ["f1", "f1"])


@pytest.mark.parametrize("position", [-1, NUM_ROWS])
def test_positions_outside_are_refused(planted: FeatureTable, position: int) -> None:
    with pytest.raises(IndexError, match=f"of {NUM_ROWS}"):
        planted.read([0, position])


def test_pickled_and_threaded_tables_read_the_same(planted: FeatureTable) -> None:
    everything = planted.read(np.arange(NUM_ROWS))
    copy = pickle.loads(pickle.dumps(planted))  # noqa: S301
    np.testing.assert_array_equal(copy.read(np.arange(NUM_ROWS)), everything)
    fresh = pickle.loads(pickle.dumps(planted))  # noqa: S301
    rows = [np.random.default_rng(i).integers(0, NUM_ROWS, 32) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for asked, found in zip(rows, pool.map(fresh.read, rows), strict=True):
            np.testing.assert_array_equal(found, everything[asked])


def test_a_table_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    table = write(tmp_path / "t.h5", [[1.0]])
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    table.read([0])
    assert len(list(descriptors.iterdir())) == before + 1
    del table
    assert len(list(descriptors.iterdir())) == before


# Ids


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        (["007"], ["7"], r"no row for 1 clips.*'7' is '007' \(as a spreadsheet rewrites numbers\)"),
        (["7.0"], ["7"], r"'7' is '7.0' \(as a spreadsheet"),
        (["Clip"], ["clip"], r"'clip' is 'Clip' \(other capitals\)"),
        (["a b"], ["ab "], r"'ab ' is 'a b' \(other spaces\)"),
        (["a", "b"], ["a", "c", "d"], r"no row for 2 clips, e.g. \['c', 'd'\]; add them"),
        (["a", "b", "a"], ["b", "a"], r"more than one row for 1 clips, e.g. \['a'\]"),
        (["7"], [7], r"type int64, e.g. \[7\].*found by text"),
        (["7"], [7.0], "type float64"),
        (["7"], np.array(["7", 7], object), "type object"),
    ],
)
def test_ids_that_do_not_match(tmp_path: Path, stored: list[str], asked: Any, message: str) -> None:
    table = write(tmp_path / "t.h5", np.zeros((len(stored), 1)), stored)
    with pytest.raises(FeatureError, match=message):
        table.positions(asked)


def test_ids_doubled_far_apart_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage2_temporal.feature_file._ID_ROWS", 3)
    ids = [f"v{i}" for i in range(10)]
    table = write(tmp_path / "t.h5", np.zeros((11, 1)), [*ids, "v1"])
    with pytest.raises(FeatureError, match=r"more than one row.*\['v1'\]"):
        table.positions(ids)
    assert table.positions(["v9", "v3"]).tolist() == [9, 3]


def test_ids_of_any_text_type_are_found(tmp_path: Path) -> None:
    table = write(tmp_path / "t.h5", [[1.0], [2.0]], ["é", "longer id"])
    for asked in (["longer id", "é"], np.array(["longer id", "é"], object)):
        assert table.positions(asked).tolist() == [1, 0]


# The file


@pytest.mark.parametrize("how", ["rewritten", "replaced", "removed", "cut"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_file_that_changes_while_open_is_an_error(
    tmp_path: Path, how: str, *, opened: bool
) -> None:
    path = tmp_path / "t.h5"
    table = write(path, np.zeros((5000, 10)))
    if opened:
        table.read([0])
    if how == "rewritten":
        with h5py.File(path, "r+") as file:
            file["features"][0] = 1
    elif how == "replaced":
        write(tmp_path / "other.h5", np.ones((5000, 10)))
        (tmp_path / "other.h5").replace(path)
    elif how == "removed":
        path.unlink()
    else:
        os.truncate(path, 100_000)
    with pytest.raises(FeatureError, match="changed, replaced or removed"):
        table.read([4999])
    with pytest.raises(FeatureError, match="changed, replaced or removed"):
        table.positions(["v1"])


def test_what_is_no_feature_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="stage2-temporal features TABLE"):
        FeatureTable(tmp_path / "none.h5")
    (tmp_path / "t.csv").write_text("video_id,x\n")
    with pytest.raises(FeatureError, match="no HDF5 file; `stage2-temporal features"):
        FeatureTable(tmp_path / "t.csv")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(FeatureError, match="holds no side features"):
        FeatureTable(tmp_path / "h.h5")


@pytest.mark.parametrize("fault", ["version", "columns", "dtype", "chunked", "ids"])
def test_a_damaged_file_is_refused(tmp_path: Path, fault: str) -> None:
    write(tmp_path / "t.h5", np.zeros((4, 2)))
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        if fault == "version":
            file.attrs["format_version"] = 2
        elif fault == "ids":
            del file["ids"]
        elif fault == "columns":
            del file["columns"]
            file["columns"] = np.array([b"x"])
        else:
            del file["features"]
            dtype, chunks = (np.float64, None) if fault == "dtype" else (np.float32, (1, 2))
            file.create_dataset("features", (4, 2), dtype, chunks=chunks)
    with pytest.raises(FeatureError, match=r"format version 2|cannot be read as side features"):
        FeatureTable(tmp_path / "t.h5")


@pytest.mark.parametrize("size", [0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, size: float) -> None:
    write(tmp_path / "t.h5", np.zeros((5000, 10)))
    os.truncate(tmp_path / "t.h5", int(size * (tmp_path / "t.h5").stat().st_size))
    with pytest.raises(FeatureError):
        FeatureTable(tmp_path / "t.h5")


# Scaling


def with_blanks(num_rows: int = 300, num_features: int = 5) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    values = rng.normal([3, -1e4, 1e-3, 1e8, 0], [1, 10, 1e-4, 1e5, 2], (num_rows, num_features))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:, 0] = np.nan_to_num(values[:, 0], nan=3.5)
    return values.astype(np.float32)


@pytest.mark.parametrize("block_values", [7, 2**22])
def test_scaling_is_scikit_learns_imputation_and_scaling(
    tmp_path: Path, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "_BLOCK_VALUES", block_values)
    values = with_blanks()
    table = write(tmp_path / "t.h5", values)
    train = np.random.default_rng(0).permutation(300)[:100]
    scaler = fit_feature_scaler(table, train)
    # Deviations are those of the known values: scaling comes first, imputation by 0 then.
    pipeline = make_pipeline(
        StandardScaler(), SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True)
    )
    expected = pipeline.fit(values[train].astype(np.float64)).transform(values.astype(np.float64))
    found = scaler.transform(table.read(np.arange(300)))
    assert found.dtype == np.float32
    assert scaler.num_outputs == found.shape[1] == 9
    assert scaler.outputs[4:] == ("f4", *(f"f{i} is blank" for i in range(1, 5)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_order_of_training_clips_changes_no_bit_and_others_nothing(tmp_path: Path) -> None:
    values = with_blanks()
    train = np.arange(0, 300, 2)
    first = fit_feature_scaler(write(tmp_path / "a.h5", values), train)
    values[1::2] = 1e6
    second = fit_feature_scaler(write(tmp_path / "b.h5", values), train[::-1].copy())
    assert first.to_dict() == second.to_dict()


def test_chosen_columns_are_scaled_as_they_are_read(tmp_path: Path) -> None:
    table = write(tmp_path / "t.h5", with_blanks())
    rows = np.arange(300)
    everything = fit_feature_scaler(table, rows).transform(table.read(rows))
    scaler = fit_feature_scaler(table, rows, ["f3", "f0"])
    found = scaler.transform(table.read(rows, ["f3", "f0"]))
    assert scaler.outputs == ("f3", "f0", "f3 is blank")
    np.testing.assert_array_equal(found, everything[:, [3, 0, 7]])


def test_constant_and_blank_columns_are_left_out_and_told(tmp_path: Path) -> None:
    nan = np.nan
    values = [[1, 5, nan, 2, 0.1], [2, 5, nan, nan, 0.1], [3, 5, nan, 2, 0.1], [9, 9, 9, 9, 9]]
    table = write(tmp_path / "t.h5", values)
    scaler = fit_feature_scaler(table, np.arange(3))
    assert scaler.outputs == ("f0", "f3 is blank")
    assert scaler.notices == (
        "3 side features are constant in all training clips and left out: f1, f3, f4",
        "1 side features are blank in all training clips and left out: f2",
    )
    deviation = np.sqrt(2 / 3)
    np.testing.assert_allclose(
        scaler.transform(table.read(np.arange(4))),
        [[-1 / deviation, 0], [0, 1], [1 / deviation, 0], [7 / deviation, 0]],
        rtol=1e-6,
    )


def test_a_scaler_comes_back_from_json_exactly(tmp_path: Path) -> None:
    table = write(tmp_path / "t.h5", with_blanks())
    scaler = fit_feature_scaler(table, np.arange(100))
    again = FeatureScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    rows = table.read(np.arange(300))
    np.testing.assert_array_equal(again.transform(rows), scaler.transform(rows))
    assert (again.outputs, again.notices) == (scaler.outputs, scaler.notices)


def test_what_cannot_be_scaled_is_an_error(tmp_path: Path) -> None:
    table = write(tmp_path / "t.h5", np.ones((4, 2)))
    with pytest.raises(FeatureError, match=r"no side feature .* varies"):
        fit_feature_scaler(table, np.arange(4))
    with pytest.raises(FeatureError, match="no training clips"):
        fit_feature_scaler(table, np.arange(0))
    table = write(tmp_path / "u.h5", [[0, 1e-30], [1, 2e-30], [2, 3e38]])
    scaler = fit_feature_scaler(table, np.arange(2))
    with pytest.raises(FeatureError, match=r"shape \(3,\); expected \(B, 2\)"):
        scaler.transform(np.zeros(3, np.float32))
    with pytest.raises(FeatureError, match="'f1' has a value more than 1e38 deviations"):
        scaler.transform(table.read(np.arange(3)))


@pytest.mark.slow
def test_memory_is_bounded_by_blocks_not_by_the_file(tmp_path: Path) -> None:
    import tracemalloc

    def blocks() -> Any:
        for start in range(0, 100_000, 1000):
            ids = [f"v{i}" for i in range(start, start + 1000)]
            values = np.random.default_rng(start).normal(size=(1000, 1000)).astype(np.float32)
            yield FeatureBlock(start, 0, values, ids)

    columns = [f"f{i}" for i in range(1000)]
    path = tmp_path / "t.h5"
    attributes = {"source": "t", "source_sha256": "0"}
    write_features(
        path, blocks(), columns=columns, num_rows=100_000, id_bytes=8, attributes=attributes
    )
    table = FeatureTable(path)
    tracemalloc.start()
    scaler = fit_feature_scaler(table, table.positions(pd.Series(table.ids)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scaler.num_outputs == 1000
    assert peak < 0.6 * path.stat().st_size

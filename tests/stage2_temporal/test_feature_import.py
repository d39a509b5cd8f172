"""Import of side features: the values pandas would read, or an error that says what to do."""

import datetime
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from stage1_extract.hdf5_attributes import read_attributes
from stage2_temporal import feature_file, feature_source
from stage2_temporal.feature_import import FeatureImport, import_features
from stage2_temporal.feature_settings import FeatureImportSettings
from stage2_temporal.feature_source import FeatureImportError
from stage2_temporal.features import FeatureTable

ROWS = "video_id,age,sex,smoker,bmi\n007,61,F,true,\nb, 40 , M,FALSE,22.5\nc d,NaN,,n/a,1e3\n"


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run(table: Path, **settings: Any) -> FeatureImport:
    return import_features(table, table.with_suffix(".h5"), FeatureImportSettings(**settings))


def values(result: FeatureImport) -> pd.DataFrame:
    """All features by id, as the file has them."""
    table = FeatureTable(result.path)
    everything = table.read(np.arange(table.num_rows))
    return pd.DataFrame(everything, index=table.ids.tolist(), columns=list(table.columns))


def frame(num_rows: int = 1000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(50, 20, (num_rows, 7)), columns=[f"x{i}" for i in range(7)])
    table = table.mask(rng.random(table.shape) < 0.1)
    table.insert(0, "video_id", [f"clips/ä {i:04d}" for i in range(num_rows)])
    table["count"] = rng.integers(-5, 5, num_rows)
    return table


# What becomes of columns


def test_numbers_booleans_and_texts(tmp_path: Path) -> None:
    result = run(write(tmp_path, ROWS))
    nan = np.nan
    expected = pd.DataFrame(
        [[61, 1, 0, 1, nan], [40, 0, 1, 0, 22.5], [nan, nan, nan, nan, 1000]],
        index=["007", "b", "c d"],
        columns=["age", "sex=F", "sex=M", "smoker", "bmi"],
        dtype=np.float32,
    )
    pd.testing.assert_frame_equal(values(result), expected)
    assert result.kinds == {"number": 2, "category": 1, "boolean": 1}
    assert result.categories == {"sex": ("F", "M")}
    assert (result.num_rows, result.num_features, result.num_blank) == (3, 5, 5)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("piece_values", [500, 2**22])
def test_values_are_those_that_pandas_reads(
    tmp_path: Path, suffix: str, piece_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_source, "PIECE_VALUES", piece_values)
    monkeypatch.setattr(feature_source.ParquetSource, "columns_at_once", 3)
    table, path = frame(), tmp_path / f"t{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
        table = pd.read_csv(path)
    else:
        table.to_parquet(path, row_group_size=300)
    expected = table.set_index("video_id").astype(np.float32).rename_axis(None)
    pd.testing.assert_frame_equal(values(run(path)), expected, check_index_type=False)


def test_parquet_types(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "video_id": [7, 8, 9],
            "flag": pd.array([True, None, False], "boolean"),
            "site": pd.Categorical(["1", "2", None]),
            "count": pd.array([1, None, 3], "Int64"),
            "half": np.array([1, 2, np.nan], np.float16),
            "text": ["u", "v", "u"],
            "nothing": [None, None, None],
        }
    )
    table.to_parquet(tmp_path / "t.parquet")
    found = values(run(tmp_path / "t.parquet"))
    nan = np.nan
    assert found.index.tolist() == ["7", "8", "9"]
    np.testing.assert_array_equal(found["flag"], [1, nan, 0])
    np.testing.assert_array_equal(found[["site=1", "site=2"]], [[1, 0], [0, 1], [nan, nan]])
    np.testing.assert_array_equal(found["count"], [1, nan, 3])
    np.testing.assert_array_equal(found["half"], [1, 2, nan])
    np.testing.assert_array_equal(found["text=u"], [1, 0, 1])
    np.testing.assert_array_equal(found["nothing"], [nan, nan, nan])


@pytest.mark.parametrize("piece_values", [1, 2**22])
def test_texts_that_begin_late_are_found(
    tmp_path: Path, piece_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_source, "PIECE_VALUES", piece_values)
    rows = [f"v{i},{i % 2},{i}" for i in range(500)]
    rows[400] = "v400,seven, NaN "
    path = write(tmp_path, "\n".join(["video_id,site,x", *rows]))
    with pytest.raises(FeatureImportError, match=r"'site' holds numbers.*'seven'.*--category site"):
        run(path)
    found = values(run(path, category=["site"]))
    assert found.columns.tolist() == ["site=0", "site=1", "site=seven", "x"]
    assert found.to_numpy()[400, :3].tolist() == [0, 0, 1]
    assert int(found["site=1"].to_numpy().sum()) == 250
    assert int(np.isnan(found["x"].to_numpy()).sum()) == 1


def test_columns_can_be_left_out(tmp_path: Path) -> None:
    result = run(write(tmp_path, ROWS), drop=["sex", "bmi"])
    assert values(result).columns.tolist() == ["age", "smoker"]
    assert result.dropped == ("sex", "bmi")


def test_ids_stay_text_in_the_order_of_the_table(tmp_path: Path) -> None:
    path = write(tmp_path, "x,name\n1,007\n2, NA \n3,1e3\n4,Ünï\n5,7.0\n")
    assert values(run(path, id_column="name")).index.tolist() == ["007", "NA", "1e3", "Ünï", "7.0"]


def test_file_says_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    result = run(path)
    with h5py.File(result.path) as file:
        attributes = read_attributes(file)
        assert file["features"].shape == (3, 5)
    assert attributes["format"] == "embed-then-sequence features"
    assert attributes["format_version"] == 1
    assert attributes["source"] == "t.csv"
    assert attributes["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (attributes["num_rows"], attributes["num_features"]) == (3, 5)
    assert result.sha256 == attributes["source_sha256"]


def test_thousands_of_columns(tmp_path: Path) -> None:
    names = [f"a feature with a long name {i:05d}" for i in range(3000)]
    table = pd.DataFrame(np.arange(9000.0).reshape(3, 3000), columns=names)
    table.insert(2500, "video_id", ["a", "b", "c"])
    table.to_csv(tmp_path / "t.csv", index=False)
    found = values(run(tmp_path / "t.csv"))
    assert found.columns.tolist() == names
    np.testing.assert_array_equal(found.to_numpy(), np.arange(9000.0).reshape(3, 3000))


# What is refused

BAD_TABLES = {
    "infinite": ("video_id,x\na,1\nb,inf\n", r"'x' is infinite in row 2.*--drop x"),
    "minus infinite": ("video_id,x\na,-1e999\n", r"'x' is infinite in row 1"),
    "too large": ("video_id,x\na,1\nb,-1e39\n", r"'x' reaches 1e\+39"),
    "too fine": ("video_id,x\na,1700000001\nb,1700000002\n", r"'x' lies between.*steps of 128"),
    "too small": ("video_id,x\na,1e-50\nb,2e-50\n", r"'x' lies between 1e-50"),
    "dates": ("video_id,x\na,2024-01-31\nb,2024-02-01 10:30\n", r"'x' looks like dates.*--drop x"),
    "clock": ("video_id,x\na,10:30\n", r"'x' looks like dates or times"),
    "many texts": (
        "video_id,x\n" + "".join(f"v{i},t{i}\n" for i in range(40)),
        r"'x' has more than 32 distinct texts.*--drop x",
    ),
    "mixed": ("video_id,x\na,1\nb,<5\n", r"'x' holds numbers, but also texts such as \['<5'\]"),
    "case": ("video_id,x\na,Left\nb,left\n", r"only in case: \[\['Left', 'left'\]\]"),
    "doubled id": ("video_id,x\na,1\n b,2\nb ,3\n", r"same 'video_id': 1 rows .*\['b'\]"),
    "blank id": ("video_id,x\na,1\n  ,2\n", r"'video_id' of row 2 .* is blank"),
    "control character": ("video_id,x\na\x07,1\n", "control characters"),
    "no id": ("id,x\na,1\n", r"no column 'video_id'; its columns are id, x.*--id-column"),
    "semicolons": ("video_id;x\na;1\n", "looks semicolon-separated"),
    "doubled column": ("video_id,x,x\na,1,2\n", r"these columns twice: \['x'\]"),
    "unnamed column": ("video_id,,x\na,1,2\n", "column 2 has no name"),
    "equal features": ("video_id,x=a,x\na,1,a\nb,1,b\n", r"\['x=a'\] come from two columns"),
    "short row": ("video_id,x,y\na,1,2\nb,1\n", "line 3 has 2 fields, the header has 3"),
    "long row": ("video_id,x\na,1,2\nb,1,2\n", "line 2 has 3 fields, the header has 2"),
    "short quoted row": ('video_id,x,y\n"a,b",1,2\nb,1\n', "line 3 has 2 fields"),
    "no rows": ("video_id,x\n", "a header but no rows"),
    "empty": ("", "is empty"),
    "ids alone": ("video_id\na\n", "no column beside 'video_id'"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_bad_table_is_an_error_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    text, message = BAD_TABLES[what]
    path = write(tmp_path, text)
    with pytest.raises(FeatureImportError, match=message):
        run(path)
    assert list(tmp_path.iterdir()) == [path]


def test_every_bad_column_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "video_id,x,y,z\na,inf,2024-01-01,1\nb,1,2024-01-02,1e300\n")
    with pytest.raises(FeatureImportError, match=r"(?s)'x' is infinite.*'z' reaches.*'y' looks"):
        run(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)], r"type timestamp.*--drop x"),
        ([datetime.timedelta(1)], "type duration"),
        ([[1, 2]], "type list"),
        ([b"raw"], "type binary"),
    ],
)
def test_parquet_types_that_are_no_features(tmp_path: Path, column: Any, message: str) -> None:
    pd.DataFrame({"video_id": ["a"], "x": column}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(FeatureImportError, match=message):
        run(tmp_path / "t.parquet")


def test_parquet_ids_with_fractions_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"video_id": [7.0], "x": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(FeatureImportError, match=r"7 or 7\.0\?.*as text"):
        run(tmp_path / "t.parquet")


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FeatureImportError, match="cannot be read as Parquet"):
        run(write(tmp_path, "no parquet", "t.parquet"))
    (tmp_path / "t.csv").write_bytes("video_id,x\nä,1\n".encode("latin-1"))
    with pytest.raises(FeatureImportError, match="UTF-8"):
        run(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="no table"):
        run(tmp_path / "none.csv")


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame(3).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(FeatureImportError, match=r"pip install 'embed-then-sequence\[parquet\]'"):
        run(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop": ["agee"]}, r"no column 'agee' \(--drop\); names like it: \['age'\]"),
        ({"category": ["none"]}, "no column 'none'"),
        ({"drop": ["age"], "category": ["age"]}, "choose one"),
        ({"drop": ["video_id"]}, "names the clips"),
        ({"max_categories": 0}, "1 or more"),
        ({"max_categories": 1}, "'sex' has more than 1 distinct texts"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = write(tmp_path, ROWS)
    with pytest.raises(ValueError, match=message):
        run(path, **settings)


# The file appears whole or not at all


def test_existing_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    run(path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        run(path)
    write(tmp_path, "video_id,x\na,1\n")
    assert values(run(path, overwrite=True)).columns.tolist() == ["x"]
    write(tmp_path, "video_id,x\na,inf\n")
    with pytest.raises(FeatureImportError):
        run(path, overwrite=True)
    assert FeatureTable(tmp_path / "t.h5").columns == ("x",)


@pytest.mark.parametrize(("name", "error"), [("t.csv", ValueError), ("no/t.h5", FileNotFoundError)])
def test_out_must_be_an_hdf5_name_in_a_folder(
    tmp_path: Path, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"\.h5"):
        import_features(write(tmp_path, ROWS), tmp_path / name, FeatureImportSettings())


def test_full_disk_leaves_nothing_behind(tmp_path: Path, tiny_filesystem: Path) -> None:
    pd.DataFrame({"video_id": range(300_000), "x": 1.5}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(OSError, match=r"cannot write .*Nothing was left behind"):
        import_features(tmp_path / "t.csv", tiny_filesystem / "t.h5", FeatureImportSettings())
    assert list(tiny_filesystem.iterdir()) == []


def test_failing_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    path = write(tmp_path, ROWS)
    monkeypatch.setattr(feature_file, "sync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        run(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("when", ["survey", "write"])
def test_table_that_changes_meanwhile_is_an_error(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, ROWS)
    original: Callable[..., Any] = feature_source.CsvSource.pieces

    def pieces(source: Any, **wanted: Any) -> Any:
        yield from original(source, **wanted)
        if wanted.get("known", False) == (when == "write"):
            write(tmp_path, ROWS.replace("61", "62.0").replace("M", "X"))

    monkeypatch.setattr(feature_source.CsvSource, "pieces", pieces)
    with pytest.raises(FeatureImportError, match="was changed while it was imported"):
        run(path)
    assert list(tmp_path.iterdir()) == [path]


IMPORT_SLOWLY = """
import sys, time
from pathlib import Path
from stage2_temporal import feature_source
from stage2_temporal.feature_import import FeatureImportSettings, import_features

feature_source.PIECE_VALUES = 1
original = feature_source.CsvSource.pieces

def pieces(source, **wanted):
    for piece in original(source, **wanted):
        yield piece
        if wanted.get("known"):
            print("writing", flush=True)
            time.sleep(0.1)

feature_source.CsvSource.pieces = pieces
import_features(Path(sys.argv[1]), Path(sys.argv[2]), FeatureImportSettings())
"""


@pytest.mark.slow
def test_import_killed_midway_leaves_nothing_that_readers_see(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out" / "t.h5"
    out.parent.mkdir()
    frame(20_000).to_csv(table, index=False)
    command = [sys.executable, "-c", IMPORT_SLOWLY, str(table), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as importer:
        assert importer.stdout is not None
        for _ in range(5):
            assert importer.stdout.readline().strip() == "writing"
        importer.send_signal(signal.SIGKILL)
    left = list(out.parent.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".")
    assert not out.exists()

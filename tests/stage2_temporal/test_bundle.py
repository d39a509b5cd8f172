"""The models of a run folder: nothing in them is executed, and their mean and spread predict."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.bundle import Bundle, extract_settings
from stage2_temporal.features import FeatureTable
from stage2_temporal.file_hashes import write_file_hashes
from stage2_temporal.models import Output, build_model
from stage2_temporal.run_facts import RunFacts
from stage2_temporal.safe_loading import load_model
from stage2_temporal.statistics import FeatureStatistics
from stage2_temporal.training import TrainResult
from tests.marks import slow
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import NUM_CLIPS, WholeRun
from tests.stage2_temporal.written_runs import edit

keras = load_keras()


@pytest.fixture
def run(holdout_run: TrainResult, tmp_path: Path) -> Path:
    """A copy of a run folder that may be damaged."""
    return Path(shutil.copytree(holdout_run.folder, tmp_path / "run"))


def padded(store: EmbeddingStore, count: int) -> dict[str, Any]:
    sequences = [store.read(i) for i in range(count)]
    return {"embedding": np.stack(sequences), "mask": np.ones((count, len(sequences[0])), bool)}


def test_mean_and_spread_are_those_of_models_that_plain_keras_loads(
    folds_run: WholeRun, whole_data: Path
) -> None:
    store, table = EmbeddingStore(whole_data / "store"), FeatureTable(whole_data / "table.h5")
    bundle = Bundle.open(folds_run.folder)
    inputs = padded(store, NUM_CLIPS)
    features = table.read(table.positions(store.video_ids), bundle.facts.feature_columns)
    found = bundle.predict({**inputs, "features": features})
    outputs = []
    for path in sorted(folds_run.folder.glob("model-*.keras")):
        stored = json.loads((path.parent / f"features{path.stem[5:]}.json").read_text())
        values = (features - np.array(stored["mean"])) / np.array(stored["deviation"])
        blank = np.isnan(features[:, stored["indicators"]])
        scaled = np.concatenate([np.nan_to_num(values), blank], axis=1).astype(np.float32)
        model = keras.saving.load_model(path)
        outputs.append(model.predict({**inputs, "features": scaled}, verbose=0))
    assert len(outputs) == len(bundle.models) == 4
    for number, prediction in enumerate(found):
        each = np.stack([output[f"target_{number}"] for output in outputs]).astype(np.float64)
        np.testing.assert_allclose(prediction.mean, each.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(
            prediction.spread, each.std(axis=0, ddof=1), rtol=1e-3, atol=1e-6
        )


def test_one_model_has_no_spread(holdout_run: TrainResult, whole_data: Path) -> None:
    [grade, labels] = Bundle.open(holdout_run.folder).predict(
        padded(EmbeddingStore(whole_data / "store"), 3)
    )
    assert grade.mean.shape == (3, 3)
    assert labels.mean.shape == (3, 2)
    assert np.isnan(grade.spread).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "gru", "pooling": "attention"},
        *slow(
            {"head": "lstm", "bidirectional": True, "layers": 2, "pooling": "mean"},
            {"head": "tcn", "pooling": "max"},
            {"head": "tcn", "bidirectional": True, "projection": 0, "skip": False},
            {"head": "transformer", "layer_norm": False},
            {"head": "gru", "bidirectional": True, "precision": "mixed_bfloat16"},
        ),
    ],
)
def test_every_head_passes_the_check(changes: dict[str, Any], tmp_path: Path) -> None:
    statistics = FeatureStatistics(np.zeros(5), np.ones(5))
    outputs = [Output("target_0", "multiclass", 3), Output("target_1", "regression", 1)]
    model = build_model(
        quick(**changes), statistics, outputs, dtype="float16", num_features=2
    ).model
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    inputs = {
        "embedding": rng.normal(size=(2, 8, 5)).astype(np.float16),
        "mask": np.arange(8) < np.array([[8], [3]]),
        "features": rng.normal(size=(2, 2)).astype(np.float32),
    }
    loaded = load_model(tmp_path / "model.keras").predict_on_batch(inputs)
    for key, values in model.predict_on_batch(inputs).items():
        np.testing.assert_array_equal(loaded[key], values)


# hostile folders


def write_hostile(path: Path, mark: Path, kind: str) -> None:
    """Write a model that, loaded or called without care, makes a file `mark`."""
    inputs = keras.Input((None, 3))
    if kind == "lambda":
        code = f"lambda x: [open({str(mark)!r}, 'w'), x][1]"
        outputs = keras.layers.Lambda(eval(code), output_shape=(None, 3))(inputs)  # noqa: S307
        keras.Model(inputs, outputs).save(path)
        mark.unlink(missing_ok=True)  # it ran when the model was made
        return
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(path)
    foreign: dict[str, Any] = {"module": "subprocess", "class_name": "run", "registered_name": None}
    foreign |= {"config": {"args": ["touch", str(mark)]}}
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    layer = config["config"]["layers"][1]
    if kind == "foreign layer":
        config["config"]["layers"][1] = layer | foreign
    elif kind == "foreign function":
        name = {"module": "os", "class_name": "function", "config": "system"}
        layer["config"]["activation"] = name | {"registered_name": "system"}
    else:
        layer.update(module="keras.layers", class_name="TFSMLayer")
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("lambda", "Lambda"),
        ("foreign layer", "subprocess.run"),
        ("foreign function", "os.function"),
        ("layer that loads code", "TFSMLayer"),
    ],
)
def test_a_model_that_could_run_code_is_refused_and_not_executed(
    run: Path, tmp_path: Path, kind: str, named: str
) -> None:
    mark = tmp_path / "executed"
    write_hostile(run / "model.keras", mark, kind)
    write_file_hashes(run)
    with pytest.raises(ValueError, match=rf"model.keras holds .*{named}.*it was not loaded"):
        Bundle.open(run)
    assert not mark.exists()


def test_a_model_of_other_outputs_than_the_documents_promise_is_refused(run: Path) -> None:
    inputs = {
        "embedding": keras.Input((None, 3), name="embedding"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    mean = keras.ops.mean(inputs["embedding"], axis=1)
    keras.Model(inputs, {"target_0": keras.layers.Dense(7)(mean)}).save(run / "model.keras")
    write_file_hashes(run)
    with pytest.raises(ValueError, match=r"widths .*'target_0': 7.*promise .*'target_1': 2"):
        Bundle.open(run)


def damage(run: Path, how: str) -> None:
    if how == "altered":
        edit(run / "data.json", "targets", 0, "classes", value=["high", "low", "mid"])
    elif how == "missing":
        (run / "model.keras").unlink()
    elif how == "unlisted":
        edit(run / "files.json", "sha256", value={})
    elif how == "version":
        edit(run / "settings.json", "format_version", value=2)
    elif how == "no JSON":
        (run / "data.json").write_text("[" * 10**5)
    elif how == "elsewhere":
        edit(run / "data.json", "best_epochs", value={"../x": 1, "y": 2})
    elif how == "thresholds":
        edit(run / "data.json", "targets", 1, "thresholds", value=[0.5])
    else:
        (run / "model.keras").write_bytes(b"PK")
        write_file_hashes(run)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("altered", r"not the run that was trained \(altered: data.json\)"),
        ("missing", "missing: model.keras"),
        ("unlisted", "altered: settings.json, data.json, model.keras"),
        ("version", "version 3, got 'stage2-run', version 2"),
        ("no JSON", "not JSON"),
        ("elsewhere", r"best_epochs names \['../x', 'y'\]"),
        ("thresholds", r"thresholds of target 'a\+b' do not suit"),
        ("not a zip", "cannot be read as a Keras model"),
    ],
)
def test_a_damaged_run_folder_is_refused(run: Path, how: str, message: str) -> None:
    damage(run, how)
    with pytest.raises(ValueError, match=message):
        Bundle.open(run)


def test_a_store_that_says_nothing_of_videos_cannot_be_imitated(holdout_run: TrainResult) -> None:
    with pytest.raises(ValueError, match=r"does not say how .*sampling.*--store"):
        extract_settings(RunFacts.read(holdout_run.folder))

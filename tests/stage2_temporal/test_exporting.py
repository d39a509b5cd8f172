"""Exported models, computed by ONNX Runtime and TensorFlow, against Keras and plain numpy."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stage1_extract.backbones import WeightsError
from stage1_extract.config import ExtractSettings
from stage1_extract.extraction import extract
from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal import exporting, onnx_export
from stage2_temporal.config import HEADS, POOLINGS, TrainSettings
from stage2_temporal.export_check import ExportError
from stage2_temporal.export_metadata import name_outputs
from stage2_temporal.export_settings import ExportSettings
from stage2_temporal.exporting import export
from stage2_temporal.features import FeatureScaler
from stage2_temporal.joined_model import JoinedModel, JoinedOutput, inference_copy
from stage2_temporal.models import Output, build_model
from stage2_temporal.onnx_export import METADATA_KEY, read_onnx, write_onnx
from stage2_temporal.run_facts import BundleTarget
from stage2_temporal.saved_model_export import METADATA_FILE, read_saved_model
from stage2_temporal.statistics import FeatureStatistics
from stage2_temporal.training import TrainResult, train
from tests.commands import code_of, commands_of, write_inputs
from tests.marks import xslow
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import WholeRun, names, read_json

Arrays = dict[str, NDArray[Any]]
Function = Callable[[Arrays], Arrays]

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
DIM = 3
OUTPUTS = [
    Output("target_0", "binary", 1),
    Output("target_1", "multiclass", 3),
    Output("target_2", "regression", 1),
]
NAMES = ["a+b", "größe x/y", "mask"]


def exported(run: Path, out: Path, **settings: Any) -> Function:
    """Export, and return what was written as a function."""
    export(run, out, ExportSettings(**settings))
    return read_onnx(out) if settings.get("format", "onnx") == "onnx" else read_saved_model(out)


def metadata(path: Path) -> Any:
    if path.is_dir():
        return read_json(path / METADATA_FILE)
    session = onnxruntime.InferenceSession(path)
    return json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])


def clips(lengths: list[int], length: int, *, dtype: str = "float32") -> Arrays:
    """Return embeddings by chance, zeros where there is no frame."""
    rng = np.random.default_rng(length)
    mask = np.arange(length) < np.array(lengths)[:, None]
    embedding = rng.normal(size=(*mask.shape, DIM)) * mask[..., None]
    return {"embedding": embedding.astype(dtype), "mask": mask}


# whole runs


def plain_predictions(run: Path, inputs: Arrays, key: str) -> NDArray[np.float64]:
    """Return what each model (M, B, k) says, by Keras and the scalers' numbers alone."""
    found = []
    for path in sorted(run.glob("model*.keras")):
        model = load_keras().saving.load_model(path)
        given = {"embedding": inputs["embedding"], "mask": inputs["mask"]}
        scaler = run / path.name.replace("model", "features").replace(".keras", ".json")
        if scaler.exists():
            given["features"] = scaled(inputs["features"], read_json(scaler))
        found.append(np.asarray(model(given, training=False)[key], np.float64))
    return np.stack(found)


def scaled(features: NDArray[Any], scaler: Any) -> NDArray[np.float32]:
    mean, deviation = np.array(scaler["mean"]), np.array(scaler["deviation"])
    used = deviation > 0
    standard = np.nan_to_num((features[:, used] - mean[used]) / deviation[used], nan=0.0)
    blank = np.isnan(features[:, np.array(scaler["indicators"])])
    return np.concatenate([standard, blank], axis=1).astype(np.float32)


@pytest.mark.xslow
@pytest.mark.parametrize("kind", ["onnx", "savedmodel"])
def test_a_run_of_folds_predicts_the_mean_and_the_spread_of_its_models(
    folds_run: WholeRun, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / ("head.onnx" if kind == "onnx" else "head")
    function = exported(folds_run.folder, out, format=kind, part="head")
    inputs = clips([5, 2, 0], 5)
    inputs["features"] = np.array([[1.5, 1, 0], [np.nan, 0, 1], [-9, 1, 0]], np.float32)
    found = function(inputs)
    assert metadata(out)["features"] == ["tells", "scanner=GE", "scanner=Philips"]
    for key, name in (("target_0", "label"), ("target_1", "ef")):
        expected = plain_predictions(folds_run.folder, inputs, key)
        assert len(expected) == 4
        mean, spread = expected.mean(axis=0), expected.std(axis=0, ddof=1)
        np.testing.assert_allclose(found[name], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[f"{name}:spread"], spread, rtol=1e-3, atol=1e-4)


def test_a_single_model_has_no_spread_and_its_columns_are_named(
    holdout_run: TrainResult, tmp_path: Path
) -> None:
    out = tmp_path / "head.onnx"
    found = exported(holdout_run.folder, out, part="head")(clips([2], 4))
    assert {name: values.shape for name, values in found.items()} == {
        "grade": (1, 3),
        "a+b": (1, 2),
    }
    grade, both = metadata(out)["targets"]
    assert grade["columns"] == grade["classes"] == ["high", "low", "mid"]
    assert both["thresholds"] == [0.5, 0.5]
    assert grade["spread_output"] is grade["thresholds"] is None


def test_batch_and_frames_are_free_axes(holdout_run: TrainResult, tmp_path: Path) -> None:
    export(holdout_run.folder, tmp_path / "head.onnx", ExportSettings(part="head"))
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {"embedding": ["batch", "frames", DIM], "mask": ["batch", "frames"]}
    assert [value.shape for value in session.get_outputs()] == [["batch", 3], ["batch", 2]]


def test_an_export_is_replaced_only_when_asked(holdout_run: TrainResult, tmp_path: Path) -> None:
    (tmp_path / "head.onnx").write_text("mine")
    (tmp_path / "folder").mkdir()
    run, settings = holdout_run.folder, ExportSettings(part="head")
    with pytest.raises(FileExistsError, match=r"head.onnx exists; choose .* --overwrite"):
        export(run, tmp_path / "head.onnx", settings)
    folder = dataclasses.replace(settings, format="savedmodel", overwrite=True)
    with pytest.raises(FileExistsError, match="folder was not exported before and is not replaced"):
        export(run, tmp_path / "folder", folder)
    result = export(run, tmp_path / "head.onnx", dataclasses.replace(settings, overwrite=True))
    assert 0 <= result.max_difference < 1e-5
    assert result.inputs == {"embedding": (None, None, DIM), "mask": (None, None)}
    assert set(result.differences) == {"grade", "a+b"}
    assert read_onnx(result.path)(clips([1], 1))
    assert names(tmp_path) == ["folder", "head.onnx"]


def test_an_export_that_computes_otherwise_is_removed(
    holdout_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(model: Any) -> Any:
        copy = inference_copy(model)
        copy.set_weights([weight + 0.5 for weight in copy.get_weights()])
        return copy

    monkeypatch.setattr(exporting, "inference_copy", altered)
    with pytest.raises(ExportError, match=r"computes 'grade' otherwise than Keras.*not kept"):
        export(holdout_run.folder, tmp_path / "head.onnx", ExportSettings(part="head"))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("model", {}, "asked for as onnx; a file with --format onnx ends in .onnx"),
        ("model.onnx", {"format": "savedmodel"}, "asked for as savedmodel"),
        ("model.onnx", {"format": "tflite"}, "format is 'tflite'; expected one of onnx, savedm"),
        ("model.onnx", {"part": "tail"}, "part is 'tail'; expected one of both, head, backbone"),
        ("model.onnx", {"part": "head", "weights": Path("w.h5")}, "part head has no backbone"),
    ],
)
def test_wrong_settings_are_refused(
    holdout_run: TrainResult, tmp_path: Path, out: str, settings: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export(holdout_run.folder, tmp_path / out, ExportSettings(**settings))


def test_a_missing_package_is_named(
    holdout_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match=r"tf2onnx.*pip install 'embed-then-sequence\[onnx\]'"):
        export(holdout_run.folder, tmp_path / "head.onnx", ExportSettings(part="head"))


def test_another_backend_is_refused(
    holdout_run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "chosen_backend", lambda: "jax")
    with pytest.raises(ValueError, match="Keras runs on jax; set KERAS_BACKEND=tensorflow"):
        export(holdout_run.folder, tmp_path / "head.onnx", ExportSettings(part="head"))


# every head


def a_model(**settings: Any) -> Any:
    """Return a model with weights by chance, whose predictions differ from clip to clip."""
    rng = np.random.default_rng(0)
    statistics = FeatureStatistics(rng.normal(size=DIM), rng.uniform(0.5, 2, DIM))
    asked = TrainSettings("x", **{"units": 8, "projection": 4, **settings})
    model = build_model(asked, statistics, OUTPUTS, dtype="float16").model
    weights = model.get_weights()
    model.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in weights])
    return model


def joined_of(models: list[Any], spread: str | None = None) -> JoinedModel:
    outputs = [
        JoinedOutput(output.key, name, spread and name + spread)
        for output, name in zip(OUTPUTS, NAMES, strict=True)
    ]
    return JoinedModel(models, [None] * len(models), outputs, DIM, "float16")


def converted(model: Any, path: Path) -> Function:
    outputs = [dataclasses.replace(o, mean=f"{o.mean}_") for o in joined_of([]).outputs]
    joined = dataclasses.replace(joined_of([inference_copy(model)]), outputs=outputs)
    write_onnx(joined, path, "{}")
    return read_onnx(path)


# A pooling sees states alone, so each head and each pooling need to be there once, not all pairs.
CASES = [(head, "last", False) for head in HEADS]
CASES += [("gru", pooling, False) for pooling in POOLINGS if pooling != "last"]
CASES += [("gru", "last", True), ("lstm", "attention", True), ("tcn", "max", True)]
FAST = {("gru", "last", False), ("tcn", "attention", False)}


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis 1:UserWarning")
@pytest.mark.parametrize(
    ("head", "pooling", "both_ways"),
    [*sorted(FAST), *xslow(*(case for case in CASES if case not in FAST))],
)
def test_every_head_computes_the_same_in_onnx(
    tmp_path: Path, head: str, pooling: str, both_ways: bool
) -> None:
    model = a_model(head=head, pooling=pooling, bidirectional=both_ways, layers=2)
    function = converted(model, tmp_path / "m.onnx")
    for lengths, length in ([1], 1), ([9, 4, 0, 1], 9), ([30], 41):
        inputs = clips(lengths, length, dtype="float16")
        expected = model(inputs, training=False)
        found = function(inputs | {"embedding": inputs["embedding"].astype(np.float32)})
        for output, name in zip(OUTPUTS, NAMES, strict=True):
            np.testing.assert_allclose(found[f"{name}_"], expected[output.key], atol=5e-6)


@pytest.mark.parametrize("changes", [{"skip": False, "layer_norm": False}, {"projection": 0}])
def test_paths_that_are_left_out_are_left_out(tmp_path: Path, changes: Any) -> None:
    model = a_model(head="tcn", **changes)
    inputs = clips([4, 2], 4, dtype="float16")
    found = converted(model, tmp_path / "m.onnx")(
        inputs | {"embedding": inputs["embedding"].astype(np.float32)}
    )
    np.testing.assert_allclose(found["a+b_"], model(inputs)["target_0"], atol=5e-6)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_lower_precision_is_exported_in_float32(precision: str) -> None:
    model, whole = a_model(head="gru", precision=precision), a_model(head="gru")
    whole.set_weights(model.get_weights())
    copy = inference_copy(model)
    assert {layer.compute_dtype for layer in copy.layers[2:]} <= {"float32", "bool"}
    inputs = clips([4, 2], 4, dtype="float16")
    for key, expected in whole(inputs, training=False).items():
        np.testing.assert_allclose(copy(inputs, training=False)[key], expected, atol=1e-6)


def test_recurrent_layers_do_without_cudnn() -> None:
    layers = inference_copy(a_model(head="lstm", bidirectional=True)).layers
    assert [layer.use_cudnn for layer in layers if hasattr(layer, "use_cudnn")] == [False, False]


# what stands around the models


def test_embeddings_are_rounded_as_the_store_does(tmp_path: Path) -> None:
    model = a_model(head="tcn")
    function, inputs = converted(model, tmp_path / "m.onnx"), clips([8], 8)
    rounded = inputs | {"embedding": inputs["embedding"].astype("float16").astype("float32")}
    assert (rounded["embedding"] != inputs["embedding"]).any()
    for name, values in function(inputs).items():
        np.testing.assert_array_equal(values, function(rounded)[name])
    exact = inference_copy(model)(inputs, training=False)["target_2"]
    assert np.abs(exact - function(inputs)["mask_"]).max() > 1e-5


def test_nothing_in_the_padding_matters(tmp_path: Path) -> None:
    function, inputs = converted(a_model(head="gru"), tmp_path / "m.onnx"), clips([3, 0, 6], 6)
    other = np.where(inputs["mask"][..., None], inputs["embedding"], np.nan)
    for name, values in function(inputs | {"embedding": other.astype(np.float32)}).items():
        np.testing.assert_array_equal(values, function(inputs)[name])


def test_side_features_are_scaled_without_losing_digits() -> None:
    """Years around 2000 that differ by little, a constant, and blanks."""
    scaler = FeatureScaler(
        ("year", "constant", "score"),
        np.array([2000.0, 0.0, 5.0]),
        np.array([1e-3, 0.0, 2.0]),
        np.array([False, False, True]),
    )
    joined = JoinedModel(
        [lambda clip, training: {"target_0": clip["features"]}],
        [scaler],
        [JoinedOutput("target_0", "found", None)],
        DIM,
        "float32",
    )
    rows = np.array([[2000.0005, 7, 9], [np.nan, 7, np.nan]], np.float32)
    year = np.float64(np.float32(2000.0005)) - 2000
    found = joined({**clips([1, 1], 1), "features": rows})["found"]
    expected = np.array([[year / 1e-3, 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_spread_is_the_sample_standard_deviation() -> None:
    values = np.array([[0.25], [0.5], [0.9]], np.float32)
    models = [lambda *_, v=v, **__: {output.key: v[None] for output in OUTPUTS} for v in values]
    joined = joined_of(models, spread=":spread")
    found = joined(clips([1], 1))
    assert float(found["a+b"][0, 0]) == pytest.approx(0.55)
    assert float(found["a+b:spread"][0, 0]) == pytest.approx(np.std(values, ddof=1))


def test_outputs_are_named_by_target_and_never_like_another_or_an_input() -> None:
    targets = [BundleTarget(name, "regression", (), ()) for name in ("age", "age:spread", "mask")]
    assert [output.mean for output in name_outputs(targets, 1)] == ["age", "age:spread", "mask_"]
    several = name_outputs(targets, 2)
    names = [name for output in several for name in (output.mean, output.spread)]
    assert names == [
        "age",
        "age:spread",
        "age:spread_",
        "age:spread:spread",
        "mask_",
        "mask:spread",
    ]


def test_what_onnx_cannot_hold_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "_handlers", dict)
    with pytest.raises(ValueError, match=r"cannot be written as ONNX: .*Erfc.*savedmodel"):
        converted(a_model(head="transformer"), tmp_path / "m.onnx")
    assert names(tmp_path) == []


# frames in, and the page of the documentation


def test_what_backbones_begin_with_and_are_made_of_is_converted(tmp_path: Path) -> None:
    """Means of colours, which are constants (EfficientNet), grouped convolutions (ConvNeXt)."""
    layers = load_keras().layers
    backbone = load_keras().Sequential(
        [
            load_keras().Input((8, 8, 3), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06]),
            layers.Conv2D(6, 3, groups=3, activation="gelu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    joined = JoinedModel([], [], [], 6, "float32", backbone)
    write_onnx(joined, tmp_path / "m.onnx", "{}")
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    found = read_onnx(tmp_path / "m.onnx")({"frames": frames})
    np.testing.assert_allclose(found["embedding"], backbone(frames), atol=1e-5)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, their store in float32, and a run of three folds; embedded by a random network."""
    folder = tmp_path_factory.mktemp("videos")
    write_inputs(folder)
    (folder / "new.csv").write_text("path,video_id\nnew/a.mp4,a\nnew/b.mp4,b\n")
    how = ExtractSettings(
        "MobileNet", alpha=0.25, input_size=32, weights="random", dtype="float32", decoders=1
    )
    extract(folder / "videos.csv", folder / "store", how)
    extract(folder / "new.csv", folder / "new-store", how)
    settings = quick("abnormal", group="patient", validation="kfold", folds=3, gain_confidence=0)
    train(folder / "store", folder / "videos.csv", folder / "runs" / "first", settings)
    return folder


@pytest.fixture
def exports(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with what the page's commands export."""
    monkeypatch.chdir(videos)
    for command in commands_of(PAGE.read_text("utf-8")):
        program, name, run, out, *flags = shlex.split(command)
        assert (program, name) == ("stage2-temporal", "export")
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        changes: Any = {flag.removeprefix("--"): value for flag, value in given.items()}
        if not Path(out).exists():
            export(run, out, ExportSettings(**changes))
    return videos


@pytest.mark.xslow
def test_the_code_of_the_page_predicts_what_both_stages_do(
    exports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = code_of(PAGE.read_text("utf-8"), "python")
    spaces: list[dict[str, Any]] = [{} for _ in blocks]
    for block, space in zip(blocks, spaces, strict=True):
        exec(compile(block, "export.md", "exec"), space)  # noqa: S102
    assert capsys.readouterr().out.count("abnormal ['1']") == 2
    store = EmbeddingStore(exports / "new-store")
    for row, video_id in enumerate("ab"):
        embedding = store.read(store.find(video_id))[None]
        inputs = {"embedding": embedding, "mask": np.ones(embedding.shape[:2], bool)}
        expected = plain_predictions(exports / "runs" / "first", inputs, "target_0")
        found = spaces[0]["found"]
        np.testing.assert_allclose(found["abnormal"][row], expected.mean(axis=0)[0], atol=1e-5)
        spread = expected.std(axis=0, ddof=1)[0]
        np.testing.assert_allclose(found["abnormal:spread"][row], spread, atol=1e-5)
    whole, parts = spaces[1]["found"]["abnormal"], spaces[2]["embedding"]
    by_parts = read_onnx(exports / "head.onnx")({"embedding": parts, "mask": spaces[2]["mask"]})
    np.testing.assert_allclose(whole, by_parts["abnormal"], atol=1e-5)


@pytest.mark.xslow
def test_other_weights_than_the_stores_are_refused(exports: Path, tmp_path: Path) -> None:
    keras = load_keras()
    network = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, input_shape=(32, 32, 3), pooling="avg"
    )
    network.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(WeightsError, match=r"hash of their values is .*with --weights"):
        export(
            exports / "runs" / "first",
            tmp_path / "m.onnx",
            ExportSettings(weights=tmp_path / "other.weights.h5"),
        )

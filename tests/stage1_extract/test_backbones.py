import inspect
import socket
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.backbones import BACKBONES, Embedder, WeightsError
from stage1_extract.keras_setup import load_keras

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
MOBILENET = WEIGHTS / "mobilenet_7_5_224_tf_no_top.rebuilt.h5"
needs_weights = pytest.mark.skipif(
    not MOBILENET.exists(), reason=f"needs genuine weights at {WEIGHTS}"
)


def random_frames(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def tf_mode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.float32(127.5) - np.float32(1)


def caffe_mode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)


def torch_mode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    return (x / np.float32(255) - mean) / deviation


def built_in(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x


def test_the_table_holds_every_model_of_keras_applications() -> None:
    applications = load_keras().applications
    functions = {n for n, f in vars(applications).items() if inspect.isfunction(f)}
    assert set(BACKBONES) == functions


# MobileNetV3 takes frames of any size and asks for no default.
@pytest.mark.parametrize("name", [n for n in BACKBONES if not n.startswith("MobileNetV3")])
def test_input_size_is_the_one_keras_was_trained_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = load_keras()

    class Asked(Exception):  # noqa: N818
        pass

    def capture(*args: Any, default_size: int, **kwargs: Any) -> None:
        raise Asked(default_size)

    constructor = getattr(keras.applications, name)
    module = inspect.getmodule(constructor)
    monkeypatch.setattr(f"{module.__name__}.imagenet_utils.obtain_input_shape", capture)  # type: ignore[union-attr]
    with pytest.raises(Asked) as asked:
        constructor(weights=None)
    assert asked.value.args == (BACKBONES[name].input_size,)


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("MobileNetV2", tf_mode),
        ("MobileNetV3Small", built_in),
        pytest.param("ResNet50", caffe_mode, marks=pytest.mark.slow),
        pytest.param("DenseNet121", torch_mode, marks=pytest.mark.xslow),
        pytest.param("EfficientNetB0", built_in, marks=pytest.mark.xslow),
        pytest.param("ConvNeXtTiny", built_in, marks=pytest.mark.xslow),
        pytest.param("NASNetMobile", tf_mode, marks=pytest.mark.xslow),
    ],
)
def test_embeddings_equal_plain_keras_with_preprocessing_by_hand(
    name: str, preprocess: Any
) -> None:
    keras = load_keras()
    frames = random_frames(4, 96)
    embedder = Embedder(name, weights="random", input_size=96, batch_size=4, seed=3)
    keras.utils.set_random_seed(3)
    network = getattr(keras.applications, name)(
        include_top=False, weights=None, pooling="avg", input_shape=(96, 96, 3)
    )
    expected = network.predict(preprocess(frames.astype(np.float32)), verbose=0)
    actual = embedder.embed(frames)
    assert actual.shape == expected.shape == (4, embedder.embedding_dim)
    assert cosine(actual, expected).min() > 0.9999
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@needs_weights
def test_genuine_weights_equal_plain_keras() -> None:
    keras = load_keras()
    frames = random_frames(2, 224)
    embedder = Embedder("MobileNet", weights=str(MOBILENET), alpha=0.75, batch_size=2)
    network = keras.applications.MobileNet(
        include_top=False, weights=str(MOBILENET), alpha=0.75, input_shape=(224, 224, 3)
    )
    features = network.predict(tf_mode(frames.astype(np.float32)), verbose=0)
    assert cosine(embedder.embed(frames), features.mean(axis=(1, 2))).min() > 0.9999


def test_max_pooling_takes_the_largest_value_of_the_last_map() -> None:
    keras = load_keras()
    frames = random_frames(2, 64)
    options = {"weights": "random", "input_size": 64, "batch_size": 2, "alpha": 0.35}
    embedder = Embedder("MobileNetV2", pooling="max", **options)  # type: ignore[arg-type]
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(
        include_top=False, weights=None, alpha=0.35, input_shape=(64, 64, 3)
    )
    expected = network.predict(tf_mode(frames.astype(np.float32)), verbose=0).max(axis=(1, 2))
    np.testing.assert_allclose(embedder.embed(frames), expected, rtol=1e-3)


def test_an_embedding_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    embedder = Embedder("MobileNet", weights="random", alpha=0.25, input_size=64, batch_size=8)
    frames = random_frames(8, 64)
    together = embedder.embed(frames)
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_array_equal(embedder.embed(frames[order]), together[order])
    frames[3:] = 0
    np.testing.assert_array_equal(embedder.embed(frames)[:3], together[:3])


def test_batches_submitted_together_come_back_in_order() -> None:
    embedder = Embedder("MobileNet", weights="random", alpha=0.25, input_size=64, batch_size=4)
    embedder.warm_up()
    frames = random_frames(12, 64)
    pending = [embedder.submit(frames[start : start + 4]) for start in (0, 4, 8)]
    together = np.concatenate([batch.result() for batch in pending])
    alone = [embedder.embed(frames[start : start + 4]) for start in (8, 4, 0)]
    np.testing.assert_array_equal(together, np.concatenate(alone[::-1]))


def test_an_error_while_computing_is_raised_by_the_result() -> None:
    embedder = Embedder("MobileNet", weights="random", alpha=0.25, input_size=64, batch_size=4)
    pending = embedder.submit(random_frames(4, 48))
    with pytest.raises(ValueError, match="shape"):
        pending.result()


@pytest.mark.parametrize("num_frames", [0, 1, 4, 9])
def test_any_number_of_frames_is_embedded_as_in_full_batches(num_frames: int) -> None:
    embedder = Embedder("MobileNet", weights="random", alpha=0.25, input_size=64, batch_size=4)
    frames = random_frames(12, 64)
    full = [embedder.embed(frames[start : start + 4]) for start in (0, 4, 8)]
    actual = embedder.embed_all(frames[:num_frames])
    np.testing.assert_array_equal(actual, np.concatenate(full)[:num_frames])


@pytest.mark.parametrize(
    ("backbone", "alpha"),
    [
        ("MobileNet", 0.25),
        pytest.param("EfficientNetB0", None, marks=pytest.mark.xslow),
        pytest.param("ConvNeXtTiny", None, marks=pytest.mark.xslow),
    ],
)
def test_lower_precision_lowers_the_arithmetic_of_the_network_alone(
    backbone: str, alpha: float | None
) -> None:
    keras = load_keras()

    def embedder(precision: str) -> Embedder:
        return Embedder(
            backbone,
            weights="random",
            alpha=alpha,
            input_size=64,
            batch_size=4,
            precision=precision,
        )

    frames = random_frames(4, 64)
    reference, lower = embedder("float32"), embedder("bfloat16")
    actual, expected = lower.embed(frames), reference.embed(frames)
    distance = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-4 < distance.max() < 0.05  # bfloat16 has 8 significant bits
    assert actual.dtype == np.float32
    # Values that bfloat16 can hold have 16 zero bits; a pooling in float32 gives others.
    assert (actual.view(np.uint32) & 0xFFFF).any()
    assert lower.weights_sha256 == reference.weights_sha256
    assert keras.config.dtype_policy().name == "float32"


def test_float16_is_closer_than_bfloat16() -> None:
    def embed(precision: str) -> NDArray[np.float32]:
        # Random weights make values that float16 cannot hold, unlike those of VGG.
        return Embedder(
            "VGG16", weights="random", input_size=32, batch_size=2, precision=precision
        ).embed(random_frames(2, 32))

    expected = embed("float32")
    errors = [np.linalg.norm(embed(p) - expected) for p in ("float16", "bfloat16")]
    assert 0 < errors[0] < errors[1] / 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("engine", "tensorrt", "engine is 'tensorrt'; expected one of keras, openvino"),
        ("precision", "int8", "precision is 'int8'; expected one of float32, bfloat16, float16"),
    ],
)
def test_unknown_choices_are_refused(option: str, value: str, message: str) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=message):
        Embedder("MobileNet", weights="random", **options)


def test_openvino_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'embed-then-sequence\[openvino\]'"):
        Embedder("MobileNet", weights="random", engine="openvino")


def test_the_weights_hash_follows_the_values() -> None:
    def sha(seed: int, alpha: float) -> str:
        return Embedder(
            "MobileNet", weights="random", alpha=alpha, input_size=32, seed=seed
        ).weights_sha256

    assert sha(0, 0.25) == sha(0, 0.25)
    assert len({sha(0, 0.25), sha(1, 0.25), sha(0, 0.5)}) == 3


def test_unreachable_imagenet_weights_name_the_three_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    get_file = "keras.src.applications.mobilenet.file_utils.get_file"
    keras = load_keras()
    original = keras.utils.get_file
    monkeypatch.setattr(
        get_file, lambda name, url, **_: original(name, url, cache_dir=str(tmp_path))
    )
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(WeightsError, match="cannot be downloaded") as raised:
        Embedder("MobileNet", weights="imagenet", alpha=0.25)
    for remedy in ("~/.keras/models", "--weights FILE", "--weights random"):
        assert remedy in str(raised.value)
    assert isinstance(raised.value.__cause__.__context__, urllib.error.URLError)  # type: ignore[union-attr]


@needs_weights
@pytest.mark.parametrize(
    ("backbone", "alpha"), [("MobileNet", 0.25), ("MobileNetV2", 0.75), ("VGG16", None)]
)
def test_weights_of_another_model_are_refused(backbone: str, alpha: float | None) -> None:
    with pytest.raises(WeightsError, match=f"does not fit {backbone}"):
        Embedder(backbone, weights=str(MOBILENET), alpha=alpha)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_text("no weights here")
    with pytest.raises(WeightsError, match=r"weights\.h5 does not fit MobileNet"):
        Embedder("MobileNet", weights=str(path), alpha=0.25)


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"no weights file at /.*/missing\.h5"):
        Embedder("MobileNet", weights="missing.h5")


def test_alpha_is_for_mobilenets_alone() -> None:
    with pytest.raises(ValueError, match="ResNet50 has no alpha"):
        Embedder("ResNet50", weights="random", alpha=0.5)

"""OpenVINO against Keras, against itself, and where it cannot work."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract import openvino_engine
from stage1_extract.backbones import Embedder
from stage1_extract.cores import available_cores
from stage1_extract.keras_setup import load_keras
from tests.marks import slow, xslow

openvino = pytest.importorskip("openvino", reason="needs the optional package openvino")

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
GENUINE = {
    "MobileNet": (0.75, WEIGHTS / "mobilenet_7_5_224_tf_no_top.rebuilt.h5"),
    "MobileNetV2": (0.35, WEIGHTS / "mobilenet_v2_0.35_224_no_top.rebuilt.h5"),
}
SIZE = 64


def random_frames(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def small_embedder(**options: Any) -> Embedder:
    settings: dict[str, Any] = {"input_size": SIZE, "batch_size": 4} | options
    return Embedder("MobileNet", weights="random", alpha=0.25, engine="openvino", **settings)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return small_embedder()


def offers(precision: str) -> bool:
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"bfloat16": "BF16", "float16": "FP16"}[precision] in capabilities


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def check_agreement(backbone: str, **options: Any) -> None:
    keras = Embedder(backbone, batch_size=4, **options)
    exported = Embedder(backbone, batch_size=4, engine="openvino", **options)
    frames = random_frames(4, keras.input_size)
    expected, actual = keras.embed(frames), exported.embed(frames)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert cosine(actual, expected).min() > 0.99999
    # Also for machines that have faster, lower precision: float32 is float32.
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
    assert exported.weights_sha256 == keras.weights_sha256
    assert (exported.engine, exported.model) == ("openvino", None)


@pytest.mark.parametrize("name", [*slow("MobileNet"), *xslow("MobileNetV2")])
def test_genuine_weights_agree_with_keras(name: str) -> None:
    alpha, weights = GENUINE[name]
    if not weights.exists():
        pytest.skip(f"needs genuine weights at {weights}")
    check_agreement(name, alpha=alpha, weights=str(weights))


@pytest.mark.xslow
@pytest.mark.parametrize(
    "name",
    ["MobileNetV3Small", "ConvNeXtTiny", "ResNet50"],
)
def test_random_weights_agree_with_keras(name: str) -> None:
    check_agreement(name, weights="random", input_size=96)


@pytest.mark.xslow
def test_max_pooling_agrees_with_keras() -> None:
    check_agreement("MobileNet", weights="random", alpha=0.25, pooling="max", input_size=96)


def test_an_embedding_is_the_same_at_any_place_and_beside_any_neighbours(
    embedder: Embedder,
) -> None:
    frames = random_frames(4)
    together = embedder.embed(frames)
    np.testing.assert_array_equal(embedder.embed(frames), together)
    np.testing.assert_array_equal(embedder.embed(frames[::-1].copy()), together[::-1])
    frames[1:] = 0
    np.testing.assert_array_equal(embedder.embed(frames)[0], together[0])


@pytest.mark.slow
@pytest.mark.parametrize("num_cores", [1, 2, 3])
def test_an_embedding_is_the_same_with_any_number_of_cores_and_batch_size(
    embedder: Embedder, num_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = random_frames(4)
    monkeypatch.setattr(openvino_engine, "available_cores", lambda: num_cores)
    other = small_embedder(batch_size=num_cores)
    np.testing.assert_array_equal(other.embed_all(frames), embedder.embed(frames))


def test_batches_in_flight_do_not_mix(embedder: Embedder) -> None:
    frames = random_frames(20)
    starts = range(0, 20, 4)
    pending = [embedder.submit(frames[start : start + 4]) for start in starts]
    actual = [batch.result() for batch in reversed(pending)][::-1]
    repeated = [batch.result() for batch in pending]
    expected = [embedder.embed(frames[start : start + 4]) for start in starts]
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(repeated, expected)


def test_enough_batches_are_in_flight_for_every_core(embedder: Embedder) -> None:
    assert embedder.max_in_flight >= 2
    assert (embedder.max_in_flight - 1) * 4 >= available_cores()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_that_the_cpu_lacks_is_refused(precision: str) -> None:
    if offers(precision):
        pytest.skip(f"this CPU computes in {precision}")
    with pytest.raises(ValueError, match=f"does not compute in {precision} on this CPU.*float32"):
        small_embedder(precision=precision)


@pytest.fixture(scope="module")
def lower() -> Embedder:
    if not offers("bfloat16"):
        pytest.skip("this CPU does not compute in bfloat16")
    return small_embedder(precision="bfloat16")


def test_a_lower_precision_is_used(embedder: Embedder, lower: Embedder) -> None:
    frames = random_frames(4)
    expected = embedder.embed(frames)
    distance = np.abs(lower.embed(frames) - expected).max() / np.abs(expected).max()
    assert 1e-4 < distance < 0.1  # bfloat16 has 8 significant bits
    assert lower.weights_sha256 == embedder.weights_sha256


def test_a_model_that_computes_in_another_precision_is_noticed(
    embedder: Embedder, lower: Embedder
) -> None:
    full_engine, lower_engine = cast(Any, embedder._engine), cast(Any, lower._engine)
    with pytest.raises(ValueError, match=r"computes in f32, .* instead of bfloat16"):
        openvino_engine._check_compiled(full_engine._compiled, "bfloat16")
    with pytest.raises(ValueError, match=r"computes in bf16, .* instead of float32"):
        openvino_engine._check_compiled(lower_engine._compiled, "float32")


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_keras().backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Keras runs on jax; expected --backend tensorflow"):
        openvino_engine.check_openvino()


def test_nothing_is_reported_to_the_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = pytest.importorskip("openvino_telemetry")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("usage is reported")

    monkeypatch.setattr(telemetry.Telemetry, "init", refuse)
    monkeypatch.setattr(telemetry.Telemetry, "send_event", refuse)
    small_embedder().warm_up()

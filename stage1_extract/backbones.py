"""Frozen keras.applications models as functions from frames to embeddings."""

import dataclasses
import hashlib
import importlib
import inspect
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.engines import Engine, KerasEngine, Pending
from stage1_extract.keras_setup import load_keras, num_gpus
from stage1_extract.openvino_engine import OpenVinoEngine, check_openvino
from stage1_extract.precision import PRECISIONS

ENGINES = ("keras", "openvino")
POOLINGS = ("avg", "max")
_DOWNLOAD_STALL_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Backbone:
    """What keras.applications does not tell about one of its models.

    Attributes:
        module: The module of keras.applications whose `preprocess_input` belongs to the model. For
            some families it does nothing, because the model itself begins with the arithmetic.
        input_size: Side in pixels of the frames that the ImageNet weights were trained on.
    """

    module: str
    input_size: int


BACKBONES: dict[str, Backbone] = {
    "ConvNeXtTiny": Backbone("convnext", 224),
    "ConvNeXtSmall": Backbone("convnext", 224),
    "ConvNeXtBase": Backbone("convnext", 224),
    "ConvNeXtLarge": Backbone("convnext", 224),
    "ConvNeXtXLarge": Backbone("convnext", 224),
    "DenseNet121": Backbone("densenet", 224),
    "DenseNet169": Backbone("densenet", 224),
    "DenseNet201": Backbone("densenet", 224),
    "EfficientNetB0": Backbone("efficientnet", 224),
    "EfficientNetB1": Backbone("efficientnet", 240),
    "EfficientNetB2": Backbone("efficientnet", 260),
    "EfficientNetB3": Backbone("efficientnet", 300),
    "EfficientNetB4": Backbone("efficientnet", 380),
    "EfficientNetB5": Backbone("efficientnet", 456),
    "EfficientNetB6": Backbone("efficientnet", 528),
    "EfficientNetB7": Backbone("efficientnet", 600),
    "EfficientNetV2B0": Backbone("efficientnet_v2", 224),
    "EfficientNetV2B1": Backbone("efficientnet_v2", 240),
    "EfficientNetV2B2": Backbone("efficientnet_v2", 260),
    "EfficientNetV2B3": Backbone("efficientnet_v2", 300),
    "EfficientNetV2S": Backbone("efficientnet_v2", 384),
    "EfficientNetV2M": Backbone("efficientnet_v2", 480),
    "EfficientNetV2L": Backbone("efficientnet_v2", 480),
    "InceptionResNetV2": Backbone("inception_resnet_v2", 299),
    "InceptionV3": Backbone("inception_v3", 299),
    "MobileNet": Backbone("mobilenet", 224),
    "MobileNetV2": Backbone("mobilenet_v2", 224),
    "MobileNetV3Large": Backbone("mobilenet_v3", 224),
    "MobileNetV3Small": Backbone("mobilenet_v3", 224),
    "NASNetLarge": Backbone("nasnet", 331),
    "NASNetMobile": Backbone("nasnet", 224),
    "ResNet50": Backbone("resnet", 224),
    "ResNet101": Backbone("resnet", 224),
    "ResNet152": Backbone("resnet", 224),
    "ResNet50V2": Backbone("resnet_v2", 224),
    "ResNet101V2": Backbone("resnet_v2", 224),
    "ResNet152V2": Backbone("resnet_v2", 224),
    "VGG16": Backbone("vgg16", 224),
    "VGG19": Backbone("vgg19", 224),
    "Xception": Backbone("xception", 299),
}


class WeightsError(ValueError):
    """Weights cannot be had, or do not belong to the backbone."""


class Embedder:
    """A frozen backbone: uint8 RGB frames in, float32 embeddings out, in batches of one shape.

    A frame's embedding does not depend on its place in the batch or on the other frames. With
    Keras it does depend, in the last bits, on the batch size, so a batch that is not full must be
    padded.

    Args:
        backbone: A name of keras.applications, e.g. MobileNetV2.
        weights: `imagenet` (downloaded by Keras), `random` (drawn from `seed`), or a file.
        pooling: avg or max over the last feature map.
        input_size: Side of the input in pixels; None for the backbone's own.
        alpha: Width multiplier, for MobileNets; None for 1.0.
        batch_size: Frames computed at once.
        seed: For random weights.
        backend: Keras backend; None for the environment's.
        engine: What computes: `keras`, or `openvino` (CPU; exported from Keras on TensorFlow).
        precision: What it computes in: float32, bfloat16 or float16. Preprocessing and the last
            pooling stay float32 with Keras, and embeddings are float32 always.

    Attributes:
        engine: What computes, with Keras' backend, e.g. keras-tensorflow.
        model: The Keras model, preprocessing included; None with OpenVINO, which has its own copy.
        embedding_dim: D.
        weights_sha256: Hash of the float32 weights, whatever the precision.
        max_in_flight: Batches to submit before the first result is asked for, so that the device
            never waits.

    Raises:
        WeightsError: ImageNet weights cannot be downloaded, or a file does not fit.
        ValueError: Unknown backbone, settings it does not take, or an engine or a precision that
            this machine does not offer.
    """

    def __init__(
        self,
        backbone: str,
        *,
        weights: str,
        pooling: str = "avg",
        input_size: int | None = None,
        alpha: float | None = None,
        batch_size: int = 32,
        seed: int = 0,
        backend: str | None = None,
        engine: str = "keras",
        precision: str = "float32",
    ) -> None:
        self.input_size = input_size or BACKBONES[backbone].input_size
        self.batch_size = batch_size
        self.precision = precision
        check_choice("engine", engine, ENGINES)
        check_choice("precision", precision, PRECISIONS)
        keras = load_keras(backend)
        if engine == "openvino":
            check_openvino(precision)
        options: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
        constructor = getattr(keras.applications, backbone)
        check_alpha(backbone, alpha)
        with _explained(backbone, weights), _computing_in(keras, precision, engine):
            keras.utils.set_random_seed(seed)
            network = constructor(
                include_top=False,
                weights={"random": None}.get(weights, weights),
                pooling=pooling,
                input_shape=(self.input_size, self.input_size, 3),
                **options,
            )
        network.trainable = False
        _keep_ends_float32(keras, network)
        model = _with_preprocessing(keras, network, BACKBONES[backbone].module)
        self.embedding_dim = int(model.output_shape[-1])
        self.weights_sha256 = hash_weights(network)
        self.model = None if engine == "openvino" else model
        self._engine: Engine = _start_engine(engine, model, batch_size, precision)
        self.engine = self._engine.name
        self.max_in_flight = self._engine.max_in_flight

    def submit(self, frames: NDArray[np.uint8]) -> Pending:
        """Start embedding a full batch (batch_size, S, S, 3) uint8 RGB.

        The frames may not change before `result()` of what is returned, which waits for the
        embeddings (batch_size, D) float32.
        """
        return self._engine.submit(frames)

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (batch_size, D) of a full batch (batch_size, S, S, 3) uint8 RGB."""
        return self.submit(frames).result()

    def embed_all(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of any number of frames (n, S, S, 3) uint8 RGB."""
        embeddings: list[NDArray[np.float32]] = [np.empty((0, self.embedding_dim), np.float32)]
        for first in range(0, len(frames), self.batch_size):
            part = frames[first : first + self.batch_size]
            missing = self.batch_size - len(part)
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            embeddings.append(self.embed(padded)[: len(part)])
        return np.concatenate(embeddings)

    def warm_up(self) -> None:
        """Embed a batch of black frames: what happens once only, such as tracing, happens here."""
        shape = (self.batch_size, self.input_size, self.input_size, 3)
        self.embed(np.zeros(shape, np.uint8))


def check_alpha(backbone: str, alpha: float | None) -> None:
    """Refuse a width multiplier where the backbone has none (MobileNets alone have one).

    Raises:
        ValueError: `alpha` is given for another backbone.
    """
    if alpha is not None and not backbone.startswith("MobileNet"):
        raise ValueError(f"{backbone} has no alpha ({alpha} was given); MobileNets alone have one")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: So it is; the choices are named.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def hash_weights(network: Any) -> str:
    """Return sha256 over all weights, shapes included, independent of file format and names."""
    hasher = hashlib.sha256()
    for weight in network.weights:
        values = np.ascontiguousarray(load_keras().ops.convert_to_numpy(weight), np.float32)
        hasher.update(repr(values.shape).encode())
        hasher.update(values.tobytes())
    return hasher.hexdigest()


def _start_engine(engine: str, model: Any, batch_size: int, precision: str) -> Engine:
    if engine == "openvino":
        return OpenVinoEngine(model, batch_size=batch_size, precision=precision)
    return KerasEngine(model)


@contextmanager
def _computing_in(keras: Any, precision: str, engine: str) -> Iterator[None]:
    """Let layers made in the block compute in a lower precision, on float32 weights.

    OpenVINO lowers the precision itself, of a float32 model.
    """
    previous = keras.config.dtype_policy()
    lower = precision != "float32" and engine == "keras"
    keras.config.set_dtype_policy(f"mixed_{precision}" if lower else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def _keep_ends_float32(keras: Any, network: Any) -> None:
    """Keep the preprocessing that some networks begin with, and pooling, in float32.

    They cost next to nothing, and pixels or embeddings would lose digits for no gain in speed.
    """
    layers = keras.layers
    ends = (
        layers.Rescaling,
        layers.Normalization,
        layers.GlobalAveragePooling2D,
        layers.GlobalMaxPooling2D,
    )
    for layer in network.layers:
        if isinstance(layer, ends) or layer is network.layers[-1]:
            layer.dtype_policy = "float32"


def _with_preprocessing(keras: Any, network: Any, module: str) -> Any:
    """Put keras.applications' own preprocessing into the model, in front of the network."""
    size = network.input_shape[1:]
    frames = keras.Input(size, dtype="uint8")
    preprocess = importlib.import_module(f"keras.applications.{module}").preprocess_input
    pixels = preprocess(keras.ops.cast(frames, "float32"))
    model = keras.Model(frames, network(pixels, training=False))
    # XLA makes convolutions several times slower on TensorFlow's CPU device; JAX always uses it.
    model.jit_compile = keras.backend.backend() == "tensorflow" and num_gpus() > 0
    return model


@contextmanager
def _explained(backbone: str, weights: str) -> Iterator[None]:
    """Turn Keras' errors about weights into ones that say what to do."""
    if weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise WeightsError(
            f"no weights file at {Path(weights).absolute()}; expected imagenet, random or a file"
        )
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_STALL_SECONDS)
    try:
        # Keras tells of downloads on stdout, which belongs to the results.
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        if weights == "imagenet" and _is_network_error(error):
            raise WeightsError(_download_help(backbone, error)) from error
        if weights not in ("imagenet", "random"):
            raise WeightsError(
                f"{weights} does not fit {backbone}: {_first_line(error)}. Expected weights of "
                "this very model without its top (no_top): are --backbone and --alpha right?"
            ) from error
        raise
    finally:
        socket.setdefaulttimeout(previous)


def _is_network_error(error: BaseException) -> bool:
    """Keras raises a bare Exception for a failed download, with the true cause as context."""
    causes = [error, error.__cause__, error.__context__]
    return any(isinstance(cause, OSError) for cause in causes)


def _download_help(backbone: str, error: BaseException) -> str:
    return (
        f"the ImageNet weights of {backbone} cannot be downloaded: {_first_line(error)}. Remedies: "
        "(1) on a machine with internet, build the model once with Keras and copy the file from "
        "~/.keras/models to the same folder here; "
        "(2) name a weights file you have: --weights FILE.h5; "
        "(3) only to try things out, --weights random: embeddings without knowledge of images"
    )


def _first_line(error: BaseException) -> str:
    lines = inspect.cleandoc(str(error)).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

"""Settings of stage one: the single source of defaults, help texts and the fingerprint."""

import dataclasses
import difflib
import math
from pathlib import Path
from typing import ClassVar, Literal

from stage1_extract.backbones import BACKBONES, ENGINES, POOLINGS, check_alpha, check_choice
from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.fitting import FITS
from stage1_extract.keras_setup import BACKENDS
from stage1_extract.precision import MAX_PRECISION_ERROR, PRECISIONS
from stage1_extract.sampling import parse_sampling
from stage1_extract.scaling import parse_value_range
from stage1_extract.store import EMBEDDING_DTYPES
from stage1_extract.views import NORMALISATIONS, ViewSettings

MAX_VIEWS = 65535
_CHOICES = {
    "pooling": POOLINGS,
    "fit": FITS,
    "normalise": NORMALISATIONS,
    "engine": ENGINES,
    "precision": PRECISIONS,
    "dtype": EMBEDDING_DTYPES,
}
_POSITIVE = ("assumed_fps", "stall_seconds", "clip_seconds")
_AT_LEAST_ONE = ("input_size", "batch_size", "decoders", "decoder_memory_mb", "shard_mb")


@dataclasses.dataclass(frozen=True)
class ExtractSettings:
    """How videos become embeddings."""

    CHOICES: ClassVar = {**_CHOICES, "backbone": tuple(BACKBONES), "backend": BACKENDS}
    backbone: str = "MobileNetV2"
    """Frozen network of keras.applications, e.g. MobileNetV2, ResNet50, EfficientNetB0."""
    alpha: float | None = None
    """Width multiplier, for MobileNets alone; default 1.0."""
    weights: str = "imagenet"
    """imagenet (Keras downloads them), random (to try things out), or a weights file."""
    pooling: str = "avg"
    """How the last feature map becomes one vector: avg or max."""
    input_size: int | None = None
    """Side of the frames given to the backbone, in pixels; default: the backbone's own."""
    fit: str = "squash"
    """How a frame becomes square: squash, crop (cut the centre) or pad (black bars)."""
    sampling: str = "uniform:32"
    """Which frames: uniform:N (spread evenly), fps:F, stride:K, or all."""
    value_range: str = "dtype"
    """Pixel values of arrays, images and DICOM that become black and white: LOW:HIGH, or dtype;
    8-bit sources take a LOW:HIGH within 0 to 255 alone."""
    assumed_fps: float | None = None
    """Frames per second of sources that state none (arrays, image folders, TIFF)."""
    normalise: str = "none"
    """Stretch brightness so that the maximum of each frame, or of the clip, becomes white."""
    views: int = 0
    """Augmented copies stored beside each clip; more can be added to a store later."""
    view_settings: ViewSettings = dataclasses.field(default_factory=ViewSettings)
    """How augmented copies differ from the clip."""
    dtype: str = "float16"
    """How embeddings are stored: float16 or float32. Values that float16 spoils are an error."""
    engine: str = "keras"
    """What computes: keras, or openvino, which is faster on CPUs."""
    precision: str = "float32"
    """Arithmetic of the backbone: float32, or less, whose error is measured first and stored."""
    max_precision_error: float = MAX_PRECISION_ERROR
    """Greatest relative L2 error of an embedding that a lower precision may cause."""
    devices: str | None = None
    """GPUs to use, one process each, e.g. 0,1 (or cpu); default: the one that Keras takes."""
    cluster: ClusterSettings = dataclasses.field(default_factory=ClusterSettings)
    """Whether, and how, the work is spread over a Ray cluster."""
    batch_size: int = 32
    """Frames computed at once."""
    decoders: int | Literal["auto"] = "auto"
    """Processes that decode while the backbone computes; auto adds some while it starves."""
    stall_seconds: float = 60.0
    """A video fails if its decoder makes no progress for so long."""
    clip_seconds: float = 14400.0
    """A clip fails if reading it takes longer, without the time it waits for the backbone."""
    decoder_memory_mb: int = 4096
    """A video fails if its decoder needs more memory than this, in MB."""
    scratch: str | None = None
    """Folder for copies of clips at addresses while they are decoded; default: the system's own
    for temporary files."""
    backend: str | None = None
    """Keras backend: tensorflow, jax or torch; default: KERAS_BACKEND, or tensorflow."""
    seed: int = 0
    """Seed of random weights; others do not change with it."""
    min_coverage: float = 0.8
    """A video fails if less than this part of its stated length can be decoded."""
    shard_mb: int = 256
    """A shard is written at this size, in MB ..."""
    shard_seconds: float = 60.0
    """... or at this age, whichever comes first: a crash costs at most that."""
    fail_fast: bool = False
    """Stop at the first video that fails or failed earlier, instead of going on without it."""
    retry_failed: bool = False
    """Try again the videos that failed in earlier runs."""

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            near = difflib.get_close_matches(self.backbone, BACKBONES, n=3, cutoff=0.4)
            raise ValueError(
                f"backbone {self.backbone!r} is not in keras.applications; "
                f"close: {near}, all: {', '.join(BACKBONES)}"
            )
        check_alpha(self.backbone, self.alpha)
        parse_sampling(self.sampling)
        parse_value_range(self.value_range)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.backend is not None:
            check_choice("backend", self.backend, BACKENDS)
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value not in (None, "auto") and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected more than 0")
        if self.devices is not None:
            _check_devices(self.devices, self.engine)
            if self.cluster.ray is not None:
                raise ValueError(
                    f"devices is {self.devices!r} and ray is {self.cluster.ray!r}: on a cluster, "
                    "Ray deals out the GPUs; leave devices out, see --worker-gpus"
                )
        if not 0 <= self.views <= MAX_VIEWS:
            raise ValueError(f"views is {self.views}; expected 0 to {MAX_VIEWS}")
        if self.max_precision_error < 0:
            raise ValueError(f"max_precision_error is {self.max_precision_error}; expected 0 or up")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is {self.min_coverage}; expected 0 to 1")

    @property
    def scratch_folder(self) -> Path | None:
        """`scratch` as a path."""
        return None if self.scratch is None else Path(self.scratch).absolute()

    def identity(self, *, weights_sha256: str, input_size: int, engine: str) -> dict[str, object]:
        """Return everything that changes an embedding, and nothing else.

        Args:
            weights_sha256: Hash of the weights' values: their file's name says nothing.
            input_size: The side in pixels that was really used.
            engine: What computed, e.g. keras-tensorflow.
        """
        return {
            "backbone": self.backbone,
            "alpha": 1.0 if self.alpha is None else self.alpha,
            "weights_sha256": weights_sha256,
            "pooling": self.pooling,
            "input_size": input_size,
            "fit": self.fit,
            "sampling": self.sampling,
            "value_range": self.value_range,
            "assumed_fps": self.assumed_fps,
            "normalise": self.normalise,
            "dtype": self.dtype,
            "precision": self.precision,
            "engine": engine,
            "views": self.view_settings.identity() if self.views else None,
        }


def _check_devices(devices: str, engine: str) -> None:
    names = devices.split(",")
    gpus = [name for name in names if name != "cpu"]
    if not all(name.isdecimal() for name in gpus) or len(set(gpus)) < len(gpus):
        raise ValueError(f"devices is {devices!r}; expected GPUs, each once, e.g. 0,1, or cpu")
    if gpus and engine == "openvino":
        raise ValueError(f"devices is {devices!r}; the engine openvino computes on the CPU alone")

"""Settings of stage one: the single source of defaults, help texts and the fingerprint."""

import dataclasses
import difflib

from stage1_extract.backbones import BACKBONES, POOLINGS, check_alpha
from stage1_extract.fitting import FITS
from stage1_extract.keras_setup import BACKENDS
from stage1_extract.sampling import parse_sampling
from stage1_extract.store import EMBEDDING_DTYPES


@dataclasses.dataclass(frozen=True)
class ExtractSettings:
    """How videos become embeddings."""

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
    dtype: str = "float16"
    """How embeddings are stored: float16 or float32. Values that float16 spoils are an error."""
    batch_size: int = 32
    """Frames computed at once."""
    decoders: int = 2
    """Videos decoded side by side while the backbone computes."""
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
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("fit", self.fit, FITS)
        _check_choice("dtype", self.dtype, EMBEDDING_DTYPES)
        if self.backend is not None:
            _check_choice("backend", self.backend, BACKENDS)
        for name in ("input_size", "batch_size", "decoders", "shard_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is {self.min_coverage}; expected 0 to 1")

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
            "dtype": self.dtype,
            "precision": "float32",
            "engine": engine,
            "views": 0,
        }


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")

"""RandAugment of Keras on clips: one draw for all frames.

Keras runs it on TensorFlow here, on the CPU, whatever the backbone runs on, so that the views do
not depend on that. (Keras' numpy backend needs JAX, and changes frames in place.)
"""

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras


def confine_tensorflow() -> None:
    """Keep this process's TensorFlow, not yet imported, to one core and off every GPU.

    For processes that run no backbone: otherwise each would claim all of the GPU's memory.
    """
    os.environ.update(
        CUDA_VISIBLE_DEVICES="-1",
        HIP_VISIBLE_DEVICES="-1",
        TF_NUM_INTRAOP_THREADS="1",
        TF_NUM_INTEROP_THREADS="1",
    )


def rand_augment(
    *, num_operations: int, magnitude: float, seed: int, size: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a RandAugment (Cubuk et al. 2020) of frames, drawn once, by keras.layers.RandAugment.

    It maps (n, size, size, 3) uint8 to the same shape. All frames undergo the same operations with
    the same parameters; contrast, auto-contrast and equalization adapt to each frame. Keras' own
    ranges hold: at magnitude m shifts reach m of the side, turns 360 m degrees, one way; a low
    magnitude posterizes and solarizes more, not less.

    Raises:
        ValueError: Keras already runs on another backend than TensorFlow in this process.
    """
    keras = _keras_on_tensorflow()
    layer = _layer(num_operations, magnitude)
    with keras.device("cpu:0"):
        layer.generator.state.assign([seed, 0])  # as if it had been made with this seed
        drawn = layer.get_random_transformation(np.zeros((1, size, size, 3), np.float32))
    names = list(drawn["transforms"])
    chosen = [names[i] for i in keras.ops.convert_to_numpy(drawn["layer_idxes"])]

    def augment(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = keras.ops.convert_to_tensor(frame[None], dtype="float32")
        # The layer's own transform_images computes all eleven operations and keeps the chosen.
        for name in chosen:
            images = getattr(layer, name).transform_images(images, drawn["transforms"][name])
        return _as_uint8(keras.ops.convert_to_numpy(images)[0])

    def augment_all(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # One by one: Keras equalizes by the histogram of a whole batch.
        with keras.device("cpu:0"):
            augmented = [augment(frame) for frame in frames]
        return np.stack(augmented) if augmented else frames

    return augment_all


@functools.lru_cache(maxsize=1)
def _layer(num_operations: int, magnitude: float) -> Any:
    """Return the layer, made once: each one that Keras makes keeps 0.4 MB for good."""
    keras = _keras_on_tensorflow()
    with keras.device("cpu:0"):
        return keras.layers.RandAugment(num_ops=num_operations, factor=magnitude, seed=0)


def _keras_on_tensorflow() -> ModuleType:
    try:
        return load_keras("tensorflow")
    except ValueError as error:
        raise ValueError(
            "randaugment runs on Keras' TensorFlow backend; make these views in a process of their "
            f"own, or use the backend tensorflow: {error}"
        ) from error


def _as_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

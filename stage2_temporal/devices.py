"""Training on several devices of one machine: each of them computes its share of every batch."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from stage1_extract.keras_setup import load_keras
from stage2_temporal.models import BuiltModel

keras = load_keras()

_MORE_CPUS = {
    "jax": "XLA_FLAGS=--xla_force_host_platform_device_count={} divides it",
    "tensorflow": "tf.config.set_logical_device_configuration divides it, before anything computes",
}


class Devices(Protocol):
    """Where trainings compute. Predictions are the same as ever."""

    def building(self) -> AbstractContextManager[Any]:
        """Return a context; what is built in it has its variables on all devices."""

    def training(self) -> AbstractContextManager[Any]:
        """Return a context; what `fit` trains in it shares its batches out."""

    def trainee(self, trainee: Any) -> Any:
        """Return what is compiled in the place of a trainee; call it in `building`."""

    def predicting(self, built: BuiltModel) -> BuiltModel:
        """Return a model whose predictions are made once; call it outside of `building`."""


@dataclasses.dataclass(frozen=True)
class OneDevice:
    """The device that Keras takes: nothing changes."""

    def building(self) -> AbstractContextManager[Any]:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def training(self) -> AbstractContextManager[Any]:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def trainee(self, trainee: Any) -> Any:
        """Return the trainee."""
        return trainee

    def predicting(self, built: BuiltModel) -> BuiltModel:
        """Return the model."""
        return built


@dataclasses.dataclass(frozen=True)
class JaxDevices(OneDevice):
    """Keras' own data parallelism: JAX divides one program, random numbers included.

    Attributes:
        distribution: A `keras.distribution.DataParallel`.
    """

    distribution: Any

    def building(self) -> AbstractContextManager[Any]:
        """Return the scope of the distribution."""
        scope: AbstractContextManager[Any] = self.distribution.scope()
        return scope

    def training(self) -> AbstractContextManager[Any]:
        """Return the scope of the distribution."""
        return self.building()


@functools.cache
def devices_of(devices: str | None) -> Devices:
    """Return the devices of a setting; compiled models are shared by those of the same setting.

    Args:
        devices: As in `TrainSettings`; None for the one that Keras takes.

    Raises:
        ValueError: There are not so many, or the backend cannot.
    """
    if devices is None:
        return OneDevice()
    backend = keras.backend.backend()
    if backend == "jax":
        names = chosen_devices(devices, _jax_devices(devices))
        return JaxDevices(keras.distribution.DataParallel(devices=names))
    if backend == "tensorflow":
        from stage2_temporal.mirrored import MirroredDevices, tensorflow_devices

        names = chosen_devices(devices, tensorflow_devices(kind_of(devices)))
        return MirroredDevices.of(names)
    raise ValueError(
        f"devices is {devices!r}, but Keras trains on several devices with tensorflow and jax "
        f"alone, not with {backend}: choose another --backend, or leave --devices out"
    )


def chosen_devices(devices: str, available: Sequence[str]) -> list[str]:
    """Return the backend's names of devices.

    Args:
        devices: As in `TrainSettings`: numbers of GPUs, or cpu as often as there are to be CPUs.
        available: The backend's names of all devices of that kind.

    Raises:
        ValueError: There are not so many.
    """
    names = devices.split(",")
    kind, backend = kind_of(devices), keras.backend.backend()
    numbers = list(range(len(names))) if kind == "CPU" else [int(name) for name in names]
    if max(numbers) < len(available):
        return [available[number] for number in numbers]
    found = f"{len(available)} {kind}{'' if len(available) == 1 else 's'}"
    remedy = (
        _MORE_CPUS[backend].format(len(names))
        if kind == "CPU"
        else "they are numbered from 0, and CUDA_VISIBLE_DEVICES may hide some"
    )
    raise ValueError(
        f"devices is {devices!r}, but {backend} sees {found}: {remedy}; leave --devices out to "
        "train on one"
    )


def kind_of(devices: str) -> str:
    """Return GPU or CPU."""
    return "CPU" if devices.startswith("cpu") else "GPU"


def _jax_devices(devices: str) -> list[str]:
    if kind_of(devices) == "CPU":
        return list(keras.distribution.list_devices("cpu"))
    return [name for name in keras.distribution.list_devices() if not name.startswith("cpu")]

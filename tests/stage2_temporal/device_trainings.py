"""Trainings on parts of a CPU, as a program: BACKEND OUT.npz NUMBER,NUMBER,... CASE...

A CPU is divided before its backend computes anything, so the tests run this in a new process. What
the trainings of every case on every NUMBER of devices find goes into the file.
"""

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.checkpoint import FitState

NUM_CLIPS = 44
"""Half of them train: two whole batches of 8, and one of 6."""
LAST_EPOCH = 2
_PLAIN: dict[str, Any] = {"dropout": 0.0, "input_dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "binary": {"target": ("a",), "head": "gru", **_PLAIN},
    "multiclass": {"target": ("b",), "skip": False, "head": "lstm", "balance": "weights", **_PLAIN},
    "regression": {"target": ("d",), "clip_norm": 0.05, "schedule": "cosine", **_PLAIN},
    "four": {"target": tuple("abcd"), "skip": False, "loss_weight": [1.0, 2.0, 0.5, 3.0], **_PLAIN},
    "mixup": {"target": ("a",), "balance": "oversample", "head": "transformer", **_PLAIN},
    "resident": {"target": ("a",), "resident": True, "pooling": "attention", **_PLAIN},
    "bfloat16": {"target": ("d",), "precision": "mixed_bfloat16", **_PLAIN},
    "float16": {"target": ("d",), "precision": "mixed_float16", "clip_norm": 0.05, **_PLAIN},
    "dropout": {"target": ("a",), "dropout": 0.3, "input_dropout": 0.3},
}


class Stop(Exception):  # noqa: N818
    """Somebody pressed Ctrl-C."""


def divide_cpu(backend: str, number: int) -> None:
    """Make several devices of the CPU; nothing may have computed before."""
    if backend == "jax":
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={number}"
    load_keras(backend)
    if backend == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        tf.config.set_logical_device_configuration(cpu, parts)


def devices_of(number: int) -> str | None:
    """Return the setting."""
    return None if number == 1 else ",".join(["cpu"] * number)


class Case:
    """A case on a number of devices."""

    def __init__(self, folder: Path, name: str, num_devices: int) -> None:
        from stage2_temporal.fitting import Trainer
        from stage2_temporal.resident import ResidentFrames
        from tests.stage2_temporal.synthetic import ordered, write_store
        from tests.stage2_temporal.trainings import four_targets, prepare, settings_of, start_of

        store = write_store(folder / "store", ordered(NUM_CLIPS)[0])
        changes: dict[str, Any] = {
            **{"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "gain_confidence": 0.0},
            **{name: value for name, value in CASES[name].items() if name != "target"},
        }
        if name == "mixup":
            changes["augmentation"] = AugmentSettings(mixup=0.5)
        names = CASES[name]["target"]
        settings = settings_of(*names, **changes, devices=devices_of(num_devices))
        present = np.random.default_rng(1).random((4, NUM_CLIPS)) > (0.4 if name == "four" else 0)
        targets = [
            dataclasses.replace(target, present=here)
            for target, here in zip(four_targets(NUM_CLIPS), present, strict=True)
            if target.name in names
        ]
        batches = prepare(store, targets, settings)
        if settings.resident:
            frames = ResidentFrames.load(store, np.arange(NUM_CLIPS))
            batches = dataclasses.replace(batches, resident=frames)
        self._batches, self._start = batches, start_of(batches)
        self._trainer = Trainer(settings)

    def train(self, **options: Any) -> dict[str, NDArray[Any]]:
        """Return what a training finds, by name."""
        result = self._trainer.fit(self._batches, start=self._start, seed=3, **options)
        state = result.built.trainee.optimizer.variables
        counters = [v for v in state if not len(v.shape)]
        return {
            "loss": result.history["loss"].to_numpy()[1:],
            "val_loss": result.history["val_loss"].to_numpy(),
            "predictions": _flat(result.predict(np.arange(NUM_CLIPS))),
            **_arrays("weights", result.built.model.variables),
            **_arrays("optimizer", state),
            "counters": _flat([load_keras().ops.convert_to_numpy(v) for v in counters]),
        }

    def train_in_parts(self, checkpoint: Path) -> dict[str, NDArray[Any]]:
        """Return what a training finds that is stopped after its first epoch, and goes on."""
        from stage2_temporal import epochs

        epochs._SECONDS_BETWEEN_CHECKPOINTS = -1.0

        def stop(state: FitState) -> None:
            raise Stop

        try:
            self.train(checkpoint=checkpoint, on_epoch=stop)
        except Stop:
            return self.train(checkpoint=checkpoint)
        raise AssertionError("the training was not stopped")


def losses_of_equal_rows() -> dict[str, NDArray[Any]]:
    """Return the losses of rows that only dropout tells apart, one in each half of a batch.

    It is the first step of a model, from the same seed each time; the other rows weigh nothing.
    """
    from stage2_temporal.mirrored import MirroredDevices, tensorflow_devices

    keras = load_keras()
    devices = MirroredDevices.of(tensorflow_devices("CPU"))
    losses = []
    for row in (0, 0, 4):
        with devices.building():
            inputs = {"x": keras.Input((100,), name="x")}
            total = keras.ops.sum(keras.layers.Dropout(0.5, seed=7)(inputs["x"]), -1, keepdims=True)
            outputs = {"y": keras.layers.Dense(1, "linear", name="y", use_bias=False)(total)}
            model = devices.trainee(keras.Model(inputs, outputs))
            loss = {"y": keras.losses.MeanSquaredError()}
            model.compile(keras.optimizers.SGD(), loss, loss_weights={"y": 1.0})
        model.set_weights([np.ones_like(w) if w.ndim == 2 else w for w in model.get_weights()])
        weights = {"y": np.eye(8, dtype=np.float32)[row]}
        batch = {"x": np.ones((8, 100), np.float32)}, {"y": np.zeros((8, 1), np.float32)}, weights
        losses.append(model.train_on_batch(*batch)["loss"])
    return {"seeds/2/losses": np.array(losses)}


def _arrays(what: str, variables: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Return variables by their number; counters, seeds, rates and the loss' scale are left out.

    So is the bias of attention's keys: its gradient is 0, and what it has is rounding alone.
    """
    return {
        f"{what} {number}": load_keras().ops.convert_to_numpy(variable)
        for number, variable in enumerate(variables)
        if len(variable.shape) and "float" in variable.dtype
        if not re.search("key.bias", variable.path)
    }


def _flat(arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def main(backend: str, out: str, numbers: str, *names: str) -> None:
    """Train, and write what was found as CASE/NUMBER/WHAT."""
    counts = [int(number) for number in numbers.split(",")]
    divide_cpu(backend, max(counts))
    found: dict[str, NDArray[Any]] = {}
    for name in names:
        for number in counts if name in CASES else ():
            with tempfile.TemporaryDirectory() as folder:
                case = Case(Path(folder), name, number)
                told = {"": case.train()}
                if name == "dropout":
                    told["again "] = case.train()
                    told["resumed "] = case.train_in_parts(Path(folder) / "c.npz")
            for how, values in told.items():
                found |= {f"{name}/{number}/{how}{what}": v for what, v in values.items()}
    if "seeds" in names:
        found |= losses_of_equal_rows()
    np.savez(out, allow_pickle=False, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

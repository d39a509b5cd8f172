"""Training on several devices with TensorFlow: `tf.distribute.MirroredStrategy` under Keras."""

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.dataset import Arrays
from stage2_temporal.models import BuiltModel

keras = load_keras()
_Model: Any = keras.Model
_Strategy: Any = tf.distribute.MirroredStrategy

_SEED_STATE = "seed_generator_state"
_SEED_STEP = 10**9
"""Seeds of Keras' layers are below it, so that no two replicas ever draw from the same one."""

_KEYS_EACH = 100_000
_strategies = itertools.count()


def tensorflow_devices(kind: str) -> list[str]:
    """Return the names of all devices of a kind: GPU or CPU."""
    return [device.name for device in tf.config.list_logical_devices(kind)]


@dataclasses.dataclass(frozen=True)
class MirroredDevices:
    """Devices that each hold a copy of every variable.

    Attributes:
        strategy: A `tf.distribute.MirroredStrategy`.
    """

    strategy: Any

    @classmethod
    def of(cls, names: Sequence[str]) -> "MirroredDevices":
        """Take devices by their names in TensorFlow."""
        return cls(NumberedStrategy(names, next(_strategies)))

    def building(self) -> AbstractContextManager[Any]:
        """Return the strategy's scope."""
        scope: AbstractContextManager[Any] = self.strategy.scope()
        return scope

    def training(self) -> AbstractContextManager[Any]:
        """Return a context without effect: the trainee knows its strategy."""
        return contextlib.nullcontext()

    def trainee(self, trainee: Any) -> Any:
        """Return a model of the same layers that shares its batches out."""
        model = MirroredModel(trainee.input, trainee.output)
        model.dtype_policy = trainee.dtype_policy
        return model

    def predicting(self, built: BuiltModel) -> BuiltModel:
        """Return models of the same layers that do not know the strategy.

        Those that do would predict every batch on every device, and return all of it.
        """
        model, attention = built.model, built.attention
        if attention is not None:
            attention = keras.Model(attention.input, attention.output)
        model = keras.Model(model.input, model.output)
        return dataclasses.replace(built, model=model, attention=attention)


class NumberedStrategy(_Strategy):  # type: ignore[misc]
    """A strategy that another one in the same process does not disturb.

    TensorFlow numbers what devices exchange from the same start in every strategy, so that a second
    one meets shapes of the first, and stops (its issue 62790).
    """

    def __init__(self, names: Sequence[str], number: int) -> None:
        self._collective_key_base = number * _KEYS_EACH
        super().__init__(list(names))


class MirroredModel(_Model):  # type: ignore[misc]
    """A model of weighted outputs whose `train_on_batch` is a step on all devices together.

    The step is the one that a single device would do with the whole batch. Keras' own would not be:
    it trains every device on the whole batch, takes the mean of the devices' mean losses, whatever
    the weights in them, and clips the gradients of each device alone.

    Only dropout differs, for each device draws its own; but not from one run to the next.
    """

    def compile(
        self,
        optimizer: Any,
        loss: Mapping[str, Any],
        *,
        loss_weights: Mapping[str, float],
        **options: Any,
    ) -> None:
        """Compile as Keras does; a loss is the mean over the batch, weighted."""
        super().compile(optimizer, loss, loss_weights=loss_weights, **options)
        self._outputs_losses = {key: (loss[key], loss_weights[key]) for key in loss}

    def train_on_batch(
        self, inputs: Arrays, targets: Arrays, weights: Arrays, *, return_dict: bool = True
    ) -> dict[str, float]:
        """Train on a batch that the devices can share evenly; return its loss.

        Args:
            inputs: (B, ...) each.
            targets: (B, k) each, by output.
            weights: (B,) each, by output.
            return_dict: As Keras has it; there is no other way here.
        """
        del return_dict
        shares = {key: shares_of(of_output) for key, of_output in weights.items()}
        with tf.device("CPU:0"):  # from where each device fetches its rows, and no others
            batch = tf.nest.map_structure(tf.convert_to_tensor, (inputs, targets, shares))
        return {"loss": float(self._step(*batch))}

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def _step(self, *batch: Any) -> Any:
        losses = self.distribute_strategy.run(self._replica_step, batch)
        return self.distribute_strategy.reduce("SUM", losses, axis=None)

    def _replica_step(self, *batch: Any) -> Any:
        replica = tf.distribute.get_replica_context()
        with tf.device("CPU:0"):
            inputs, targets, shares = tf.nest.map_structure(_own_rows, batch)
        with tf.GradientTape() as tape:
            with self._own_seeds(replica.replica_id_in_sync_group):
                predictions = self(inputs, training=True)
            loss = self._loss(targets, predictions, shares)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        if self._needs_whole_gradients:
            gradients = _whole_on_first(gradients)
        self.optimizer.apply(gradients, self.trainable_variables)  # which adds them up
        return loss

    def _loss(self, targets: Any, predictions: Any, shares: Any) -> Any:
        return tf.add_n(
            [
                weight * tf.reduce_sum(loss.call(targets[key], predictions[key]) * shares[key])
                for key, (loss, weight) in self._outputs_losses.items()
            ]
        )

    @contextlib.contextmanager
    def _own_seeds(self, replica: Any) -> Any:
        """Let dropout draw from other seeds on each device; afterwards all have the same again."""
        states = [v for v in self.variables if v.name == _SEED_STATE]
        step = tf.stack([tf.cast(replica, tf.int64) * _SEED_STEP, 0])
        for state in states:
            state.assign(state + tf.cast(step, state.dtype))
        yield
        for state in states:
            state.assign(state - tf.cast(step, state.dtype))

    @property
    def _needs_whole_gradients(self) -> bool:
        scales_loss = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        return scales_loss or bool(self.optimizer.global_clipnorm)


def shares_of(weights: NDArray[Any]) -> NDArray[np.float32]:
    """Return weights (B,) whose sum is 1: a weighted mean is then a sum, wherever its parts are."""
    total = weights.sum(dtype=np.float64)
    return (weights / total if total else np.zeros_like(weights)).astype(np.float32)


def _own_rows(rows: Any) -> Any:
    replica = tf.distribute.get_replica_context()
    size = tf.shape(rows)[0] // replica.num_replicas_in_sync
    start = replica.replica_id_in_sync_group * size
    return rows[start : start + size]


def _whole_on_first(gradients: Sequence[Any]) -> list[Any]:
    """Return the sum of all devices' gradients on the first device, and zeros on the others.

    The optimizer looks at gradients, for their norm or for what is not finite, before it adds up
    those of all devices.
    """
    replica = tf.distribute.get_replica_context()
    whole = replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
    is_first = tf.equal(replica.replica_id_in_sync_group, 0)
    return [tf.where(is_first, gradient, tf.zeros_like(gradient)) for gradient in whole]

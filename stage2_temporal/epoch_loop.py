"""Training a compiled model for some epochs, as Keras' `fit` does, and faster on TensorFlow."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras
from stage2_temporal.dataset import EmbeddingSequence
from stage2_temporal.epochs import EpochKeeper
from stage2_temporal.prediction import prefetched

keras = load_keras()


def train_epochs(
    trainee: Any, training: EmbeddingSequence, keeper: EpochKeeper, *, first: int, last: int
) -> None:
    """Train until an epoch, or until the keeper stops it.

    On TensorFlow, `fit` draws batches from a `tf.data` iterator inside its compiled step, which
    takes a light model on a CPU twice as long as `train_on_batch` with the same batches. JAX keeps
    its state on the device between the steps of `fit`, and so is faster with it.

    Ctrl-C ends it between two batches: the model and the checkpoint stay whole.

    Args:
        trainee: A compiled model.
        training: Its batches; every pass over them is an epoch.
        keeper: Told of every batch and epoch.
        first: How many epochs were trained before.
        last: After how many epochs it ends.
    """
    training.start_epoch(first)
    with deferred_interrupt() as check_interrupt:
        if keras.backend.backend() == "tensorflow":
            _train_by_batch(trainee, training, keeper, first, last, check_interrupt)
            return
        check = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: check_interrupt()
        )
        trainee.fit(
            training,
            initial_epoch=first,
            epochs=last,
            callbacks=[keeper, check],
            shuffle=False,
            verbose=0,
        )


def _train_by_batch(
    trainee: Any,
    training: EmbeddingSequence,
    keeper: EpochKeeper,
    first: int,
    last: int,
    check_interrupt: Callable[[], None],
) -> None:
    keeper.set_model(trainee)
    trainee.stop_training = False
    for epoch in range(first, last):
        keeper.on_epoch_begin(epoch)
        losses, sizes = [], []
        with contextlib.closing(prefetched(training)) as batches:
            for number, batch in enumerate(batches):
                logs = trainee.train_on_batch(*batch, return_dict=True)
                losses.append(logs["loss"])
                sizes.append(len(batch[0]["mask"]))
                keeper.on_train_batch_end(number, logs)
                check_interrupt()
                if trainee.stop_training:
                    break
        keeper.on_epoch_end(epoch, {"loss": float(np.average(losses, weights=sizes))})
        training.on_epoch_end()
        if trainee.stop_training:
            return

"""The learning rate of each epoch, as a function of settings and of what happened before."""

import math

from stage2_temporal.config import TrainSettings

PLATEAU_EPOCHS = 5
_PLATEAU_FACTOR = 0.5


def epoch_learning_rate(settings: TrainSettings, epoch: int, num_plateaus: int) -> float:
    """Return the learning rate of an epoch.

    It rises linearly over the warm-up (Goyal et al. 2017). Then it stays constant, falls along half
    a cosine that would reach zero after the last epoch (Loshchilov & Hutter 2017, without
    restarts), or is halved after every 5 epochs without a better validation loss.

    Args:
        settings: learning_rate, schedule, warmup_epochs, epochs.
        epoch: From 1.
        num_plateaus: How often the validation loss was stuck so far.
    """
    warmup = settings.warmup_epochs
    if epoch <= warmup:
        return settings.learning_rate * epoch / (warmup + 1)
    if settings.schedule == "plateau":
        return settings.learning_rate * _PLATEAU_FACTOR**num_plateaus
    if settings.schedule == "cosine":
        progress = (epoch - 1 - warmup) / max(1, settings.epochs - warmup)
        return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate

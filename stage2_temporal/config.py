"""Settings of stage two: the single source of defaults and help texts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from stage1_extract.keras_setup import BACKENDS
from stage2_temporal.augment import AugmentSettings

TASKS = ("auto", "binary", "multiclass", "multilabel", "regression")
HEADS = ("gru", "lstm", "tcn", "transformer")
POOLINGS = ("last", "mean", "max", "attention")
_CHOICES = {
    "validation": ("holdout", "kfold", "leave-one-group-out"),
    "balance": ("none", "oversample", "undersample", "uniformize", "weights"),
    "bin_kind": ("width", "quantile"),
    "head": HEADS,
    "pooling": POOLINGS,
    "schedule": ("constant", "cosine", "plateau"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "unmatched": ("error", "drop"),
    "blank_target": ("error", "drop"),
    "blank_group": ("error", "own"),
}
_REPEATABLE = ("target", "task", "loss_weight", "balance_target", "class_share", "feature")
_AT_LEAST_ONE = (
    *("units", "layers", "epochs", "patience", "batch_size", "resamples", "workers", "repeats"),
    *("bins", "max_repeats", "fold_repeats", "inner_folds"),
)
_NOT_NEGATIVE = (
    *("seed", "projection", "warmup_epochs", "clip_norm", "smoothing_bins", "weight_decay"),
)
_FRACTIONS = ("dropout", "input_dropout", "gain_confidence")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What is learned from the embeddings, and how."""

    CHOICES: ClassVar = {**_CHOICES, "task": TASKS, "backend": BACKENDS}
    target: tyro.conf.UseAppendAction[Sequence[str]]
    """Column of the manifest to predict. Give it again for a model of several targets; a+b+c is one
    multilabel target of several 0/1 columns."""
    task: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """binary, multiclass, multilabel or regression, once for all targets or once for each. The
    default, auto, takes two values for binary, texts and up to ten whole numbers for multiclass,
    other numbers for regression."""
    positive: str | None = None
    """Binary: the class whose probability is scored; default: the last in sorted order."""
    label_separator: str | None = None
    """Makes a target multilabel: its texts are lists, split at this sign."""
    loss_weight: tyro.conf.UseAppendAction[Sequence[float]] = ()
    """Weight of each target's loss, once for each target; default: all 1."""
    feature_table: Path | None = None
    """Side features beside the video, made by `stage2-temporal features`."""
    feature: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """A side feature to use; default: all in the table."""
    group: str | None = None
    """Column whose values (patient, subject, scene) stay whole on one side of the split."""
    blank_group: str = "error"
    """Clips whose group is blank: error, or own (each is taken for a group of its own)."""
    unmatched: str = "error"
    """Clips that only the manifest or only the store has: error, or drop (counted in report)."""
    blank_target: str = "error"
    """Clips whose target is blank: error, or drop (of several targets, the blank one alone)."""
    validation: str = "holdout"
    """holdout (one split), kfold (each clip is tested once), or leave-one-group-out."""
    split_column: str | None = None
    """holdout: column that says train, validation or test; default: the split is made. With
    inner_folds, its train and validation are divided anew."""
    fold_column: str | None = None
    """kfold: column that names each clip's test fold; default: the folds are made."""
    folds: int | None = None
    """kfold: how many; default: 5, or those of the fold column."""
    fold_repeats: int = 1
    """kfold: how often the folds are made anew."""
    inner_folds: int = 1
    """Models that share a test side, each with another part of the rest as validation clips (and
    then not validation_fraction of them); their mean predicts."""
    validation_fraction: float = 0.15
    """Part of the clips that decides when to stop training, and chooses penalties and threshold."""
    test_fraction: float = 0.2
    """holdout: part of the clips that is scored once, at the end."""
    duplicate_cosine: float = 0.995
    """Clips on two sides whose mean embeddings are at least so alike are listed in the report."""
    threshold: float | Literal["validation"] = 0.5
    """Probability from which a clip is positive; validation: chosen there, by balanced accuracy."""
    balance: str = "none"
    """Training clips: none, oversample or undersample (classes), uniformize (values), all drawn
    anew each epoch, or weights (rare classes and values count more in the loss)."""
    balance_target: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """Target, or two for uniformize, to balance by; default: the first."""
    class_share: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """oversample, undersample: CLASS=SHARE wanted of an epoch; default: all classes alike."""
    bins: int = 10
    """uniformize, weights: bins of a continuous target."""
    bin_kind: str = "width"
    """uniformize, weights: bins of equal width, or quantile."""
    max_repeats: int = 10
    """oversample, uniformize: how often one clip may be drawn in an epoch."""
    smoothing_bins: float = 1.0
    """weights: standard deviation, in bins, of the kernel that smooths the density of values."""
    augmentation: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)
    """How training sequences are changed anew each epoch."""
    head: str = "gru"
    """What reads the sequence: gru, lstm, tcn (convolution) or transformer."""
    units: int = 32
    """Width of its state."""
    layers: int = 1
    """Such layers on top of each other."""
    bidirectional: bool = False
    """gru, lstm, tcn: read each sequence in both directions."""
    pooling: str = "last"
    """How states become one: last, mean, max or attention."""
    skip: bool = True
    """Start from the mean-pool baseline, and learn what the order of frames adds to it."""
    gain_confidence: float = 0.975
    """With skip: how sure the validation groups must be that training improved on the baseline; it
    is kept otherwise. 0: take the best epoch."""
    projection: int = 32
    """Width to which embeddings are reduced first; 0: not at all."""
    layer_norm: bool = True
    """Normalise the projected embeddings and the pooled state."""
    input_dropout: float = 0.3
    """Part of the standardised embedding that is dropped in training."""
    dropout: float = 0.3
    """Part of the pooled state that is dropped in training."""
    epochs: int = 100
    """At most that many passes over the training clips."""
    patience: int = 15
    """Stop after so many epochs without a better validation loss; the best weights are kept."""
    batch_size: int = 32
    """Sequences computed at once."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    schedule: str = "constant"
    """Learning rate: constant, cosine (falls to 0 over the epochs), plateau (halved when stuck)."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises to its value."""
    clip_norm: float = 0.0
    """Gradients are shortened to this norm; 0: never."""
    precision: str = "float32"
    """Arithmetic in training: float32, mixed_float16 or mixed_bfloat16 (for GPUs)."""
    repeats: int = 1
    """Trainings from other seeds; scores are given with their mean and spread."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals."""
    seed: int = 0
    """Fixes the split, the initial weights, the order of clips and the resamples."""
    workers: int = 1
    """Threads that prepare batches; the batches are the same whatever their number."""
    resident: bool = False
    """Keep all embeddings of the run on the device (a GPU with room for them)."""
    devices: str | None = None
    """GPUs that share every batch, e.g. 0,1 (with tensorflow or jax); default: the one that Keras
    takes."""
    backend: str | None = None
    """Keras backend: tensorflow, jax or torch; default: KERAS_BACKEND, or tensorflow."""
    strips: bool = True
    """Keep small frames of the clips that were most wrong, for the report."""
    tensorboard: bool = False
    """Also write logs for TensorBoard into the run folder."""
    overwrite: bool = False
    """Replace the run folder if it exists."""

    def __post_init__(self) -> None:
        for name in _REPEATABLE:
            values = getattr(self, name)
            several = (values,) if isinstance(values, str) else tuple(values)
            object.__setattr__(self, name, several)
        self._check_targets()
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        if self.feature and self.feature_table is None:
            raise ValueError(f"feature {list(self.feature)} was given without a feature_table")
        if self.resident and (self.augmentation.any_sequence or self.augmentation.mixup):
            raise ValueError(
                "augmentation changes embeddings, which --resident keeps on the device; leave one "
                "of them out (--stored-views goes with it)"
            )
        if self.head == "transformer" and self.bidirectional:
            raise ValueError("a transformer always reads both ways; leave --bidirectional out")
        self._check_numbers()
        if self.devices is not None:
            self._check_devices(self.devices)
        self._check_validation()

    def _check_targets(self) -> None:
        if not self.target or not all(name.strip() for name in self.target):
            raise ValueError("no target was given; name the column to predict: --target COLUMN")
        if len(set(self.target)) < len(self.target):
            raise ValueError(f"target {list(self.target)} names a column twice")
        for task in self.task:
            _check_choice("task", task, TASKS)
        for name in ("task", "loss_weight"):
            count = len(getattr(self, name))
            if count not in (0, len(self.target)) and not (name == "task" and count == 1):
                raise ValueError(
                    f"{name} was given {count} times for {len(self.target)} targets; give it once "
                    "for each, in their order"
                )
        if any(not weight > 0 for weight in self.loss_weight):
            raise ValueError(f"loss_weight is {list(self.loss_weight)}; expected numbers above 0")

    def _check_numbers(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to below 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected more than 0")
        if not 0 < self.duplicate_cosine <= 1:
            raise ValueError(f"duplicate_cosine is {self.duplicate_cosine}; expected 0 to 1")
        if self.threshold != "validation" and not 0 < float(self.threshold) < 1:
            raise ValueError(f"threshold is {self.threshold}; expected 0 to 1, or validation")

    def _check_devices(self, devices: str) -> None:
        names = devices.split(",")
        gpus = all(name.isdecimal() for name in names) and len(set(names)) == len(names)
        if len(names) < 2 or not (gpus or set(names) == {"cpu"}):
            raise ValueError(
                f"devices is {devices!r}; expected two GPUs or more, each once, e.g. 0,1; to train "
                "on one, leave it out (CUDA_VISIBLE_DEVICES chooses which)"
            )
        if rest := self.batch_size % len(names):
            below = self.batch_size - rest
            near = f"{below} or {below + len(names)}" if below else f"{len(names)}"
            raise ValueError(
                f"batch_size is {self.batch_size}, which {len(names)} devices cannot share "
                f"evenly; the nearest that they can: {near}"
            )

    def _check_validation(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds is {self.folds}; expected 2 or more")
        if self.folds is not None and (self.validation != "kfold" or self.fold_column is not None):
            raise ValueError(
                f"folds is {self.folds}, but only --validation kfold without a fold column makes "
                "folds"
            )
        if self.validation == "leave-one-group-out" and self.group is None:
            raise ValueError("leave-one-group-out needs --group, the column of the groups")
        if self.fold_repeats > 1 and (self.validation != "kfold" or self.fold_column is not None):
            raise ValueError(
                f"fold_repeats is {self.fold_repeats}, but only --validation kfold without a fold "
                "column can make its folds anew"
            )
        for name, needed in (("split_column", "holdout"), ("fold_column", "kfold")):
            if getattr(self, name) is not None and self.validation != needed:
                raise ValueError(
                    f"{name} was given with --validation {self.validation}; it belongs to "
                    f"--validation {needed}"
                )

    @property
    def num_devices(self) -> int:
        """On how many devices a model is trained."""
        return 1 if self.devices is None else len(self.devices.split(","))

    @property
    def num_folds(self) -> int:
        """How many folds are made: 5 unless told otherwise."""
        return 5 if self.folds is None else self.folds

    def task_of(self, number: int) -> str:
        """Return the task that was asked for the target of that number: auto unless given."""
        if not self.task:
            return "auto"
        return self.task[number if len(self.task) > 1 else 0]


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")

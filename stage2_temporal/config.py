"""Settings of stage two: the single source of defaults and help texts."""

import dataclasses

BALANCES = ("none", "oversample", "uniformize")
HEADS = ("gru", "lstm")
TASKS = ("auto", "binary", "multiclass", "regression")
ON_PROBLEM = ("error", "drop")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What is learned from the embeddings, and how."""

    target: str
    """Column of the manifest to predict."""
    task: str = "auto"
    """binary, multiclass or regression; auto takes two values for binary, texts and up to ten whole
    numbers for multiclass, other numbers for regression."""
    positive: str | None = None
    """Binary: the class whose probability is scored; default: the last in sorted order."""
    group: str | None = None
    """Column whose values (patient, subject, scene) stay whole on one side of the split."""
    blank_group: str = "error"
    """Clips whose group is blank: error, or own (each is taken for a group of its own)."""
    split_column: str | None = None
    """Column that says train, validation or test; default: the split is made."""
    validation_fraction: float = 0.15
    """Part of the clips that decides when to stop training."""
    test_fraction: float = 0.2
    """Part of the clips that is scored once, at the end."""
    unmatched: str = "error"
    """Clips that only the manifest or only the store has: error, or drop (counted in report)."""
    blank_target: str = "error"
    """Clips whose target is blank: error, or drop (counted in the report)."""
    balance: str = "none"
    """Training clips drawn anew each epoch: none, oversample (classes), uniformize (regression)."""
    bins: int = 10
    """uniformize: equal-width bins of the target."""
    max_repeats: int = 10
    """uniformize: how often one clip may be drawn in an epoch."""
    head: str = "gru"
    """Recurrent layer: gru or lstm."""
    units: int = 64
    """State size of the recurrent layer."""
    layers: int = 1
    """Recurrent layers on top of each other."""
    bidirectional: bool = False
    """Read each sequence in both directions."""
    dropout: float = 0.5
    """Part of the standardised embedding, and of the last state, that is dropped in training."""
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
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals."""
    seed: int = 0
    """Fixes the split, the initial weights, the order of clips and the resamples."""
    workers: int = 1
    """Threads that prepare batches; the batches are the same whatever their number."""
    backend: str | None = None
    """Keras backend: tensorflow, jax or torch; default: KERAS_BACKEND, or tensorflow."""
    overwrite: bool = False
    """Replace the run folder if it exists."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("task", TASKS),
            ("balance", BALANCES),
            ("head", HEADS),
            ("unmatched", ON_PROBLEM),
            ("blank_target", ON_PROBLEM),
            ("blank_group", ("error", "own")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}"
                )
        positive = ("units", "layers", "epochs", "patience", "batch_size", "resamples", "workers")
        for name in (*positive, "bins", "max_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected 0 to below 1")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"learning_rate {self.learning_rate} must be above 0 and weight_decay "
                f"{self.weight_decay} not below"
            )

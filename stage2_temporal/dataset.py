"""Batches of padded sequences from the store, as a Keras PyDataset or a tf.data.Dataset."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.augment import AugmentSettings, augment_sequence, choose_view
from stage2_temporal.balance import Draw
from stage2_temporal.mixup import mixup
from stage2_temporal.model_inputs import PAD_MULTIPLE, pad_sequences, padded_length

keras = load_keras()
_PyDataset: Any = keras.utils.PyDataset

Indices = NDArray[np.intp]
Arrays = dict[str, NDArray[Any]]
Labels = Mapping[str, NDArray[Any]] | NDArray[Any]
Batch = tuple[Any, ...]
"""Inputs, and targets and weights as far as there are any."""
FeatureRows = Callable[[Indices], NDArray[np.float32]]
"""Returns the side features (B, F) of some clips, in the order asked."""

_SORTED_BATCHES = 16
_AUGMENT = 1  # of the random numbers: apart from those that draw and order clips


class EmbeddingSequence(_PyDataset):  # type: ignore[misc]
    """Sequences in batches of similar length, right-padded, with a mask.

    A batch is `(inputs,)`, `(inputs, targets)` or `(inputs, targets, weights)`, as far as these
    were given. Inputs are `embedding` (B, T, D), `mask` (B, T) bool and, if asked for, `features`
    (B, F) float32; targets and weights are arrays, or dictionaries of them, like those given.
    Embeddings keep the store's dtype, so that float16 travels to the device and is converted there.
    T is the longest length in the batch, rounded up to a multiple of 8, so that few shapes are
    compiled (in the second batch 8 more, if it were as in the first, but clips differ).

    With a seed the order is new each epoch, and a function of (seed, epoch) alone, and so is
    augmentation: the number of workers does not matter. Without a seed the order is that of
    `positions`, and nothing is augmented. Call `fit` with shuffle=False: by default Keras shuffles
    the batches again, by Python's global generator.

    Of several processes that train together, each gives the same arguments and its own
    `process_index`. They then see disjoint parts of one order, that of batches of `num_processes`
    times `batch_size`, in as many batches each and of equal T. If the clips of an epoch cannot be
    divided evenly, up to `num_processes` - 1 are given again, with weight 0.

    Args:
        store: The embeddings.
        positions: (N,) sequences in the store, or (N, V) views of each clip, of which an epoch
            takes one at random (-1: no such view); the first is the clip itself.
        targets: (N, ...) array, or such arrays by name of the model's outputs.
        weights: (N,) weight of each clip in the loss; by name if the targets are.
        features: Returns the side features of clips, given as indices 0..N-1.
        extras: More inputs of the model: (N, ...) arrays by name.
        batch_size: B.
        seed: For training; None keeps the order, for evaluation.
        draw: Which of the N clips an epoch sees, as indices (a clip may occur more than once);
            None for each clip once. Called with the epoch's own random generator.
        augmentation: How sequences are changed; used with a seed alone.
        spread: (D,) standard deviation of each embedding feature, for noise.
        full_batches: Whether to fill the last batch up to B with rows without any frame, of weight
            0, so that no other shape is compiled for it.
        workers: Threads that prepare batches ahead.
        process_index: Which of the processes this is, from 0 on.
        num_processes: How many share the clips.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        positions: Indices,
        targets: Labels | None = None,
        *,
        weights: Labels | None = None,
        features: FeatureRows | None = None,
        extras: Mapping[str, NDArray[Any]] | None = None,
        batch_size: int = 32,
        seed: int | None = None,
        draw: Draw | None = None,
        augmentation: AugmentSettings | None = None,
        spread: NDArray[np.float64] | None = None,
        full_batches: bool = False,
        workers: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False)
        _check_lengths(positions, targets, weights, extras)
        self.store = store
        self.positions = positions
        self.targets = targets
        self.weights = weights
        self.features = features
        self.extras = extras or {}
        self.batch_size = batch_size
        self.seed = seed
        self.draw = draw
        self.augmentation = AugmentSettings() if augmentation is None else augmentation
        self.spread = spread
        self.full_batches = full_batches
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch = 0
        if not 0 <= process_index < num_processes:
            raise ValueError(
                f"process_index is {process_index} of {num_processes} processes; expected 0 to "
                "num_processes - 1"
            )
        for name, given in (("full_batches", full_batches), ("num_processes", num_processes > 1)):
            if given and targets is not None and weights is None:
                raise ValueError(f"{name} needs weights, lest empty rows count: give them, too")
        by_name = isinstance(targets, Mapping) and isinstance(weights, Mapping)
        if self.augmentation.mixup and seed is not None and not by_name:
            raise ValueError("mixup needs targets and weights, both by name of the model's outputs")
        self._views = positions if positions.ndim == 2 else positions[:, None]
        self._lengths = np.where(self._views < 0, 0, store.lengths[self._views]).max(axis=1)
        self._num_steps = padded_length(self._lengths)
        self._plan_epoch()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index` of this epoch."""
        batch = self._batch(index)
        missing = self.batch_size - len(self._plan[index])
        return filled_up(batch, missing) if self.full_batches and missing else batch

    def _batch(self, index: int) -> Batch:
        clips = self._clips_of(index)
        num_steps = self._steps_of_batch(index)
        if self.seed is None:
            positions = self._views[clips, 0]
            return self._with_labels(index, self._read(positions, num_steps))
        # Another number in each process; without several it is the batch's own.
        number = index * self.num_processes + self.process_index
        rng = np.random.default_rng([self.seed, self.epoch, _AUGMENT, number])
        positions = self._views[clips, 0]
        if self._views.shape[1] > 1:
            positions = np.array([_choose(self._views[clip], rng) for clip in clips])
        inputs = self._read(positions, num_steps)
        if self.augmentation.any_sequence:
            inputs = self._augmented(inputs, rng)
        if not self.augmentation.mixup:
            return self._with_labels(index, inputs)
        inputs, targets, weights = self._with_labels(index, inputs)
        return mixup(inputs, targets, weights, rng, alpha=self.augmentation.mixup)

    def on_epoch_end(self) -> None:
        """Plan the next epoch; Keras calls it once the workers have stopped."""
        self.start_epoch(self.epoch + 1)

    def start_epoch(self, epoch: int) -> None:
        """Plan an epoch; a training that goes on after a crash starts with a later one."""
        self.epoch = epoch
        self._plan_epoch()

    @property
    def plan(self) -> list[Indices]:
        """This epoch's batches as indices into `positions`."""
        return [self._clips_of(index) for index in range(len(self))]

    @property
    def counted(self) -> list[NDArray[np.bool_]]:
        """For each batch of `plan`, False for clips that only fill up a process' part."""
        return [rows < len(self.positions) for rows in self._plan]

    def _clips_of(self, index: int) -> Indices:
        clips: Indices = self._plan[index] % len(self.positions)
        return clips

    def as_tf_dataset(self, *, prefetch: int = 4) -> Any:
        """Return the same batches as a `tf.data.Dataset`; each pass over it is the next epoch.

        Args:
            prefetch: Batches prepared ahead.
        """
        from stage2_temporal.tf_data import as_tf_dataset

        return as_tf_dataset(self, prefetch=prefetch)

    def _augmented(self, inputs: Arrays, rng: np.random.Generator) -> Arrays:
        padded, mask = inputs["embedding"], inputs["mask"]
        changed = [
            augment_sequence(
                sequence[:length],
                rng,
                self.augmentation,
                spread=self.spread,
                max_length=padded.shape[1],
            )
            for sequence, length in zip(padded, mask.sum(axis=1).tolist(), strict=True)
        ]
        return pad_sequences(changed, padded.shape[1])

    def _read(self, positions: Indices, num_steps: int) -> Arrays:
        return read_padded(self.store, positions, num_steps)

    def _with_labels(self, index: int, inputs: Arrays) -> Batch:
        clips = self._clips_of(index)
        if self.features is not None:
            inputs["features"] = self.features(clips)
        inputs |= {name: values[clips] for name, values in self.extras.items()}
        if self.targets is None:
            return (inputs,)
        if self.weights is None:
            return inputs, _rows(self.targets, clips)
        weights = _rows(self.weights, clips)
        if self.num_processes > 1:
            counted = self._plan[index] < len(self.positions)
            weights = _weighed(weights, counted)
        return inputs, _rows(self.targets, clips), weights

    def _steps_of_batch(self, index: int) -> int:
        """Return T of a batch; that of the second differs from the first's if any clip's does.

        Keras on TensorFlow takes the shape of all batches, of all epochs, from the first two: were
        these alike, it would refuse the first batch of another length.
        """
        num_steps = self._steps[index]
        if index == 1 and np.ptp(self._num_steps) and num_steps == self._steps_of_batch(0):
            return num_steps + PAD_MULTIPLE
        return num_steps

    def _plan_epoch(self) -> None:
        """Plan the batches of all processes together, and take this one's rows of each."""
        together = self.batch_size * self.num_processes
        if self.seed is None:
            batches = _chop(self._divisible(np.arange(len(self.positions))), together)
        else:
            rng = np.random.default_rng([self.seed, self.epoch])
            clips = self.draw(rng) if self.draw else np.arange(len(self.positions))
            clips = self._divisible(rng.permutation(clips))
            lengths = self._lengths if self.num_processes == 1 else np.tile(self._lengths, 2)
            batches = batches_of_like_length(clips, lengths, together, rng)
        count = len(self.positions)
        self._steps = [int(self._num_steps[batch % count].max()) for batch in batches]
        self._plan = [batch[self.process_index :: self.num_processes] for batch in batches]

    def _divisible(self, clips: Indices) -> Indices:
        """Append the first clips again, as numbers from N on, until all processes have as many."""
        missing = -len(clips) % self.num_processes
        return np.concatenate([clips, np.resize(clips, missing) + len(self.positions)])


def _choose(views: Indices, rng: np.random.Generator) -> int:
    """Draw one of a clip's stored views."""
    stored = views[views >= 0]
    return int(stored[choose_view(len(stored) - 1, rng)])


def _rows(labels: Labels, clips: Indices) -> Any:
    if isinstance(labels, Mapping):
        return {name: values[clips] for name, values in labels.items()}
    return labels[clips]


def _weighed(weights: Any, factor: NDArray[Any]) -> Any:
    if isinstance(weights, Mapping):
        return {name: _weighed(values, factor) for name, values in weights.items()}
    return weights * factor.reshape(-1, *(1,) * (weights.ndim - 1)).astype(weights.dtype)


def _check_lengths(
    positions: Indices,
    targets: Labels | None,
    weights: Labels | None,
    extras: Mapping[str, NDArray[Any]] | None,
) -> None:
    if not len(positions):
        raise ValueError("0 positions were given; expected at least one sequence")
    for what, labels in (("targets", targets), ("weights", weights), ("extras", extras)):
        if labels is None:
            continue
        arrays = labels.values() if isinstance(labels, Mapping) else [labels]
        wrong = [len(values) for values in arrays if len(values) != len(positions)]
        if wrong:
            raise ValueError(
                f"{len(positions)} positions and {wrong[0]} {what} were given; expected one a "
                "sequence"
            )
    if weights is not None and targets is None:
        raise ValueError("weights were given without targets; give both, or neither")


def filled_up(batch: Batch, missing: int) -> Batch:
    """Append rows of zeros to every array: no frames, no labels, weight 0."""

    def fill(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

    return tuple(
        {name: fill(array) for name, array in part.items()}
        if isinstance(part, Mapping)
        else fill(part)
        for part in batch
    )


def read_padded(store: EmbeddingStore, positions: Indices, num_steps: int) -> Arrays:
    """Read sequences straight into {"embedding": (B, T, D), "mask": (B, T) bool}, right-padded."""
    lengths = store.lengths[positions]
    embedding = np.zeros((len(positions), num_steps, store.embedding_dim), store.dtype)
    for row, position, length in zip(embedding, positions.tolist(), lengths.tolist(), strict=True):
        store.read_into(position, row[:length])
    return {"embedding": embedding, "mask": np.arange(num_steps) < lengths[:, None]}


def batches_of_like_length(
    clips: Indices,
    lengths: NDArray[np.int64],
    batch_size: int,
    rng: np.random.Generator,
) -> list[Indices]:
    """Cut shuffled clips into batches that need little padding, and shuffle the batches.

    Clips are sorted by length within runs of 16 batches only, so that chance still decides who
    meets whom.

    Args:
        clips: (M,) shuffled clips, repeats allowed.
        lengths: (N,) length of each clip.
        batch_size: Clips a batch.
        rng: For the order of the batches.
    """
    batches = []
    for run in _chop(clips, batch_size * _SORTED_BATCHES):
        batches += _chop(run[np.argsort(lengths[run], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def _chop(clips: Indices, size: int) -> list[Indices]:
    return [clips[i : i + size] for i in range(0, len(clips), size)]

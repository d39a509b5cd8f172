"""Batches of padded sequences from the store, as a Keras PyDataset."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore

keras = load_keras()
_PyDataset: Any = keras.utils.PyDataset

Batch = dict[str, NDArray[Any]]
Draw = Callable[[np.random.Generator], NDArray[np.intp]]
PAD_MULTIPLE = 8
_SORTED_BATCHES = 16


class EmbeddingSequence(_PyDataset):  # type: ignore[misc]
    """Labelled sequences in batches of similar length, right-padded, with a mask.

    A batch is `({"embedding": (B, T, D), "mask": (B, T) bool}, (B,) targets)`. Embeddings keep the
    store's dtype, so that float16 travels to the device and is converted there. T is the longest
    length in the batch, rounded up to a multiple of 8, so that few shapes are compiled.

    With a seed the order is new each epoch, and a function of (seed, epoch) alone: the number of
    workers does not matter. Without one the order is that of `positions`.

    Args:
        store: The embeddings.
        positions: (N,) sequences in the store.
        targets: (N,) one a sequence.
        batch_size: B.
        seed: For training; None keeps the order, for evaluation.
        draw: Which of the N clips an epoch sees, as indices (a clip may occur more than once);
            None for each clip once. Called with the epoch's own random generator.
        workers: Threads that prepare batches ahead.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        positions: NDArray[np.intp],
        targets: NDArray[Any],
        *,
        batch_size: int = 32,
        seed: int | None = None,
        draw: Draw | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False)
        if len(positions) != len(targets) or not len(positions):
            raise ValueError(
                f"{len(positions)} positions and {len(targets)} targets were given; expected one "
                "target a sequence, and at least one"
            )
        self.store = store
        self.positions = positions
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.draw = draw
        self.epoch = 0
        self._plan = self._planned_batches()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> tuple[Batch, NDArray[Any]]:
        """Return batch `index` of this epoch."""
        clips = self._plan[index]
        inputs = pad_sequences([self.store.read(int(i)) for i in self.positions[clips]])
        return inputs, self.targets[clips]

    def on_epoch_end(self) -> None:
        """Plan the next epoch; Keras calls it once the workers have stopped."""
        self.epoch += 1
        self._plan = self._planned_batches()

    @property
    def plan(self) -> list[NDArray[np.intp]]:
        """This epoch's batches as indices into `positions`."""
        return list(self._plan)

    def _planned_batches(self) -> list[NDArray[np.intp]]:
        if self.seed is None:
            return _chop(np.arange(len(self.positions)), self.batch_size)
        rng = np.random.default_rng([self.seed, self.epoch])
        clips = self.draw(rng) if self.draw else np.arange(len(self.positions))
        lengths = self.store.lengths[self.positions]
        batches = batches_of_like_length(rng.permutation(clips), lengths, self.batch_size, rng)
        return _differing_first(batches, [padded_length(lengths[b].max()) for b in batches])


def padded_length(length: int) -> int:
    """Return a length rounded up to a multiple of 8."""
    return -(-int(length) // PAD_MULTIPLE) * PAD_MULTIPLE


def pad_sequences(sequences: list[NDArray[Any]]) -> Batch:
    """Stack sequences (T_i, D) into {"embedding": (B, T, D), "mask": (B, T) bool}, right-padded."""
    num_steps = padded_length(max(len(sequence) for sequence in sequences))
    shape = (len(sequences), num_steps, sequences[0].shape[1])
    embedding = np.zeros(shape, sequences[0].dtype)
    mask = np.zeros(shape[:2], np.bool_)
    for i, sequence in enumerate(sequences):
        embedding[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = True
    return {"embedding": embedding, "mask": mask}


def batches_of_like_length(
    clips: NDArray[np.intp],
    lengths: NDArray[np.int64],
    batch_size: int,
    rng: np.random.Generator,
) -> list[NDArray[np.intp]]:
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


def _chop(clips: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    return [clips[i : i + size] for i in range(0, len(clips), size)]


def _differing_first(
    batches: list[NDArray[np.intp]], num_steps: list[int]
) -> list[NDArray[np.intp]]:
    """Let the first two batches differ in T, if any do.

    Keras on TensorFlow takes the shape of all batches from the first two: were these alike, it
    would refuse the first batch of another length.
    """
    other = next((i for i, steps in enumerate(num_steps) if steps != num_steps[0]), 1)
    if other > 1:
        batches[1], batches[other] = batches[other], batches[1]
    return batches

"""Batches of padded sequences from the store, as a Keras PyDataset."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.store import EmbeddingStore
from stage2_temporal.balance import Draw

keras = load_keras()
_PyDataset: Any = keras.utils.PyDataset

Batch = dict[str, NDArray[Any]]
PAD_MULTIPLE = 8
_SORTED_BATCHES = 16


class EmbeddingSequence(_PyDataset):  # type: ignore[misc]
    """Labelled sequences in batches of similar length, right-padded, with a mask.

    A batch is `({"embedding": (B, T, D), "mask": (B, T) bool}, (B,) targets)`. Embeddings keep the
    store's dtype, so that float16 travels to the device and is converted there. T is the longest
    length in the batch, rounded up to a multiple of 8, so that few shapes are compiled (in the
    second batch 8 more, if it were as in the first, but clips differ).

    With a seed the order is new each epoch, and a function of (seed, epoch) alone: the number of
    workers does not matter. Without one the order is that of `positions`. Call `fit` with
    shuffle=False: by default Keras shuffles the batches again, by Python's global generator.

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
        self._num_steps = padded_length(store.lengths[positions])
        self._plan = self._planned_batches()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> tuple[Batch, NDArray[Any]]:
        """Return batch `index` of this epoch."""
        clips = self._plan[index]
        sequences = [self.store.read(int(i)) for i in self.positions[clips]]
        return pad_sequences(sequences, self._steps_of_batch(index)), self.targets[clips]

    def on_epoch_end(self) -> None:
        """Plan the next epoch; Keras calls it once the workers have stopped."""
        self.epoch += 1
        self._plan = self._planned_batches()

    @property
    def plan(self) -> list[NDArray[np.intp]]:
        """This epoch's batches as indices into `positions`."""
        return list(self._plan)

    def _steps_of_batch(self, index: int) -> int:
        """Return T of a batch; that of the second differs from the first's if any clip's does.

        Keras on TensorFlow takes the shape of all batches, of all epochs, from the first two: were
        these alike, it would refuse the first batch of another length.
        """
        num_steps = int(self._num_steps[self._plan[index]].max())
        if index == 1 and np.ptp(self._num_steps) and num_steps == self._steps_of_batch(0):
            return num_steps + PAD_MULTIPLE
        return num_steps

    def _planned_batches(self) -> list[NDArray[np.intp]]:
        if self.seed is None:
            return _chop(np.arange(len(self.positions)), self.batch_size)
        rng = np.random.default_rng([self.seed, self.epoch])
        clips = self.draw(rng) if self.draw else np.arange(len(self.positions))
        lengths = self.store.lengths[self.positions]
        return batches_of_like_length(rng.permutation(clips), lengths, self.batch_size, rng)


def padded_length(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return lengths rounded up to multiples of 8."""
    return -(-lengths // PAD_MULTIPLE) * PAD_MULTIPLE


def pad_sequences(sequences: list[NDArray[Any]], num_steps: int) -> Batch:
    """Stack sequences (T_i, D) into {"embedding": (B, T, D), "mask": (B, T) bool}, right-padded."""
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

"""What the run and its decoder processes tell each other; frames pass by shared memory."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stage1_extract.addresses import Location
from stage1_extract.clips import FrameRecipe
from stage1_extract.sources import VideoError


@dataclasses.dataclass(frozen=True)
class Setup:
    """First message to a decoder.

    Attributes:
        recipe: How it shapes frames.
        num_slots: Chunks that the shared memory holds.
        memory_mb: How much memory of its own the process may have.
    """

    recipe: FrameRecipe
    num_slots: int
    memory_mb: int


@dataclasses.dataclass(frozen=True)
class FreeSlot:
    """To a decoder: this slot's frames have been used."""

    slot: int


class Ready:
    """From a decoder: it has started, and waits for its first clip."""


class Alive:
    """From a decoder: work goes on."""


@dataclasses.dataclass(frozen=True)
class ChunkInSlot:
    """From a decoder: a FrameChunk whose frames lie in a slot of the shared memory."""

    slot: int
    num_frames: int
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]
    view: int


@dataclasses.dataclass(frozen=True)
class ClipFailed:
    """From a decoder: the clip cannot be had."""

    error: VideoError | OSError


@dataclasses.dataclass(frozen=True)
class Broken:
    """From a decoder: an unforeseen error, which is the program's fault and not the clip's."""

    traceback: str


def slot_shape(recipe: FrameRecipe) -> tuple[int, int, int, int]:
    """Return the shape of a full chunk's frames."""
    return recipe.chunk_frames, recipe.input_size, recipe.input_size, 3


def out_of_memory(path: Location, memory_mb: int) -> VideoError:
    """Return the error for a source that does not fit the memory limit."""
    return VideoError(
        f"{path} needs more than the {memory_mb} MB that a decoder may use; raise the limit with "
        "--decoder-memory-mb if the file is sound"
    )

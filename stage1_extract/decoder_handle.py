"""The run's hold on one decoder process: what it works on, how long, and how it ended."""

import dataclasses
import math
import mmap
import threading
import time

import numpy as np

from stage1_extract.child import ChildProcess
from stage1_extract.clips import ClipJob, FrameChunk, FrameRecipe
from stage1_extract.decoder_messages import ChunkInSlot, FreeSlot, Setup, slot_shape
from stage1_extract.quiet import nameless_file
from stage1_extract.sources import VideoError

_NUM_SLOTS = 4
_TICK_SECONDS = 1.0
_START_SECONDS = 300.0
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "OPENCV_LOG_LEVEL": "SILENT",  # its complaints about damaged files name no file; ours do
}


class DecoderError(RuntimeError):
    """Decoders failed by the program's own fault, or could not be started."""


@dataclasses.dataclass(frozen=True)
class DecoderLimits:
    """What a clip may cost before it is given up.

    Attributes:
        stall_seconds: Longest time without any progress.
        clip_seconds: Longest time of reading, without what is waited for the backbone.
        memory_mb: Most memory of a decoder process.
    """

    stall_seconds: float = 60.0
    clip_seconds: float = 14400.0
    memory_mb: int = 4096


class DecoderHandle:
    """Starts a decoder process and talks to it; safe to use from two threads.

    Attributes:
        process: The process.
        job: What it works on; None while it has nothing to do.
        ready: Whether it has started.
    """

    def __init__(self, recipe: FrameRecipe, limits: DecoderLimits) -> None:
        self.job: ClipJob | None = None
        self.ready = False
        self._limits = limits
        self._shape = slot_shape(recipe)
        self._num_taken = 0
        self._silent_seconds = self._busy_seconds = 0.0
        self._ticked = time.monotonic()
        self._lock = threading.Lock()
        num_bytes = _NUM_SLOTS * math.prod(self._shape)
        with nameless_file() as memory:
            memory.truncate(num_bytes)
            self._memory = mmap.mmap(memory.fileno(), num_bytes, prot=mmap.PROT_READ)
            self.process = ChildProcess(
                "stage1_extract.decoder_process",
                descriptors=(memory.fileno(),),
                environment=_ENVIRONMENT,
            )
        self._send(Setup(recipe, _NUM_SLOTS, limits.memory_mb))

    def give(self, job: ClipJob) -> None:
        """Have a clip decoded."""
        self.job = job
        self._silent_seconds = self._busy_seconds = 0.0
        self.process.forget_output()
        self._send(job)

    def receive(self) -> object:
        """Return the next message.

        Raises:
            EOFError, OSError: The process is gone.
        """
        message = self.process.connection.recv()
        self._silent_seconds = 0.0
        if isinstance(message, ChunkInSlot):
            with self._lock:
                self._num_taken += 1
        return message

    def chunk(self, message: ChunkInSlot) -> FrameChunk:
        """Return the chunk; its frames are valid until the slot is released."""
        shape = (message.num_frames, *self._shape[1:])
        offset = message.slot * math.prod(self._shape)
        frames = np.frombuffer(self._memory, np.uint8, math.prod(shape), offset).reshape(shape)
        return FrameChunk(frames, message.time_seconds, message.source_index, message.view)

    def release(self, slot: int) -> None:
        """Let the decoder use a slot again."""
        with self._lock:
            self._num_taken -= 1
        self._silent_seconds = 0.0
        self._send(FreeSlot(slot))

    def overdue(self) -> VideoError | None:
        """Return the error of a clip that has taken too long, else None; to be called often.

        While all slots wait to be used, the decoder may wait, so that time does not count. Nor
        does time in which the whole machine slept.

        Raises:
            DecoderError: The process does not start.
        """
        now = time.monotonic()
        elapsed, self._ticked = min(now - self._ticked, _TICK_SECONDS), now
        if (self.job is None and self.ready) or self._num_taken == _NUM_SLOTS:
            return None
        self._busy_seconds += elapsed
        self._silent_seconds += elapsed
        if self.job is None:
            self._check_start()
            return None
        path, limits = self.job.clip.path, self._limits
        if self._silent_seconds > limits.stall_seconds:
            return VideoError(
                f"{path} blocked its decoder: no progress in {limits.stall_seconds:g} s; repair "
                "the file, or raise --stall-seconds if its disk or network is slow"
            )
        if self._busy_seconds > limits.clip_seconds:
            return VideoError(
                f"{path} was not decoded within {limits.clip_seconds:g} s; cut it into clips, "
                "or raise --clip-seconds"
            )
        return None

    def _check_start(self) -> None:
        if self._silent_seconds > _START_SECONDS:
            raise DecoderError(
                f"a decoder process did not start within {_START_SECONDS:g} s:\n"
                f"{self.process.last_words()}"
            )

    def kill(self) -> None:
        """End the process at once; it holds nothing that could be lost."""
        with self._lock:
            self.process.kill()

    def _send(self, message: object) -> None:
        with self._lock:
            if self.process.connection.closed:
                return
            try:
                self.process.connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                return  # it is gone, which `receive` will tell

"""A decoder: a process of its own, so that a file that crashes or blocks it costs only itself."""

import errno
import math
import mmap
import os
import resource
import signal
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from stage1_extract.addresses import Location
from stage1_extract.child import connect_to_run
from stage1_extract.clips import ClipJob, FrameChunk
from stage1_extract.decoder_messages import (
    Alive,
    Broken,
    ChunkInSlot,
    ClipFailed,
    FreeSlot,
    Ready,
    Setup,
    out_of_memory,
    slot_shape,
)
from stage1_extract.downloads import Downloads, read_source
from stage1_extract.keras_setup import load_keras
from stage1_extract.randaugment import confine_tensorflow
from stage1_extract.sources import VideoError

_BEAT_SECONDS = 0.5


def main() -> None:
    """Serve clips until the run is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    confine_tensorflow()  # RandAugment is Keras'
    connection, (memory_fd,) = connect_to_run(when_gone=lambda: os._exit(0))
    try:
        decoder = _Decoder(connection, memory_fd)
        while True:
            decoder.serve(decoder.next_job())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is over


class _Decoder:
    def __init__(self, connection: "Connection[Any, Any]", memory_fd: int) -> None:
        self._connection = connection
        setup = connection.recv()
        if not isinstance(setup, Setup):
            raise TypeError(f"expected the setup first, not {setup!r}")
        self._recipe = setup.recipe
        self._downloads = Downloads(setup.recipe.scratch)
        self._shape = slot_shape(setup.recipe)
        self._memory = mmap.mmap(memory_fd, setup.num_slots * math.prod(self._shape))
        self._free = deque(range(setup.num_slots))
        self._last_sent = time.monotonic()
        # Decoders share the cores among themselves; OpenCV's own threads would only get in the way.
        cv2.setNumThreads(1)
        if setup.recipe.views.randaugment:
            load_keras("tensorflow")  # takes seconds, which are no clip's
        self._memory_mb = _limit_memory(setup.memory_mb)
        self._send(Ready())

    def next_job(self) -> ClipJob:
        """Wait for a clip."""
        while not isinstance(message := self._connection.recv(), ClipJob):
            self._free.append(message.slot)
        return message

    def serve(self, job: ClipJob) -> None:
        """Decode a clip and send what comes of it; only the program's own faults are raised."""
        path = job.clip.path
        try:
            for content in read_source(job, self._recipe, self._downloads, self._beat):
                if isinstance(content, FrameChunk):
                    self._send_chunk(content)
                else:
                    self._send(content)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except (VideoError, OSError, MemoryError, cv2.error) as error:
            self._send(ClipFailed(self._told(path, error)))
        except Exception:
            self._send(Broken(traceback.format_exc()))
            raise

    def _told(self, path: Location, error: Exception) -> VideoError | OSError:
        """Return an error as a person is told of it."""
        out_of = (errno.ENOMEM, cv2.Error.StsNoMem)
        code = getattr(error, "errno", None) or getattr(error, "code", None)
        if isinstance(error, MemoryError) or code in out_of:
            return out_of_memory(path, self._memory_mb)
        if isinstance(error, VideoError | OSError):
            return error
        return VideoError(f"{path}: OpenCV: {error}")

    def _send_chunk(self, chunk: FrameChunk) -> None:
        while not self._free:
            message: FreeSlot = self._connection.recv()
            self._free.append(message.slot)
        slot = self._free.popleft()
        offset = slot * math.prod(self._shape)
        room = np.frombuffer(self._memory, np.uint8, chunk.frames.size, offset)
        room[:] = chunk.frames.ravel()
        count = len(chunk.frames)
        self._send(ChunkInSlot(slot, count, chunk.time_seconds, chunk.source_index, chunk.view))

    def _beat(self) -> None:
        if time.monotonic() - self._last_sent > _BEAT_SECONDS:
            self._send(Alive())

    def _send(self, message: object) -> None:
        self._connection.send(message)
        self._last_sent = time.monotonic()


def _limit_memory(memory_mb: int) -> int:
    """Limit the process' own memory, and return the limit: the system's own may be lower.

    What is shared does not count, nor do files that are mapped to be read alone.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_mb * 10**6 if hard == resource.RLIM_INFINITY else min(memory_mb * 10**6, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is reported, not dumped
    return limit // 10**6

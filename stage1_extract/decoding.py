"""Decoding several clips side by side, ahead of the backbone, in processes of their own."""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import Self

from stage1_extract.addresses import Address
from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, FrameRecipe, Restart
from stage1_extract.cores import available_cores
from stage1_extract.decoder_handle import DecoderError, DecoderHandle, DecoderLimits
from stage1_extract.decoder_messages import Alive, Broken, ChunkInSlot, ClipFailed, Ready
from stage1_extract.job_queue import JobQueue
from stage1_extract.scratch import remove_stale
from stage1_extract.sources import Clip, VideoError

_POLL_SECONDS = 0.1
_FIRST_DECODERS = 2
_GROWTH_SECONDS = 1.0
_STARVING = 0.1
_EVENTS_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class ClipEvent:
    """Something that happened to a clip.

    A clip's events come in order: chunks (voided by a Restart), then ClipDone or the error that
    ended it. Events of different clips interleave.
    """

    clip: Clip
    content: FrameChunk | Restart | ClipDone | VideoError | OSError


@dataclasses.dataclass(frozen=True)
class _Delivery:
    event: ClipEvent
    handle: DecoderHandle
    slot: int | None = None


class DecoderPool:
    """Decoder processes, each with limits; one that dies or blocks costs the clip it worked on.

    A decoder that has four chunks waiting waits itself, so memory grows neither with the number
    of clips nor with their length. Use it in a `with` block, which ends the processes.

    Args:
        recipe: Which frames, and how they are shaped.
        num_decoders: How many processes; None starts with two, and adds one whenever the backbone
            starves, up to the number of cores.
        limits: What a clip may cost.
    """

    def __init__(
        self,
        recipe: FrameRecipe,
        *,
        num_decoders: int | None = None,
        limits: DecoderLimits | None = None,
    ) -> None:
        self._recipe = recipe
        self._limits = limits or DecoderLimits()
        self._max_decoders = num_decoders or max(_FIRST_DECODERS, available_cores())
        self._first_decoders = num_decoders or _FIRST_DECODERS
        self._handles: list[DecoderHandle] = []
        self._pending = JobQueue.of([])
        self._deliveries: queue.Queue[_Delivery | BaseException | None] = queue.Queue()
        self._stop = threading.Event()
        self._starved_seconds = 0.0
        self._supervisor: threading.Thread | None = None
        self._had_addresses = False

    @property
    def num_decoders(self) -> int:
        """Processes at work now."""
        return len(self._handles)

    @property
    def process_ids(self) -> list[int]:
        """The numbers of the processes."""
        return [handle.process.pid for handle in self._handles]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._kill_all)
            for _ in range(self._first_decoders):
                self._add_decoder()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.join()
        self._kill_all()
        if self._had_addresses:
            remove_stale(self._recipe.scratch)  # decoders are killed, and leave their copies

    def _kill_all(self) -> None:
        for handle in self._handles:
            handle.kill()
        self._handles.clear()

    def decode(
        self,
        jobs: Sequence[ClipJob] | JobQueue,
        *,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[ClipEvent]:
        """Yield what comes of the jobs; the frames of a chunk are valid until the next event.

        Args:
            jobs: What to decode; a queue is emptied until it is closed.
            while_waiting: Called now and then while nothing comes out; may raise to stop.

        Raises:
            DecoderError: The program is at fault, not a clip.
        """
        self._pending = JobQueue.of(jobs)
        self._supervisor = threading.Thread(target=self._supervise, name="decoders", daemon=True)
        self._supervisor.start()
        while (delivery := self._next_delivery(while_waiting)) is not None:
            yield delivery.event
            if delivery.slot is not None:
                delivery.handle.release(delivery.slot)
        self._supervisor.join()

    def _next_delivery(self, while_waiting: Callable[[], None]) -> _Delivery | None:
        while True:
            started = time.monotonic()
            try:
                delivery = self._deliveries.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                while_waiting()
                continue
            finally:
                self._starved_seconds += time.monotonic() - started
            if isinstance(delivery, BaseException):
                raise delivery
            return delivery

    # -------------------------------------------------------------- in the supervisor's thread

    def _supervise(self) -> None:
        try:
            grown = time.monotonic()
            while not self._stop.is_set() and not (self._pending.exhausted and not self._num_busy):
                self._assign()
                ready = wait([h.process.connection for h in self._handles], _POLL_SECONDS)
                for handle in [h for h in self._handles if h.process.connection in ready]:
                    self._receive(handle)
                self._end_overdue()
                if time.monotonic() - grown > _GROWTH_SECONDS:
                    self._grow()
                    grown = time.monotonic()
            self._deliveries.put(None)
        except BaseException as error:
            self._deliveries.put(error)
            if not isinstance(error, DecoderError):
                raise

    @property
    def _num_busy(self) -> int:
        return sum(handle.job is not None for handle in self._handles)

    def _assign(self) -> None:
        if self._deliveries.qsize() > _EVENTS_AHEAD:
            return  # many tiny or failing clips must not pile up
        for handle in self._handles:
            if handle.ready and handle.job is None and (job := self._pending.take()) is not None:
                self._had_addresses |= isinstance(job.clip.path, Address)
                handle.give(job)

    def _receive(self, handle: DecoderHandle) -> None:
        try:
            message = handle.receive()
        except (EOFError, OSError):
            self._bury(handle)
            return
        if isinstance(message, Ready):
            handle.ready = True
        elif isinstance(message, Broken):
            raise DecoderError(f"a decoder failed at {self._subject(handle)}:\n{message.traceback}")
        elif isinstance(message, ChunkInSlot):
            self._deliver(handle, handle.chunk(message), message.slot)
        elif isinstance(message, ClipFailed):
            self._finish(handle, message.error)
        elif isinstance(message, ClipDone):
            self._finish(handle, message)
        elif isinstance(message, Restart):
            self._deliver(handle, message)
        elif not isinstance(message, Alive):
            raise DecoderError(f"a decoder sent {message!r}")

    def _deliver(
        self,
        handle: DecoderHandle,
        content: FrameChunk | Restart | ClipDone | VideoError | OSError,
        slot: int | None = None,
    ) -> None:
        if handle.job is not None:
            self._deliveries.put(_Delivery(ClipEvent(handle.job.clip, content), handle, slot))

    def _finish(self, handle: DecoderHandle, content: ClipDone | VideoError | OSError) -> None:
        self._deliver(handle, content)
        handle.job = None

    def _bury(self, handle: DecoderHandle) -> None:
        """Replace a decoder that died; its clip is to blame, or, if it had none, who killed it."""
        end = handle.process.end()
        if handle.job is None and handle.ready:
            self._exchange(handle)
            return
        if handle.job is None:
            raise DecoderError(f"a decoder process ended ({end}):\n{handle.process.last_words()}")
        path = handle.job.clip.path
        self._replace(
            handle,
            VideoError(
                f"{path} crashed its decoder ({end}): the file is damaged, or too large for the "
                f"memory ({self._limits.memory_mb} MB a decoder, --decoder-memory-mb) "
                f"{handle.process.last_words()}".rstrip()
            ),
        )

    def _end_overdue(self) -> None:
        for handle in list(self._handles):
            if (error := handle.overdue()) is not None:
                self._replace(handle, error)

    def _replace(self, handle: DecoderHandle, error: VideoError) -> None:
        self._finish(handle, error)
        self._exchange(handle)

    def _exchange(self, handle: DecoderHandle) -> None:
        handle.kill()
        self._handles.remove(handle)
        if not self._pending.exhausted:
            self._add_decoder()

    def _add_decoder(self) -> None:
        self._handles.append(DecoderHandle(self._recipe, self._limits))

    def _grow(self) -> None:
        """Add a decoder if the backbone waits for frames although all decoders work."""
        starved, self._starved_seconds = self._starved_seconds, 0.0
        all_busy = all(handle.ready and handle.job is not None for handle in self._handles)
        wanted = all_busy and len(self._pending) > 0 and starved > _STARVING * _GROWTH_SECONDS
        if wanted and len(self._handles) < self._max_decoders:
            self._add_decoder()

    @staticmethod
    def _subject(handle: DecoderHandle) -> str:
        return "its start" if handle.job is None else str(handle.job.clip.path)

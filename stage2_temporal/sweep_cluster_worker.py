"""A sweep's worker process on a node of a Ray cluster, as the driver sees it."""

import dataclasses
import time
from typing import Any

from stage1_extract.ray_session import Node, load_ray
from stage2_temporal.sweep_messages import Hindered
from stage2_temporal.sweep_relay import STILL_SECONDS, Ended, Still, Told

STUCK_SECONDS = 300.0
"""A worker answers every few seconds; one that was silent for so long is given up."""
_ROOM_SECONDS = 10.0
_HEAR_SECONDS = 10.0


class ClusterWorker:
    """A worker process on a node.

    Args:
        node: Where.
        relay: Ray's handle of its actor there.

    Attributes:
        has_room: Whether Ray found room for it.
    """

    def __init__(self, node: Node, relay: Any) -> None:
        self.node = node
        self._relay = relay
        self._ended: Ended | None = None
        self._arrived: Any = None
        self.has_room = False
        self._started_seconds = time.monotonic()
        self._silent_seconds = 0.0
        self.is_killed = False
        self.is_displaced = False
        self.call = relay.receive.remote(0.0)  # answered as soon as there is room for it

    @property
    def is_waiting(self) -> bool:
        """Whether Ray finds no room for it: others than this sweep work on its node."""
        late = time.monotonic() - self._started_seconds > _ROOM_SECONDS
        return late and not self.has_room

    def take_answer(self) -> bool:
        """Take in the answer that came; returns whether it tells something."""
        ray = load_ray()
        self.has_room, self._silent_seconds = True, 0.0
        try:
            answer = ray.get(self.call)
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a relay on {self.node.label} failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            self._displace(f"the loss of {self.node.label}", str(error).strip())
            return True
        if isinstance(answer, Still):
            words = f"no CPU time for {STILL_SECONDS:.0f} s: does a file server hang?"
            self._displace(f"a standstill on {self.node.label}", words)
        elif isinstance(answer, Ended):
            self._ended = dataclasses.replace(answer, how=f"{answer.how} on {self.node.label}")
        else:
            self.call = self._relay.receive.remote(_HEAR_SECONDS)
            self._arrived = answer
        return answer is not None

    def note_silence(self, seconds: float) -> bool:
        """Note that no answer came; returns whether it is given up for that."""
        self._silent_seconds += seconds
        if not self.has_room or self._silent_seconds < STUCK_SECONDS:
            return False
        self._displace(f"the silence of {self.node.label}", f"for {STUCK_SECONDS:.0f} s")
        return True

    def _displace(self, how: str, words: str) -> None:
        self._ended, self.is_displaced = Ended(how, words), True

    def send(self, message: Any) -> None:
        """Send a message; that the process is gone will be noticed where it is heard."""
        self._relay.send.remote(message)

    def receive(self) -> Any:
        """Return the message that arrived.

        Raises:
            EOFError: The process, or its node, is gone.
        """
        if self._ended is not None:
            raise EOFError
        arrived, self._arrived = self._arrived, None
        if not isinstance(arrived, Told):
            raise TypeError(f"nothing arrived from {self.node.label}: {arrived!r}")
        message = arrived.message
        if isinstance(message, Hindered):
            error = message.error
            return Hindered(type(error)(f"{self.node.label}: {error}"))
        return message

    def end(self) -> str:
        """Say how it ended."""
        return "" if self._ended is None else self._ended.how

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return "" if self._ended is None else self._ended.words

    def kill(self) -> None:
        """End it at once."""
        self.is_killed = True
        load_ray().kill(self._relay)

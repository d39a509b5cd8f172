"""Room for worker processes in one place: this machine, or a node of a cluster."""

_MOST_FAILED_STARTS = 3


class Room:
    """How many processes find room in a place; fewer once some could not start there.

    Args:
        size: How many, at first.

    Attributes:
        size: How many now.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._failed_starts = 0

    def note_ready(self) -> None:
        """Note that a process started as it should."""
        self._failed_starts = 0

    def note_failed_start(self, num_left: int) -> bool:
        """Note that a process died before it was ready; three in a row make the room smaller.

        Args:
            num_left: How many others live there.

        Returns:
            Whether there is room for those alone from now on.
        """
        self._failed_starts += 1
        if self._failed_starts < _MOST_FAILED_STARTS:
            return False
        self.size = num_left
        return True

"""Which frames of a clip are embedded: pure functions on presentation times."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

# A frame stamped late or early by the rounding of a container's clock (whole milliseconds in
# Matroska and FLV), or of k / fps, still counts as on time.
_SLACK_SECONDS = 0.51e-3


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A parsed sampling rule, e.g. `uniform:32`.

    `uniform:N`: N frames spread evenly (all frames where there are fewer).
    `fps:F`: the frame on screen at each 1/F seconds, each frame at most once.
    `stride:K`: every K-th frame from the first.
    `all`: every frame.
    """

    kind: str
    value: float

    @property
    def needs_times(self) -> bool:
        """Whether the rule cannot be followed without presentation times."""
        return self.kind == "fps"


def parse_sampling(text: str) -> Sampling:
    """Parse `uniform:N`, `fps:F`, `stride:K` or `all`.

    Raises:
        ValueError: Another text, or a number out of range.
    """
    if text == "all":
        return Sampling("all", 1)
    kind, _, number = text.partition(":")
    parse = {"uniform": int, "stride": int, "fps": float}.get(kind)
    try:
        if parse is not None and 0 < parse(number) < float("inf"):
            return Sampling(kind, parse(number))
    except ValueError:
        pass
    raise ValueError(
        f"sampling {text!r} is not understood; expected uniform:N, fps:F, stride:K or all, "
        "e.g. uniform:32, fps:5, stride:4"
    )


def choose_frames(
    sampling: Sampling,
    times: NDArray[np.float64],
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> NDArray[np.int64]:
    """Return the frame numbers to embed, rising, each at most once.

    Args:
        sampling: The rule.
        times: (F,) presentation time of every frame in seconds, rising; NaN where the source has
            none, which rules out `fps` and clips by time.
        start_seconds: First moment of the clip; None for the file's start.
        end_seconds: First moment after the clip; None for the file's end.

    Returns:
        (T,) int64 numbers of frames within the clip; empty where the clip holds no frame.
    """
    first, last = 0, len(times)
    if start_seconds is not None:
        first = int(np.searchsorted(times, start_seconds - _SLACK_SECONDS, side="left"))
    if end_seconds is not None:
        last = int(np.searchsorted(times, end_seconds - _SLACK_SECONDS, side="left"))
    num_frames = last - first
    if num_frames <= 0:
        return np.empty(0, np.int64)
    if sampling.kind == "uniform":
        return first + spread_evenly(num_frames, int(sampling.value))
    if sampling.kind == "fps":
        return first + at_rate(times[first:last], sampling.value)
    return np.arange(first, last, int(sampling.value), dtype=np.int64)


def spread_evenly(num_frames: int, num_wanted: int) -> NDArray[np.int64]:
    """Return the middles of `num_wanted` equal parts of `num_frames` frames, or all frames.

    Middles, not ends: every frame stands for the part around it, and the first and last frame of a
    video (often blank) are not favoured.
    """
    if num_wanted >= num_frames:
        return np.arange(num_frames, dtype=np.int64)
    return (2 * np.arange(num_wanted, dtype=np.int64) + 1) * num_frames // (2 * num_wanted)


def at_rate(times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Return the frames on screen at each 1/fps seconds from the first frame's time on."""
    num_moments = int(np.floor((times[-1] - times[0] + _SLACK_SECONDS) * fps)) + 1
    moments = times[0] + np.arange(num_moments) / fps
    shown = np.searchsorted(times, moments + _SLACK_SECONDS, side="right") - 1
    return np.unique(shown).astype(np.int64)

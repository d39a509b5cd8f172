"""Sequence-level augmentation: (T, D) in, (T', D) out; pure, seeded, for training only.

The order is fixed: crop, speed, jitter, frame dropout, reverse, noise, feature mask, time mask. The
first five choose positions in time, at which the sequence is then read once.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.floating[Any]]
Positions = NDArray[np.float64]

_LIMITS = {
    "speed": (1.0, 10.0),
    "jitter": (0.0, 0.5),
    "reverse_probability": (0.0, 1.0),
    "augment_probability": (0.0, 1.0),
}
_PARTS = ("frame_dropout", "feature_mask", "time_mask")
_STRENGTHS = ("noise", "mixup")
# 0.29 * 100 is 28.999999999999996: counts are rounded with this much allowance.
_SLACK = 1e-9
# 64 KiB of float32: larger ones would cost more in fresh memory than in arithmetic.
_BLOCK_VALUES = 16_384


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """How training sequences are changed anew each epoch; by default not at all."""

    crop: float = 1.0
    """Train on a random stretch of each sequence, at least this part of it; 1: all of it."""
    speed: float = 1.0
    """Play sequences faster or slower by up to this factor, frames being interpolated; 1: never."""
    jitter: float = 0.0
    """Shift each frame in time by up to this part (0 to 0.5) of the distance to the next one."""
    frame_dropout: float = 0.0
    """Probability that a frame is left out."""
    reverse_probability: float = 0.0
    """Probability that a sequence is turned round in time. Off: the order may be what matters."""
    noise: float = 0.0
    """Add Gaussian noise: its deviation, in standard deviations of each feature."""
    feature_mask: float = 0.0
    """Hold up to this part of the features, chosen at random, at their mean over the sequence."""
    time_mask: float = 0.0
    """Replace a stretch of up to this part of the frames by the mean of the sequence."""
    augment_probability: float = 1.0
    """Probability that a sequence undergoes any of the changes above."""
    mixup: float = 0.0
    """Mix clips and their targets in pairs, by shares from Beta(a, a); this is a. 0: never."""
    stored_views: bool = False
    """Train on each clip or one of its augmented views in the store, drawn evenly each epoch."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}; expected more than 0, up to 1 (no crop)")
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low:g} to {high:g}")
        for name in _PARTS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to below 1")
        for name in _STRENGTHS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 (off) or more")

    @property
    def any_sequence(self) -> bool:
        """Whether `augment_sequence` may change a sequence."""
        return self.augment_probability > 0 and (self.uses_positions or self.uses_values)

    @property
    def uses_positions(self) -> bool:
        """Whether other frames are read, or in another order, than all from first to last."""
        moved = self.jitter or self.frame_dropout or self.reverse_probability
        return self.crop < 1 or self.speed > 1 or moved > 0

    @property
    def uses_values(self) -> bool:
        """Whether the values of the frames that were read are changed."""
        return self.noise > 0 or self.feature_mask > 0 or self.time_mask > 0


def augment_sequence(
    sequence: Frames,
    rng: np.random.Generator,
    settings: AugmentSettings,
    *,
    spread: NDArray[np.floating[Any]] | None = None,
    max_length: int | None = None,
) -> Frames:
    """Return a sequence changed by chance: a function of its values and of the state of `rng`.

    Args:
        sequence: (T, D) finite, float16 or float32; it is only read, never written to.
        rng: Draws what happens.
        settings: How strongly.
        spread: (D,) standard deviation of each feature over the training frames, for noise.
        max_length: The most frames that slowing down may lead to, T or more; by default T. Of a
            sequence that becomes longer, a random stretch of so many frames is taken.

    Returns:
        (T', D) in the dtype of `sequence`, 1 <= T' <= max_length. The very same object where
        nothing applies, and a view on it where frames are only left out at its ends or turned
        round: copy it before writing. Other values are computed in float32.

    Raises:
        ValueError: `sequence`, `spread` or `max_length` is not as above.
    """
    longest = len(sequence) if max_length is None else max_length
    _check(sequence, longest)
    scale = _noise_scale(sequence, settings.noise, spread)
    if not settings.any_sequence or rng.random() >= settings.augment_probability:
        return sequence
    positions = draw_positions(len(sequence), rng, settings, max_length=longest)
    if scale is None:
        frames = read_at(sequence, positions)
    else:
        frames = read_with_noise(sequence, positions, scale, rng)
    frames = mask_features(frames, settings.feature_mask, rng)
    return mask_time(frames, settings.time_mask, rng)


def draw_positions(
    num_frames: int, rng: np.random.Generator, settings: AugmentSettings, *, max_length: int
) -> Positions:
    """Draw where a sequence is read: (T',) frame numbers, fractions between two frames."""
    positions = crop(num_frames, settings.crop, rng)
    if settings.speed > 1:  # as often faster as slower
        factor = math.exp(rng.uniform(-1, 1) * math.log(settings.speed))
        positions = change_speed(positions, factor, rng, max_length=max_length)
    if settings.jitter:
        positions = jitter(positions, settings.jitter, rng, num_frames=num_frames)
    if settings.frame_dropout:
        positions = drop_frames(positions, settings.frame_dropout, rng)
    if settings.reverse_probability and rng.random() < settings.reverse_probability:
        positions = positions[::-1]
    return positions


def crop(num_frames: int, least_part: float, rng: np.random.Generator) -> Positions:
    """Draw a stretch: its length evenly from `least_part` of the frames to all, then its start."""
    if least_part == 1:
        return np.arange(num_frames, dtype=np.float64)
    least = max(math.ceil(least_part * num_frames - _SLACK), 1)
    length = int(rng.integers(least, num_frames + 1))
    start = int(rng.integers(num_frames - length + 1))
    return np.arange(start, start + length, dtype=np.float64)


def change_speed(
    positions: Positions, factor: float, rng: np.random.Generator, *, max_length: int
) -> Positions:
    """Go through consecutive positions in steps of `factor`, from the first as far as they reach.

    If that gives more than `max_length`, a random stretch of so many is taken.
    """
    last = len(positions) - 1
    count = math.floor(last / factor + _SLACK) + 1
    first = int(rng.integers(max(count - max_length, 0) + 1))
    steps = np.arange(first, first + min(count, max_length)) * factor
    sped: Positions = positions[0] + np.minimum(steps, last)
    return sped


def jitter(
    positions: Positions, part: float, rng: np.random.Generator, *, num_frames: int
) -> Positions:
    """Move evenly spaced positions by up to `part` of their distance; up to 0.5 keeps the order."""
    distance = positions[1] - positions[0] if len(positions) > 1 else 1.0
    moved = positions + distance * part * rng.uniform(-1, 1, len(positions))
    return np.clip(moved, 0, num_frames - 1)


def drop_frames(positions: Positions, part: float, rng: np.random.Generator) -> Positions:
    """Leave each position out with probability `part`; if that leaves none, one at random stays."""
    kept = rng.random(len(positions)) >= part
    if not kept.any():
        kept[rng.integers(len(kept))] = True
    return positions[kept]


def read_at(sequence: Frames, positions: Positions) -> Frames:
    """Read a sequence (T, D) at positions (T',) from 0 to T - 1, by linear interpolation.

    Returns:
        (T', D) in the sequence's dtype; stored frames as they are where the positions are whole,
        and a view on them where these follow each other, up or down.
    """
    rows = positions.astype(np.intp)
    if (rows == positions).all():
        return _pick(sequence, rows)
    frames = np.empty((len(positions), sequence.shape[1]), sequence.dtype)
    for part in _blocks(frames):
        frames[part] = interpolate(sequence, positions[part])
    return frames


def read_with_noise(
    sequence: Frames, positions: Positions, scale: NDArray[np.float32], rng: np.random.Generator
) -> Frames:
    """Read a sequence as `read_at` does, and add Gaussian noise of deviation `scale` (D,).

    What leaves the range of the dtype (65504 in float16) becomes its end.
    """
    frames = np.empty((len(positions), sequence.shape[1]), sequence.dtype)
    largest = np.finfo(sequence.dtype).max
    for part in _blocks(frames):
        noisy = rng.standard_normal(frames[part].shape, dtype=np.float32)
        noisy *= scale
        noisy += interpolate(sequence, positions[part])
        frames[part] = np.clip(noisy, -largest, largest, out=noisy)
    return frames


def interpolate(sequence: Frames, positions: Positions) -> NDArray[np.float32]:
    """Return a sequence (T, D) at positions (T',) from 0 to T - 1, as (T', D) float32."""
    before = positions.astype(np.intp)
    part = (positions - before).astype(np.float32)[:, None]
    if not part.any():
        return sequence[before].astype(np.float32)
    after = np.minimum(before + 1, len(sequence) - 1)
    # Each frame is converted once: from float16, that is slower than all the rest.
    rows, places = np.unique(np.stack([before, after]), return_inverse=True)
    frames = sequence[rows].astype(np.float32)
    mixed: NDArray[np.float32] = frames[places[0]] * (1 - part)
    mixed += frames[places[1]] * part
    return mixed


def _blocks(frames: Frames) -> list[slice]:
    """Cut frames (T, D) into parts small enough for the cache."""
    size = max(_BLOCK_VALUES // max(frames.shape[1], 1), 1)
    return [slice(start, start + size) for start in range(0, len(frames), size)]


def _pick(sequence: Frames, rows: NDArray[np.intp]) -> Frames:
    steps = np.diff(rows)
    if (steps == 1).all():
        whole = len(rows) == len(sequence)
        return sequence if whole else sequence[rows[0] : rows[-1] + 1]
    if (steps == -1).all():
        return sequence[rows[-1] : rows[0] + 1][::-1]
    return sequence[rows]


def mask_features(frames: Frames, part: float, rng: np.random.Generator) -> Frames:
    """Hold 0 to `part` of the features at their mean over the frames (see `mask_time`).

    After SpecAugment's frequency masks (Park et al. 2019), but without their contiguity: features
    of an embedding have no neighbours.
    """
    num_features = frames.shape[1]
    count = rng.integers(math.floor(part * num_features + _SLACK) + 1) if part else 0
    if not count:
        return frames
    masked = frames.copy()
    chosen = rng.choice(num_features, count, replace=False, shuffle=False)
    masked[:, chosen] = frames[:, chosen].mean(axis=0, dtype=np.float64)
    return masked


def mask_time(frames: Frames, part: float, rng: np.random.Generator) -> Frames:
    """Replace a stretch of 0 to `part` of the frames by the mean of all, as in SpecAugment.

    Park et al. (2019) set it to zero, which is the mean of their standardised input. Embeddings are
    standardised only in the model: there, zeros would be far from any frame.
    """
    length = rng.integers(math.floor(part * len(frames) + _SLACK) + 1) if part else 0
    if not length:
        return frames
    masked = frames.copy()
    start = rng.integers(len(frames) - length + 1)
    masked[start : start + length] = frames.mean(axis=0, dtype=np.float64)
    return masked


def choose_view(num_views: int, rng: np.random.Generator) -> int:
    """Draw one of a clip's stored views: 0, the clip itself, to `num_views`, each alike.

    Raises:
        ValueError: `num_views` is negative.
    """
    if num_views < 0:
        raise ValueError(f"num_views is {num_views}; expected 0 or more")
    return int(rng.integers(num_views + 1))


def _check(sequence: Frames, longest: int) -> None:
    if sequence.ndim != 2 or not len(sequence) or sequence.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"a sequence is {sequence.shape} {sequence.dtype}; expected (T, D) with one frame or "
            "more, float16 or float32"
        )
    if longest < len(sequence):
        raise ValueError(
            f"max_length is {longest}, the sequence has {len(sequence)} frames; expected no less"
        )


def _noise_scale(
    sequence: Frames, noise: float, spread: NDArray[np.floating[Any]] | None
) -> NDArray[np.float32] | None:
    """Return the deviation of the noise for each feature (D,); None where there is none."""
    if not noise:
        return None
    if spread is None or spread.shape != sequence.shape[1:]:
        raise ValueError(
            f"spread is {None if spread is None else spread.shape} for noise on a sequence "
            f"{sequence.shape}; expected {sequence.shape[1:]}, the deviation of each feature"
        )
    return (noise * spread).astype(np.float32)

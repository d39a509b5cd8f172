"""How far embeddings computed in a lower precision lie from those of float32."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PRECISIONS = ("float32", "bfloat16", "float16")
MAX_PRECISION_ERROR = 0.02

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class PrecisionError(ValueError):
    """Embeddings of a lower precision lie too far from those of float32."""


@dataclasses.dataclass(frozen=True)
class PrecisionReport:
    """Distance of embeddings from the reference's, over some frames.

    Attributes:
        num_frames: Frames compared.
        relative_l2_mean: Mean over frames of |embedding - reference| / |reference|.
        relative_l2_max: The same of the worst frame.
        cosine_mean: Mean over frames of the cosine between embedding and reference.
        cosine_min: The same of the worst frame.
    """

    num_frames: int
    relative_l2_mean: float
    relative_l2_max: float
    cosine_mean: float
    cosine_min: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, for a store's provenance."""
        return dataclasses.asdict(self)


def measure_precision(
    reference_embed: Embed, embed: Embed, frames: NDArray[np.uint8]
) -> PrecisionReport:
    """Embed the same frames twice and compare.

    Args:
        reference_embed: Function from (n, S, S, 3) uint8 to (n, D), in float32.
        embed: The same in the precision to be judged.
        frames: (n, S, S, 3) uint8 real frames; noise says little of how a trained network errs.

    Raises:
        ValueError: There is no frame.
    """
    if not len(frames):
        raise ValueError("precision cannot be measured on 0 frames; expected 1 or more")
    reference = np.asarray(reference_embed(frames), np.float64)
    embedding = np.asarray(embed(frames), np.float64)
    distance = relative_l2(reference, embedding)
    cosine = cosine_similarity(reference, embedding)
    return PrecisionReport(
        num_frames=len(frames),
        relative_l2_mean=float(distance.mean()),
        relative_l2_max=float(distance.max()),
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
    )


def check_precision(report: PrecisionReport, limit: float = MAX_PRECISION_ERROR) -> None:
    """Refuse a precision whose worst frame errs by more than the limit.

    The limit is on the relative L2 distance of the worst frame. On the worst one, because a mean
    hides the few frames that overflow or lose their small values. On the distance and not on the
    cosine, because a cosine of 0.999 sounds like equality and is a distance of 4 %, and because it
    does not see a wrong length. The default, 2 %, is an eighth of what typically lies between
    neighbouring frames of ultrasound (median 17 %, nine clips of ten above 11 %; 22 clips of lung,
    MobileNet 0.75). With small MobileNets bfloat16 errs as much as neighbouring frames differ, 11
    to 20 % in the mean, and float16 by 2 to 3 %, its worst frame by 6 %.

    Args:
        report: What was measured.
        limit: Largest relative L2 distance, e.g. 0.02.

    Raises:
        PrecisionError: The worst frame lies farther away, or is not finite.
    """
    worst = report.relative_l2_max
    if worst <= limit and np.isfinite(worst):
        return
    if not np.isfinite(worst):
        raise PrecisionError(
            f"of {report.num_frames} frames, some have embeddings that are not finite, or not zero "
            "as in float32; no --max-precision-error allows that: use --precision float32"
        )
    raise PrecisionError(
        f"embeddings differ from float32 by up to {worst:.2%} (relative L2, worst of "
        f"{report.num_frames} frames; mean {report.relative_l2_mean:.2%}, smallest cosine "
        f"{report.cosine_min:.5f}); expected at most {limit:.2%}. Use --precision float32, or "
        f"accept it with --max-precision-error {np.ceil(worst * 1000) / 1000:g}"
    )


def relative_l2(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |other - reference| / |reference| of each row.

    Args:
        reference: (n, D).
        other: (n, D).

    Returns:
        (n,) 0 where both rows are zero; inf where only the reference is, or a value is not finite.
    """
    difference, length = _lengths(np.subtract(other, reference)), _lengths(reference)
    distance = np.divide(difference, length, out=np.full(len(length), np.inf), where=length > 0)
    distance[(difference == 0) & (length == 0)] = 0
    return np.where(np.isfinite(distance), distance, np.inf)


def cosine_similarity(
    reference: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the cosine between the rows of two (n, D) arrays.

    Returns:
        (n,) 1 where both rows are zero; 0 where one is, or a value is not finite.
    """
    lengths = _lengths(reference) * _lengths(other)
    products = np.einsum("nd,nd->n", reference, other)
    usable = (lengths > 0) & np.isfinite(lengths)
    cosine = np.divide(products, lengths, out=np.zeros(len(lengths)), where=usable)
    cosine[~(reference.any(axis=1) | other.any(axis=1))] = 1
    return np.asarray(np.clip(cosine, -1, 1), np.float64)


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(rows, axis=1), np.float64)

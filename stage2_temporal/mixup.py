"""Mixup (Zhang et al. 2018): pairs of clips of a batch, and their targets, mixed by one share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Batch = tuple[Arrays, Arrays, Arrays]
"""Inputs {"embedding", "mask"[, "features"]}, targets {key: (B, k)}, weights {key: (B,)}."""


def mixup(
    inputs: Arrays,
    targets: Arrays,
    weights: Arrays,
    rng: np.random.Generator,
    *,
    alpha: float,
) -> Batch:
    """Mix each clip of a batch with another one, drawn without replacement.

    The clip's share is drawn from Beta(alpha, alpha), anew for each clip, and the greater part is
    its own: all mixtures are as likely as in the paper, but every clip has one that is mostly it,
    so that a balanced epoch stays balanced. See `mix` for what is mixed and how.

    Args:
        inputs: "embedding" (B, T, D) right-padded, "mask" (B, T) bool, maybe "features" (B, F).
        targets: (B, k) each: 0/1 or values.
        weights: (B,) each: of the loss, 0 where the target is missing.
        rng: Draws pairs and shares.
        alpha: 0 for no mixing; 0.2 mixes little, 1 evenly.

    Returns:
        The mixed batch, in the shapes and dtypes given; what was given itself if alpha is 0.

    Raises:
        ValueError: `alpha` is negative, or a clip has no frame.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}; expected 0 (no mixing) or more")
    if not alpha:
        return inputs, targets, weights
    num_clips = len(inputs["mask"])
    partner = rng.permutation(num_clips)
    share = rng.beta(alpha, alpha, num_clips)
    return mix(inputs, targets, weights, partner=partner, share=np.maximum(share, 1 - share))


def mix(
    inputs: Arrays,
    targets: Arrays,
    weights: Arrays,
    *,
    partner: NDArray[np.intp],
    share: NDArray[np.float64],
) -> Batch:
    """Mix each clip, by `share` (B,), with clip `partner` (B,), which has what is left of 1.

    - Frames are mixed one by one. The shorter clip of a pair is continued by its mean over time,
      up to the end of the longer one: the mean of the mixture is then the mixture of the means.
    - A target counts as much as its clip's share times its own weight, and the mixture's weight is
      the sum of both: cross-entropy and squared error then have the gradient of the two clips'
      losses, so weighted. A missing target (weight 0) thus adds nothing, neither value nor weight.

    Raises:
        ValueError: A clip has no frame.
    """
    lengths = inputs["mask"].sum(axis=1)
    if not lengths.all():
        raise ValueError(f"clip {lengths.argmin()} of a batch has no frame; expected one or more")
    mixed = dict(inputs, embedding=_mix_frames(inputs["embedding"], lengths, partner, share))
    mixed["mask"] = inputs["mask"] | inputs["mask"][partner]
    for name in inputs.keys() - {"embedding", "mask"}:
        mixed[name] = _mix_rows(inputs[name], partner, share).astype(inputs[name].dtype)
    mixed_targets, mixed_weights = {}, {}
    for key, target in targets.items():
        own, others = share * weights[key], (1 - share) * weights[key][partner]
        total = own + others
        part = np.divide(own, total, out=np.ones_like(total), where=total > 0)
        mixed_targets[key] = _mix_rows(target, partner, part).astype(target.dtype)
        mixed_weights[key] = total.astype(weights[key].dtype)
    return mixed, mixed_targets, mixed_weights


def _mix_rows(
    rows: NDArray[Any], partner: NDArray[np.intp], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    mixed: NDArray[np.float64] = share[:, None] * rows
    mixed += (1 - share)[:, None] * rows[partner]
    return mixed


def _mix_frames(
    embedding: NDArray[Any],
    lengths: NDArray[np.int64],
    partner: NDArray[np.intp],
    share: NDArray[np.float64],
) -> NDArray[Any]:
    """Mix embeddings (B, T, D), computing in float32; the padding remains zero."""
    continued = embedding.astype(np.float32)
    for clip, length in zip(continued, lengths, strict=True):
        clip[length:] = clip[:length].mean(axis=0)
    mixed = np.zeros_like(embedding)
    for i, j in enumerate(partner):
        length = max(lengths[i], lengths[j])
        pair = continued[i, :length] * np.float32(share[i])
        pair += continued[j, :length] * np.float32(1 - share[i])
        mixed[i, :length] = pair
    return mixed

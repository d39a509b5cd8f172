"""What is predicted of a clip after each of its frames: of its beginning up to there."""

from collections.abc import Iterator

import numpy as np

from stage2_temporal.bundle import Bundle
from stage2_temporal.head_batches import ClipSequence, predict_padded
from stage2_temporal.model_inputs import PAD_MULTIPLE, padded_length
from stage2_temporal.prediction_rows import prediction_cells

TIMELINE_COLUMNS = ("video_id", "frame", "time_seconds")


def timeline_rows(
    bundle: Bundle, sequence: ClipSequence, *, several_models: bool
) -> Iterator[list[str]]:
    """Yield a row for each frame, without the id: frame, time, and the prediction so far.

    The row of frame t is what is predicted of a clip that ends with it, bit for bit: eight
    beginnings, which are padded to one length, are predicted at once. So memory holds eight copies
    of the sequence; time grows with the square of its length.

    Args:
        bundle: The models.
        sequence: The clip.
        several_models: Whether the rows hold a spread.
    """
    for start in range(0, len(sequence.embedding), PAD_MULTIPLE):
        lengths = range(start + 1, min(start + PAD_MULTIPLE, len(sequence.embedding)) + 1)
        found = predict_padded(
            bundle,
            [sequence.embedding[:length] for length in lengths],
            np.repeat(sequence.features[None], len(lengths), axis=0),
            padded_length(lengths[0]),
        )
        cells = prediction_cells(bundle.targets, found, several_models=several_models)
        for length, row in zip(lengths, cells, strict=True):
            time = float(sequence.time_seconds[length - 1])
            yield [str(int(sequence.source_index[length - 1])), repr(time), *row]

"""Side features of clips that are predicted: those that the run was trained with, and no others."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.features import FeatureTable, column_numbers
from stage2_temporal.run_facts import RunFacts

FeaturesOf = Callable[[str], NDArray[np.float32]]
"""Returns the side features (F,) of a clip by its id, as the table has them."""
_NUM_EXAMPLES = 5


def open_side_table(facts: RunFacts, path: Path | None) -> FeatureTable | None:
    """Open the side features that a run needs; None for a run without.

    Raises:
        ValueError: A run with side features was given none, or lacks one of them; or none are
            needed.
    """
    columns = facts.feature_columns
    if path is None and not columns:
        return None
    if path is None:
        shown = ", ".join(columns[:_NUM_EXAMPLES]) + (", ..." if columns[_NUM_EXAMPLES:] else "")
        raise ValueError(
            f"{facts.folder} was trained with {len(columns)} side features beside the video "
            f"({shown}), of {facts.settings['settings']['feature_table']}; give those of these "
            "clips with --feature-table FILE.h5, which `stage2-temporal features` makes"
        )
    if not columns:
        raise ValueError(
            f"{facts.folder} was trained without side features; leave --feature-table {path} out"
        )
    table = FeatureTable(path)
    column_numbers(table.columns, columns, table.path)
    return table


def features_of_clips(
    facts: RunFacts, table: FeatureTable | None, video_ids: Sequence[str]
) -> FeaturesOf:
    """Return a function that reads the features of one of the clips.

    Raises:
        ValueError: A clip has no row in the table.
    """
    if table is None:
        return lambda _: np.empty(0, np.float32)
    columns = facts.feature_columns
    row_of = dict(zip(video_ids, table.positions(list(video_ids)).tolist(), strict=True))
    return lambda video_id: table.read([row_of[video_id]], columns)[0]

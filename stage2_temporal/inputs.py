"""What a model reads of each clip: its sequence, its stored views, its side features."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.features import (
    FeatureScaler,
    FeatureTable,
    column_numbers,
    fit_feature_scaler,
)
from stage2_temporal.targets import LabelledClips

Indices = NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class SideFeatures:
    """Side features of N clips: where their rows are, and which columns are used."""

    table: FeatureTable
    positions: Indices
    columns: tuple[str, ...]

    def scaler(self, train: Indices) -> FeatureScaler:
        """Fit scaling and imputation on the training clips."""
        return fit_feature_scaler(self.table, self.positions[train], self.columns)

    def rows(self, clips: Indices, scaler: FeatureScaler) -> NDArray[np.float32]:
        """Return the scaled features (B, F) of clips, in their order."""
        return scaler.transform(self.table.read(self.positions[clips], self.columns))


@dataclasses.dataclass(frozen=True)
class FeatureMatrix:
    """Scaled side features of all clips as a matrix whose rows are read when they are asked for."""

    side: SideFeatures
    scaler: FeatureScaler

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return len(self.side.positions), self.scaler.num_outputs

    def __getitem__(self, clips: Indices) -> NDArray[np.float32]:
        return self.side.rows(clips, self.scaler)


@dataclasses.dataclass(frozen=True)
class ClipInputs:
    """What a model reads of N clips.

    Attributes:
        store: The embeddings.
        positions: (N,) the sequence of each clip.
        features: Side features beside them, or None.
        views: (N, V) the sequences of each clip and its stored views, -1 for none; or None.
    """

    store: EmbeddingStore
    positions: Indices
    features: SideFeatures | None = None
    views: Indices | None = None


def clip_inputs(store: EmbeddingStore, clips: LabelledClips, settings: TrainSettings) -> ClipInputs:
    """Find what a model reads of labelled clips.

    Raises:
        ValueError: Side features are missing, or stored views were asked for and there are none.
    """
    views = None
    if settings.augmentation.stored_views:
        views = stored_views(store, clips.positions)
        if views.shape[1] == 1:
            raise ValueError(
                f"{store.path} holds no augmented views; add some with `stage1-extract run ... "
                "--views 4`, or leave out --stored-views"
            )
    features = open_features(settings, clips.video_ids)
    return ClipInputs(store, clips.positions, features, views)


def open_features(settings: TrainSettings, video_ids: NDArray[np.str_]) -> SideFeatures | None:
    """Find each clip's row in the feature table that the settings name; None without one.

    Raises:
        ValueError: Ids are missing in the table, or a column is.
    """
    if settings.feature_table is None:
        return None
    table = FeatureTable(settings.feature_table)
    columns = tuple(settings.feature) or tuple(table.columns)
    column_numbers(table.columns, columns, table.path)
    return SideFeatures(table, table.positions(video_ids), columns)


def stored_views(store: EmbeddingStore, positions: Indices) -> Indices:
    """Return the positions (N, V) of all stored views of clips, the clip itself first.

    A view that a clip lacks is -1.
    """
    wanted = store.video_ids[positions]
    columns = []
    for view in np.unique(store.views):
        stored = np.flatnonzero(store.views == view)
        ids = store.video_ids[stored]  # sorted, as all sequences are
        place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        columns.append(np.where(ids[place] == wanted, stored[place], -1))
    return np.stack(columns, axis=1)

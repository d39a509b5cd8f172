"""Continuing a store: what it holds of a manifest already, and what failed before."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stage1_extract.backbones import BACKBONES
from stage1_extract.clips import ClipJob
from stage1_extract.config import ExtractSettings
from stage1_extract.engines import engine_name
from stage1_extract.failures import Failure, read_failures, write_failures
from stage1_extract.same_sources import check_same_sources
from stage1_extract.sources import Clip
from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    StoreError,
    describe_difference,
    shard_paths,
)


def check_known_settings(folder: Path, settings: ExtractSettings) -> None:
    """Refuse a store of other settings before the backbone is loaded, as far as can be told.

    Raises:
        StoreError: The folder is a file, or a setting differs; the weights were not compared.
    """
    if folder.is_file():
        raise StoreError(f"{folder} is a file; the store to write into must be a folder")
    if not folder.is_dir() or not shard_paths(folder):
        return
    stored = EmbeddingStore(folder).settings
    now = settings.identity(
        weights_sha256=stored.get("weights_sha256", ""),
        input_size=settings.input_size or BACKBONES[settings.backbone].input_size,
        engine=engine_name(settings.engine, settings.backend),
    )
    _check_settings(folder, stored, now)


def _check_settings(folder: Path, stored: Mapping[str, object], now: Mapping[str, object]) -> None:
    if difference := describe_difference(stored, now):
        raise StoreError(
            f"{folder} was made with other settings (store against now): {difference}. "
            "Give these settings, or another folder"
        )


def missing_jobs(
    folder: Path, provenance: Provenance, clips: Sequence[Clip], *, num_views: int
) -> list[ClipJob]:
    """Return what the store lacks of the manifest: the clips, each with the views to be made.

    Raises:
        StoreError: The store may not be continued: other settings, or other sources.
    """
    views = range(num_views + 1)
    if not shard_paths(folder):
        return [ClipJob(clip, tuple(views)) for clip in clips]
    store = EmbeddingStore(folder)
    _check_settings(folder, store.settings, provenance.settings)
    stored = dict(zip(store.video_ids.tolist(), range(store.num_sequences), strict=True))
    check_same_sources(store, stored, clips)
    present = set(zip(store.video_ids.tolist(), store.views.tolist(), strict=True))
    lacking = [(c, tuple(v for v in views if (c.video_id, v) not in present)) for c in clips]
    return [ClipJob(clip, wanted) for clip, wanted in lacking if wanted]


def standing_failures(
    folder: Path, clips: Sequence[Clip], jobs: Sequence[ClipJob], *, retry: bool
) -> dict[str, Failure]:
    """Return the failures of the manifest's clips that still stand, by video_id.

    The record is rewritten without those that were overcome, or are to be tried again; those of
    other manifests stay in it.
    """
    lacking = {job.clip.video_id for job in jobs}
    wanted = {clip.video_id for clip in clips}
    overcome = wanted if retry else wanted - lacking
    failures = {i: f for i, f in read_failures(folder).items() if i not in overcome}
    write_failures(folder, failures.values())
    return {i: f for i, f in failures.items() if i in wanted}

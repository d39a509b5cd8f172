"""The main loop of stage one: decode, embed, store; resumable, and unharmed by bad videos."""

import dataclasses
from pathlib import Path

from stage1_extract.compact import compact_store
from stage1_extract.config import ExtractSettings
from stage1_extract.devices import DeviceGroup
from stage1_extract.failures import Failure
from stage1_extract.local import LocalRunner
from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.progress import Progress
from stage1_extract.resume import check_known_settings, missing_jobs, standing_failures
from stage1_extract.run_loop import RunResult
from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    StoreError,
    remove_stale_partials,
    shard_paths,
)
from stage1_extract.upkeep import equal_sources, sources_of

_MANY_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class ExtractSummary:
    """What a run did.

    Attributes:
        num_clips: Clips of the manifest.
        num_present: Clips that the store held before.
        num_stored: Clips that this run added.
        num_frames: Frames of the clips that this run added, in all their views.
        num_sought: Clips, of those added, whose frames were sought instead of decoding all.
        seconds: Time from the first clip to the last, without loading the backbone.
        failures: Clips of the manifest that failed, now or earlier, and why.
        notes: Remarks on stored clips that deserve a look.
        fingerprint: The store's.
    """

    num_clips: int
    num_present: int
    num_stored: int
    num_frames: int
    num_sought: int
    seconds: float
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    fingerprint: str

    @property
    def num_not_tried(self) -> int:
        """Clips that `fail_fast` left."""
        return self.num_clips - self.num_present - self.num_stored - len(self.failures)


def extract(
    manifest: Manifest | Path | str,
    store: Path | str,
    settings: ExtractSettings | None = None,
    *,
    show_progress: bool = False,
) -> ExtractSummary:
    """Embed every clip of a manifest that the store does not hold yet.

    Args:
        manifest: A manifest or its path.
        store: Folder of the store; made if it is not there.
        settings: How; None for the defaults.
        show_progress: Whether to report progress on stderr.

    Returns:
        What was done. Clips that cannot be embedded are listed there and in failures.jsonl, and
        keep no other clip from being embedded.

    Raises:
        ManifestError: The manifest is wrong.
        StoreError: The store was made with other settings, or from other files.
        WeightsError: The backbone's weights cannot be had.
        OSError: The store cannot be written; what was finished is kept.
        KeyboardInterrupt: Stopped by the user; what was finished is kept.
    """
    settings = settings or ExtractSettings()
    folder = Path(store)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest))
    check_known_settings(folder, settings)
    with _runner(settings) as runner:
        jobs = missing_jobs(folder, runner.provenance, manifest.clips, num_views=settings.views)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(folder)
        earlier = standing_failures(folder, manifest.clips, jobs, retry=settings.retry_failed)
        pending = [job for job in jobs if job.clip.video_id not in earlier]
        if earlier and settings.fail_fast:
            pending = []
        progress = Progress(len(pending), show=show_progress and bool(pending))
        result = runner.embed(pending, folder, progress) if pending else RunResult()
    if result.num_stored:
        result.notes += _merge_small_shards(folder)
        result.notes += _equal_contents(folder, {job.clip.video_id for job in pending})
    return ExtractSummary(
        num_clips=len(manifest.clips),
        num_present=len(manifest.clips) - len(jobs),
        num_stored=result.num_stored,
        num_frames=result.num_frames,
        num_sought=result.num_sought,
        seconds=progress.seconds if pending else 0.0,
        failures=(*earlier.values(), *result.failures),
        notes=tuple(result.notes),
        fingerprint=_fingerprint(folder, runner.provenance),
    )


def _runner(settings: ExtractSettings) -> LocalRunner | DeviceGroup:
    return DeviceGroup(settings) if settings.devices else LocalRunner(settings)


def _merge_small_shards(folder: Path) -> list[str]:
    """Merge the shards of a long run; returns a remark if that failed, which loses nothing."""
    if len(shard_paths(folder)) < _MANY_SHARDS:
        return []
    try:
        compact_store(folder)
    except (StoreError, OSError) as error:
        return [f"all is stored, but its shards were not merged: {error}"]
    return []


def _equal_contents(folder: Path, new_ids: set[str]) -> list[str]:
    """Return remarks on new clips whose content is stored under another id: copies, renamed."""
    groups = equal_sources(sources_of(EmbeddingStore(folder)))
    return [f"equal content: {', '.join(ids)}" for ids in groups if not new_ids.isdisjoint(ids)]


def _fingerprint(folder: Path, provenance: Provenance) -> str:
    """Return the fingerprint of the store as it is now, with the views of earlier runs."""
    return EmbeddingStore(folder).fingerprint if shard_paths(folder) else provenance.fingerprint

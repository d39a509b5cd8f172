"""The main loop of stage one: decode, embed, store; resumable, and unharmed by bad videos."""

import dataclasses
import sys
from pathlib import Path

from stage1_extract.addresses import Location, as_location
from stage1_extract.cluster import ClusterRunner
from stage1_extract.compact import SHARD_BYTES
from stage1_extract.config import ExtractSettings
from stage1_extract.devices import DeviceGroup
from stage1_extract.equal_content import equal_sources_of
from stage1_extract.failures import Failure
from stage1_extract.local import LocalRunner
from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.progress import Progress
from stage1_extract.resume import check_known_settings, missing_jobs, standing_failures
from stage1_extract.run_loop import RunResult
from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    shard_paths,
)
from stage1_extract.targets import Target, open_target


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
    manifest: Manifest | Location | str,
    store: Location | str,
    settings: ExtractSettings | None = None,
    *,
    show_progress: bool = False,
) -> ExtractSummary:
    """Embed every clip of a manifest that the store does not hold yet.

    Args:
        manifest: A manifest, or where it is.
        store: Folder of the store, or its address; made if it is not there.
        settings: How; None for the defaults.
        show_progress: Whether to report progress on stderr.

    Returns:
        What was done. Clips that cannot be embedded are listed there and in failures.jsonl, and
        keep no other clip from being embedded.

    Raises:
        ManifestError: The manifest is wrong.
        StoreError: The store was made with other settings, or from other files; or another run
            embeds the same manifest into it.
        ClusterError: The cluster, or a node of it, cannot do the work.
        WeightsError: The backbone's weights cannot be had.
        OSError: The store cannot be written, or copies of clips find no room; what was finished
            is kept.
        KeyboardInterrupt: Stopped by the user; what was finished is kept.
    """
    settings = settings or ExtractSettings()
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(manifest)
    with open_target(as_location(store), settings.scratch_folder) as target:
        return _extract_into(target, manifest, settings, show_progress=show_progress)


def _extract_into(
    target: Target, manifest: Manifest, settings: ExtractSettings, *, show_progress: bool
) -> ExtractSummary:
    folder = target.folder
    check_known_settings(folder, settings)
    target.begin()
    tell = _print if show_progress else lambda _: None
    with target.lease(manifest.sha256, tell) as lease_notes, _runner(settings, target) as runner:
        target.renew()  # the lease may have been waited for
        jobs = missing_jobs(folder, runner.provenance, manifest.clips, num_views=settings.views)
        earlier = standing_failures(folder, manifest.clips, jobs, retry=settings.retry_failed)
        target.keep_failures()
        pending = [job for job in jobs if job.clip.video_id not in earlier]
        if earlier and settings.fail_fast:
            pending = []
        progress = Progress(len(pending), show=show_progress and bool(pending))
        result = runner.embed(pending, target.store, progress) if pending else RunResult()
        if pending:
            target.renew()
            target.keep_failures()
        if result.num_stored:
            result.notes += target.merge_small_shards(_merged_bytes(settings))
    if result.num_stored:
        result.notes += _equal_contents(folder, {job.clip.video_id for job in pending})
    return ExtractSummary(
        num_clips=len(manifest.clips),
        num_present=len(manifest.clips) - len(jobs),
        num_stored=result.num_stored,
        num_frames=result.num_frames,
        num_sought=result.num_sought,
        seconds=progress.seconds if pending else 0.0,
        failures=(*earlier.values(), *result.failures),
        notes=(*result.notes, *lease_notes),
        fingerprint=_fingerprint(folder, runner.provenance),
    )


def _print(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _runner(settings: ExtractSettings, target: Target) -> LocalRunner | DeviceGroup | ClusterRunner:
    if settings.cluster.ray is not None:
        return ClusterRunner(settings, target)
    return DeviceGroup(settings) if settings.devices else LocalRunner(settings)


def _merged_bytes(settings: ExtractSettings) -> int:
    """Return the wanted size of shards: what a cluster wrote, one machine should not copy again."""
    return SHARD_BYTES if settings.cluster.ray is None else settings.shard_mb * 10**6


def _equal_contents(folder: Path, new_ids: set[str]) -> list[str]:
    """Return remarks on new clips whose content is stored under another id: copies, renamed."""
    groups = equal_sources_of(EmbeddingStore(folder))
    return [f"equal content: {', '.join(ids)}" for ids in groups if not new_ids.isdisjoint(ids)]


def _fingerprint(folder: Path, provenance: Provenance) -> str:
    """Return the fingerprint of the store as it is now, with the views of earlier runs."""
    return EmbeddingStore(folder).fingerprint if shard_paths(folder) else provenance.fingerprint

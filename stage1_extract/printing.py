"""What the commands print for people."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1_extract.compact import CompactResult
    from stage1_extract.extraction import ExtractSummary
    from stage1_extract.fetching import FetchResult
    from stage1_extract.findings import VerifyResult
    from stage1_extract.manifest_writing import WrittenManifest

_SHOWN = 10
_BAR_WIDTH = 40


def run_text(summary: "ExtractSummary", store: object) -> str:
    """Return what a run did."""
    speed = summary.num_frames / max(summary.seconds, 1e-9)
    lines = [
        f"{summary.num_clips} clips: {summary.num_stored} embedded now, {summary.num_present} "
        f"already there, {len(summary.failures)} failed; {summary.num_frames} frames in "
        f"{summary.seconds:.1f} s ({speed:.0f} frames/s)"
    ]
    if summary.num_sought:
        lines.append(f"{summary.num_sought} were read by seeking, not decoded from the start on.")
    if summary.num_not_tried:
        lines.append(f"Stopped at the first failure: {summary.num_not_tried} clips were not tried.")
    lines += _some("to look at", summary.notes)
    lines += _some("failed", [f"{f.video_id}: {f.reason}" for f in summary.failures])
    if summary.failures:
        lines.append(f"All failures: {store}/failures.jsonl; --retry-failed tries them again.")
    return "\n".join([*lines, f"Store: {store} (fingerprint {summary.fingerprint})"])


def info_text(description: dict[str, Any]) -> str:
    """Return a store's description, sizes and times in readable units, lengths as bars."""
    shown = dict(description)
    shown["size"] = readable_size(shown.pop("size_bytes"))
    shown["total_duration"] = readable_duration(shown.pop("total_duration_seconds"))
    lengths = dict(shown.pop("lengths"))
    histogram = lengths.pop("histogram")
    return "\n".join(
        [_as_text(shown), "lengths (frames):", _as_text(lengths, "  "), *histogram_lines(histogram)]
    )


def verify_text(result: "VerifyResult", store: object, *, repaired: bool) -> str:
    """Return what verifying, or repairing, found and did."""
    lines = []
    if result.sound:
        lines.append(f"{result.num_sequences} sequences, every checksum right")
    if result.num_continued:
        lines.append(
            f"{result.num_continued} shards were not read now: they were found sound since "
            f"{result.continued_since}, and did not change. --restart reads them again."
        )
    lines += _some("unreadable shards", result.bad_shards)
    lines += _some("damaged sequences", result.bad_sequences)
    lines += _some("stored more than once (one copy is read; no damage)", result.duplicates)
    groups = [", ".join(ids) for ids in result.equal_sources]
    lines += _some("groups of videos with equal content (no damage)", groups)
    if repaired and not result.sound:
        lines += _some("shards moved away", result.quarantined)
        lines.append(f"{result.num_rescued} sound sequences of theirs were kept.")
    if not result.sound:
        lines += _some("videos to extract again", result.extract_again)
        if result.bad_shards:
            lines.append("Which videos the unreadable shards held is not known here.")
        lines.append(
            "`stage1-extract run` with the manifest embeds again what is missing."
            if repaired
            else f"`stage1-extract verify {store} --repair` moves what is damaged away."
        )
    return "\n".join(lines)


def compact_text(result: "CompactResult") -> str:
    """Return what a compaction did."""
    return (
        f"{result.num_shards_before} shards before, {result.num_shards_after} now; "
        f"{result.num_sequences} sequences, {result.num_duplicates_removed} copies removed"
    )


def fetch_text(result: "FetchResult", folder: object) -> str:
    """Return what fetching a store did."""
    return (
        f"{result.num_shards} shards in {folder}: {result.num_fetched} fetched now "
        f"({readable_size(result.num_bytes)}), {result.num_removed} removed"
    )


def manifest_text(written: "WrittenManifest") -> str:
    """Return what stands in a new manifest, and what does not."""
    lines = [f"{written.num_clips} clips in {written.path}: {', '.join(written.columns)}"]
    lines += _some("labels", [f"{name}: {n}" for name, n in written.labels.items()])
    lines += _some("sides of the split", [f"{name}: {n}" for name, n in written.splits.items()])
    if written.left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in written.left_out.items())
        lines.append(f"{sum(written.left_out.values())} other files left out: {kinds}")
    return "\n".join(lines)


def readable_size(num_bytes: int) -> str:
    """Return a size as disks count it: 12345678 is 12.3 MB."""
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    size, units = num_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}"


def readable_duration(seconds: float) -> str:
    """Return a duration as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def histogram_lines(histogram: dict[str, list[int]]) -> list[str]:
    """Return one line a bar; the highest has 40 marks, and none that counts is empty."""
    edges, counts = histogram["edges"], histogram["counts"]
    names = [
        f"{low}" if high == low + 1 else f"{low} to {high - 1}"
        for low, high in itertools.pairwise(edges)
    ]
    width, most = max(map(len, names)), max(counts)
    bars = ["#" * -(-count * _BAR_WIDTH // most) for count in counts]
    return [
        f"  {name:>{width}}  {bar} {count}".rstrip()
        for name, bar, count in zip(names, bars, counts, strict=True)
    ]


def _some(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {title}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]


def _as_text(values: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", _as_text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {'none' if value == {} else value}")
    return "\n".join(lines)

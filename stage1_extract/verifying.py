"""Verifying a store: does it still hold what was written?"""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from stage1_extract.addresses import no_store_at
from stage1_extract.check_journal import CheckJournal, SoundShard
from stage1_extract.check_pool import check_shards
from stage1_extract.cores import available_cores
from stage1_extract.findings import Findings, VerifyResult
from stage1_extract.progress import ByteProgress
from stage1_extract.provenance import StoreError
from stage1_extract.repairing import repair_shards
from stage1_extract.shard_check import ShardCheck, ShardContent
from stage1_extract.shard_format import shard_paths
from stage1_extract.shard_index import ShardState
from stage1_extract.shard_set import common_settings


def verify_store(
    path: Path,
    *,
    repair: bool = False,
    processes: int | None = None,
    restart: bool = False,
    show_progress: bool = False,
) -> VerifyResult:
    """Read everything and compare checksums; one bad shard does not hide the others.

    Shards that were found sound are noted in the store's folder until all are. So one that was
    broken off goes on where it was, and repairing does not read again what is sound; notes of more
    than a week ago, and of shards that changed, do not count.

    Args:
        path: The store's folder, or one shard.
        repair: Whether to move damaged shards into the store's folder `quarantine`, after their
            sound sequences were copied into new shards. Nothing is deleted, and if it is broken
            off, the next repair finishes it.
        processes: How many read at the same time, in a store that is not small; None for one a
            core. A shard that crashes one, or blocks it for ten minutes, is unreadable.
        restart: Whether to read again what a verification that was broken off had read.
        show_progress: Whether to report progress on stderr.

    Raises:
        FileNotFoundError: Nothing is there.
        StoreError: There are no shards, or they do not belong together.
        ValueError: One shard is to be repaired, not a store; or there are no processes.
        OSError: Repairing cannot write, or a process was ended or does not start; nothing is lost.
    """
    if not path.exists():
        raise no_store_at(path)
    if not shard_paths(path):
        raise StoreError(f"{path} holds no shards; is it a store?")
    if repair and not path.is_dir():
        raise ValueError(f"{path} is one shard; give the store's folder to repair it")
    processes = available_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes is {processes}; expected 1 or more")
    journal = CheckJournal(path)
    if restart:
        journal.remove()
    checks, known = _check_all(path, journal, processes, show_progress=show_progress)
    if not any(check.unreadable for check in checks):
        common_settings([check.content.shard for check in checks if check.content is not None])
    found = Findings(checks)
    quarantined, num_rescued = repair_shards(path, found) if repair else ((), 0)
    if repair or not any(check.bad for check in checks):
        journal.remove()
    earliest = min((shard.checked for shard in known), default=0.0)
    return dataclasses.replace(
        found.result(),
        quarantined=quarantined,
        num_rescued=num_rescued,
        num_continued=len(known),
        continued_since=_iso(earliest) if known else "",
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _check_all(
    path: Path, journal: CheckJournal, processes: int, *, show_progress: bool
) -> tuple[list[ShardCheck], list[SoundShard]]:
    """Return the checks of all shards, in reading order, and which were known before."""
    noted, known, todo = journal.read(), list[SoundShard](), list[tuple[Path, ShardState]]()
    checks = {}
    for shard in shard_paths(path):
        state = _state(shard)
        note = noted.get(shard.name)
        check = _reread(shard, state) if note is not None and note.state == state else None
        if note is None or check is None:
            todo.append((shard, state))
        else:
            checks[shard] = check
            known.append(note)
    total = sum(state.size_bytes for _, state in todo)
    with ByteProgress(total, what="verify", show=show_progress) as progress:
        for check in check_shards(todo, processes=processes, progress=progress):
            checks[check.path] = check
            if not check.bad:
                journal.add(check.path.name, check.state)
    return [checks[shard] for shard in sorted(checks)], known


def _state(shard: Path) -> ShardState:
    try:
        return ShardState.of(shard)
    except FileNotFoundError as error:
        raise StoreError(f"{shard} is gone since it was listed; verify the store again") from error


def _reread(shard: Path, state: ShardState) -> ShardCheck | None:
    """Read all but the frames of a shard that is known to be sound; None if that fails now."""
    try:
        return ShardCheck(shard, state, content=ShardContent.read(shard))
    except (StoreError, OSError):
        return None

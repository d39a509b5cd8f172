"""The clips that an evaluation scores: labelled, in the store, and not seen in training."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.encoding import TargetError
from stage2_temporal.evaluate_settings import EvaluateSettings
from stage2_temporal.groups import read_group_names
from stage2_temporal.known_targets import encode_known, present_labels, target_columns
from stage2_temporal.leakage import merge_groups
from stage2_temporal.partition import few_groups_notice
from stage2_temporal.recordings import Recordings
from stage2_temporal.run_facts import RunFacts
from stage2_temporal.seen_clips import SeenClips
from stage2_temporal.stored_clips import plain_positions
from stage2_temporal.targets import LabelledClips

_NUM_EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class EvaluatedClips:
    """The clips that are scored.

    Attributes:
        clips: N clips, their labels as numbers of the run's classes.
        group_names: (N,) value of the group column as text; blank without one.
        groups: (N,) numbers of what belongs together: a group, a source file, equal content.
        notices: Remarks worth reading.
    """

    clips: LabelledClips
    group_names: NDArray[np.str_]
    groups: NDArray[np.intp]
    notices: tuple[str, ...]


def scoring_settings(
    facts: RunFacts, manifest: Manifest, settings: EvaluateSettings
) -> TrainSettings:
    """Return what scoring reads of the training's settings, with what was changed.

    Args:
        facts: The run.
        manifest: Labels; the run's group column counts if it is there.
        settings: What was asked for.
    """
    trained = facts.settings["settings"]
    group = settings.group
    if group is None and facts.group in manifest.table.columns:
        group = facts.group
    return TrainSettings(
        [target.name for target in facts.targets],
        group=group,
        **{
            name: trained.get(name) if (given := getattr(settings, name)) is None else given
            for name in ("unmatched", "blank_target", "blank_group", "resamples", "seed")
        },
    )


def evaluated_clips(
    facts: RunFacts,
    store: EmbeddingStore,
    manifest: Manifest,
    settings: EvaluateSettings,
    scoring: TrainSettings,
) -> EvaluatedClips:
    """Join manifest and store, leave out what the run has seen, and read labels and groups.

    Args:
        facts: The run.
        store: Embeddings.
        manifest: Labels.
        settings: Which clips count.
        scoring: As `scoring_settings` returns them.

    Raises:
        ValueError: No clips are left, the run has seen some, or a label is none of its classes.
    """
    tables = [target_columns(manifest, target.name) for target in facts.targets]
    present = np.stack([present_labels(table) for table in tables], axis=1)
    ids, position_of = manifest.table["video_id"].tolist(), plain_positions(store)
    stored = np.array([video_id in position_of for video_id in ids])
    left_out = _left_out(ids, stored, present, scoring, store, manifest)
    used = np.flatnonzero(stored & present.any(axis=1)).tolist()
    used.sort(key=ids.__getitem__)  # as in training, so that equal clips give equal scores
    positions = np.array([position_of[ids[row]] for row in used], np.intp)
    content = store.column("checksum")[positions]
    seen, known = _seen(facts, store, positions, settings)
    rows = np.array(used, np.intp)[~seen]
    left_out["seen in training"] = int(seen.sum())
    separator = facts.settings["settings"].get("label_separator")
    clips = LabelledClips(
        rows=rows,
        positions=positions[~seen],
        video_ids=np.array([ids[row] for row in rows.tolist()]),
        targets=tuple(
            encode_known(table.iloc[rows], known, separator=separator)
            for table, known in zip(tables, facts.targets, strict=True)
        ),
        left_out=left_out,
    )
    names, remarks = read_group_names(clips, manifest, scoring)
    if scoring.group is None:
        remarks = ["no group column: intervals take all clips for independent (--group)"]
    groups = merge_groups(names, Recordings.of(clips, store).sources, content[~seen])
    if known is None:
        remarks.append("clips that the run has seen were not looked for (--seen keep)")
    else:
        remarks += [*known.notices, *_shared_groups(facts, names, known, scoring)]
    remarks += few_groups_notice(groups)
    return EvaluatedClips(clips, names, groups, tuple(remarks))


def _left_out(
    ids: Sequence[str],
    stored: NDArray[np.bool_],
    present: NDArray[np.bool_],
    scoring: TrainSettings,
    store: EmbeddingStore,
    manifest: Manifest,
) -> dict[str, int]:
    """Count the clips that cannot be scored; refuse them unless they may be dropped."""
    _allow(
        [ids[row] for row in np.flatnonzero(~stored).tolist()],
        scoring.unmatched,
        f"clips of {manifest.path} are not in {store.path}",
        "run `stage1-extract run` for them, or leave them out with --unmatched drop",
    )
    for name, has_it in zip(scoring.target, present.T, strict=True):
        _allow(
            [ids[row] for row in np.flatnonzero(stored & ~has_it).tolist()],
            scoring.blank_target,
            f"clips have no {name!r}",
            "fill the column in, or leave them out with --blank-target drop",
        )
    none = stored & ~present.any(axis=1)
    return {"not in the store": int((~stored).sum()), "blank target": int(none.sum())}


def _allow(ids: Sequence[str], policy: str, what: str, remedy: str) -> None:
    if ids and policy == "error":
        raise TargetError(f"{len(ids)} {what}, e.g. {list(ids[:_NUM_EXAMPLES])}; {remedy}")


def _seen(
    facts: RunFacts,
    store: EmbeddingStore,
    positions: NDArray[np.intp],
    settings: EvaluateSettings,
) -> tuple[NDArray[np.bool_], SeenClips | None]:
    """Return (N,) which clips are left out because the run has seen them, and all that it saw."""
    none = np.zeros(len(positions), np.bool_)
    if not len(positions):
        raise TargetError(f"no clip of {settings.manifest} has both a sequence and a label")
    if settings.seen == "keep":
        return none, None
    known = SeenClips.of(facts, store)
    seen = known.among(store, positions)
    if seen.any() and settings.seen == "error":
        examples = store.video_ids[positions[seen][:_NUM_EXAMPLES]].tolist()
        raise TargetError(
            f"{seen.sum()} of {len(seen)} clips were on the training or validation side of "
            f"{facts.folder}, or are cut from a recording that was, e.g. {examples}; their scores "
            "would flatter: leave them out with --seen drop, or score them too with --seen keep"
        )
    if seen.all():
        raise TargetError(
            f"{facts.folder} has seen all {len(seen)} clips in training, or others of their "
            "recordings (every fold of a cross-validation counts); the scores of its own test "
            "clips are in its metrics.json"
        )
    return seen, known


def _shared_groups(
    facts: RunFacts, names: NDArray[np.str_], known: SeenClips, scoring: TrainSettings
) -> list[str]:
    """Say when other clips of the same patients were seen in training."""
    shared = np.isin(names, list(known.groups))
    if scoring.group != facts.group or not shared.any():
        return []
    return [
        f"{shared.sum()} clips are of {len(np.unique(names[shared]))} groups ({facts.group}) of "
        "which the run has seen other clips in training: their scores may flatter"
    ]

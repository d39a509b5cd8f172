"""The table of a sweep's trials, best first: a CSV file that is safe in a spreadsheet."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from stage2_temporal.prediction_rows import safe_text
from stage2_temporal.sweep_folder import write_whole
from stage2_temporal.sweep_storage import COMPLETE, FAILED, PRUNED, RUNNING, TrialRecord

LEADERBOARD_NAME = "leaderboard.csv"

_AFTER_THE_RANKED = {COMPLETE: 0, PRUNED: 1, RUNNING: 2, FAILED: 3}


def ranked(
    records: Sequence[TrialRecord], *, higher_is_better: bool
) -> list[tuple[int | None, TrialRecord]]:
    """Return trials with their ranks: complete ones by value, then pruned, running, failed ones.

    Equal values share a rank, and the next one counts them (1, 2, 2, 4); within it, the trial that
    began first comes first. A trial without a value has no rank.
    """
    sign = -1 if higher_is_better else 1
    scored = sorted((sign * value_of(r), r.number, r) for r in records if is_scored(r))
    placed: list[tuple[int | None, TrialRecord]] = []
    for place, (key, _, record) in enumerate(scored, start=1):
        tied = place > 1 and key == scored[place - 2][0]
        placed.append((placed[-1][0] if tied else place, record))
    rest = [record for record in records if not is_scored(record)]
    rest.sort(key=lambda record: (_AFTER_THE_RANKED[record.state], record.number))
    return placed + [(None, record) for record in rest]


def is_scored(record: TrialRecord) -> bool:
    """Whether a trial is complete and has a value."""
    return record.state == COMPLETE and math.isfinite(value_of(record))


def value_of(record: TrialRecord) -> float:
    """Return a trial's value; NaN where it has none."""
    return math.nan if record.value is None else record.value


def write_leaderboard(
    folder: Path, records: Sequence[TrialRecord], *, higher_is_better: bool
) -> Path:
    """Write `leaderboard.csv` into a sweep folder, whole or not at all, and return its path.

    One row a trial, in the order of `ranked`. `difference` is value minus baseline; `fold 0`, ...
    are scores of single folds; then each searched setting; `kept_baseline` of `trainings` kept the
    mean-pool baseline. What is unknown is blank. A text that a spreadsheet would take for a formula
    has an apostrophe in front, as in tables of predictions; numbers are as they are.

    Args:
        folder: The sweep folder.
        records: Its trials.
        higher_is_better: Whether a larger value is better.
    """
    folds = range(max((len(record.by_fold) for record in records), default=0))
    settings = list(dict.fromkeys(name for record in records for name in record.parameters))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    fixed = ("rank", "trial", "state", "value", "baseline", "difference")
    last = ("kept_baseline", "trainings", "seconds", "reason")
    table.writerow([*fixed, *(f"fold {n}" for n in folds), *map(cell_of, settings), *last])
    for rank, record in ranked(records, higher_is_better=higher_is_better):
        row = [rank, record.number, record.state, record.value, record.baseline]
        row += [difference_of(record)]
        row += [record.by_fold[n] if n < len(record.by_fold) else None for n in folds]
        row += [record.parameters.get(name) for name in settings]
        trained = (record.kept_baseline, record.num_trainings) if record.num_trainings else ("", "")
        row += [*trained, record.seconds, record.reason]
        table.writerow(map(cell_of, row))
    path = folder / LEADERBOARD_NAME
    write_whole(path, text.getvalue())
    return path


def difference_of(record: TrialRecord) -> float | None:
    """Return value minus baseline; None where one is unknown."""
    if record.value is None or record.baseline is None:
        return None
    return record.value - record.baseline


def cell_of(value: object) -> str | int | float:
    """Return a value as a cell: blank for None and NaN, texts so that none is a formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool | list | tuple):
        return safe_text(json.dumps(value, ensure_ascii=False))
    if isinstance(value, int | float):
        return value
    return safe_text(str(value))

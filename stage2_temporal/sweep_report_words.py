"""The sentences of the sweep's report."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stage2_temporal.augment import AugmentSettings
from stage2_temporal.config import TrainSettings
from stage2_temporal.documents import command_line
from stage2_temporal.metrics import higher_is_better
from stage2_temporal.report_words import count, display_name, format_number
from stage2_temporal.sweep_names import STORE
from stage2_temporal.sweep_report_data import SweepView
from stage2_temporal.sweep_storage import COMPLETE, FAILED, PRUNED, RUNNING, TrialRecord

_DEFAULT_SAMPLER, _DEFAULT_PRUNER, _DEFAULT_FOLDS = "tpe", "none", 5
_STATES = (COMPLETE, PRUNED, FAILED, RUNNING)


def heading(view: SweepView) -> str:
    """Return the title of the page."""
    target = ", ".join(view.document.base.get("target", ()))
    settings = count(len(view.document.search), "setting")
    return f"Search for {target}: {count(len(view.records), 'trial')} of {settings}"


def scored_how(view: SweepView) -> str:
    """Say which score is compared, on which clips."""
    folds, sides = view.document.validation_folds, view.document.sides
    clips = count(sides.get("development", {}).get("clips", 0), "development clip")
    where = f"{folds} folds of {clips}, pooled" if folds > 1 else f"a validation split of {clips}"
    return f"{metric_text(view)}, on {where}"


def metric_text(view: SweepView) -> str:
    """Return the usual spelling of the score, and whether lower is better."""
    name = display_name(view.document.metric)
    return name if view.document.higher_is_better else f"{name} (lower is better)"


def compared(view: SweepView) -> str:
    """Set the best trial beside the baseline, and say that the best of many flatters."""
    best, baseline = view.best, view.baseline
    if best is None or best.value is None:
        return f"No trial is complete yet, of {count(len(view.records), 'trial')}."
    texts = []
    if baseline is not None:
        texts.append(f"The best trial {_against(best.value, baseline, view.document.metric)}.")
    if baseline is not None and view.best_baseline not in (None, baseline):
        texts.append(
            "The best baseline of all trials, with another store or other side features, has "
            f"{format_number(view.best_baseline)}."
        )
    if len(view.scored) > 1:
        texts.append(
            f"Its value is optimistic: it is the best of {len(view.scored):,} trials, chosen by "
            "the very clips that it is measured on."
        )
    return " ".join(texts)


def _against(value: float, baseline: float, metric: str) -> str:
    gain = value - baseline if higher_is_better(metric) else baseline - value
    if gain == 0:
        return "has the score of the mean-pool baseline"
    than = f"{format_number(abs(gain))} {'better' if gain > 0 else 'worse'}"
    return f"is {than} than the mean-pool baseline on the same clips"


def states(view: SweepView) -> str:
    """Count the trials by what became of them."""
    counts = {state: sum(r.state == state for r in view.records) for state in _STATES}
    return (
        ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
        or "no trials"
    )


def kept_baselines(view: SweepView) -> str:
    """Say how many trainings kept the mean-pool baseline."""
    trained = [r for r in view.scored if r.num_trainings and not is_repeat(r)]
    kept = sum(record.kept_baseline for record in trained)
    if not trained or not kept:
        return "" if not trained else "No training of a complete trial kept the mean-pool baseline."
    total = sum(record.num_trainings for record in trained)
    wholly = sum(record.kept_baseline == record.num_trainings for record in trained)
    text = (
        f"{kept:,} of {count(total, 'training')} in complete trials kept the mean-pool baseline, "
        "because validation did not show that the order of frames improves on it"
    )
    all_of = f"; so did all trainings of {wholly:,} of {count(len(trained), 'trial')}"
    return text + (all_of if wholly else "") + "."


def timing(view: SweepView) -> str:
    """Say how long the trials took, and how many ended in an hour of work."""
    spans = list(_spans(view.records))
    if not spans:
        return ""
    busy = _covered(spans)
    work = sum((end - start for start, end in spans), timedelta())
    ended = sum(r.state != RUNNING and r.seconds is not None for r in view.records)
    text = f"{count(ended, 'trial')} ended in {duration(busy.total_seconds())} of work"
    if busy.total_seconds() > 0:
        at_once = work / busy
        text += f", {format_rate(ended / busy.total_seconds() * 3600)} an hour"
        text += f", {at_once:.1f} at the same time on average" if at_once > 1.05 else ""
    return f"{text}. Breaks between calls of the sweep are not counted."


def is_repeat(record: TrialRecord) -> bool:
    """Whether a complete trial has the result of an earlier one of the same settings."""
    return record.state == COMPLETE and bool(record.reason)


def _spans(records: Sequence[TrialRecord]) -> Iterator[tuple[datetime, datetime]]:
    for record in records:
        if record.started is not None and record.seconds is not None:
            yield record.started, record.started + timedelta(seconds=record.seconds)


def _covered(spans: Sequence[tuple[datetime, datetime]]) -> timedelta:
    """Return how long one span or more was open."""
    covered, until = timedelta(), None
    for start, end in sorted(spans):
        begin = start if until is None else max(start, until)
        if end > begin:
            covered += end - begin
            until = end
    return covered


def duration(seconds: float) -> str:
    """Return a time as text: 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def format_rate(an_hour: float) -> str:
    """Return a number of trials an hour as text."""
    return f"{an_hour:,.0f}" if an_hour >= 10 else f"{an_hour:.2g}"


def command_of(view: SweepView, folder: Path) -> str:
    """Return the command that asks for this sweep again, ready to paste into a shell."""
    document = view.document
    store, *others = document.stores
    base = command_line(Path(store), Path(document.manifest), folder.absolute(), base_of(view))
    program, _, *words = shlex.split(base)
    for name, searched in document.search.items():
        if name != STORE:
            words.append(f"--search={name} = {_toml(searched)}")
    words += [f"--other-store={other}" for other in others]
    for flag, value, default in (
        ("sampler", document.sampler, _DEFAULT_SAMPLER),
        ("pruner", document.pruner, _DEFAULT_PRUNER),
        ("validation-folds", document.validation_folds, _DEFAULT_FOLDS),
    ):
        words += [f"--{flag}={value}"] if value != default else []
    words += [f"--metric={document.metric}", f"--trials={max(len(view.records), 1)}"]
    return shlex.join([program, "sweep", *words])


def base_of(view: SweepView) -> TrainSettings:
    """Return the settings that hold for every trial."""
    base = dict(view.document.base)
    if "augmentation" in base:
        base["augmentation"] = AugmentSettings(**base["augmentation"])
    if base.get("feature_table") is not None:
        base["feature_table"] = Path(base["feature_table"])
    return TrainSettings(**base)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)

"""Scoring a trained run on labelled clips of any store that was made like its own."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.manifest import Manifest, read_manifest
from stage1_extract.progress import Progress
from stage1_extract.store import EmbeddingStore
from stage2_temporal import metrics
from stage2_temporal.bootstrap import Score
from stage2_temporal.bundle import Bundle, Prediction
from stage2_temporal.config import TrainSettings
from stage2_temporal.encoding import TargetError
from stage2_temporal.evaluate_settings import EvaluateSettings
from stage2_temporal.evaluated_clips import EvaluatedClips, evaluated_clips, scoring_settings
from stage2_temporal.head_batches import HeadBatches, PredictedClip
from stage2_temporal.prediction_rows import (
    csv_line,
    named_predictions,
    prediction_cells,
    prediction_columns,
    safe_text,
)
from stage2_temporal.run_facts import BundleTarget, RunFacts
from stage2_temporal.run_folder import write_json
from stage2_temporal.scoring import (
    CONFIDENCE,
    RECURRENT,
    Pooled,
    score_test,
    scored_shape,
    subject_scores,
)
from stage2_temporal.side_rows import features_of_clips, open_side_table
from stage2_temporal.stored_clips import stored_sequences
from stage2_temporal.targets import LabelledClips, Target

EVALUATION_FORMAT = "stage2-evaluation"
EVALUATION_VERSION = 1
DOCUMENT = "evaluation.json"
PREDICTIONS = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class TargetEvaluation:
    """The scores of one target.

    Attributes:
        task: The target's task.
        scores: By name of the score, with intervals.
        subjects: The same of each subject's mean prediction; None where no subject has two clips.
        num_clips: Clips that have the target.
        num_subjects: How many subjects there are.
        num_mixed_subjects: How many more were left out because their clips differ in label.
    """

    task: str
    scores: dict[str, Score]
    subjects: dict[str, Score] | None
    num_clips: int
    num_subjects: int
    num_mixed_subjects: int


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """How well a run predicts labelled clips.

    Attributes:
        targets: By name of the target.
        num_clips: Clips that were scored.
        num_groups: Independent groups of them, which are resampled as a whole.
        num_models: Models whose mean predicts.
        group: The group column; None if clips were resampled one by one.
        left_out: How many clips were left out, by reason.
        notices: Remarks worth reading.
        folder: Where scores and predictions were written; None if they were not.
    """

    targets: dict[str, TargetEvaluation]
    num_clips: int
    num_groups: int
    num_models: int
    group: str | None
    left_out: dict[str, int]
    notices: tuple[str, ...]
    folder: Path | None


def evaluate(
    run: Path | str, settings: EvaluateSettings, *, show_progress: bool = False
) -> EvaluationResult:
    """Score the mean of a run's models on labelled clips, as training scores its test clips.

    Args:
        run: The run folder.
        settings: Store, manifest, and which clips count.
        show_progress: Whether to report progress on stderr.

    Raises:
        FileNotFoundError: Run, store or manifest are not there.
        FileExistsError: The folder holds an evaluation already.
        ValueError: They do not match, the run has seen the clips, or labels that it does not know.
    """
    _check_free(settings)
    facts = RunFacts.read(run)
    table = open_side_table(facts, settings.feature_table)
    store = EmbeddingStore(settings.store)
    facts.check_store(store)
    manifest = read_manifest(Path(settings.manifest), files_must_exist=False)
    scoring = scoring_settings(facts, manifest, settings)
    found = evaluated_clips(facts, store, manifest, settings, scoring)
    features_of = features_of_clips(facts, table, found.clips.video_ids.tolist())
    load_keras(settings.backend)
    bundle = Bundle.open(facts)
    predictions = _predict(bundle, store, found.clips, features_of, show=show_progress)
    result = EvaluationResult(
        targets={
            target.name: _score(known, target, prediction.mean, found, scoring)
            for known, target, prediction in zip(
                facts.targets, found.clips.targets, predictions, strict=True
            )
        },
        num_clips=len(found.clips.rows),
        num_groups=len(np.unique(found.groups)),
        num_models=len(facts.units),
        group=scoring.group,
        left_out=found.clips.left_out,
        notices=found.notices,
        folder=settings.out,
    )
    if settings.out is not None:
        _write(Path(settings.out), result, found, predictions, (facts, store, manifest, settings))
    return result


def evaluation_text(result: EvaluationResult) -> str:
    """Return what a person wants to read at the end of an evaluation."""
    groups = f" of {result.num_groups} groups" if result.group else ""
    models = f"mean of {result.num_models} models" if result.num_models > 1 else "1 model"
    lines = [f"{result.num_clips} clips{groups}, {models}"]
    lines += [f"left out, {why}: {count} clips" for why, count in result.left_out.items() if count]
    lines += result.notices
    for name, target in result.targets.items():
        lines += ["", f"{name} ({target.task}, {target.num_clips} clips)"]
        width = max(map(len, target.scores))
        lines += [f"{score:<{width}}  {_interval(v)}" for score, v in target.scores.items()]
    if result.folder is not None:
        lines += ["", f"Scores and predictions: {result.folder}"]
    return "\n".join(lines)


def _interval(score: Score) -> str:
    bounds = "" if np.isnan(score.low) else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{bounds}"


# ------------------------------------------------------------------------------ predicting, scoring


def _predict(
    bundle: Bundle,
    store: EmbeddingStore,
    clips: LabelledClips,
    features_of: Any,
    *,
    show: bool,
) -> list[Prediction]:
    """Return (N, k) of each target, in the order of the clips."""
    batches, done = HeadBatches(bundle), dict[str, list[Prediction]]()

    def take(predicted: Sequence[PredictedClip]) -> None:
        for clip in predicted:
            done[clip.sequence.video_id] = clip.predictions
            progress.finish_clip()

    with Progress(len(clips.rows), what="evaluate", show=show) as progress:
        for sequence in stored_sequences(store, clips.positions.tolist(), features_of):
            progress.add_frames(len(sequence.embedding))
            take(batches.add(sequence))
        take(batches.flush())
    rows = [done[video_id] for video_id in clips.video_ids.tolist()]
    return [
        Prediction(
            np.concatenate([row[i].mean for row in rows]),
            np.concatenate([row[i].spread for row in rows]),
        )
        for i in range(len(bundle.targets))
    ]


def _score(
    known: BundleTarget,
    target: Target,
    mean: NDArray[np.float64],
    found: EvaluatedClips,
    scoring: TrainSettings,
) -> TargetEvaluation:
    here = np.flatnonzero(target.present)
    if not len(here):
        raise TargetError(
            f"none of {len(mean)} clips has a {known.name!r}, so it cannot be scored; evaluate on "
            "clips that have it"
        )
    limits = np.array(known.thresholds or [metrics.THRESHOLD])
    width = 1 if known.task == "multiclass" else mean.shape[1]
    pooled = Pooled(
        target.at(here),
        here,
        {RECURRENT: [scored_shape(known.task, mean[here])]},
        {RECURRENT: [scored_shape(known.task, np.broadcast_to(limits, (len(here), width)))]},
    )
    subjects = subject_scores(pooled, found.groups, scoring) if scoring.group else None
    return TargetEvaluation(
        task=known.task,
        scores=score_test(pooled, found.groups, scoring)[RECURRENT],
        subjects=subjects[0][RECURRENT] if subjects else None,
        num_clips=len(here),
        num_subjects=subjects[1] if subjects else 0,
        num_mixed_subjects=subjects[2] if subjects else 0,
    )


# ------------------------------------------------------------------------------------------ writing


def _check_free(settings: EvaluateSettings) -> None:
    if settings.out is None:
        return
    taken = [path for name in (DOCUMENT, PREDICTIONS) if (path := settings.out / name).exists()]
    if taken and not settings.overwrite:
        raise FileExistsError(f"{taken[0]} exists; choose another --out, or give --overwrite")
    if (settings.out / "settings.json").exists():
        raise FileExistsError(f"{settings.out} is a run folder; choose another --out")
    if taken == [settings.out / PREDICTIONS]:
        raise FileExistsError(
            f"{taken[0]} is not known to be of an evaluation ({DOCUMENT} is missing beside it); it "
            "is not replaced: choose another --out, or delete it"
        )


def _write(
    folder: Path,
    result: EvaluationResult,
    found: EvaluatedClips,
    predictions: Sequence[Prediction],
    sources: tuple[RunFacts, EmbeddingStore, Manifest, EvaluateSettings],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table, document = (
        folder / f".{name}.{os.getpid()}.partial" for name in (PREDICTIONS, DOCUMENT)
    )
    try:
        with table.open("w", encoding="utf-8", newline="") as file:
            file.writelines(_rows(sources[0], found, predictions))
        write_json(document, _document(result, *sources))
        # A kill leaves no scores beside other predictions, and no predictions without scores.
        (folder / PREDICTIONS).unlink(missing_ok=True)
        document.replace(folder / DOCUMENT)
        table.replace(folder / PREDICTIONS)
    finally:
        table.unlink(missing_ok=True)
        document.unlink(missing_ok=True)


def _rows(
    facts: RunFacts, found: EvaluatedClips, predictions: Sequence[Prediction]
) -> Iterator[str]:
    """Yield the lines of the table of predictions, labels beside them."""
    several, targets = len(facts.units) > 1, facts.targets
    labels = [f"{t.name}:target" if len(targets) > 1 else "target" for t in targets]
    columns = prediction_columns(targets, several_models=several)
    yield csv_line(map(safe_text, ["video_id", "group", *labels, *columns]))
    truth = [_labels(k, t) for k, t in zip(targets, found.clips.targets, strict=True)]
    names = [found.clips.video_ids.tolist(), found.group_names.tolist(), *truth]
    cells = prediction_cells(targets, predictions, several_models=several)
    for *texts, row in zip(*names, cells, strict=True):
        yield csv_line([*map(safe_text, texts), *row])


def _labels(known: BundleTarget, target: Target) -> list[str]:
    """Return each clip's label as predictions name it; blank where it is missing."""
    sure = target.numbers.reshape(len(target.numbers), -1).astype(np.float64)
    if known.task == "multiclass":
        sure = target.encoded().astype(np.float64)
    limits = dataclasses.replace(known, thresholds=(metrics.THRESHOLD,) * sure.shape[1])
    names = named_predictions(limits, sure)
    return [name if here else "" for name, here in zip(names, target.present, strict=True)]


def _document(
    result: EvaluationResult,
    facts: RunFacts,
    store: EmbeddingStore,
    manifest: Manifest,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """Return evaluation.json: the scores, and what was scored on what."""
    return {
        "format": EVALUATION_FORMAT,
        "format_version": EVALUATION_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": {"path": str(facts.folder.absolute()), "sha256": facts.identity},
        "store": {"path": str(store.path.absolute()), "fingerprint": store.fingerprint},
        "manifest": {"path": str(manifest.path.absolute()), "sha256": manifest.sha256},
        "seen": settings.seen,
        "confidence": CONFIDENCE,
        "resampled_by": result.group or "clip",
        "num_clips": result.num_clips,
        "num_groups": result.num_groups,
        "num_models": result.num_models,
        "left_out": result.left_out,
        "notices": list(result.notices),
        "targets": {name: _target_document(target) for name, target in result.targets.items()},
    }


def _target_document(target: TargetEvaluation) -> dict[str, Any]:
    return {
        "task": target.task,
        "primary": metrics.PRIMARY[target.task],
        "num_clips": target.num_clips,
        "scores": _numbers(target.scores),
        "subjects": None
        if target.subjects is None
        else {
            "count": target.num_subjects,
            "left_out": target.num_mixed_subjects,
            "scores": _numbers(target.subjects),
        },
    }


def _numbers(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: dataclasses.asdict(score) for name, score in scores.items()}

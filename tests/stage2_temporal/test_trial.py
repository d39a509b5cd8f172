"""Trials: worth what a training is worth, whatever ran before them, and ended at any step."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, roc_auc_score

from stage1_extract.store import EmbeddingStore
from stage2_temporal.augment import AugmentSettings
from stage2_temporal.config import TrainSettings
from stage2_temporal.run_folder import PROGRESS
from stage2_temporal.sweep_data import SweepData, load_sweep_data
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.training import train
from stage2_temporal.trial import TrialResult, TrialRunner, num_steps
from tests.marks import slow, xslow
from tests.stage2_temporal.synthetic import quick
from tests.stage2_temporal.whole_runs import IDS, names, read_json, read_texts

Steps = dict[int, float]
SMALL: dict[str, Any] = {
    "group": "patient",
    "head": "tcn",
    "gain_confidence": 0.0,
    "learning_rate": 0.02,
    "epochs": 5,
    "blank_target": "drop",
}


class Stop(Exception):  # noqa: N818
    """A pruner has seen enough."""


def a_sweep(target: Any = "label", *, folds: int = 2, **changes: Any) -> SweepSettings:
    return SweepSettings(quick(target, **(SMALL | changes)), validation_folds=folds)


@dataclasses.dataclass
class Sweep:
    """A runner, and a folder for its trials."""

    settings: SweepSettings
    data: SweepData
    folder: Path
    runner: TrialRunner
    count: int = 0

    def renew(self) -> None:
        """Forget everything that was worked out."""
        self.runner = TrialRunner(self.data, self.folder / "cache")

    def run(
        self, folder: str = "", report: Callable[[int, float], None] | None = None, **changes: Any
    ) -> tuple[TrialResult, Steps]:
        """Run one trial; returns what it found, without the time that it took, and told."""
        told: Steps = {}

        def note(step: int, value: float) -> None:
            assert step not in told
            told[step] = value
            if report is not None:
                report(step, value)

        self.count += 1
        place = self.folder / (folder or f"trial{self.count}")
        settings = dataclasses.replace(self.settings.base, **changes)
        result = self.runner.run(settings, self.data.stores[0], place, note)
        return dataclasses.replace(result, seconds=0.0), told


@pytest.fixture(scope="module")
def runners() -> dict[str, tuple[SweepData, TrialRunner]]:
    return {}


@pytest.fixture
def sweep_of(
    whole_data: Path, tmp_path: Path, runners: dict[str, tuple[SweepData, TrialRunner]]
) -> Callable[..., Sweep]:
    """Makes sweeps; those of equal settings share what was worked out, as trials do."""

    def make(target: Any = "label", **changes: Any) -> Sweep:
        settings = a_sweep(target, **changes)
        if repr(settings) not in runners:
            data = load_sweep_data(whole_data / "store", whole_data / "m.csv", settings)
            runners[repr(settings)] = data, TrialRunner(data, tmp_path / "cache")
        return Sweep(settings, runners[repr(settings)][0], tmp_path, runners[repr(settings)][1])

    return make


def training_of(sweep: Sweep, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Train on a manifest of the development clips alone, by a column of their folds."""
    split = sweep.data.split.dropna(subset="fold").set_index("video_id")
    table = read_texts(data / "m.csv").set_index("video_id").loc[split.index]
    table.assign(part=split["fold"]).reset_index().to_csv(folder / "m.csv", index=False)
    options = {"validation": "kfold", "fold_column": "part", "unmatched": "drop", **changes}
    settings = dataclasses.replace(sweep.settings.base, **options)
    run = train(data / "store", folder / "m.csv", folder / "run", settings).folder
    target = sweep.settings.base.target[0]
    chosen = read_texts(run / "scores_by_fold.csv").query(
        "model == 'recurrent' and split == 'test'"
    )
    chosen = chosen[(chosen["target"] == target) & (chosen["score"] == sweep.data.metric)]
    chosen = chosen.assign(value=chosen["value"].map(float))  # to the last digit
    return {
        "test": read_json(run / "metrics.json")["targets"][target]["test"],
        "by_fold": chosen.groupby("fold")["value"].mean().tolist(),
        "epochs": pd.read_csv(run / "history.csv"),
    }


# what it is worth


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        *slow(
            ("label", {}),
            ("ef", {"balance": "uniformize", "schedule": "plateau"}),
        ),
        *xslow(
            ("grade", {"head": "gru", "balance": "oversample", "threshold": 0.3}),
            ("a+b", {"threshold": "validation", "inner_folds": 2, "skip": False}),
            (["label", "ef"], {"repeats": 2, "threshold": "validation"}),
            (["grade", "a"], {"feature_table": "table.h5", "feature": ["tells"]}),
        ),
    ],
)
def test_a_trial_is_worth_what_training_finds_on_the_same_clips_and_folds(
    whole_data: Path,
    sweep_of: Callable[..., Sweep],
    tmp_path: Path,
    target: Any,
    changes: dict[str, Any],
) -> None:
    if "feature_table" in changes:
        changes = changes | {"feature_table": whole_data / changes["feature_table"]}
    shared = {name: changes[name] for name in ("inner_folds", "repeats") if name in changes}
    sweep = sweep_of(target, **shared)
    result, _ = sweep.run(**changes)
    expected = training_of(sweep, whole_data, tmp_path, **changes)
    metric = sweep.data.metric
    assert result.value == expected["test"]["recurrent"][metric]["value"]
    assert result.baseline == expected["test"]["mean_pool"][metric]["value"]
    assert result.by_fold == expected["by_fold"]
    for model, scores in result.scores.items():
        assert scores == {name: s["value"] for name, s in expected["test"][model].items()}
    assert result.num_trainings == len(result.epochs) == 2 * np.prod(list(shared.values()))
    kept = result.epochs.count(0) if changes.get("skip", True) else 0
    assert result.kept_baseline == kept
    history = expected["epochs"].groupby(["fold", "member", "repeat"])
    best = [part.loc[part["val_loss"].idxmin(), "epoch"] for _, part in history]
    assert result.epochs == best


@pytest.mark.slow
def test_no_model_is_kept_and_the_settings_of_the_run_folder_have_no_effect(
    sweep_of: Callable[..., Sweep],
) -> None:
    sweep = sweep_of()
    first, _ = sweep.run("a")
    second, _ = sweep.run("b", tensorboard=True, workers=2)
    assert first == second
    sweep.renew()
    assert sweep.run()[0] == first
    assert len(names(sweep.folder / "cache")) == 1
    for folder in ("a", "b"):
        assert names(sweep.folder / folder) == [PROGRESS, "reported.json", "request.txt"]
        units = [f"fold{fold}-member0-repeat0" for fold in (0, 1)]
        files = [f"{unit}{suffix}.npz" for unit in units for suffix in ("", ".checkpoint")]
        assert names(sweep.folder / folder / PROGRESS) == sorted(files)


# whatever ran before

VARIANTS: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.05, "patience": 2},
    {"balance": "weights", "augmentation": AugmentSettings(crop=0.6, noise=0.1)},
    {"batch_size": 5, "schedule": "cosine", "warmup_epochs": 1},
    {"skip": False, "units": 3},
]


@pytest.mark.parametrize(
    "variants",
    xslow(VARIANTS, [{"head": "gru", **changes} for changes in VARIANTS[:3]]),
)
def test_trials_do_not_depend_on_those_before_them(
    sweep_of: Callable[..., Sweep], variants: list[dict[str, Any]]
) -> None:
    """Nor on one that was ended in the midst of a fold."""
    sweep = sweep_of()
    first = [sweep.run(**changes) for changes in variants]
    sweep.renew()
    with pytest.raises(Stop):
        sweep.run(report=stop_after(1), **variants[0])
    again = [sweep.run(**changes) for changes in reversed(variants)]
    assert again[::-1] == first
    assert len({tuple(told.values()) for _, told in first}) > 1


@pytest.mark.slow
def test_what_trials_share_is_worked_out_once(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean embeddings, linear models, compiled models and their first weights."""
    from stage2_temporal import fitting, runner, trial_baselines

    sweep = sweep_of()
    sweep.renew()
    calls: list[str] = []

    def count(module: Any, name: str) -> None:
        original = getattr(module, name)

        def counted(*rest: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*rest, **options)

        monkeypatch.setattr(module, name, counted)

    for module, name in (
        (runner, "mean_embeddings"),
        (trial_baselines, "fit_linear"),
        (trial_baselines, "cross_fitted_logits"),
        (fitting, "build_model"),
        (fitting, "compile_model"),
    ):
        count(module, name)
    sweep.run(epochs=1)
    expected = {"mean_embeddings": 1, "fit_linear": 2, "cross_fitted_logits": 2}
    expected |= {"build_model": 2, "compile_model": 1}
    assert {name: calls.count(name) for name in set(calls)} == expected
    calls.clear()
    sweep.run(epochs=2, learning_rate=0.5, augmentation=AugmentSettings(noise=0.5))
    assert calls == []
    sweep.run(epochs=1, balance="oversample")
    assert set(calls) == {"fit_linear", "cross_fitted_logits", "build_model"}


# how it is told


def stop_after(step: int) -> Callable[[int, float], None]:
    def stop(told: int, value: float) -> None:
        if told == step:
            raise Stop

    return stop


@pytest.mark.slow
def test_all_trials_report_the_same_steps(sweep_of: Callable[..., Sweep]) -> None:
    """Epochs 1, 2, 4 and the end, also of trainings of fewer epochs, or more."""
    sweep = sweep_of()
    assert num_steps(sweep.settings) == 8
    cases: list[dict[str, Any]] = [{}, {"epochs": 1}, {"epochs": 9}, {"learning_rate": 5.0}]
    for changes in cases:
        changes["patience"] = 2
        result, told = sweep.run(**changes)
        assert list(told) == list(range(8))
        assert told[3] == result.by_fold[0]
        assert told[7] == pytest.approx(np.mean(result.by_fold), rel=1e-12)
        if changes.get("epochs") == 1:
            assert told[0] == told[1] == told[2]
            assert told[4] == told[5] == told[6]


@pytest.mark.parametrize("target", ["label", *slow("grade", "ef")])
def test_a_step_is_the_score_of_the_early_stopping_clips(
    sweep_of: Callable[..., Sweep], target: str
) -> None:
    """A training of so many epochs ends with the best weights that a longer one has by then."""
    sweep = sweep_of(target)
    _, told = sweep.run()
    data = sweep.data.development[sweep.data.stores[0]]
    truth = data.clips.targets[0].numbers
    sweep.run("short", epochs=2)
    for number, fold in enumerate(data.partition.folds):
        path = sweep.folder / "short" / PROGRESS / f"fold{number}-member0-repeat0.npz"
        with np.load(path) as file:
            predicted = file["validation/recurrent/0"]
        clips = fold.splits[0].validation
        if target == "label":
            score = roc_auc_score(truth[clips], predicted[:, 0])
        elif target == "grade":
            score = balanced_accuracy_score(truth[clips], predicted.argmax(axis=1))
        else:
            score = mean_absolute_error(truth[clips], predicted[:, 0])
        before = told[3] if number else None
        expected = score if before is None else np.mean([before, score])
        assert told[4 * number + 1] == pytest.approx(expected, rel=1e-9)


def test_an_undefined_score_is_left_out(sweep_of: Callable[..., Sweep], monkeypatch: Any) -> None:
    """Here that of early-stopping clips: before the first fold has ended, nothing is told."""
    from stage2_temporal import scoring, trial_watch

    original = scoring.side_scores

    def undefined(target: Any, number: int, result: Any, side: str, *rest: Any) -> Any:
        found = original(target, number, result, side, *rest)
        return {**found, "auroc": np.nan} if side == "validation" else found

    monkeypatch.setattr(trial_watch, "side_scores", undefined)
    result, told = sweep_of().run()
    first, last = result.by_fold
    assert told == {3: first, 4: first, 5: first, 6: first, 7: np.mean([first, last])}


# ended and gone on


@pytest.mark.parametrize("step", [*slow(1, 4), *xslow(0, 3, 6, 7)])
def test_a_trial_that_was_stopped_ends_as_it_would_have(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In another process, where everything is reported again from the start."""
    from stage2_temporal import epochs

    monkeypatch.setattr(epochs, "_SECONDS_BETWEEN_CHECKPOINTS", -1)
    sweep = sweep_of()
    whole = sweep.run("whole")
    with pytest.raises(Stop):
        sweep.run("stopped", report=stop_after(step))
    trained: list[int] = []
    original = epochs.EpochKeeper.on_epoch_end

    def note(keeper: Any, epoch: int, logs: Any = None) -> None:
        trained.append(epoch + 1)
        original(keeper, epoch, logs)

    monkeypatch.setattr(epochs.EpochKeeper, "on_epoch_end", note)
    sweep.renew()
    assert sweep.run("stopped") == whole
    done = (1, 2, 4, 5, 6, 7, 9, 10)[step]
    assert len(trained) == 10 - done


@pytest.mark.slow
def test_work_of_other_settings_is_not_gone_on_with(sweep_of: Callable[..., Sweep]) -> None:
    sweep = sweep_of()
    expected = sweep.run(learning_rate=0.1)
    with pytest.raises(Stop):
        sweep.run("same", report=stop_after(4))
    assert sweep.run("same", learning_rate=0.1) == expected


def test_test_clips_are_never_read(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = EmbeddingStore.read_into

    def noted(store: EmbeddingStore, i: int, out: Any) -> None:
        read.add(str(store.video_ids[i]))
        original(store, i, out)

    monkeypatch.setattr(EmbeddingStore, "read_into", noted)
    sweep = sweep_of()
    sweep.run(epochs=1)
    split = sweep.data.split
    assert read == set(split["video_id"][split["side"] == "development"])


@pytest.mark.slow
def test_stores_compete(whole_data: Path, tmp_path: Path) -> None:
    """Of noise alone nothing can be learned; the order of frames tells the class in the other."""
    from tests.stage2_temporal.synthetic import write_store

    rng = np.random.default_rng(0)
    write_store(tmp_path / "noise", {i: rng.normal(size=(8, 5)) for i in IDS})
    base = quick("label", **(SMALL | {"epochs": 12, "units": 8}))
    settings = SweepSettings(base, other_store=[tmp_path / "noise"], validation_folds=2)
    data = load_sweep_data(whole_data / "store", whole_data / "m.csv", settings)
    runner = TrialRunner(data, tmp_path / "cache")
    found = [
        runner.run(base, store, tmp_path / f"{i}", lambda step, value: None).value
        for i, store in enumerate(data.stores)
    ]
    assert found[0] > 0.9
    assert found[1] < 0.75
    assert len(names(tmp_path / "cache")) == 2


@pytest.mark.slow
def test_settings_that_compiled_models_do_not_share_are_all_that_their_building_reads(
    sweep_of: Callable[..., Sweep],
) -> None:
    from stage2_temporal import fitting
    from stage2_temporal.inputs import ClipInputs
    from stage2_temporal.training_batches import TrainingBatches
    from stage2_temporal.trial_models import GRAPH_SETTINGS

    read: set[str] = set()

    class Recorder(TrainSettings):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    sweep = sweep_of()
    data = sweep.data.development[sweep.data.stores[0]]
    inputs = ClipInputs(data.store, data.clips.positions)
    split = data.partition.folds[0].splits[0]
    cases: list[dict[str, Any]] = [
        {"head": "gru", "pooling": "attention", "bidirectional": True},
        {"head": "transformer", "layers": 2, "precision": "mixed_bfloat16"},
        {"head": "tcn", "skip": False, "projection": 0, "clip_norm": 1.0, "loss_weight": [2.0]},
    ]
    for changes in cases:
        plain = dataclasses.replace(sweep.settings.base, **changes)
        targets, groups = data.clips.targets, data.partition.groups
        batches = TrainingBatches.prepare(inputs, targets, groups, split, plain)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        settings = Recorder(**fields)
        read.clear()
        built = fitting._build(batches, None, settings)
        fitting.compile_model(built.trainee, fitting.outputs_of(batches), settings)
        names_read = read & set(fields)
        # Set before each epoch.
        assert names_read - {"learning_rate"} <= set(GRAPH_SETTINGS)
        assert {"head", "units", "weight_decay"} <= names_read

"""Searching settings: the sweep with one and with two processes, and the same with Keras Tuner."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.folds import Fold
from stage2_temporal.sweep_data import load_sweep_data
from stage2_temporal.sweep_settings import SweepSettings
from tests.benchmarks.bench_defaults import Task, prepared
from tests.benchmarks.results import record, ways_at_hand
from tests.benchmarks.synthetic_store import write_synthetic_store

TASK = Task("lung, abnormal", "lung", "abnormal", "patient")
TUNER = "Keras Tuner"
WAYS = ("sweep, 1 process", "sweep, 2 processes", TUNER)
LARGE = ("large store, 1 process", "large store, 2 processes")
NUM_SEQUENCES, NUM_STEPS, DIM = 4000, 64, 1280
TRIALS, EPOCHS, PATIENCE, BATCH, SEED = 24, 30, 10, 16, 0
UNITS, DROPOUT, LOW, HIGH = [16, 32, 64], [0.0, 0.3, 0.5], 3e-4, 1e-2
SEARCH = (
    'head = ["gru", "lstm"]',
    f"units = {UNITS}",
    f"dropout = {DROPOUT}",
    f"learning_rate = {{low = {LOW}, high = {HIGH}, log = true}}",
)


def main() -> None:
    """Measure every way in a process of its own, and print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    parser.add_argument("--stores", type=Path, help="folder that keeps the store for a next time")
    parser.add_argument("--ways", nargs="+", default=WAYS + LARGE, choices=WAYS + LARGE)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--way", choices=WAYS + LARGE, help=argparse.SUPPRESS)
    parser.add_argument("--paths", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measured(arguments.way, arguments.paths, arguments.trials)))
        return
    ways = ways_at_hand(arguments.ways, {TUNER: ("keras_tuner", "keras-tuner")})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lung = prepared(arguments.stores or folder, TASK)
        large = large_data(folder) if set(LARGE) & set(ways) else lung
        found = {
            way: in_own_process(way, *(large if way in LARGE else lung), folder, arguments.trials)
            for way in ways
        }
        sizes = {way: megabytes(large[0] if way in LARGE else lung[0]) for way in found}
    record_speed({way: f for way, f in found.items() if way in WAYS}, arguments)
    rows = [f"| {way} | {sizes[way]:.0f} | {f['memory']:.0f} |" for way, f in found.items()]
    record(
        "Memory of a search",
        "`python -m tests.benchmarks.bench_sweep`: greatest proportional set size, in MB, of all "
        f"processes that train, added up. The large store: {NUM_SEQUENCES} sequences of "
        f"{NUM_STEPS} x {DIM} values, float16.",
        ["| way | store, MB | processes, MB |", "|---|---|---|", *rows],
        append=not arguments.dry,
    )


def record_speed(found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    """Print and append the table of trials an hour and scores."""
    first = next(iter(found.values()), {"trials_an_hour": 1})["trials_an_hour"]
    rows = [
        f"| {way} | {f['seconds']:.0f} | {f['trials_an_hour']:.0f} "
        f"| {f['trials_an_hour'] / first:.2f} | {f['best']:.3f} | {f['median']:.3f} |"
        for way, f in found.items()
    ]
    head = "| way | seconds | trials/h | to the first | best | median |"
    record(
        "Searching settings",
        f"`python -m tests.benchmarks.bench_sweep`: {TASK.name}, {arguments.trials} random trials "
        f"of GRU and LSTM, units {UNITS}, dropout {DROPOUT}, learning rate {LOW:g} to {HIGH:g}; 5 "
        f"grouped folds of the development clips, at most {EPOCHS} epochs, patience {PATIENCE}, "
        f"batches of {BATCH}; pooled AUROC. Seconds include starting processes and loading data. "
        "Keras Tuner: RandomSearch over arrays in memory, the same folds, the same models, one "
        "process. Its draws are others, so best and median differ by chance, too.",
        [head, "|---|---|---|---|---|---|", *rows],
        append=not arguments.dry,
    )


def large_data(folder: Path) -> tuple[Path, Path]:
    """Write a store of 655 MB and its manifest."""
    store = write_synthetic_store(
        folder / "large", NUM_SEQUENCES, num_steps=NUM_STEPS, dim=DIM, same_length=True
    )
    ids = EmbeddingStore(store).video_ids
    rows = [f"{name}.mp4,{name},{number % 2}" for number, name in enumerate(ids)]
    manifest = folder / "large.csv"
    manifest.write_text("\n".join([f"path,video_id,{TASK.target}", *rows]) + "\n")
    return store, manifest


def megabytes(store: Path) -> float:
    """Return the size of a store."""
    return sum(path.stat().st_size for path in store.rglob("*.h5")) / 1e6


def in_own_process(
    way: str, store: Path, manifest: Path, folder: Path, trials: int
) -> dict[str, float]:
    """Measure a way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_sweep", "--way", way]
    command += ["--trials", str(trials)]
    place = folder / way.replace(", ", " ")
    output = subprocess.run(
        [*command, "--paths", str(store), str(manifest), str(place)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    print(way, found, flush=True)
    return found


def settings(trials: int, jobs: int) -> SweepSettings:
    """Return the search: plain recurrent models, as a tutorial would build them."""
    base = TrainSettings(
        TASK.target,
        group=TASK.group,
        blank_target="drop",
        unmatched="drop",
        skip=False,
        projection=0,
        layer_norm=False,
        input_dropout=0.0,
        epochs=EPOCHS,
        patience=PATIENCE,
        batch_size=BATCH,
        seed=SEED,
    )
    return SweepSettings(
        base, search=SEARCH, trials=trials, jobs=jobs, sampler="random", refit_seeds=0
    )


def large_settings(jobs: int) -> SweepSettings:
    """Return a search of two short trials on one split."""
    short = settings(2, jobs)
    base = dataclasses.replace(short.base, group=None, epochs=2)
    return dataclasses.replace(short, base=base, validation_folds=1)


def measured(way: str, paths: list[Path], trials: int) -> dict[str, float]:
    """Search, and return speed, scores and memory; paths of store, manifest and new folder."""
    store, manifest, folder = paths
    start = time.perf_counter()
    jobs = 2 if "2 processes" in way else 1
    with Memory(with_parent=way == TUNER) as memory:
        if way == TUNER:
            values = tuned(store, manifest, folder, trials)
        else:
            asked = large_settings(jobs) if way in LARGE else settings(trials, jobs)
            values = swept(store, manifest, folder, asked)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "trials_an_hour": 3600 * len(values) / seconds,
        "best": max(values),
        "median": float(np.median(values)),
        "memory": memory.most / 1e6,
    }


def swept(store: Path, manifest: Path, folder: Path, asked: SweepSettings) -> list[float]:
    """Return the values of a sweep's trials."""
    from stage2_temporal.sweep_storage import read_trials
    from stage2_temporal.sweeping import sweep

    sweep(store, manifest, folder, asked)
    return [one.value for one in read_trials(folder) if one.value is not None]


def tuned(store: Path, manifest: Path, folder: Path, trials: int) -> list[float]:
    """Return the values of Keras Tuner's trials on the same folds."""
    data = load_sweep_data(store, manifest, settings(trials, 1))
    found = data.development[data.stores[0]]
    clips = padded(found.store, found.clips.positions)
    labels = found.clips.targets[0].encoded()[:, 0]
    import keras
    import keras_tuner

    folds = found.partition.folds
    scaled = [standardised(clips, fold.splits[0].train) for fold in folds]

    class FoldSearch(keras_tuner.RandomSearch):  # type: ignore[misc]
        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            keras.utils.clear_session()
            scored = []
            for fold, of_fold in zip(folds, scaled, strict=True):
                model = self.hypermodel.build(trial.hyperparameters)
                scored.append(fold_predictions(model, of_fold, labels, fold))
            order = np.concatenate([fold.test for fold in folds])
            return {"auroc": float(roc_auc_score(labels[order], np.concatenate(scored)))}

    search = FoldSearch(
        build_model,
        objective=keras_tuner.Objective("auroc", "max"),
        max_trials=trials,
        seed=SEED,
        directory=folder,
        project_name="search",
    )
    search.search(verbose=0)
    return [float(one.score) for one in search.oracle.trials.values() if one.score is not None]


def padded(store: EmbeddingStore, positions: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return all sequences (N, T, D), zeros behind their ends."""
    sequences = [store.read(int(position)) for position in positions]
    longest = max(map(len, sequences))
    clips = np.zeros((len(sequences), longest, store.embedding_dim), np.float32)
    for row, sequence in zip(clips, sequences, strict=True):
        row[: len(sequence)] = sequence
    return clips


def build_model(values: Any) -> Any:
    """Return a compiled model of Keras Tuner's hyperparameters."""
    import keras

    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[
        values.Choice("head", ["gru", "lstm"])
    ]
    model = keras.Sequential(
        [
            keras.layers.Masking(0.0),
            layer(values.Choice("units", UNITS)),
            keras.layers.Dropout(values.Choice("dropout", DROPOUT)),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    rate = values.Float("learning_rate", LOW, HIGH, sampling="log")
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-2)
    model.compile(optimizer, "binary_crossentropy")
    return model


def fold_predictions(
    model: Any, clips: NDArray[np.float32], labels: NDArray[np.float32], fold: Fold
) -> NDArray[np.float32]:
    """Train on a fold's scaled clips with early stopping, and predict those that it scores."""
    import keras

    split = fold.splits[0]
    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    model.fit(
        clips[split.train],
        labels[split.train],
        validation_data=(clips[split.validation], labels[split.validation]),
        batch_size=BATCH,
        epochs=EPOCHS,
        callbacks=[stop],
        verbose=0,
    )
    predicted: NDArray[np.float32] = model.predict(clips[split.test], verbose=0)[:, 0]
    return predicted


def standardised(clips: NDArray[np.float32], train: NDArray[np.intp]) -> NDArray[np.float32]:
    """Scale by the training clips' frames; the padding stays zero."""
    real: NDArray[np.bool_] = np.any(clips != 0, axis=2)
    frames = clips[train][real[train]]
    scaled = (clips - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-6)
    out: NDArray[np.float32] = np.where(real[..., None], scaled, 0).astype(np.float32)
    return out


class Memory:
    """The greatest proportional set size of the processes that train, looked at twice a second.

    Args:
        with_parent: Whether this process trains, and not its children.
    """

    def __init__(self, *, with_parent: bool) -> None:
        self.most = 0
        self._with_parent = with_parent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.5):
            processes = [own] if self._with_parent else own.children(recursive=True)
            self.most = max(self.most, sum(map(proportional_bytes, processes)))


def proportional_bytes(process: psutil.Process) -> int:
    """Return a process' proportional set size; 0 if it ended meanwhile."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()

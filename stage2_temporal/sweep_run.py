"""Running a sweep's trials in its folder, from where earlier calls left them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from stage1_extract.cores import available_cores
from stage1_extract.keras_setup import chosen_backend
from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_driver import Driver
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_optuna import STUDY_NAME, journal_storage, load_optuna, pruner_of
from stage2_temporal.sweep_progress import SweepProgress
from stage2_temporal.sweep_queue import TrialQueue
from stage2_temporal.sweep_settings import DEFAULT_TRIALS, SweepSettings
from stage2_temporal.sweep_storage import JOURNAL, RUNNING, TRIALS, read_trials
from stage2_temporal.sweep_workers import LocalPool, WorkerPool


def run_trials(
    folder: Path,
    space: SearchSpace,
    settings: SweepSettings,
    setup: Setup,
    *,
    store: str,
    metric: str,
    higher_is_better: bool,
    num_steps: int,
    check_lock: Callable[[], None],
    sources: Sequence[Path] = (),
    show_progress: bool = False,
) -> bool:
    """Run the trials of a sweep in worker processes.

    Args:
        folder: The sweep folder, locked and its journal whole.
        space: What is searched.
        settings: How, and how long.
        setup: What a worker needs.
        store: Of trials among which none compete.
        metric: Name of the score.
        higher_is_better: Whether it is to become large.
        num_steps: How often a trial reports.
        check_lock: Raises an error once another process may have taken the folder over.
        sources: Files that trials read, which every node of a cluster must see.
        show_progress: Whether to show a progress bar.

    Returns:
        Whether there are as many trials as wanted; False if the time was up.
    """
    limit = _limit(space, settings)
    deadline = None if settings.hours is None else time.monotonic() + settings.hours * 3600
    study = _study(folder, settings, higher_is_better=higher_is_better, num_steps=num_steps)
    _remove_ended(folder)
    with SweepProgress(
        limit, metric, higher_is_better=higher_is_better, show=show_progress
    ) as progress:
        queue = TrialQueue(
            study,
            space,
            settings.base,
            sampler=settings.sampler,
            limit=limit,
            on_end=progress.finish_trial,
        )
        progress.know(read_trials(folder))
        with _worker_pool(folder, settings, sources, progress.write) as pool:
            progress.write(_opening(queue, space, settings, limit, pool.size))
            driver = Driver(
                queue,
                setup,
                store=store,
                folder=folder / TRIALS,
                pool=pool,
                deadline=deadline,
                progress=progress,
                check_lock=check_lock,
            )
            return driver.run()


def _limit(space: SearchSpace, settings: SweepSettings) -> int:
    if settings.trials is not None:
        return settings.trials
    if settings.sampler == "grid" and space.size is not None:
        return space.size
    return DEFAULT_TRIALS


def _study(folder: Path, settings: SweepSettings, *, higher_is_better: bool, num_steps: int) -> Any:
    """Return the folder's study, made if it is not there."""
    return load_optuna().create_study(
        storage=journal_storage(folder / JOURNAL),
        study_name=STUDY_NAME,
        direction="maximize" if higher_is_better else "minimize",
        pruner=pruner_of(settings.pruner, num_steps, settings.validation_folds),
        load_if_exists=True,
    )


def _remove_ended(folder: Path) -> None:
    """Remove what trials needed to go on that ended just before the sweep was killed."""
    for record in read_trials(folder):
        if record.state != RUNNING:
            rmtree(folder / TRIALS / f"{record.number:05d}", ignore_errors=True)


def _opening(
    queue: TrialQueue, space: SearchSpace, settings: SweepSettings, limit: int, jobs: int
) -> str:
    done = sum(queue.counts.values())
    size = "endlessly many" if space.size is None else f"{space.size}"
    going_on = f"; {done} are done" if done else ""
    if queue.num_stopped:
        going_on += f", {queue.num_stopped} were stopped and go on"
    return (
        f"sweep: {limit} trials ({settings.sampler}) of {size} combinations, "
        f"{jobs} at a time{going_on}"
    )


@contextmanager
def _worker_pool(
    folder: Path, settings: SweepSettings, sources: Sequence[Path], tell: Callable[[str], None]
) -> Iterator[WorkerPool]:
    """Yield where trials run."""
    # A machine that Ray joins has an environment of its own.
    environment = {"KERAS_BACKEND": chosen_backend(settings.base.backend), **_shared_gpu()}
    if settings.cluster.ray is None:
        yield LocalPool(settings.num_jobs, environment | _shared_cores(settings.num_jobs))
        return
    from stage2_temporal.sweep_cluster import cluster_pool

    with cluster_pool(folder, settings, sources, environment, tell) as pool:
        yield pool


def _shared_cores(jobs: int) -> dict[str, str]:
    """Return variables by which processes do not take all cores."""
    threads = str(max(1, available_cores() // jobs))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, threads)


def _shared_gpu() -> dict[str, str]:
    """Return variables by which processes do not take all of a GPU's memory."""
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {name: value for name, value in shared.items() if name not in os.environ}

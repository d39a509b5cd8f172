"""Whole runs that several test modules look at: one across folds, by the commands; a holdout."""

import contextlib
import io
from pathlib import Path

import pytest

from stage2_temporal.training import TrainResult
from tests.stage2_temporal.whole_runs import (
    FOLDS_TOML,
    WholeRun,
    command,
    holdout,
    import_table,
    write_data,
)


@pytest.fixture(scope="session")
def whole_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a manifest with shuffled rows and an imported feature table."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    import_table(folder)
    (folder / "folds.toml").write_text(FOLDS_TOML)
    return folder


@pytest.fixture(scope="session")
def folds_run(whole_data: Path) -> WholeRun:
    """Two targets, side features, attention; each clip tested twice, in two makings of 2 folds."""
    printed = io.StringIO()
    folder = whole_data / "folds"
    with contextlib.redirect_stdout(printed):
        code = command(whole_data, folder)
    return WholeRun(folder, code, printed.getvalue())


@pytest.fixture(scope="session")
def holdout_run(whole_data: Path) -> TrainResult:
    """A class and two labels, some of them blank, by a column of sides."""
    return holdout(whole_data, whole_data / "holdout")

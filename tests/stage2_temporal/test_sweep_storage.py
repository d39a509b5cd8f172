"""Reading a sweep folder, by our own readers and by Optuna's."""

import dataclasses
import json
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stage2_temporal.sweep_storage import (
    JOURNAL,
    SweepDocument,
    TrialRecord,
    best_trial,
    open_study,
    read_sweep,
    read_trials,
)
from tests.stage2_temporal.sweep_fakes import REFUSED, run_fake, sweep_settings


@pytest.fixture(scope="module")
def fake_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three trials, the second of which failed."""
    folder = tmp_path_factory.mktemp("sweep")
    run_fake(folder, sweep_settings(f"units = [8, {REFUSED}, 32]", sampler="grid"))
    return folder


def test_the_study_is_optunas(fake_sweep: Path) -> None:
    study = open_study(fake_sweep)
    assert study.best_trial.number == 2
    assert study.direction.name == "MAXIMIZE"
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[0].user_attrs["baseline"] == 0.5


def test_times_are_local(fake_sweep: Path) -> None:
    for record in read_trials(fake_sweep):
        assert record.started is not None
        assert abs(datetime.now() - record.started) < timedelta(minutes=10)
    complete, failed, _ = read_trials(fake_sweep)
    assert complete.seconds == 0.25
    assert failed.seconds is not None
    assert 0 <= failed.seconds < 60


def test_records_come_without_optuna() -> None:
    script = (
        "import sys; from stage2_temporal.sweep_storage import TrialRecord\n"
        "from stage2_temporal.sweep_settings import SweepSettings\n"
        "from stage2_temporal.search_space import apply_parameters\n"
        "sys.exit(len({'optuna', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_missing_extra_is_told(fake_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'embed-then-sequence\[sweep\]'"):
        read_trials(fake_sweep)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for read in (read_trials, read_sweep, open_study):
        with pytest.raises(ValueError, match="there is no sweep at"):
            read(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / JOURNAL).touch()
    with pytest.raises(ValueError, match="holds no study of a sweep"):
        open_study(tmp_path)


VALID: dict[str, Any] = {
    **{field.name: None for field in dataclasses.fields(SweepDocument)},
    "format": "stage2-sweep",
    "format_version": 1,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not the description of a sweep"),
        (json.dumps({**VALID, "format": "stage2-run"}), "is not the description of a sweep"),
        (json.dumps({**VALID, "format_version": 2}), "has version 2; this program reads version 1"),
        (json.dumps({k: v for k, v in VALID.items() if k != "metric"}), "lacks metric"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_sweep(tmp_path)


def test_a_right_description_is_read(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({**VALID, "metric": "r2", "more": 1}))
    assert read_sweep(tmp_path).metric == "r2"


def record(number: int, state: str, value: float | None) -> TrialRecord:
    return TrialRecord(number, state, value, {}, None, [], {}, [], 0, 0, "", None, None, {})


@pytest.mark.parametrize(
    ("values", "higher", "best"),
    [
        ([0.1, 0.3, 0.2], True, 1),
        ([0.1, 0.3, 0.2], False, 0),
        ([0.3, 0.1, 0.3], True, 0),
        ([None, 0.1], True, 1),
        ([None, None], True, None),
        ([], False, None),
    ],
)
def test_the_best_is_the_first_with_the_best_value(
    values: list[float | None], higher: bool, best: int | None
) -> None:
    records = [
        record(number, "pruned" if value is None else "complete", value)
        for number, value in enumerate(values)
    ]
    found = best_trial(records[::-1], higher_is_better=higher)
    assert (found.number if found else None) == best


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, process: "subprocess.Popen[bytes]") -> Any:
    until = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as response:  # noqa: S310
                return json.load(response)
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the dashboard did not answer"
            time.sleep(0.1)


@pytest.mark.slow
def test_the_dashboard_shows_the_sweep(fake_sweep: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    port = free_port()
    program = Path(sys.executable).parent / "optuna-dashboard"
    argv = [str(program), str(fake_sweep / JOURNAL), "--port", str(port), "--server", "wsgiref"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = f"http://127.0.0.1:{port}/api/studies"
            (summary,) = answer(url, process)["study_summaries"]
            assert summary["study_name"] == "sweep"
            trials = answer(f"{url}/{summary['study_id']}?after=0", process)["trials"]
            assert [trial["state"] for trial in trials] == ["Complete", "Fail", "Complete"]
            assert trials[2]["params"][0]["name"] == "units"
        finally:
            process.kill()

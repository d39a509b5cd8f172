"""The walkthrough runs from its first cell to its last, and is stored without outputs."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

DATA = Path(__file__).parents[1] / "data"
NOTEBOOK = DATA / "walkthrough.ipynb"
_LIMIT_SECONDS = 600


def read() -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


def test_it_is_stored_without_outputs() -> None:
    notebook = read()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_imports_public_names_alone() -> None:
    code = "\n".join(cell.source for cell in read().cells if cell.cell_type == "code")
    assert "from stage1_extract import" in code
    assert "from stage2_temporal import" in code
    assert "from stage1_extract." not in code
    assert "from stage2_temporal." not in code


@pytest.mark.xslow
def test_it_runs_and_leaves_what_it_tells_of(tmp_path: Path) -> None:
    from nbclient import NotebookClient

    shutil.copy(DATA / "demo.py", tmp_path)
    notebook = read()
    metadata = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=_LIMIT_SECONDS, resources=metadata).execute()
    work = tmp_path / "demo" / "walkthrough"
    assert (work / "run" / "report.html").is_file()
    assert (work / "sweep" / "winner" / "report.html").is_file()
    predictions = pd.read_csv(work / "predictions.csv")
    assert len(predictions) == 4
    figures = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in _data(o)]
    assert len(figures) == 5


def _data(output: Any) -> Any:
    return output.get("data", {})

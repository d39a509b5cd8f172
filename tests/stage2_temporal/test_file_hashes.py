"""A run folder that was altered is noticed, and the files are named."""

import hashlib
import json
from pathlib import Path

import pytest

from stage2_temporal.file_hashes import check_file_hashes, write_file_hashes

FILES = ("settings.json", "data.json", "model-fold0.keras", "features-fold0.json", "report.html")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
    write_file_hashes(tmp_path)
    return tmp_path


def test_hashes_are_those_of_the_files_that_predictions_depend_on(folder: Path) -> None:
    found = json.loads((folder / "files.json").read_text())["sha256"]
    assert found == {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES[:-1]}
    check_file_hashes(folder)


def test_all_missing_and_altered_files_are_named(folder: Path) -> None:
    (folder / "model-fold0.keras").unlink()
    (folder / "data.json").write_bytes(b"other")
    (folder / "settings.json").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"missing: model-fold0\.keras; altered: data.*, settings"):
        check_file_hashes(folder)
    check_file_hashes(folder, ["features-fold0.json"])


def test_a_file_that_was_added_is_not_trusted(folder: Path) -> None:
    (folder / "model-fold1.keras").write_bytes(b"stranger")
    with pytest.raises(ValueError, match=r"altered: model-fold1\.keras"):
        check_file_hashes(folder, ["model-fold0.keras", "model-fold1.keras"])


@pytest.mark.parametrize("content", ["{", "[]", '{"sha256": 3}', '{"sha256": {"a": 1}}'])
def test_a_damaged_list_is_an_error(folder: Path, content: str) -> None:
    (folder / "files.json").write_text(content)
    with pytest.raises(ValueError, match=r"files\.json"):
        check_file_hashes(folder)


def test_a_folder_without_the_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no files\.json .* the whole folder"):
        check_file_hashes(tmp_path)

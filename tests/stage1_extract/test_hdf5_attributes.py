from pathlib import Path

import h5py
import pytest

from stage1_extract.hdf5_attributes import read_attributes, write_attributes

VALUES: dict[str, str | int] = {
    "format": "a store",
    "länge": "Größe",
    "empty": "",
    "version": 1,
}


def test_texts_and_numbers_come_back(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, VALUES)
        assert read_attributes(file) == VALUES


def test_texts_lie_outside_the_global_heap(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, VALUES)
    assert b"GCOL" not in (tmp_path / "a.h5").read_bytes()  # the heap's signature


def test_texts_of_variable_length_are_read_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["format"] = "Größe"
        assert read_attributes(file) == {"format": "Größe"}


def test_text_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.create("format", b"\xff", dtype=h5py.string_dtype("utf-8", 1))
        with pytest.raises(UnicodeDecodeError):
            read_attributes(file)

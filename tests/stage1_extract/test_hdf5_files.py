"""New HDF5 files: room is taken before, what is too much is given back, a full disk is an error."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from stage1_extract.hdf5_files import new_hdf5_file


def test_what_was_reserved_too_much_is_given_back(tmp_path: Path) -> None:
    for name, num_bytes in (("little.h5", 0), ("much.h5", 10**7)):
        with new_hdf5_file(tmp_path / name, num_bytes) as file:
            file["values"] = np.arange(1000)
    sizes = [(tmp_path / name).stat().st_size for name in ("little.h5", "much.h5")]
    assert sizes[0] == sizes[1] < 20_000
    with h5py.File(tmp_path / "much.h5") as file:
        assert file["values"][:].tolist() == list(range(1000))


@pytest.mark.parametrize("free", range(0, 120_000, 4096))
def test_full_disk_is_an_error_or_nothing_is_lost(tiny_filesystem: Path, free: int) -> None:
    (tiny_filesystem / "ballast").write_bytes(bytes(2**20 - 4096 - free))
    path = tiny_filesystem / "a.h5"
    try:
        with new_hdf5_file(path, 8 * 4000) as file:
            for number in range(10):
                file[f"values{number}"] = np.full(400, number)
    except OSError as error:
        assert "No space left" in str(error)  # noqa: PT017
    else:
        with h5py.File(path) as file:
            for number in range(10):
                assert file[f"values{number}"][:].tolist() == [number] * 400

"""The pages of docs/ keep their word: commands run, code gives what it says, figures are right."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stage1_extract.help_examples import example_lines
from stage1_extract.manifest import ManifestError, read_manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.partition import load_data
from tests.commands import PROGRAMS, ROOT, code_of, commands_of, run, write_inputs

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def page_text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small inputs, and what README's first commands make of them."""
    folder = tmp_path_factory.mktemp("docs")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("stage1-extract run videos.csv store") == 0
        assert run("stage1-extract run other.csv other_store") == 0
        first = "stage2-temporal train store videos.csv runs/first --target abnormal"
        assert run(f"{first} --group patient") == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    copy = shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in _LINK.findall(page_text(page)):
        if target.startswith("http"):
            continue
        path = DOCS / target if target else DOCS / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in set(_anchors(path.read_text("utf-8"))), f"{page}: {target}#{anchor}"


def _anchors(text: str) -> Iterator[str]:
    """Yield the anchors that GitHub gives to headings."""
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        yield plain.replace(" ", "-")


@pytest.mark.xslow
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_code_run_in_their_order(page: str, folder: Path) -> None:
    text = page_text(page)
    named = re.findall(r"--config (\S+\.toml)", text)
    for name, block in zip(named, code_of(text, "toml"), strict=True):
        (folder / name).write_text(block, "utf-8")
    for command in commands_of(text):
        assert run(command) == 0, command
    for block in code_of(text, "python"):
        exec(compile(block, page, "exec"), {})  # noqa: S102


@pytest.mark.xslow
@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_of_the_help_run(program: str, folder: Path) -> None:
    for name, entry in PROGRAMS[program].COMMANDS.items():
        examples = example_lines(entry.arguments)
        assert 1 <= len(examples) <= 3, name
        # Which need a shell, and a bucket.
        for example in examples if name not in {"completion", "fetch"} else ():
            assert example.startswith(f"{program} {name} ")
            assert run(example) == 0, example


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_ends_with_the_examples(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, entry in PROGRAMS[program].COMMANDS.items():
        with pytest.raises(SystemExit):
            PROGRAMS[program].main([name, "--help"])
        last = capsys.readouterr().out.rstrip().splitlines()
        examples = example_lines(entry.arguments)
        assert [line.strip() for line in last[-len(examples) :]] == examples


# ----------------------------------------------------------------------------- store-format.md


def test_the_reader_of_the_store_format_reads_what_the_project_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = code_of(page_text("store-format.md"), "python")
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) <= {
        *("hashlib", "json", "pathlib", "h5py", "numpy"),
    }
    space: dict[str, Any] = {}
    exec(compile(code, "store-format.md", "exec"), space)  # noqa: S102
    store = EmbeddingStore(folder / "store")
    settings, clips = space["read_store"](folder / "store")
    assert settings == store.settings
    assert sorted(clips) == store.video_ids.tolist()
    for video_id, (embedding, times) in clips.items():
        i = store.find(video_id)
        np.testing.assert_array_equal(embedding, store.read(i))
        np.testing.assert_array_equal(times, store.frame_times(i))
    assert f"{len(clips)} clips" in capsys.readouterr().out


def test_the_reader_of_the_store_format_notices_damage(folder: Path) -> None:
    (code,) = code_of(page_text("store-format.md"), "python")
    space: dict[str, Any] = {}
    exec(compile(code, "store-format.md", "exec"), space)  # noqa: S102
    shard = next((folder / "store").glob("*.h5"))
    with h5py.File(shard, "r+") as file:
        file["frames/embedding"][0] += 1
    with pytest.raises(ValueError, match="is damaged"):
        space["read_store"](folder / "store")


# --------------------------------------------------------------------- manifests-and-inputs.md


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;abnormal\na.mp4;1", "it looks semicolon-separated"),
        ("path\nelsewhere.mp4", "does not exist"),
        ("path\na.mp4\na.mp4", "give each row its own video_id in a column of that name"),
        ("path,Video ID\na.mp4,1", "has a column 'Video ID'; write it 'video_id' if it is meant"),
        ("path,label\na.mp4,1,\n", "has rows with more fields than its header's"),
        (
            "path,start_seconds\na.mp4,1:30",
            "start_seconds is no time in seconds from 0, such as 12.5",
        ),
        (
            "path,start_seconds,end_seconds\na.mp4,9,4",
            "start_seconds 9 is not before end_seconds 4",
        ),
    ],
)
def test_mistakes_in_a_manifest_give_the_messages_that_are_shown(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "videos.csv").write_text(text)
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_manifest(tmp_path / "videos.csv")
    assert message in page_text("manifests-and-inputs.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "settings", "message"),
    [
        ("", "", {"target": "abnormall"}, "has no column 'abnormall'; it has ["),
        ("path,", "path,", {"target": "age"}, "clips have no 'age'"),
        ("\n7.mp4", "\nclips/ill/a.mp4", {}, "clips of videos.csv are not in store (failed or not"),
        ("pat_3,", "Pat_2,", {}, "has groups that differ only in case"),
        (",0,healthy,pat_0,", ",2,healthy,pat_0,", {}, "fewer than 3 groups have"),
        ("", "", {"split_column": "side"}, "values are on two sides of the split"),
    ],
)
def test_mistakes_in_training_give_the_messages_that_are_shown(
    folder: Path, old: str, new: str, settings: dict[str, str], message: str
) -> None:
    lines = (folder / "videos.csv").read_text().replace(old, new).splitlines()
    sides = ["side", *(("train", "test", "validation")[i % 3] for i in range(len(lines) - 1))]
    table = [f"{line},{side}" for line, side in zip(lines, sides, strict=True)]
    (folder / "videos.csv").write_text("\n".join(table) + "\n")
    asked = TrainSettings(**{"target": "abnormal", "group": "patient", **settings})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(message)):
        load_data("store", "videos.csv", asked)
    assert message in page_text("manifests-and-inputs.md")


# --------------------------------------------------------------------- backbone-and-sampling.md


@pytest.mark.slow
def test_backbones_have_the_dimensions_and_weights_that_are_shown() -> None:
    from stage1_extract.keras_setup import load_keras

    keras = load_keras()
    row = r"^\| (\w+)(?: `--alpha ([\d.]+)`)? \| (\d+) \| ([\d.]+) \|"
    rows = re.findall(row, page_text("backbone-and-sampling.md"), re.MULTILINE)
    assert len(rows) >= 5
    for name, alpha, dim, millions in rows:
        width = {"alpha": float(alpha)} if alpha else {}
        build = getattr(keras.applications, name)
        model = build(include_top=False, weights=None, pooling="avg", **width)
        assert model.output_shape == (None, int(dim)), name
        assert round(model.count_params() / 1e6, 1) == float(millions), name


@pytest.mark.slow
def test_stores_have_the_size_of_the_formula(folder: Path) -> None:
    text = page_text("backbone-and-sampling.md")
    assert "frames x (D x bytes + 16) + clips x 0.6 kB" in text
    store = EmbeddingStore(folder / "store")
    frames, row = int(store.lengths.sum()), store.embedding_dim * store.dtype.itemsize + 16
    size = sum(path.stat().st_size for path in (folder / "store").glob("*.h5"))
    # HDF5's own tables and page alignment are a few pages a shard, not what a store is made of.
    assert size == pytest.approx(frames * row + store.num_sequences * 600, abs=16_384)
    assert "10,000 clips of 32 frames at D = 1280 are 0.8 GB in float16; a million, 83 GB" in text
    assert pytest.approx(0.8e9, rel=0.05) == 1e4 * 32 * (1280 * 2 + 16) + 1e4 * 600
    assert pytest.approx(83e9, rel=0.02) == 1e6 * 32 * (1280 * 2 + 16) + 1e6 * 600


def test_figures_of_the_pages_stand_in_the_measurements() -> None:
    results = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text("utf-8")
    text = page_text("trust.md")
    for data in ("lung, abnormal", "lung, 3 classes", "drone, 4 classes"):
        value, difference, kept = re.findall(
            rf"^\| {data} \| ([\d.]+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE
        )[0]
        row = rf"\| {data} \| default \| \w+ \| {value} .* \| {re.escape(difference)} \| {kept} \|"
        assert re.search(row, results), data

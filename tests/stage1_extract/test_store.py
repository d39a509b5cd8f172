"""The file format: what is read is what was written, and nothing damaged passes for whole."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract import shard_set, shard_writing
from stage1_extract import store as store_module
from stage1_extract.shard_format import BLOCK_BYTES
from stage1_extract.shard_reading import decode, pieces
from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    SequenceRecord,
    StoreError,
    describe_difference,
    fingerprint,
    merge_settings,
    merge_software,
    remove_stale_partials,
    shard_paths,
    write_shard,
)
from tests.conftest import ShardFactory, facts_of


def embedding(
    num_frames: int, dim: int = 5, *, seed: int = 0, dtype: str = "float16"
) -> NDArray[Any]:
    return np.random.default_rng(seed).random((num_frames, dim)).astype(dtype)


@pytest.fixture
def shard(tmp_path: Path, make_shard: ShardFactory) -> Path:
    """A shard of three sequences, not in the order of their ids."""
    return make_shard(
        tmp_path / "store" / "a.h5",
        {("b", 0): embedding(4), ("a", 1): embedding(3, seed=1), ("a", 0): embedding(2, seed=2)},
    )


# reading what was written


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sequences_come_back_bit_for_bit(
    tmp_path: Path, make_shard: ShardFactory, dtype: str
) -> None:
    written = {(f"v{i}", 0): embedding(1 + i * 7, 33, seed=i, dtype=dtype) for i in range(9)}
    store = EmbeddingStore(make_shard(tmp_path / "s.h5", written))
    assert (store.num_sequences, store.embedding_dim, store.dtype) == (9, 33, np.dtype(dtype))
    for (video_id, view), expected in written.items():
        np.testing.assert_array_equal(store.read(store.find(video_id, view)), expected)


def test_sequences_are_sorted_by_id_then_view_across_shards(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("aa", 0): embedding(6), ("a", 2): embedding(1)})
    store = EmbeddingStore(shard.parent)
    pairs = list(zip(store.video_ids.tolist(), store.views.tolist(), strict=True))
    assert pairs == [("a", 0), ("a", 1), ("a", 2), ("aa", 0), ("b", 0)]
    assert store.lengths.tolist() == [2, 3, 1, 6, 4]


def test_times_and_frame_numbers_belong_to_their_sequence(shard: Path) -> None:
    store = EmbeddingStore(shard)
    i = store.find("a", 1)
    assert store.frame_times(i).tolist() == [0.0, 0.1, 0.2]
    assert store.frame_indices(i).tolist() == [0, 3, 6]


def test_columns_follow_the_sorted_sequences(shard: Path) -> None:
    paths = EmbeddingStore(shard).column("source_path").tolist()
    assert paths == ["/videos/a.mp4", "/videos/a.mp4", "/videos/b.mp4"]


def test_unknown_column_is_an_error_that_lists_the_columns(shard: Path) -> None:
    with pytest.raises(KeyError, match=r"no column 'label'.*checksum"):
        EmbeddingStore(shard).column("label")


@pytest.mark.parametrize(
    "video_id",
    ["Ünïcødé/日本語/🎬", "x" * 5000, "a b+c (1) [2] %03d", "ends with space ", "é" * 300],
)
def test_any_id_is_kept_exactly(tmp_path: Path, make_shard: ShardFactory, video_id: str) -> None:
    sequences = {(video_id, 0): embedding(2), ("other", 0): embedding(1)}
    store = EmbeddingStore(make_shard(tmp_path / "s.h5", sequences))
    assert store.video_ids[store.find(video_id)] == video_id


def test_missing_id_is_an_error_with_close_matches(shard: Path, make_shard: ShardFactory) -> None:
    make_shard(shard.with_name("b.h5"), {("patient_017", 0): embedding(1)})
    store = EmbeddingStore(shard.parent)
    with pytest.raises(KeyError, match=r"patient_17.*patient_017"):
        store.find("patient_17")
    with pytest.raises(KeyError, match="view 3"):
        store.find("a", 3)


@pytest.mark.parametrize("i", [-1, 3, 10**9])
def test_positions_outside_are_refused(shard: Path, i: int) -> None:
    with pytest.raises(IndexError, match="of 3"):
        EmbeddingStore(shard).read(i)


# mapped, pickled, shared


def test_read_is_a_view_that_cannot_be_written(shard: Path) -> None:
    store = EmbeddingStore(shard)
    frames = store.read(0)
    assert np.shares_memory(frames, store.read(0))
    with pytest.raises(ValueError, match="read-only"):
        frames[0, 0] = 1


def test_opening_and_one_read_touch_a_fraction_of_the_file(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    megabytes = 96
    frames = np.ones((megabytes * 4, 2**16), np.float32)
    sequences = {(f"{i:04}", 0): frames[i : i + 1] for i in range(len(frames))}
    path = make_shard(tmp_path / "s.h5", sequences)
    del frames, sequences
    process = psutil.Process()
    before = process.memory_info().rss
    assert EmbeddingStore(path).read(200).sum() == 2**16
    assert process.memory_info().rss - before < megabytes * 2**20 / 4


def test_pickle_holds_no_embeddings_and_reads_the_same(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    written = embedding(2000, 100)
    store = EmbeddingStore(make_shard(tmp_path / "s.h5", {("v", 0): written}))
    store.read(0)
    pickled = pickle.dumps(store)
    assert len(pickled) < 20_000
    np.testing.assert_array_equal(pickle.loads(pickled).read(0), written)  # noqa: S301


def test_pickled_store_reads_in_another_process(shard: Path, tmp_path: Path) -> None:
    store = EmbeddingStore(shard)
    (tmp_path / "store.pickle").write_bytes(pickle.dumps(store))
    script = (
        "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).read(2).tobytes().hex())"
    )
    out = subprocess.check_output([sys.executable, "-c", script, str(tmp_path / "store.pickle")])
    assert bytes.fromhex(out.decode()) == store.read(2).tobytes()


def test_blocks_are_what_read_returns(tmp_path: Path, make_shard: ShardFactory) -> None:
    written = {("a", 0): embedding(900, 8192), ("b", 0): embedding(3, 8192, seed=1)}
    store = EmbeddingStore(make_shard(tmp_path / "s.h5", written))
    for i in range(2):
        blocks = list(store.shards[0].embedding_blocks(store.ranges_of(np.array([i]))))
        assert max(block.nbytes for block in blocks) <= 4 * 2**20
        np.testing.assert_array_equal(np.concatenate(blocks), store.read(i))
    pieces = list(store.frame_blocks("source_index", [1, 0]))
    assert [i for i, _ in pieces] == [1, 0]
    np.testing.assert_array_equal(pieces[1][1], np.arange(900) * 3)


# reading into an array of one's own


def read_into(store: EmbeddingStore, i: int) -> NDArray[Any]:
    out = np.full((int(store.lengths[i]), store.embedding_dim), np.nan, store.dtype)
    store.read_into(i, out)
    return out


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_read_into_an_array_is_what_was_written(
    tmp_path: Path, make_shard: ShardFactory, dtype: str
) -> None:
    written = {(f"v{i}", 0): embedding(1 + i * 700, 33, seed=i, dtype=dtype) for i in range(5)}
    make_shard(tmp_path / "a.h5", {key: written[key] for key in [("v3", 0), ("v0", 0), ("v4", 0)]})
    make_shard(tmp_path / "b.h5", {key: written[key] for key in [("v2", 0), ("v1", 0)]})
    store = EmbeddingStore(tmp_path)
    for (video_id, _), expected in written.items():
        np.testing.assert_array_equal(read_into(store, store.find(video_id)), expected)


def test_reading_into_part_of_an_array_leaves_the_rest(shard: Path) -> None:
    out = np.full((2, 6, 5), 7, np.float16)
    EmbeddingStore(shard).read_into(2, out[1, :4])
    np.testing.assert_array_equal(out[1, :4], embedding(4))
    assert (out[0] == 7).all()
    assert (out[1, 4:] == 7).all()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((3, 5), np.float16),
        np.zeros((4, 4), np.float16),
        np.zeros(20, np.float16),
        np.zeros((4, 5), np.float32),
        np.zeros((4, 5), ">f2"),
        np.zeros((8, 5), np.float16)[::2],
        np.zeros((5, 4), np.float16).T,
    ],
)
def test_arrays_that_do_not_fit_are_refused_untouched(shard: Path, out: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"out is .*; expected \(4, 5\) float16, C-contiguous"):
        EmbeddingStore(shard).read_into(2, out)
    assert not out.any()


@pytest.mark.parametrize("i", [-1, 3])
def test_positions_outside_are_not_read(shard: Path, i: int) -> None:
    with pytest.raises(IndexError, match=rf"sequence {i} of 3"):
        EmbeddingStore(shard).read_into(i, np.zeros((4, 5), np.float16))


def test_what_the_system_reads_in_pieces_is_put_together(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux reads 2 GiB at most in one go, network disks less."""

    def read_a_little(descriptor: int, buffers: Any, offset: int) -> int:
        content = os.pread(descriptor, 7, offset)
        size = min(len(content), len(buffers[0]))
        buffers[0][:size] = content[:size]
        return size

    monkeypatch.setattr("os.preadv", read_a_little)
    np.testing.assert_array_equal(read_into(EmbeddingStore(shard), 2), embedding(4))


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("missing_bytes", [1, 39, 40])
def test_a_file_cut_short_is_an_error_and_no_crash(
    shard: Path, is_open: bool, missing_bytes: int
) -> None:
    """The file stores b, a with view 1, a."""
    store = EmbeddingStore(shard)
    if is_open:
        read_into(store, 0)
    with shard.open("r+b") as file:
        file.truncate(store.shards[0].offset_bytes + 4 * store.shards[0].row_bytes - missing_bytes)
    with pytest.raises(StoreError, match=r"a\.h5 is damaged: it ends within b"):
        read_into(store, 2)


def test_a_removed_shard_is_an_error_unless_it_is_open(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("c", 0): embedding(3)})
    store = EmbeddingStore(shard.parent)
    read_into(store, 0)
    for path in shard_paths(shard.parent):
        path.unlink()
    np.testing.assert_array_equal(read_into(store, 2), embedding(4))
    with pytest.raises(StoreError, match=r"is gone .*; open it again"):
        read_into(store, 3)


@pytest.mark.parametrize("max_open", [0, 1, 256])
def test_threads_read_alike_and_few_files_stay_open(
    tmp_path: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch, max_open: int
) -> None:
    monkeypatch.setattr(store_module, "_MAX_OPEN_FILES", max_open)
    for i in range(6):
        make_shard(tmp_path / f"{i}.h5", {(f"v{i}", 0): embedding(50, seed=i)})
    store: Any = EmbeddingStore(tmp_path)
    before = psutil.Process().num_fds()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(partial(read_into, store), [i % 6 for i in range(120)]))
    for i, array in enumerate(found):
        np.testing.assert_array_equal(array, embedding(50, seed=i % 6))
    assert psutil.Process().num_fds() - before <= min(6, max_open + 8)
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    np.testing.assert_array_equal(read_into(copy, 4), embedding(50, seed=4))
    store = copy = None
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_reading_into_arrays_maps_nothing(tmp_path: Path, make_shard: ShardFactory) -> None:
    store = EmbeddingStore(make_shard(tmp_path / "unmapped.h5", {("a", 0): embedding(1000, 500)}))
    read_into(store, 0)
    mapped = {Path(region.path).name for region in psutil.Process().memory_maps()}
    assert "unmapped.h5" not in mapped


# the rest of a store


def test_columns_are_what_was_written(shard: Path) -> None:
    store = EmbeddingStore(shard)
    ids = zip(store.video_ids.tolist(), store.views.tolist(), store.lengths.tolist(), strict=True)
    assert list(ids) == [("a", 0, 2), ("a", 1, 3), ("b", 0, 4)]
    paths = [facts_of(name).source_path for name in ("a", "a", "b")]
    assert store.column("source_path").tolist() == paths


def test_threads_read_what_one_thread_reads(tmp_path: Path, make_shard: ShardFactory) -> None:
    written = {(f"{i:02}", 0): embedding(1 + i, 64, seed=i) for i in range(40)}
    for number in range(4):
        part = dict(list(written.items())[number::4])
        make_shard(tmp_path / "store" / f"{number}.h5", part)
    store = EmbeddingStore(tmp_path / "store")
    order = np.random.default_rng(0).integers(0, 40, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda i: (store.read(i).tobytes(), len(store.frame_times(i))), order)
        for i, (content, length) in zip(order, results, strict=True):
            assert (content, length) == (written[f"{i:02}", 0].tobytes(), i + 1)


# duplicates and strangers


def test_copies_in_two_shards_count_once(shard: Path, make_shard: ShardFactory) -> None:
    make_shard(shard.with_name("b.h5"), {("a", 0): embedding(2, seed=2), ("c", 0): embedding(1)})
    store = EmbeddingStore(shard.parent)
    assert (store.num_sequences, store.num_duplicates) == (4, 1)
    np.testing.assert_array_equal(store.read(store.find("a")), embedding(2, seed=2))


def test_other_settings_are_refused_and_both_sides_shown(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("z", 0): embedding(1)}, settings={"backbone": "VGG16"})
    with pytest.raises(StoreError, match="backbone: 'MobileNet' against 'VGG16'"):
        EmbeddingStore(shard.parent)


def test_other_dimension_under_the_same_settings_is_refused(
    shard: Path, make_shard: ShardFactory
) -> None:
    make_shard(shard.with_name("b.h5"), {("z", 0): embedding(1, dim=6)})
    with pytest.raises(StoreError, match="dimension 6"):
        EmbeddingStore(shard.parent)


def test_difference_names_settings_that_one_side_lacks() -> None:
    text = describe_difference({"a": 1, "b": 2}, {"a": 1, "c": 3})
    assert text == "b: 2 against '(not set)', c: '(not set)' against 3"


VIEWS = {"count": 2, "seed": 0}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"a": 1}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1, "views": None}, {"a": 1, "views": None}),
        ({"a": 1, "views": 0}, {"a": 1, "views": None}, {"a": 1, "views": None}),
        ({"a": 1, "views": None}, {"a": 1, "views": VIEWS}, {"a": 1, "views": VIEWS}),
        ({"a": 1}, {"a": 1, "views": VIEWS}, {"a": 1, "views": VIEWS}),
        ({"a": 1, "views": VIEWS}, {"a": 1, "views": VIEWS}, {"a": 1, "views": VIEWS}),
    ],
)
def test_views_may_be_added_to_settings_without(
    ours: dict[str, Any], theirs: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merge_settings(ours, theirs) == merge_settings(theirs, ours) == expected
    assert describe_difference(ours, theirs) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"views": VIEWS}, {"views": {"count": 3, "seed": 0}}, "^views.count: 2 against 3$"),
        ({"a": 1, "views": None}, {"a": 2, "views": VIEWS}, "^a: 1 against 2$"),
        ({"views": None}, {"views": VIEWS, "b": 1}, r"^b: '\(not set\)' against 1$"),
    ],
)
def test_other_differences_keep_settings_apart(
    ours: dict[str, Any], theirs: dict[str, Any], message: str
) -> None:
    for pair in ((ours, theirs), (theirs, ours)):
        with pytest.raises(StoreError, match=message if pair[0] is ours else "against"):
            merge_settings(*pair)


def test_store_mixes_shards_with_and_without_views(
    tmp_path: Path, make_shard: ShardFactory
) -> None:
    plain: dict[str, Any] = {"a": 1, "views": None}
    augmented = {**plain, "views": VIEWS}
    paths = [tmp_path / "s" / f"{name}.h5" for name in "xyz"]
    for view, (path, settings) in enumerate(zip(paths, (plain, augmented, plain), strict=True)):
        make_shard(path, {("v", view): embedding(2, seed=view)}, settings=settings)
    store = EmbeddingStore(tmp_path / "s")
    assert (store.settings, store.fingerprint) == (augmented, fingerprint(augmented))
    assert store.views.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(store.read(store.find("v", 1)), embedding(2, seed=1))
    assert EmbeddingStore(paths[0]).fingerprint == fingerprint(plain)
    other = make_shard(
        tmp_path / "s" / "zz.h5", {("w", 1): embedding(1)}, settings={"a": 1, "views": {"count": 9}}
    )
    with pytest.raises(StoreError, match=rf"y\.h5 and {other} were made with different.*views"):
        EmbeddingStore(tmp_path / "s")


def test_software_of_all_shards_is_told_once() -> None:
    parts = [{"keras": "3.14", "cv2": "5"}, {"keras": "3.15", "av": "18"}, {"keras": "3.14, 3.16"}]
    expected = {"keras": "3.14, 3.15, 3.16", "cv2": "5", "av": "18"}
    assert merge_software(parts) == expected
    assert merge_software([merge_software(parts[:2]), *parts[2:]]) == expected


def test_fingerprint_ignores_order_alone() -> None:
    assert fingerprint({"a": 1, "b": "x"}) == fingerprint({"b": "x", "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, 2, "1", None, True)}) == 5


def test_nothing_and_empty_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no store at"):
        EmbeddingStore(tmp_path / "nothing")
    with pytest.raises(StoreError, match="no shards"):
        EmbeddingStore(tmp_path)


# while shards come and go


def test_store_that_was_compacted_since_opening_says_so(shard: Path) -> None:
    store, mapped = EmbeddingStore(shard.parent), EmbeddingStore(shard.parent)
    expected = mapped.read(0).tobytes()
    shard.unlink()
    assert mapped.read(0).tobytes() == expected
    for read in (
        store.read,
        store.frame_times,
        store.frame_indices,
        lambda _: store.column("checksum"),
    ):
        with pytest.raises(StoreError, match="compacted since it was opened; open it again"):
            read(0)


def test_opening_goes_on_when_a_listed_shard_was_replaced(
    shard: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = iter([[shard.with_name("gone.h5")] * 2] * 2)
    listed = shard_paths
    monkeypatch.setattr(shard_set, "shard_paths", lambda path: next(listings, None) or listed(path))
    assert EmbeddingStore(shard.parent).num_sequences == 3


def test_broken_link_is_an_error(shard: Path) -> None:
    shard.with_name("b.h5").symlink_to("nothing.h5")
    with pytest.raises(StoreError, match="broken links"):
        EmbeddingStore(shard.parent)


# damage


def test_shard_cut_anywhere_is_refused(shard: Path) -> None:
    content = shard.read_bytes()
    cuts = {*range(0, len(content), 89), 1, 7, 8, 9, 511, 512, 4095, 4096, len(content) - 1}
    cut_shard = shard.with_name("cut.h5")
    for cut in sorted(cuts):
        cut_shard.write_bytes(content[:cut])
        with pytest.raises(StoreError, match=r"cut\.h5 .*(cannot be read|damaged|no HDF5 file)"):
            EmbeddingStore(cut_shard)


def test_shard_with_a_blanked_page_is_refused_or_reads_the_same_ranges(shard: Path) -> None:
    content = shard.read_bytes()
    lengths = EmbeddingStore(shard).lengths.tolist()
    for start in range(0, len(content), 512):
        shard.write_bytes(content[:start] + bytes(512) + content[start + 512 :])
        try:
            store = EmbeddingStore(shard)
        except StoreError:
            continue
        assert all(store.read(i).shape[1] == 5 for i in range(store.num_sequences))
        assert sorted(store.lengths.tolist()) == sorted(lengths)


def replace(file: Any, name: str, values: object) -> None:
    group, _, column = name.rpartition("/")
    del file[group][column]
    file[group][column] = values


def chunk_embedding(file: Any) -> None:
    values = file["frames/embedding"][:]
    del file["frames/embedding"]
    file.create_dataset("frames/embedding", data=values, chunks=(1, 5))


FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "another format": (lambda f: f.attrs.modify("format", "something"), "no shard"),
    "newer version": (lambda f: f.attrs.modify("format_version", 2), "format version 2"),
    "no version": (lambda f: f.attrs.pop("format_version"), "format version None"),
    "no settings": (lambda f: f.attrs.pop("settings"), "cannot be read"),
    "settings not JSON": (lambda f: f.attrs.modify("settings", "{"), "damaged|cannot be read"),
    "settings a number": (lambda f: f.attrs.create("settings", 3), "damaged|cannot be read"),
    "settings of another": (lambda f: f.attrs.modify("settings", '{"a":1}'), "fingerprint"),
    "another fingerprint": (lambda f: f.attrs.modify("fingerprint", "0" * 32), "fingerprint"),
    "software not JSON": (lambda f: f.attrs.modify("software", "x"), "damaged|cannot be read"),
    "no embedding": (lambda f: f["frames"].pop("embedding"), "cannot be read"),
    "no frames": (lambda f: f.pop("frames"), "cannot be read"),
    "embedding a group": (
        lambda f: (f["frames"].pop("embedding"), f["frames"].create_group("embedding")),
        "damaged|cannot be read",
    ),
    "float64": (lambda f: replace(f, "frames/embedding", np.zeros((9, 5))), "float64"),
    "integers": (lambda f: replace(f, "frames/embedding", np.zeros((9, 5), int)), "int64"),
    "one axis": (
        lambda f: replace(f, "frames/embedding", np.zeros(9, np.float16)),
        "1 axes",
    ),
    "chunked": (chunk_embedding, "not contiguous"),
    "fewer frames": (
        lambda f: replace(f, "frames/embedding", np.zeros((8, 5), np.float16)),
        "damaged",
    ),
    "fewer times": (lambda f: replace(f, "frames/time_seconds", np.zeros(8)), "time_seconds"),
    "no indices": (lambda f: f["frames"].pop("source_index"), "cannot be read"),
    "negative start": (
        lambda f: replace(f, "sequences/start", [-1, 4, 7]),
        "4 rows from row -1 on, of 9",
    ),
    "start past the end": (
        lambda f: replace(f, "sequences/start", [0, 4, 8]),
        "2 rows from row 8 on, of 9",
    ),
    "empty sequence": (lambda f: replace(f, "sequences/length", [4, 0, 2]), "sequence 1"),
    "overflowing range": (
        lambda f: replace(f, "sequences/length", [4, 3, 2**63 - 1]),
        "sequence 2",
    ),
    "unsigned wrap": (
        lambda f: replace(f, "sequences/length", np.array([4, 3, 2**64 - 1], np.uint64)),
        "length",
    ),
    "fractional start": (
        lambda f: replace(f, "sequences/start", np.array([0, 4, np.nan])),
        "start",
    ),
    "fewer starts": (lambda f: replace(f, "sequences/start", [0, 4]), "shape"),
    "no sequences": (lambda f: f.pop("sequences"), "cannot be read"),
    "ids are numbers": (lambda f: replace(f, "sequences/video_id", [1, 2, 3]), "video_id"),
    "ids of another encoding": (
        lambda f: replace(f, "sequences/video_id", np.array([b"a\xff", b"b", b"c"])),
        "damaged|cannot be read",
    ),
    "views are text": (lambda f: replace(f, "sequences/view", np.array([b"0"] * 3)), "view"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_shard_with_a_fault_is_refused_by_name(shard: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    with h5py.File(shard, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=rf"a\.h5.*({message})"):
        EmbeddingStore(shard)


def test_shard_grown_by_rubbish_still_reads(shard: Path) -> None:
    before = [EmbeddingStore(shard).read(i).tobytes() for i in range(3)]
    with shard.open("ab") as file:
        file.write(b"rubbish" * 1000)
    assert [EmbeddingStore(shard).read(i).tobytes() for i in range(3)] == before


# writing


def test_embeddings_are_contiguous_and_uncompressed(shard: Path) -> None:
    with h5py.File(shard) as file:
        dataset = file["frames/embedding"]
        assert dataset.chunks is None
        assert dataset.compression is None
        offset = dataset.id.get_offset()
        expected = dataset[:].tobytes()
    assert shard.read_bytes()[offset : offset + len(expected)] == expected


def test_shards_are_never_overwritten(shard: Path, make_shard: ShardFactory) -> None:
    before = shard.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        make_shard(shard, {("z", 0): embedding(1)})
    assert shard.read_bytes() == before


@pytest.mark.parametrize(
    ("num_embedded", "num_times", "message"),
    [
        (4, 4, "embedding: 4 frames.*hold 3"),
        (2, 3, "embedding: 2 frames"),
        (3, 4, "time_seconds: 4 frames"),
        (3, 2, "time_seconds: 2 frames"),
    ],
)
def test_parts_that_do_not_fit_leave_nothing(
    tmp_path: Path, num_embedded: int, num_times: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(
            tmp_path / "s.h5",
            Provenance({}, {}, {}),
            [SequenceRecord("v", 0, 3, "0" * 32, facts_of("v"))],
            embedding_blocks=[embedding(num_embedded)],
            embedding_dtype="float16",
            embedding_dim=5,
            time_seconds=np.zeros(num_times),
            source_index=np.zeros(num_times, np.int64),
        )
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing_behind_and_finished_shards_whole(
    tiny_filesystem: Path, make_shard: ShardFactory
) -> None:
    make_shard(tiny_filesystem / "a.h5", {("a", 0): embedding(50, 1000)})
    with pytest.raises(OSError, match="No space left"):
        make_shard(tiny_filesystem / "b.h5", {("b", 0): embedding(1000, 1000)})
    assert [path.name for path in tiny_filesystem.iterdir()] == ["a.h5"]
    np.testing.assert_array_equal(EmbeddingStore(tiny_filesystem).read(0), embedding(50, 1000))


def test_exception_while_writing_leaves_nothing(
    tmp_path: Path, make_shard: ShardFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shard_writing, "sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        make_shard(tmp_path / "s.h5", {("a", 0): embedding(2)})
    assert not list(tmp_path.iterdir())


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
import numpy as np
from stage1_extract.store import Provenance, SequenceRecord, write_shard
from tests.conftest import facts_of

def blocks():
    for i in range(1000):
        yield np.ones((1000, 64), np.float16)
        print(i, flush=True)
        time.sleep(0.02)

write_shard(
    Path(sys.argv[1]), Provenance({"backbone": "MobileNet"}, {}, {}),
    [SequenceRecord("v", 0, 10**6, "0" * 32, facts_of("v"))], embedding_blocks=blocks(),
    embedding_dtype="float16", embedding_dim=64, time_seconds=np.zeros(10**6),
    source_index=np.zeros(10**6, np.int64))
"""


def test_writer_killed_midway_leaves_nothing_that_readers_see(shard: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_SLOWLY, str(shard.with_name("b.h5"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while writer.stdout.readline().strip() != "5":
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    left = [path for path in shard.parent.iterdir() if path != shard]
    assert len(left) == 1
    assert shard_paths(shard.parent) == [shard]
    assert EmbeddingStore(shard.parent).num_sequences == 3
    with pytest.raises(StoreError, match="cannot be read"):
        EmbeddingStore(left[0])


def test_only_old_partial_shards_are_removed(shard: Path) -> None:
    old, young = (shard.with_name(f".{name}.h5.partial") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"x")
    two_hours_ago = time.time() - 7200
    for path in (old, shard):
        os.utime(path, (two_hours_ago, two_hours_ago))
    remove_stale_partials(shard.parent)
    assert {path.name for path in shard.parent.iterdir()} == {young.name, shard.name}


def test_provenance_is_readable_without_this_program(shard: Path) -> None:
    with h5py.File(shard) as file:
        settings = json.loads(file.attrs["settings"])
    store = EmbeddingStore(shard)
    assert settings == store.settings == {"backbone": "MobileNet"}
    assert store.fingerprint == fingerprint(settings)


# texts and ids


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5)))
def test_texts_are_decoded_as_numpy_does(texts: list[str]) -> None:
    values = np.array([text.encode() for text in [*texts, ""]], "S24")
    assert decode(values).tolist() == [*texts, ""]
    assert decode(values[::2]).tolist() == [*texts, ""][::2]


@hypothesis_settings(deadline=None, max_examples=20)
@given(st.sets(st.text("az\x7f\x80éß漢\uffff😀", min_size=1, max_size=3), min_size=1, max_size=9))
def test_ids_of_any_script_are_sorted_and_found(
    tmp_path_factory: pytest.TempPathFactory, make_shard: ShardFactory, ids: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    for number, part in enumerate((sorted(ids)[::2], sorted(ids, reverse=True)[::3])):
        if part:
            make_shard(folder / f"{number}.h5", {(name, 0): embedding(1) for name in part})
    store = EmbeddingStore(folder)
    held = {*sorted(ids)[::2], *sorted(ids, reverse=True)[::3]}
    assert store.video_ids.tolist() == sorted(held)
    assert [store.find(name) for name in sorted(held)] == list(range(len(held)))


def test_several_columns_are_those_read_one_by_one(shard: Path) -> None:
    store = EmbeddingStore(shard)
    columns = store.columns(["checksum", "source_fps", "source_path"])
    assert {name: values.tolist() for name, values in columns.items()} == {
        name: store.column(name).tolist() for name in columns
    }


def test_time_spans_are_the_first_and_last_times(tmp_path: Path, make_shard: ShardFactory) -> None:
    make_shard(tmp_path / "a.h5", {("c", 0): embedding(4), ("a", 0): embedding(1)})
    make_shard(tmp_path / "b.h5", {("b", 0): embedding(7), ("c", 1): embedding(2)})
    store = EmbeddingStore(tmp_path)
    for positions in ([3, 0, 1, 2], [1], [2, 2], []):
        expected = [store.frame_times(i)[[0, -1]].tolist() for i in positions]
        assert store.time_spans(np.array(positions, np.intp)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), max_size=12), st.integers(1, 9))
def test_pieces_are_the_ranges_row_by_row(ranges: list[tuple[int, int]], rows: int) -> None:
    wanted = [(start, start + length) for start, length in ranges]
    row_bytes = BLOCK_BYTES // rows
    found = list(pieces(wanted, row_bytes))
    assert all(0 < end - start <= BLOCK_BYTES // row_bytes for start, end in found)
    assert [row for start, end in found for row in range(start, end)] == [
        row for start, end in wanted for row in range(start, end)
    ]

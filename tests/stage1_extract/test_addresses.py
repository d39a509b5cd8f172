import pickle
from pathlib import Path

import pytest

from stage1_extract.addresses import (
    Address,
    Location,
    as_location,
    location,
    source_location,
    without_suffix,
)
from stage1_extract.store import EmbeddingStore


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a b.mp4",
        "gs://b/50%.mp4",
        "https://x.org/a.mp4?sig=1",
        "S3://b/k",
        "simplecache::s3://b/k.mp4",
        "zip://in/a.mp4::s3://b/x.zip",
        "abfs://c@account.dfs/x.mp4",
    ],
)
def test_schemes_make_addresses(text: str) -> None:
    found = location(text)
    assert isinstance(found, Address)
    assert found.url == text
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301


@pytest.mark.parametrize(
    "text",
    [
        "/data/a.mp4",
        "C:\\videos\\a.mp4",
        "C:/videos/a.mp4",
        "c://videos/a.mp4",
        "12:30 knee.mp4",
        "a:b/c.mp4",
        "../x.mp4",
        "://x",
        "s3:/bucket/a.mp4",
        "a::b.mp4",
    ],
)
def test_paths_stay_paths(text: str) -> None:
    assert location(text) == Path(text)


@pytest.mark.parametrize("scheme", ["file", "local", "FILE"])
def test_a_file_address_is_the_local_path_letter_by_letter(scheme: str) -> None:
    assert location(f"{scheme}:///data/a%20b c.mp4") == Path("/data/a%20b c.mp4")


def test_what_may_be_secret_is_not_shown() -> None:
    signed = Address("https://me:key@x.org/a.mp4?X-Signature=secret")
    assert str(signed) == f"{signed}" == "https://x.org/a.mp4"
    assert signed.url.endswith("secret")
    assert str(Address("s3://b/what?.mp4")) == "s3://b/what?.mp4"  # a letter as any, in S3


@pytest.mark.parametrize(
    ("url", "name", "suffix"),
    [
        ("s3://bucket/deep/a b.MP4", "a b.MP4", ".MP4"),
        ("https://x.org/a.npz?v=2.mp4", "a.npz", ".npz"),
        ("zip://in/a.dcm::s3://bucket/x.zip", "a.dcm", ".dcm"),
        ("simplecache::s3://bucket/a.tif", "a.tif", ".tif"),
        ("s3://bucket/no_suffix", "no_suffix", ""),
    ],
)
def test_the_name_is_the_last_part_of_the_path(url: str, name: str, suffix: str) -> None:
    assert (Address(url).name, Address(url).suffix) == (name, suffix)


@pytest.mark.parametrize(
    ("manifest", "text", "expected"),
    [
        (Path("/m/list.csv"), "a b.mp4", Path("/m/a b.mp4")),
        (Path("/m/list.csv"), "/x/a.mp4", Path("/x/a.mp4")),
        (Path("/m/list.csv"), "s3://b/a.mp4", Address("s3://b/a.mp4")),
        (Path("/m/list.csv"), "file:///x/a.mp4", Path("/x/a.mp4")),
        (Address("s3://b/m/list.csv"), "d/50% a.mp4", Address("s3://b/m/d/50% a.mp4")),
        (Address("s3://b/m/list.csv"), "./a.mp4", Address("s3://b/m/a.mp4")),
        (Address("s3://b/m/list.csv"), "gs://o/a.mp4", Address("gs://o/a.mp4")),
        (Address("https://x.org/m.csv?k=1"), "50% a.mp4", Address("https://x.org/50%25%20a.mp4")),
    ],
)
def test_paths_are_relative_to_the_manifest(
    manifest: Location, text: str, expected: Location
) -> None:
    assert source_location(manifest, text) == expected


def test_no_path_leaves_the_folder_of_a_manifest_at_an_address() -> None:
    with pytest.raises(ValueError, match=r"'\.\./a.mp4' lies outside .* write its whole address"):
        source_location(Address("s3://b/m/list.csv"), "../a.mp4")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.c.mp4", "a/b.c"),
        ("s3://b/a.mp4", "s3://b/a"),
        ("https://x.org/a.mp4?sig=1", "https://x.org/a"),
        ("", ""),
        ("s3://b.ucket/k", "s3://b.ucket/k"),
    ],
)
def test_ids_are_made_without_the_suffix(text: str, expected: str) -> None:
    assert without_suffix(text) == expected


def test_an_address_that_became_a_path_is_named() -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/m\.csv is an address: give it as text"):
        as_location(Path("s3://bucket/m.csv"))
    with pytest.raises(FileNotFoundError, match="stage1-extract fetch s3://bucket/store FOLDER"):
        EmbeddingStore("s3://bucket/store")
    with pytest.raises(FileNotFoundError, match="stage1-extract fetch s3://bucket/store FOLDER"):
        EmbeddingStore(Path("s3://bucket/store").absolute())

"""Addresses: where files are that have no local path, written as fsspec does: `s3://bucket/a.mp4`.

Nothing here reaches out to them; `remote.py` does.
"""

import dataclasses
import posixpath
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

# Two letters at least: C:\ is a drive. A chain (`simplecache::s3://...`) begins with other schemes.
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+::)*([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_AS_PATH = re.compile(r"((?:[a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+):/(?=[^/])", re.IGNORECASE)
_LOCAL = {"file", "local"}
WEB_SCHEMES = {"http", "https"}
_PASSWORD = re.compile(r"://[^/@:\s]*:[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\")]*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Address:
    """A file or folder that fsspec reaches.

    Its text, as in messages and in the store, lacks what may be secret: a password, and all that
    follows the `?` of a web address, where signatures stand.

    Attributes:
        url: As it was written.
    """

    url: str

    def __post_init__(self) -> None:
        if _ADDRESS.match(self.url) is None:
            raise ValueError(f"{self.url!r} is no address; expected one such as s3://bucket/a.mp4")

    def __str__(self) -> str:
        return without_secrets(self.url)

    @property
    def scheme(self) -> str:
        """What stands before `://`, the first where several are chained: s3."""
        match = _ADDRESS.match(self.url)
        return match[1].lower() if match else ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        inner = next(part for part in str(self).split("::") if "://" in part)
        return inner.partition("://")[2].rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Of its name, as Path's: `.mp4`."""
        return PurePosixPath(self.name).suffix

    @property
    def folder(self) -> "Address":
        """Where it is."""
        return Address(self._plain.rstrip("/").rpartition("/")[0] + "/")

    def absolute(self) -> "Address":
        """Return itself: an address is relative to nothing."""
        return self

    def beside(self, name: str) -> "Address":
        """Return what lies in its folder under a relative path, as a manifest names it."""
        return Address(self.folder.url + self._quoted(name))

    def child(self, name: str) -> "Address":
        """Return what lies in it under a name."""
        return Address(self._plain.rstrip("/") + "/" + self._quoted(name))

    @property
    def _plain(self) -> str:
        return self.url.partition("?")[0] if self.scheme in WEB_SCHEMES else self.url

    def _quoted(self, name: str) -> str:
        plain = posixpath.normpath(name)
        if plain.startswith(("../", "/")) or plain in {".", ".."}:
            raise ValueError(
                f"{name!r} lies outside the folder of {self}; write its whole address instead"
            )
        return quote(plain) if self.scheme in WEB_SCHEMES else plain


def without_secrets(text: str) -> str:
    """Return a text, such as an error's, whose addresses show no password and no signature."""
    return _QUERY.sub(r"\1", _PASSWORD.sub("://", text))


Location = Path | Address


def location(text: str) -> Location:
    """Return what a text names: an address where it begins as one, else a local path.

    `file:///data/a.mp4` is the local path /data/a.mp4, letter by letter as fsspec takes it.
    """
    match = _ADDRESS.match(text)
    if match is None:
        return Path(text)
    if text[: match.end() - 3].lower() in _LOCAL:
        return Path(text[match.end() :])
    return Address(text)


def as_location(value: Location | str) -> Location:
    """Return the location that a caller means by a text, a path or an address.

    Raises:
        ValueError: An address was made a Path, which loses one of its slashes.
    """
    if isinstance(value, str):
        return location(value)
    if isinstance(value, Path) and (address := lost_address(value)):
        raise ValueError(
            f"{address} is an address: give it as text, not as a Path; where a command takes files "
            "alone, copy it to the disk first"
        )
    return value


def source_location(manifest: Location, text: str) -> Location:
    """Return what a manifest's `path` names: an address, or a path relative to the manifest.

    Raises:
        ValueError: It leaves the folder of a manifest that is at an address itself.
    """
    found = location(text)
    if isinstance(found, Address) or found.is_absolute():
        return found
    return manifest.beside(text) if isinstance(manifest, Address) else manifest.parent / found


def without_suffix(text: str) -> str:
    """Return a path or an address without the suffix of its last part."""
    found = location(text)
    if isinstance(found, Address):
        return str(found).removesuffix(found.suffix)
    return str(found.with_suffix("")) if found.name else ""


def lost_address(path: Path) -> str:
    """Return the address that was meant by a path that is not there; else an empty text.

    As a Path, `s3://bucket/store` has become `s3:/bucket/store`.
    """
    if path.exists():
        return ""
    here = Path.cwd()  # where a path that was made absolute begins
    text = str(path.relative_to(here) if path.is_relative_to(here) else path)
    match = _AS_PATH.match(text)
    return f"{match[1]}://{text[match.end() :]}" if match else ""


def no_store_at(path: Path) -> FileNotFoundError:
    """Return the error for a store that is not there, or not on this machine."""
    if address := lost_address(path):
        return FileNotFoundError(
            f"{address} is an address, and a store is read from the disk: copy it first, "
            f"`stage1-extract fetch {address} FOLDER`, and give FOLDER"
        )
    return FileNotFoundError(f"no store at {path}; `stage1-extract run` makes one")

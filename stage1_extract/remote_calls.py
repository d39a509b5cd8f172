"""Calls to the file systems that fsspec knows: what is installed, what failed, what is tried again.

No open file system leaves a process: each opens its own, from the address and from what fsspec
finds in the environment (keys, profiles, endpoints).
"""

import errno
import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from stage1_extract.addresses import WEB_SCHEMES, Address, without_secrets
from stage1_extract.sources import Beat

WAITS_SECONDS = (1.0, 2.0, 4.0)
"""Before the second attempt, the third, ...; what fails after the last has failed."""
UPLOAD_WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""The same of uploads, whose failure ends a run."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HOPELESS = (ValueError, TypeError, AttributeError, NotImplementedError, ImportError)
_MISSING, _FORBIDDEN = {404, 410}, {401, 403}
_Result = TypeVar("_Result")


class RemoteError(OSError):
    """A file system broke off, did not answer, or answered nonsense, several times."""


class MissingPackageError(ValueError):
    """What reaches an address is not installed, or fsspec does not know its scheme."""


def check_scheme(address: Address) -> None:
    """See that an address' file system is installed; nothing is reached out to.

    Raises:
        MissingPackageError: It is not, or there is no such scheme.
    """
    for link in address.url.split("::"):
        if problem := scheme_problem(link.partition("://")[0].lower()):
            raise MissingPackageError(f"{address}: {problem}")


@functools.cache
def scheme_problem(scheme: str) -> str:
    """Return why addresses of a scheme cannot be reached from here, empty where they can."""
    try:
        import fsspec
    except ImportError:
        return "addresses need fsspec: pip install 'embed-then-sequence[remote]'"
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or f"'fsspec[{scheme}]'"
        return f"{scheme}:// needs a package that is not installed: pip install {package}"
    except ValueError:
        return f"{scheme}:// is not known to fsspec; it knows s3, gs, az, https, sftp and others"
    return ""


def open_system(address: Address) -> tuple[Any, str]:
    """Return an address' file system, and its path there.

    Raises:
        MissingPackageError: It is not installed.
        OSError: It cannot be opened, for want of keys for example.
    """
    check_scheme(address)
    import fsspec

    with _told(address):
        fs, path = fsspec.core.url_to_fs(address.url)
    return fs, str(path)


def retried(
    action: Callable[[], _Result],
    address: Address,
    beat: Beat = lambda: None,
    *,
    waits_seconds: Sequence[float] | None = None,
) -> _Result:
    """Do something, again after a while where that may help.

    Args:
        action: What to do.
        address: What it is about; errors name it.
        beat: Called before each wait.
        waits_seconds: Before each further attempt; None for `WAITS_SECONDS`.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: So the file system says.
        RemoteError: All attempts failed, or no other would help.
        OSError: The disk of this machine is full.
    """
    for wait_seconds in (*(waits_seconds or WAITS_SECONDS), None):
        try:
            with _told(address):
                return action()
        except RemoteError as error:
            if wait_seconds is None or isinstance(error.__cause__, _HOPELESS):
                raise
        beat()
        time.sleep(wait_seconds * random.uniform(0.75, 1.25))  # noqa: S311
    raise RemoteError(f"{address} was not tried")


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """Name the address in whatever its file system raises."""
    try:
        yield
    except MemoryError:
        raise
    # File systems have no common base of their errors, and some raise those of their network
    # libraries: all of them are the address', and none is the run's end.
    except Exception as error:
        raise as_told(error, address) from error


def lacks_room(error: Exception) -> bool:
    """Return whether a full disk, or a used up quota, is the reason: no fault of the clip."""
    return isinstance(error, OSError) and error.errno in _FULL


def as_told(error: Exception, address: Address) -> OSError:
    """Return the error that a person is told of, for what a file system raised."""
    reason = without_secrets(str(error).strip()) or type(error).__name__
    if lacks_room(error):
        return OSError(
            errno.ENOSPC,
            f"no room left while {address} was copied; name a larger folder with --scratch",
        )
    status = _http_status(error)
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(reason)
    if isinstance(error, PermissionError) or status in _FORBIDDEN:
        return PermissionError(f"{address} may not be read or written: {reason}")
    # fsspec takes whatever goes wrong on the web, a lost connection too, for a missing file.
    cause = error.__cause__ if address.scheme in WEB_SCHEMES else None
    if status in _MISSING or (isinstance(error, FileNotFoundError) and cause is None):
        return FileNotFoundError(f"no file at {address}")
    behind = without_secrets(str(cause))
    told = f"{type(error).__name__}: {reason}" if cause is None else f"{reason} ({behind})"
    return RemoteError(f"{address} cannot be reached, or broke off: {told}")


def _http_status(error: BaseException | None) -> int | None:
    """Return the status that a web server answered with, if an error or its cause has one."""
    while error is not None:
        for name in ("status", "code"):
            value = getattr(error, name, None)
            if isinstance(value, int):
                return value
        error = error.__cause__
    return None

"""Where embeddings come from: settings, their hash, and what may stand in one store."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class StoreError(ValueError):
    """A store cannot be trusted or does not fit: what is wrong, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a shard says of its origin.

    `settings` holds everything that changes an embedding and nothing else; the fingerprint is its
    hash. Its `views` are the parameters of stored augmented views, or None where there are none.
    `execution` holds what is worth knowing but changes nothing (batch size, file names).
    """

    settings: Mapping[str, Any]
    software: Mapping[str, str]
    execution: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of `settings`."""
        return fingerprint(self.settings)


def merge_software(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return each name's versions in the order of the parts: `{"keras": "3.14.0, 3.15.1"}`."""
    versions: dict[str, dict[str, None]] = {}
    for part in parts:
        for name, version in part.items():
            versions.setdefault(name, {}).update(dict.fromkeys(version.split(", ")))
    return {name: ", ".join(found) for name, found in versions.items()}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the hash of all that changes an embedding: sha256 of its canonical JSON, 32 digits."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def merge_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a store that holds sequences of both.

    All settings must be equal. `views` alone may be None (or not set) on one side: augmented views
    may be added to sequences that were stored without.

    Raises:
        StoreError: They do not belong into one store; both sides of each difference are shown.
    """
    if difference := describe_difference(ours, theirs):
        raise StoreError(difference)
    if ours == theirs:
        return dict(ours)
    return {**ours, "views": _views(ours) or _views(theirs)}


def describe_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say what keeps two settings out of one store: `sampling: 'all' against 'stride:2'`.

    Empty where nothing does; see `merge_settings`.
    """
    return ", ".join(_differences(ours, theirs))


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    missing = "(not set)"
    for name in sorted({*ours, *theirs}):
        our, their = ours.get(name, missing), theirs.get(name, missing)
        if our == their or (name == "views" and None in (_views(ours), _views(theirs))):
            continue
        if isinstance(our, Mapping) and isinstance(their, Mapping):
            yield from (f"{name}.{difference}" for difference in _differences(our, their))
        else:
            yield f"{name}: {our!r} against {their!r}"


def _views(settings: Mapping[str, Any]) -> Any:
    return settings.get("views") or None  # version 0.1 wrote 0

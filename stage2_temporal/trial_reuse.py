"""What trainings have in common is worked out once: a bounded memory of fits and models."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value")

_MAX_MODELS = 16
_TRIAL_BYTES = 256 * 2**20
_TRIAL_MODELS = 6


def num_bytes(value: Any) -> int:
    """Return the size of all arrays in a value: in lists, tuples, mappings and dataclasses too."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(num_bytes, value))
    if isinstance(value, Mapping):
        return sum(map(num_bytes, value.values()))
    if dataclasses.is_dataclass(value):
        return sum(num_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0


def digest(*arrays: NDArray[Any] | None) -> str:
    """Return a hash of arrays, of their shapes and dtypes; None is unlike any of them."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode())
        found.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Memo:
    """Values by key; those that were not used for longest go when all together are too large.

    Args:
        limit: How large all values may be together; a larger one is made anew each time.
        size: Of one value.
    """

    def __init__(self, limit: int, *, size: Callable[[Any], int] = num_bytes) -> None:
        self._limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made by `make` if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            found: Value = self._values[key][0]
            return found
        value = make()
        self._values[key] = value, self._size(value)
        self._total += self._values[key][1]
        self._shrink()
        return value

    def _shrink(self) -> None:
        while self._total > self._limit:
            _, (_, size) = self._values.popitem(last=False)
            self._total -= size


@dataclasses.dataclass(frozen=True)
class Reuse:
    """What the trainings of one process share; for one set of clips, targets and folds.

    Attributes:
        fits: Linear models, their predictions of training clips, initial weights.
        models: Compiled models.
        frames: Embeddings that stay on the device.
    """

    fits: Memo
    models: Memo
    frames: Memo

    @classmethod
    def within_run(cls) -> "Reuse":
        """Share compiled models: no fit of a run is needed twice."""
        return cls(Memo(0), _counted(_MAX_MODELS), Memo(0))

    @classmethod
    def of_trials(cls, *, resident: bool = False) -> "Reuse":
        """Share everything; of resident frames one copy, which is a part of the compiled model."""
        return cls(Memo(_TRIAL_BYTES), _counted(1 if resident else _TRIAL_MODELS), _counted(1))


def _counted(limit: int) -> Memo:
    return Memo(limit, size=lambda _: 1)

"""Cases of parameters that only some runs of the tests try."""

from collections.abc import Sequence
from typing import Any

import pytest


def slow(*cases: Any) -> list[Any]:
    """Return cases of a parameter, or tuples of several, that `make test-fast` leaves out."""
    return _marked(pytest.mark.slow, cases)


def xslow(*cases: Any) -> list[Any]:
    """Return cases that `make test` leaves out too."""
    return _marked(pytest.mark.xslow, cases)


def _marked(mark: pytest.MarkDecorator, cases: Sequence[Any]) -> list[Any]:
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark) for case in cases
    ]

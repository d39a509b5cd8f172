import os
import signal
import threading
from collections.abc import Iterator

import pytest

from stage1_extract.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Start from Python's own handler: a job in a shell's background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_check_even_where_python_would_drop_it() -> None:
    class Pressing:
        def __del__(self) -> None:
            press()

    with deferred_interrupt() as check:
        check()
        Pressing()
        with pytest.raises(KeyboardInterrupt):
            check()


def test_a_second_ctrl_c_does_not_wait() -> None:
    with deferred_interrupt():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    def enter() -> None:
        with deferred_interrupt() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]

import os
import signal
import threading

import pytest

from stage1_extract.interrupt import deferred_interrupt

pytestmark = pytest.mark.usefixtures("ctrl_c_raises")


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_check_even_where_python_would_drop_it() -> None:
    class Pressing:
        def __del__(self) -> None:
            press()

    reached = []

    def work() -> None:
        with deferred_interrupt() as check:
            check()
            Pressing()
            reached.append("check")
            check()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["check"]


def test_ctrl_c_after_the_last_check_is_raised_at_the_end() -> None:
    reached = []

    def work() -> None:
        with deferred_interrupt() as check:
            check()
            press()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_within_each_other_share_a_ctrl_c() -> None:
    reached = []

    def work() -> None:
        with deferred_interrupt():
            with deferred_interrupt():
                press()
                reached.append("inner end")
            with deferred_interrupt() as check:
                reached.append("next")
                check()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["inner end", "next"]


def test_an_error_of_the_block_is_not_hidden_by_a_ctrl_c() -> None:
    def work() -> None:
        with deferred_interrupt():
            press()
            raise ValueError("full disk")

    with pytest.raises(ValueError, match="full disk"):
        work()


def test_a_second_ctrl_c_does_not_wait() -> None:
    reached = []

    def work() -> None:
        with deferred_interrupt():
            press()
            reached.append("first")
            press()
            reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["first"]


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

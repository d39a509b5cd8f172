"""What C libraries print: held back, or caught."""

import os

import pytest

from stage1_extract.quiet import StderrTrap, silenced_stderr


def test_what_is_printed_in_the_block_is_caught_once(capfd: pytest.CaptureFixture[str]) -> None:
    trap = StderrTrap()
    for text in ("one", "", "two\nthree"):
        with trap.catching():
            os.write(2, text.encode())
        os.write(2, b".")
        assert trap.take() == text
        assert trap.take() == ""
    trap.close()
    assert capfd.readouterr().err == "..."


def test_what_several_blocks_caught_comes_together() -> None:
    trap = StderrTrap()
    for text in (b"one ", b"two"):
        with trap.catching():
            os.write(2, text)
    assert trap.take() == "one two"
    trap.close()


def test_of_much_the_beginning_is_kept_and_the_room_stays() -> None:
    trap = StderrTrap()
    for _ in range(2):
        with trap.catching():
            for _ in range(100):
                os.write(2, b"x" * 1000)
        assert set(trap.take()) == {"x"}
        assert trap.take() == ""
    trap.close()


def print_and_fail() -> None:
    with silenced_stderr():
        os.write(2, b"the cause")
        raise ValueError("wrong")


def test_held_back_unless_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced_stderr():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match="wrong"):
        print_and_fail()
    assert capfd.readouterr().err == "the cause"

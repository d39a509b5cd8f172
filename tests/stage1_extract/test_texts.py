"""Which texts can stand in a table."""

import pytest

from stage1_extract.texts import is_writable


@pytest.mark.parametrize(
    "text",
    ["", "a b", "3.00\u202fPM", "\u00a0", "\u3000", "\u0915\u094d\u200d\u0937", "ü", "\ue000"],
)
def test_what_names_of_files_hold_is_writable(text: str) -> None:
    assert is_writable(text)


@pytest.mark.parametrize(
    "text", ["a\nb", "\t", "\x00", "\x85", "\udcff", "\u2028", "\u2029", "\u0378"]
)
def test_what_ends_a_line_or_is_no_character_is_not(text: str) -> None:
    assert not is_writable(text)

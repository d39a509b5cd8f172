"""Which texts may name something: all that a line of a table can hold and give back."""

import unicodedata

_UNWRITABLE = {"Cc", "Cs", "Zl", "Zp", "Cn"}
"""Control characters, what is not UTF-8, line and paragraph separators, no characters at all."""


def is_writable(text: str) -> bool:
    """Whether a text can stand in a table as it is.

    `str.isprintable` is stricter: it refuses the no-break spaces that macOS puts into names of
    files, and the joiners that some scripts and emoji need.
    """
    return text.isprintable() or all(map(is_writable_character, text))


def is_writable_character(character: str) -> bool:
    """Whether a text that holds this character can stand in a table."""
    return unicodedata.category(character) not in _UNWRITABLE

"""The examples that end a command's help: the section `Examples:` of its dataclass' docstring."""

import inspect

_HEADING = "\nExamples:\n"


def split_examples(kind: type[object]) -> tuple[str, str]:
    """Return a command's description, and its examples as they end its help, each on a line.

    They are kept out of the description, whose lines are broken anew. Where there are none, the
    second text is empty.
    """
    description, _, examples = inspect.cleandoc(kind.__doc__ or "").partition(_HEADING)
    return description.strip(), f"\nexamples:\n{examples.rstrip()}\n" if examples else ""


def example_lines(kind: type[object]) -> list[str]:
    """Return the commands of the examples."""
    return [line.strip() for line in split_examples(kind)[1].splitlines()[2:]]

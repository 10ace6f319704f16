"""What a configuration key may hold: its type, its range, its unit, in one place.

From a `Key` come the default, the check, the one line that a wrong value gets, and the table in
docs/configuration.md. Recipes declare the keys of their method with it, jaxad's own and others'.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxad.errors import InputError


class Kind(NamedTuple):
    """A type with a range."""

    says: str
    """In words, to follow "give"."""
    accepts: Callable[[Any], bool]
    read: Callable[[str], Any]
    """Reads a value from the command line; ValueError where it can not be one."""


class Key(NamedTuple):
    """One key of a configuration."""

    default: Any
    kind: Kind
    doc: str
    """What it means, with its unit."""


def flag() -> Kind:
    """Make the kind of what is true or false."""

    def read(text: str) -> bool:
        try:
            return {"true": True, "false": False}[text.lower()]
        except KeyError as error:
            raise ValueError(text) from error

    return Kind("True or False", lambda value: type(value) is bool, read)


def integer(*, least: int | None = None, most: int | None = None) -> Kind:
    """Make the kind of whole numbers from `least` to `most`."""

    def accepts(value: Any) -> bool:
        return (
            type(value) is int
            and (least is None or value >= least)
            and (most is None or value <= most)
        )

    return Kind("a whole number" + _range(least, most), accepts, int)


def number(
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """Make the kind of finite numbers from `least` to `most`, or strictly `above` and `below`."""

    def accepts(value: Any) -> bool:
        return (
            type(value) in (int, float)
            and abs(value) <= sys.float_info.max
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    strict = (f" above {above:,}" if above is not None else "") + (
        f", below {below:,}" if below is not None else ""
    )
    return Kind("a number" + _range(least, most) + strict, accepts, float)


def choice(*words: str) -> Kind:
    """Make the kind of one of these words."""
    *others, last = map(repr, words)
    told = f"{', '.join(others)} or {last}" if others else last
    return Kind(told, lambda value: type(value) is str and value in words, str)


def text(*, empty: bool = True) -> Kind:
    """Make the kind of texts: a name, a path, a list of names with commas."""

    def accepts(value: Any) -> bool:
        return type(value) is str and (empty or bool(value)) and "\0" not in value

    return Kind("a text" + ("" if empty else ", not empty"), accepts, str)


def several(
    kind: Kind,
    *,
    count: int | None = None,
    empty: bool = True,
    distinct: bool = False,
    what: str = "values",
) -> Kind:
    """Make the kind of tuples of one kind.

    Args:
        kind: Of every element.
        count: How many; None: any number.
        empty: Whether there may be none.
        distinct: Whether each must be another.
        what: What the elements are, such as "hierarchies 1, 2 and 3".
    """

    def accepts(value: Any) -> bool:
        return (
            type(value) in (tuple, list)
            and (len(value) == count or (not value and empty) or (count is None and bool(value)))
            and all(kind.accepts(element) for element in value)
            and not (distinct and len(set(value)) < len(value))
        )

    def read(given: str) -> tuple[Any, ...]:
        if not given.strip("() ,"):
            return ()
        try:
            with warnings.catch_warnings(action="ignore"):  # of Python's parser
                value = ast.literal_eval(given)
        except _NO_LITERAL:  # names: layer1,layer2
            return tuple(kind.read(part.strip()) for part in given.strip("() ").split(",") if part)
        return _tuples(value) if isinstance(value, (tuple, list)) else (value,)

    number_of = ("any number of" if empty else "one or more") if count is None else str(count)
    told = f"{number_of} {what}, each {kind.says}" + (", none twice" if distinct else "")
    told += ", or () for none" if empty else ""
    return Kind(told, accepts, read)


_NO_LITERAL = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)
"""What `ast.literal_eval` raises of texts."""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (tuple, list)) else value


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:,} to {most:,}"
    if least is not None:
        return f", {least:,} or more"
    return f", at most {most:,}" if most is not None else ""


def check(name: str, key: Key, value: Any) -> None:
    """Refuse a value that a key can not have.

    Raises:
        InputError: With the value, and what the key may hold.
    """
    if not key.kind.accepts(value):
        raise _refusal(name, key, value)


def _refusal(name: str, key: Key, value: Any) -> InputError:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # Python writes no whole number of over 4300 digits
        shown = "of a size that can not be written"
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InputError(f"{name} is {shown}: give {key.kind.says} ({key.doc})")


def read(name: str, key: Key, given: str) -> Any:
    """Read a key's value from the command line.

    Raises:
        InputError: The text is no such value.
    """
    try:
        value = key.kind.read(given)
    except ValueError as error:
        raise _refusal(name, key, given) from error
    check(name, key, value)
    return value


def table(keys: Mapping[str, Key], *, prefix: str = "") -> Sequence[str]:
    """Lines of a Markdown table of keys: name, default, what it may hold, what it means."""
    lines = ["| key | default | may be | meaning |", "|---|---|---|---|"]
    for name, key in keys.items():
        cells = (f"`{prefix}{name}`", f"`{key.default!r}`", key.kind.says, key.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines

"""A pickle machine that can only make plain data and what its caller lists.

Python's own unpickler imports and calls whatever a file names, so a file could run code. This one
knows the opcodes that dicts of arrays, lists and text are made of (protocols 2 to 5, of Python 2
and 3), imports nothing and calls nothing but the caller's own functions.

Every opcode is one step and the steps are bounded. A step takes time and memory in proportion to
the bytes of the file that it consumes; what functions make of text is paid from a budget of the
file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_LONG = 4096  # bytes from which a string is not copied out of the file

# Layout of the argument of the opcodes that carry one number.
_NUMBERS = {
    ord(code): struct.Struct(layout)
    for code, layout in {
        "\x80": "<B",  # PROTO
        "\x95": "<Q",  # FRAME
        "q": "<B",  # BINPUT
        "r": "<I",  # LONG_BINPUT
        "h": "<B",  # BINGET
        "j": "<I",  # LONG_BINGET
        "K": "<B",  # BININT1
        "M": "<H",  # BININT2
        "J": "<i",  # BININT
        "T": "<i",  # BINSTRING
        "U": "<B",  # SHORT_BINSTRING
        "B": "<I",  # BINBYTES
        "C": "<B",  # SHORT_BINBYTES
        "\x96": "<Q",  # BYTEARRAY8
        "X": "<I",  # BINUNICODE
        "\x8c": "<B",  # SHORT_BINUNICODE
    }.items()
}


class RefusalError(Exception):
    """What is wrong with the pickle, in a few words."""


class Function(NamedTuple):
    """Stands for a function that a pickle may call, with the tuple of its arguments."""

    call: Callable[[tuple[Any, ...]], object]


def run_pickle(
    data: bytes,
    *,
    allowed: Mapping[tuple[str, str], object],
    build: Callable[[object, object], None],
    max_steps: int,
) -> Any:
    """Run a pickle from its first byte to its STOP; what follows is passed over.

    Args:
      data: The file's bytes.
      allowed: `(module, name)` of a global -> what stands for it: a `Function` or anything else.
      build: Called with an object and the state that BUILD gives it.
      max_steps: Opcodes to run before giving up.

    Returns:
      The object, made of dict (with keys of str or bytes), list, tuple, int, bool, None, str, bytes
      (of Python 2's str too; a memoryview where longer than 4096) and what `allowed` has made.

    Raises:
      RefusalError: damaged, an opcode or global outside the lists, or over a bound.
    """
    try:
        return _Machine(data, allowed, build).run(max_steps)
    except (IndexError, KeyError, struct.error, UnicodeError):
        # The stack, the marks, the memo or the bytes ran out.
        raise RefusalError("damaged or truncated") from None


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(
        self,
        data: bytes,
        allowed: Mapping[tuple[str, str], object],
        build: Callable[[object, object], None],
    ) -> None:
        self.data = data
        self.allowed = allowed
        self.build = build
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below the open marks
        self.memo: dict[int, Any] = {}
        self.budget = len(data)  # bytes that functions may still make

    def run(self, max_steps: int) -> Any:
        for _ in range(max_steps):
            code = self.data[self.position]
            self.position += 1
            number = 0
            if code in _NUMBERS:
                layout = _NUMBERS[code]
                (number,) = layout.unpack_from(self.data, self.position)
                self.position += layout.size
            stack = self.stack
            match chr(code):
                case "K" | "M" | "J":
                    stack.append(number)
                case "q" | "r":
                    self.memo[number] = stack[-1]
                case "\x94":  # MEMOIZE
                    self.memo[len(self.memo)] = stack[-1]
                case "h" | "j":
                    stack.append(self.memo[number])
                case "U" | "T" | "B" | "C" | "\x96":
                    raw = self.take(number)
                    stack.append(bytes(raw) if len(raw) < _LONG else raw)
                case "X" | "\x8c":
                    stack.append(str(self.take(number), "utf-8"))
                case "(":  # MARK
                    self.below.append(stack)
                    self.stack = []
                case "t":  # TUPLE
                    items = self.to_mark()
                    self.stack.append(tuple(items))
                case ")":  # EMPTY_TUPLE
                    stack.append(())
                case "\x85" | "\x86" | "\x87":  # TUPLE1 to TUPLE3
                    stack.append(tuple(reversed([stack.pop() for _ in range(code - 0x84)])))
                case "}":  # EMPTY_DICT
                    stack.append({})
                case "]":  # EMPTY_LIST
                    stack.append([])
                case "s":  # SETITEM
                    value, key = stack.pop(), stack.pop()
                    _set_items(stack[-1], [key, value])
                case "u":  # SETITEMS
                    items = self.to_mark()
                    _set_items(self.stack[-1], items)
                case "a":  # APPEND
                    value = stack.pop()
                    _extend(stack[-1], [value])
                case "e":  # APPENDS
                    items = self.to_mark()
                    _extend(self.stack[-1], items)
                case "N":  # NONE
                    stack.append(None)
                case "\x88" | "\x89":  # NEWTRUE, NEWFALSE
                    stack.append(code == 0x88)
                case "c":  # GLOBAL
                    stack.append(self.find(self.line(), self.line()))
                case "\x93":  # STACK_GLOBAL
                    name, module = stack.pop(), stack.pop()
                    stack.append(self.find(module, name))
                case "R":  # REDUCE
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self.call(function, arguments))
                case "b":  # BUILD
                    state = stack.pop()
                    self.build(stack[-1], state)
                case "\x80":  # PROTO
                    if not 2 <= number <= 5:
                        raise RefusalError(f"its protocol is {number}")
                case "\x95":  # FRAME
                    pass
                case ".":  # STOP
                    return stack.pop()
                case _:
                    raise RefusalError(f"opcode 0x{code:02x} at byte {self.position - 1}")
        raise RefusalError(f"it takes more than {max_steps} steps")

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if not self.position <= end <= len(self.data):
            raise IndexError
        taken = memoryview(self.data)[self.position : end]
        self.position = end
        return taken

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 100)
        taken = str(self.take(end - self.position), "utf-8")
        self.position += 1
        return taken

    def to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def find(self, module: object, name: object) -> object:
        if type(module) is not str or type(name) is not str:
            raise RefusalError("it names a function by what is no text")
        if (module, name) not in self.allowed:
            raise RefusalError(f"it asks for {f'{module}.{name}'[:100]!a}")
        return self.allowed[module, name]

    def call(self, function: object, arguments: object) -> object:
        if type(function) is not Function or type(arguments) is not tuple:
            raise RefusalError("it calls what is no function")
        made = function.call(arguments)
        if isinstance(made, bytes):
            self.budget -= len(made)
            if self.budget < 0:
                raise RefusalError("it copies its text again and again")
        return made


def _set_items(target: object, items: list[Any]) -> None:
    """Put `[key, value, key, value, ...]` into a dict whose keys are names."""
    if type(target) is not dict or len(items) % 2:
        raise RefusalError("damaged or truncated")
    for key, value in zip(items[::2], items[1::2]):
        if type(key) not in (str, bytes):
            raise RefusalError("a key of its dict is no name")
        target[key] = value


def _extend(target: object, items: list[Any]) -> None:
    if type(target) is not list:
        raise RefusalError("damaged or truncated")
    target.extend(items)

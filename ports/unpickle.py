"""A pickle machine that can only make plain data.

Python's own unpickler imports and calls what the file names, so a weight file could run code. This
one knows the opcodes that `torch.save` writes for checkpoints (protocols 2 to 5), never imports,
never sets an attribute, and calls only the functions that its caller lists. Every opcode and every
item that a call copies costs one step and the steps are bounded, so time and memory are as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from ports.source import DAMAGED, Refusal

MAX_STEPS = 300_000
"""The state dict of EfficientNet-B7 takes 62,000; with Adam's moments and an average, 222,000."""
MAX_TEXT = 4096
"""Bytes of one string that are kept; the longest are parameter names."""
MEND = "save only model.state_dict() with torch.save and bring that file"

OTHER: Final = object()
"""Stands for what may lie beside a state dict and is never made: bytes, sets, long strings, and
whatever `other` is listed for. Items put into it and attributes set on it are dropped."""

_PERSISTENT_STEPS = 4  # a persistent id takes as long as so many opcodes

_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def other(_: tuple[Any, ...]) -> object:
    """Take any arguments and return `OTHER`: for globals that are harmless and not needed."""
    return OTHER


def unpickle(
    data: bytes,
    start: int,
    *,
    allowed: Mapping[tuple[str, str], Any],
    reasons: Mapping[tuple[str, str], str],
    persistent_load: Callable[[object], object],
    max_steps: int = MAX_STEPS,
) -> tuple[Any, int]:
    """Run one pickle that begins at `start`.

    Args:
        data: the bytes that hold the pickle; more may follow it.
        start: position of its first byte.
        allowed: `(module, name)` of a global -> what stands for it. A function among these is
            called with the argument tuple of REDUCE or NEWOBJ as its one argument; nothing else
            can ever be called, for the machine makes nothing else that is callable.
        reasons: `(module, name)` of globals that are refused -> the line that says why.
        persistent_load: turns a persistent id into an object.
        max_steps: opcodes to run, and items to copy, before giving up.

    Returns:
        The object and the position behind the pickle. Dicts of any kind become `dict`; attributes
        set on them (torch's `_metadata`) are dropped. Dict keys are str, int below 2^31, or
        `OTHER` for any other kind.

    Raises:
        Refusal: damaged, an opcode or global outside the allow-list, or over a bound.
    """
    machine = _Machine(data, start, allowed, reasons, persistent_load)
    try:
        return machine.run(max_steps), machine.position
    except (EOFError, struct.error):
        raise Refusal(f"its pickle ends early; {DAMAGED}") from None
    except (IndexError, KeyError, UnicodeDecodeError):
        # The stack, the marks or the memo ran out, or a string is no UTF-8.
        raise Refusal(f"its pickle is damaged at byte {machine.position}; {DAMAGED}") from None


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(
        self,
        data: bytes,
        start: int,
        allowed: Mapping[tuple[str, str], Any],
        reasons: Mapping[tuple[str, str], str],
        persistent_load: Callable[[object], object],
    ) -> None:
        self.data = data
        self.position = start
        self.steps = 0
        self.allowed = allowed
        self.reasons = reasons
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the open marks
        self.memo: dict[int, Any] = {}

    def run(self, max_steps: int) -> Any:
        data, size, operations = self.data, len(self.data), _OPERATIONS
        while True:
            self.steps += 1
            if self.steps > max_steps:
                raise Refusal(f"its pickle takes more than {max_steps} steps; {MEND}")
            if self.position >= size:
                raise EOFError
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            if code not in operations:
                raise Refusal(
                    f"its pickle has opcode 0x{code:02x} at {self.position - 1}, "
                    f"which no state dict needs: damaged, or else {MEND}"
                )
            operations[code](self)

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def take(self, count: int) -> bytes:
        start = self.position
        self.skip(count)
        return self.data[start : self.position]

    def skip(self, count: int) -> None:
        if not 0 <= count <= len(self.data) - self.position:
            raise EOFError
        self.position += count

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_two(self) -> tuple[Any, Any]:
        last = self.stack.pop()
        return self.stack.pop(), last

    def push_text(self, count: int, encoding: str) -> None:
        if count > MAX_TEXT:
            self.push_skipped(count)
        else:
            self.stack.append(self.take(count).decode(encoding))

    def push_skipped(self, count: int) -> None:
        self.skip(count)
        self.stack.append(OTHER)

    def push_mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def push_tuple(self, count: int) -> None:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [tuple(items)]

    def to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def marked_tuple(self) -> None:
        items = tuple(self.to_mark())
        self.stack.append(items)

    def marked_other(self) -> None:
        self.to_mark()
        self.stack.append(OTHER)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def set_items(self, items: list[Any]) -> None:
        if self.stack[-1] is not OTHER:
            set_items(self.stack[-1], items)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif target is not OTHER:
            raise Refusal(f"its pickle adds items to what is no list; {DAMAGED}")

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_TEXT)
        if end < 0:
            raise IndexError
        line = self.take(end - self.position).decode("utf-8")
        self.position += 1
        return line

    def find(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refusal(f"its pickle names a global by no string; {DAMAGED}")
        if (module, name) not in self.allowed:
            shown = ascii(f"{module[:100]}.{name[:100]}"[:100])
            why = self.reasons.get((module, name), f"which is no part of a state dict; {MEND}")
            raise Refusal(f"its pickle asks for {shown}, {why}")
        self.stack.append(self.allowed[module, name])

    def reduce(self) -> None:
        function, arguments = self.pop_two()
        if type(arguments) is not tuple or not callable(function):
            raise Refusal(f"its pickle calls what is no function; {DAMAGED}")
        # A list that is copied again and again through the memo is paid each time.
        self.steps += len(arguments)
        self.steps += sum(len(a) for a in arguments if type(a) in (list, tuple, dict))
        self.stack.append(function(arguments))

    def build(self) -> None:
        self.stack.pop()
        if type(self.stack[-1]) is not dict and self.stack[-1] is not OTHER:
            raise Refusal(f"its pickle sets attributes of an object; {MEND}")

    def persistent(self) -> None:
        self.steps += _PERSISTENT_STEPS
        self.stack.append(self.persistent_load(self.stack.pop()))

    def protocol(self) -> None:
        version = self.number(_U1)
        if not 2 <= version <= 5:
            raise Refusal(f"its pickle has protocol {version}, which torch does not write; {MEND}")


_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: lambda m: m.skip(8),  # FRAME
    # memo: BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
    ord("q"): lambda m: m.put(m.number(_U1)),
    ord("r"): lambda m: m.put(m.number(_U4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(_U1)),
    ord("j"): lambda m: m.get(m.number(_U4)),
    # numbers: BININT1, BININT2, BININT, BINFLOAT, LONG1; NONE, NEWTRUE, NEWFALSE
    ord("K"): lambda m: m.push(m.number(_U1)),
    ord("M"): lambda m: m.push(m.number(_U2)),
    ord("J"): lambda m: m.push(m.number(_I4)),
    ord("G"): lambda m: m.push(m.number(_F8)),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.number(_U1)), "little", signed=True)),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    # strings: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; of Python 2: BINSTRING, SHORT_BINSTRING
    ord("X"): lambda m: m.push_text(m.number(_U4), "utf-8"),
    0x8C: lambda m: m.push_text(m.number(_U1), "utf-8"),
    0x8D: lambda m: m.push_text(m.number(_U8), "utf-8"),
    ord("T"): lambda m: m.push_text(m.number(_I4), "latin-1"),
    ord("U"): lambda m: m.push_text(m.number(_U1), "latin-1"),
    # bytes: BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
    ord("B"): lambda m: m.push_skipped(m.number(_U4)),
    ord("C"): lambda m: m.push_skipped(m.number(_U1)),
    0x8E: lambda m: m.push_skipped(m.number(_U8)),
    0x96: lambda m: m.push_skipped(m.number(_U8)),
    # sets: EMPTY_SET, ADDITEMS, FROZENSET
    0x8F: lambda m: m.push(OTHER),
    0x90: lambda m: m.extend(m.to_mark()),
    0x91: _Machine.marked_other,
    # tuples: MARK, TUPLE, EMPTY_TUPLE, TUPLE1 to TUPLE3
    ord("("): _Machine.push_mark,
    ord("t"): _Machine.marked_tuple,
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.push_tuple(1),
    0x86: lambda m: m.push_tuple(2),
    0x87: lambda m: m.push_tuple(3),
    # dicts and lists: EMPTY_DICT, SETITEM, SETITEMS, EMPTY_LIST, APPEND, APPENDS
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.set_items([*m.pop_two()]),
    ord("u"): lambda m: m.set_items(m.to_mark()),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.to_mark()),
    # objects: GLOBAL, STACK_GLOBAL, REDUCE, NEWOBJ, BUILD, BINPERSID
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: lambda m: m.find(*m.pop_two()),
    ord("R"): _Machine.reduce,
    0x81: _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}


def set_items(target: object, items: list[Any]) -> None:
    """Put `[key, value, key, value, ...]` into a dict.

    Keys are str or small int: the hash of a nested tuple recurses once per level, and large ints
    can be chosen to have all the same hash. Any other key becomes `OTHER`.

    Raises:
        Refusal: not a dict, or an odd count.
    """
    if type(target) is not dict or len(items) % 2:
        raise Refusal(f"its pickle sets items of what is no dict; {DAMAGED}")
    for key, value in zip(items[::2], items[1::2]):
        sound = type(key) is str or (type(key) is int and abs(key) < 2**31)
        target[key if sound else OTHER] = value

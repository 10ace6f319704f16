"""A pickle machine that can only make plain data.

Python's own unpickler imports and calls what the file names, so a weight file could run code. This
one knows the 37 opcodes that `torch.save` writes for dicts of tensors (protocols 2 to 5), never
imports, never sets an attribute, and calls only the functions that its caller lists. Every opcode
costs one step and the steps are bounded, so time and memory are as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ports.source import DAMAGED, Refusal

MAX_STEPS = 250_000
"""The state dict of EfficientNet-B7 takes 44,000, a checkpoint with Adam's moments 107,000."""
MAX_TEXT = 4096
"""Bytes of one string; the longest are parameter names."""
MEND = "save only model.state_dict() with torch.save and bring that file"

# Layout of the argument of the opcodes that carry one number.
_NUMBERS: dict[bytes, str] = {
    b"\x80": "<B",  # PROTO
    b"\x95": "<Q",  # FRAME
    b"q": "<B",  # BINPUT
    b"r": "<I",  # LONG_BINPUT
    b"h": "<B",  # BINGET
    b"j": "<I",  # LONG_BINGET
    b"K": "<B",  # BININT1
    b"M": "<H",  # BININT2
    b"J": "<i",  # BININT
    b"G": ">d",  # BINFLOAT
    b"X": "<I",  # BINUNICODE
    b"\x8c": "<B",  # SHORT_BINUNICODE
    b"T": "<i",  # BINSTRING
    b"U": "<B",  # SHORT_BINSTRING
    b"\x8a": "<B",  # LONG1
}


def unpickle(
    data: bytes,
    start: int,
    *,
    allowed: Mapping[tuple[str, str], Any],
    persistent_load: Callable[[object], object],
    max_steps: int = MAX_STEPS,
) -> tuple[Any, int]:
    """Run one pickle that begins at `start`.

    Args:
        data: the bytes that hold the pickle; more may follow it.
        start: position of its first byte.
        allowed: `(module, name)` of a global -> what stands for it. A function among these is
            called with the argument tuple of REDUCE as its one argument; nothing else can ever be
            called, for the machine makes nothing else that is callable.
        persistent_load: turns a persistent id into an object.
        max_steps: opcodes to run, and items to copy, before giving up.

    Returns:
        The object and the position behind the pickle. Dicts of any kind become `dict`; attributes
        set on them (torch's `_metadata`) are dropped.

    Raises:
        Refusal: damaged, an opcode or global outside the allow-list, or over a bound.
    """
    machine = _Machine(data, start, allowed, persistent_load)
    try:
        return machine.run(max_steps), machine.position
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        # The stack, the marks, the memo or the bytes ran out.
        raise Refusal(DAMAGED) from None


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(
        self,
        data: bytes,
        start: int,
        allowed: Mapping[tuple[str, str], Any],
        persistent_load: Callable[[object], object],
    ) -> None:
        self.data = data
        self.position = start
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the open marks
        self.memo: dict[int, Any] = {}

    def run(self, max_steps: int) -> Any:
        steps = 0
        while True:
            steps += 1
            if steps > max_steps:
                raise Refusal(f"its pickle takes more than {max_steps} steps; {MEND}")
            code = self.take(1)
            layout = _NUMBERS.get(code)
            number = struct.unpack(layout, self.take(struct.calcsize(layout)))[0] if layout else 0
            stack = self.stack
            match code:
                case b"q" | b"r":  # BINPUT, LONG_BINPUT
                    self.memo[number] = stack[-1]
                case b"\x94":  # MEMOIZE
                    self.memo[len(self.memo)] = stack[-1]
                case b"h" | b"j":  # BINGET, LONG_BINGET
                    stack.append(self.memo[number])
                case b"K" | b"M" | b"J" | b"G":
                    stack.append(number)
                case b"X" | b"\x8c":
                    stack.append(self.text(number, "utf-8"))
                case b"U" | b"T":  # str of Python 2
                    stack.append(self.text(number, "latin-1"))
                case b"\x8a":
                    stack.append(int.from_bytes(self.take(number), "little", signed=True))
                case b"(":  # MARK
                    self.outer.append(stack)
                    self.stack = []
                case b"t":  # TUPLE
                    items = self.to_mark()
                    self.stack.append(tuple(items))
                case b")":  # EMPTY_TUPLE
                    stack.append(())
                case b"\x85" | b"\x86" | b"\x87":  # TUPLE1 to TUPLE3
                    stack.append(tuple(reversed([stack.pop() for _ in range(code[0] - 0x84)])))
                case b"}":  # EMPTY_DICT
                    stack.append({})
                case b"]":  # EMPTY_LIST
                    stack.append([])
                case b"s":  # SETITEM
                    value, key = stack.pop(), stack.pop()
                    set_items(stack[-1], [key, value])
                case b"u":  # SETITEMS
                    items = self.to_mark()
                    set_items(self.stack[-1], items)
                case b"a":  # APPEND
                    value = stack.pop()
                    _extend(stack[-1], [value])
                case b"e":  # APPENDS
                    items = self.to_mark()
                    _extend(self.stack[-1], items)
                case b"N":  # NONE
                    stack.append(None)
                case b"\x88" | b"\x89":  # NEWTRUE, NEWFALSE
                    stack.append(code == b"\x88")
                case b"c":  # GLOBAL
                    stack.append(self.find(self.line(), self.line()))
                case b"\x93":  # STACK_GLOBAL
                    name, module = stack.pop(), stack.pop()
                    stack.append(self.find(module, name))
                case b"R":  # REDUCE
                    arguments, function = stack.pop(), stack.pop()
                    if type(arguments) is not tuple or not callable(function):
                        raise Refusal(DAMAGED)
                    # A list that is copied again and again through the memo is paid each time.
                    steps += len(arguments)
                    steps += sum(len(a) for a in arguments if type(a) in (list, tuple, dict))
                    stack.append(function(arguments))
                case b"b":  # BUILD
                    stack.pop()
                    if type(stack[-1]) is not dict:
                        raise Refusal(f"its pickle sets attributes of an object; {MEND}")
                case b"Q":  # BINPERSID
                    stack.append(self.persistent_load(stack.pop()))
                case b"\x80" | b"\x95":  # PROTO, FRAME
                    if code == b"\x80" and not 2 <= number <= 5:
                        raise Refusal(DAMAGED)
                case b".":  # STOP
                    return stack.pop()
                case _:
                    raise Refusal(
                        f"its pickle has opcode 0x{code[0]:02x} at {self.position - 1}, "
                        f"which no state dict needs: damaged, or else {MEND}"
                    )

    def take(self, count: int) -> bytes:
        end = self.position + count
        if not self.position <= end <= len(self.data):
            raise IndexError
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def text(self, count: int, encoding: str) -> str:
        if count > MAX_TEXT:
            raise Refusal(f"its pickle has a string of {count} bytes; damaged, or else {MEND}")
        return self.take(count).decode(encoding)

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_TEXT)
        taken = self.take(end - self.position).decode("utf-8")
        self.position += 1
        return taken

    def to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def find(self, module: object, name: object) -> Any:
        if type(module) is not str or type(name) is not str:
            raise Refusal(DAMAGED)
        if (module, name) not in self.allowed:
            shown = ascii(f"{module}.{name}"[:100])
            raise Refusal(f"its pickle asks for {shown}, which is no part of a state dict; {MEND}")
        return self.allowed[module, name]


def set_items(target: object, items: list[Any]) -> None:
    """Put `[key, value, key, value, ...]` into a dict.

    Keys are str or small int: the hash of a nested tuple recurses once per level, and large ints
    can be chosen to have all the same hash.

    Raises:
        Refusal: not a dict, an odd count, or another kind of key.
    """
    if type(target) is not dict or len(items) % 2:
        raise Refusal(DAMAGED)
    for key, value in zip(items[::2], items[1::2]):
        if not (type(key) is str or (type(key) is int and abs(key) < 2**31)):
            raise Refusal(
                f"its pickle has a dict key that is no name (a {type(key).__name__}); {MEND}"
            )
        target[key] = value


def _extend(target: object, items: list[Any]) -> None:
    if type(target) is not list:
        raise Refusal(DAMAGED)
    target.extend(items)

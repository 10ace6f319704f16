"""A pickle machine that can only make plain data, and what its caller makes for it.

Python's own unpickler imports and calls what a file names. `pickle.Unpickler.find_class` could
forbid that, but bounds nothing: nine bytes make it take gigabytes (the memo is a list as long as
the largest index), a tuple nested in a tuple 300,000 times and used as a key ends the process, and
520 kB of integers with one hash take 13 s. This machine knows the opcodes that dicts of arrays,
numbers and text are made of (protocols 2 to 5, of Python 2 and 3; all that `torch.save` and
CIFAR-10 write), imports nothing, sets no attribute and calls only functions of its caller.

Every opcode is one step, so is every item that a call is given, and steps are bounded. A step takes
time and memory in proportion to the bytes of the file that it consumes; what functions make of text
is paid from a budget of the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

OTHER: Final = object()
"""Stands for what is never made: sets, texts that are too long, and what a caller puts it for.
Items put into it and attributes set on it are dropped."""

SHORT = 4096
"""Bytes up to which a byte string is copied out of the file, and of a line."""

_PERSISTENT_STEPS = 4  # a persistent id takes as long as so many opcodes
_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


class RefusalError(Exception):
    """What is not done here, in a few words: "its pickle asks for 'os.system'"."""


class DamageError(RefusalError):
    """How the pickle contradicts itself, in a few words."""


def run_pickle(
    data: bytes,
    start: int = 0,
    *,
    find: Callable[[str, str], object],
    build: Callable[[object, object], None],
    persistent_load: Callable[[object], object] | None = None,
    max_steps: int,
    max_text: int,
) -> tuple[Any, int]:
    """Run one pickle from byte `start` to its STOP.

    Args:
      data: The bytes that hold the pickle; more may follow it.
      start: Position of its first byte.
      find: `find(module, name)` -> what stands for a global. A function among these is called with
        the argument tuple of REDUCE or NEWOBJ as its one argument; nothing else can ever be called,
        for the machine makes nothing else that is callable.
      build: `build(target, state)`: BUILD, for a target other than `OTHER`.
      persistent_load: Turns a persistent id into an object; None: such ids are refused.
      max_steps: Opcodes to run, and items to hand on, before giving up.
      max_text: Bytes of a text that is made; a longer one becomes `OTHER`.

    Returns:
      The object and the position behind the pickle. It is made of dict, list, tuple, int, float,
      bool, None, str (of Python 2's too, byte by byte), byte strings (a memoryview where longer
      than `SHORT`), `OTHER` and what `find` gave and made. Keys of dicts are str, bytes, int below
      2^31, or `OTHER` for any other kind.

    Raises:
      RefusalError: An opcode that is not known, a global or call that is not allowed, or over a
        bound; whatever else `find`, `build`, `persistent_load` and functions raise.
      DamageError: Damaged.
    """
    machine = _Machine(data, start, find, build, persistent_load, max_text)
    try:
        return machine.run(max_steps), machine.position
    except (EOFError, struct.error):
        raise DamageError("its pickle ends early") from None
    except (IndexError, KeyError, UnicodeError):
        # The stack, the marks or the memo ran out, or a text is none.
        raise DamageError(f"its pickle is damaged at byte {machine.position}") from None


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(
        self,
        data: bytes,
        start: int,
        find: Callable[[str, str], object],
        build: Callable[[object, object], None],
        persistent_load: Callable[[object], object] | None,
        max_text: int,
    ) -> None:
        self.data = data
        self.position = start
        self.steps = 0
        self.find_global = find
        self.build_object = build
        self.persistent_load = persistent_load
        self.max_text = max_text
        self.budget = len(data)  # bytes that functions may still make
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the open marks
        self.memo: dict[int, Any] = {}  # a dict, for the file chooses the numbers

    def run(self, max_steps: int) -> Any:
        data, size, operations = self.data, len(self.data), _OPERATIONS
        while True:
            self.steps += 1
            if self.steps > max_steps:
                raise RefusalError(f"its pickle takes more than {max_steps} steps")
            if self.position >= size:
                raise EOFError
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.stack.pop()
            if code not in operations:
                raise RefusalError(
                    f"its pickle has opcode 0x{code:02x} at byte {self.position - 1}"
                )
            operations[code](self)

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if not self.position <= end <= len(self.data):
            raise EOFError
        taken = memoryview(self.data)[self.position : end]
        self.position = end
        return taken

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_two(self) -> tuple[Any, Any]:
        last = self.stack.pop()
        return self.stack.pop(), last

    def push_text(self, count: int, encoding: str) -> None:
        taken = self.take(count)
        self.stack.append(str(taken, encoding) if count <= self.max_text else OTHER)

    def push_bytes(self, count: int) -> None:
        taken = self.take(count)
        self.stack.append(bytes(taken) if count <= SHORT else taken)

    def push_python_2(self, count: int) -> None:
        """A `str` of Python 2 may be text or bytes; long ones are bytes."""
        if count > SHORT:
            self.push_bytes(count)
        else:
            self.push_text(count, "latin-1")

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
            raise DamageError("its pickle adds items to what is no list")

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + SHORT)
        if end < 0:
            raise IndexError
        line = str(self.take(end - self.position), "utf-8")
        self.position += 1
        return line

    def find(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise DamageError("its pickle names a global by no text")
        self.stack.append(self.find_global(module, name))

    def reduce(self) -> None:
        function, arguments = self.pop_two()
        if type(arguments) is not tuple or not callable(function):
            raise DamageError("its pickle calls what is no function")
        # A list that is copied again and again through the memo is paid each time.
        self.steps += len(arguments)
        self.steps += sum(len(a) for a in arguments if type(a) in (list, tuple, dict))
        made = function(arguments)
        if isinstance(made, bytes):
            self.budget -= len(made)
            if self.budget < 0:
                raise RefusalError("its pickle copies its text again and again")
        self.stack.append(made)

    def build(self) -> None:
        state = self.stack.pop()
        if self.stack[-1] is not OTHER:
            self.build_object(self.stack[-1], state)

    def persistent(self) -> None:
        if self.persistent_load is None:
            raise RefusalError("its pickle refers to what is not in it")
        self.steps += _PERSISTENT_STEPS
        self.stack.append(self.persistent_load(self.stack.pop()))

    def protocol(self) -> None:
        version = self.number(_U1)
        if not 2 <= version <= 5:
            raise RefusalError(f"its pickle has protocol {version}")


_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: _Machine.protocol,
    0x95: lambda m: m.take(8),  # FRAME
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
    # text: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; of Python 2: BINSTRING, SHORT_BINSTRING
    ord("X"): lambda m: m.push_text(m.number(_U4), "utf-8"),
    0x8C: lambda m: m.push_text(m.number(_U1), "utf-8"),
    0x8D: lambda m: m.push_text(m.number(_U8), "utf-8"),
    ord("T"): lambda m: m.push_python_2(m.number(_I4)),
    ord("U"): lambda m: m.push_python_2(m.number(_U1)),
    # bytes: BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
    ord("B"): lambda m: m.push_bytes(m.number(_U4)),
    ord("C"): lambda m: m.push_bytes(m.number(_U1)),
    0x8E: lambda m: m.push_bytes(m.number(_U8)),
    0x96: lambda m: m.push_bytes(m.number(_U8)),
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

    The hash of a nested tuple recurses once per level, and large ints can be chosen to have all the
    same hash, so any key but text, short bytes and small int becomes `OTHER`.

    Raises:
      DamageError: Not a dict, or an odd count.
    """
    if type(target) is not dict or len(items) % 2:
        raise DamageError("its pickle sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2]):
        sound = type(key) in (str, bytes) or (type(key) is int and abs(key) < 2**31)
        target[key if sound else OTHER] = value

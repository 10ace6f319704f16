"""Fuzz of the reader of `.pth` files: over 2,000 hostile files, none of which comes to anything.

Damage, pickles that want to run code, recursion; `test_zip_fuzz` has archives and tensors that lie.
Every case ends within a second of processor time and a GB of memory, opens no file but its own,
imports and runs nothing, and gives arrays or exactly one line that names the file. The cases are
the same in every run. To look further, with other seeds, run 50 times as many:

    JAXAD_FUZZ=50 python -m pytest tests/ports/test_torch_file_fuzz.py tests/ports/test_zip_fuzz.py
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_cases import CASES, FLIPS, TIMES, Flips, check, flipped, fuzz
from hypothesis import given
from hypothesis import strategies as st
from torch_bytes import (
    FLOATS,
    FOUR,
    GOLDEN,
    LONGS,
    MAGIC,
    NAMESPACE,
    ORDERED,
    PARAMETER,
    REBUILD,
    STATE,
    STREAM,
    VERSION,
    ZIP,
    dict_,
    number,
    one_stream,
    one_zip,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "case.pth"


# --- Damage ---

FILES = [ZIP, STREAM, *(path.read_bytes() for path in sorted(GOLDEN.glob("*.pth")))]


@fuzz(500)
@given(data=st.sampled_from(FILES), flips=FLIPS, cut=st.none() | st.integers(0, 2**20))
def test_fuzz_flips_and_truncations(path: Path, data: bytes, flips: Flips, cut: int | None) -> None:
    check(path, flipped(data, flips)[: None if cut is None else cut % len(data)])


STARTS = [b"", b"PK\x03\x04", b"\x80\x02", STREAM[:14]]
# HDF5 is read in a child process, which the watch would see; its tests are in test_hdf5.
TAILS = st.binary().filter(lambda tail: not tail.startswith(b"\x89HDF"))


@fuzz(150)
@given(start=st.sampled_from(STARTS), tail=TAILS)
def test_fuzz_random_bytes(path: Path, start: bytes, tail: bytes) -> None:
    assert check(path, start + tail)


# --- Pickles ---

FRAGMENTS = [
    *(b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a", b"e", b"b", b"R"),
    *(b"Q", b"N", b"\x88", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", b"\x93", b"\x81", b"."),
    *(b"\x80\x02", b"\x95" + bytes(8), b"2", b"0", b"1", b"o", b"\x82\x01", b"\x8b\x01\0\0\0\x01"),
    *(b"\x8f", b"\x90", b"\x91", b"C\x01a", b"B\x01\0\0\0a", b"\x96\x01" + bytes(7) + b"a"),
    *(ORDERED, REBUILD, PARAMETER, NAMESPACE, b"ctorch\nHalfStorage\n", b"ctorch\nfloat32\n"),
    *(b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\nscalar\n"),
    *(text("a"), text("storage"), text("0"), number(0), number(4), number(-1), number(2**64)),
    *(storage("0", 4), FOUR, b"cos\nmkdir\n", b"G" + b"\x7f" * 8, text("x" * 5000)),
]


@fuzz(350)
@given(
    flips=FLIPS,
    insert=st.none() | st.tuples(st.integers(0, len(STATE)), st.sampled_from(FRAGMENTS)),
)
def test_fuzz_pickle_inside_a_sound_zip(
    path: Path, flips: Flips, insert: tuple[int, bytes] | None
) -> None:
    """The CRC is right, so the damage reaches the pickle machine."""
    state = flipped(STATE, flips)
    if insert:
        state = state[: insert[0]] + insert[1] + state[insert[0] :]
    check(path, zip_file(state, {"0": FLOATS.tobytes(), "1": LONGS.tobytes()}))


@fuzz(300)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_fuzz_programs_of_opcodes(path: Path, parts: list[bytes]) -> None:
    program = b"".join(parts)
    check(path, one_zip(program))
    check(path, one_stream(dict_({"w": program})))


# --- Code that wants to run ---

TARGETS = [
    *("os.system", "posix.system", "nt.system", "os.mkdir", "posix.mkdir", "os.putenv", "os.execv"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.open", "builtins.getattr"),
    *("__builtin__.eval", "__builtin__.__import__", "builtins.breakpoint", "builtins.type"),
    *("subprocess.Popen", "subprocess.check_output", "commands.getoutput", "pty.spawn"),
    *("functools.partial", "functools.reduce", "operator.attrgetter", "operator.methodcaller"),
    *("importlib.import_module", "runpy.run_path", "runpy._run_code", "timeit.timeit", "pdb.run"),
    *(
        "pickle.loads",
        "_pickle.loads",
        "marshal.loads",
        "copyreg.__newobj__",
        "copyreg.add_extension",
    ),
    *("types.FunctionType", "types.CodeType", "ctypes.CDLL", "code.InteractiveInterpreter"),
    *("webbrowser.open", "shutil.rmtree", "pathlib.Path.unlink", "socket.create_connection"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch._utils._import_dotted_name"),
    *("numpy.load", "numpy.memmap", "numpy.testing._private.utils.runstring", "numpy.f2py.compile"),
    *("collections.namedtuple", "collections.OrderedDict.fromkeys", "collections.__builtins__"),
    *("ports.torch_file.read", "jaxad.main.main", "sys.modules", "__main__.x", ".os", "os.", "."),
    *("OS.system", "os .system", "os\0.system", "оs.system", "torch._utils._rebuild_tensor_v2.x"),
]


def called(target: str, how: str, argument: str) -> bytes:
    """Opcodes that call `target` with one string, in one of the ways that pickle knows."""
    module, _, name = target.rpartition(".")
    known = f"c{module}\n{name}\n".encode()
    stacked = text(module) + text(name) + b"\x93"
    one = text(argument) + b"\x85"
    quoted = f"S'{argument}'\n".encode()
    return {
        "reduce": known + one + b"R",
        "stack": stacked + one + b"R",
        "memo": text(name) + b"q\x07" + text(module) + b"h\x07\x93q\x08h\x08" + one + b"R",
        "inst": b"(" + quoted + f"i{module}\n{name}\n".encode(),
        "object": b"(" + known + text(argument) + b"o",
        "new": known + one + b"\x81",
        "new with keywords": known + one + b"}\x92",
        "build": known + b")\x81" + dict_({"__setstate__": text(argument)}) + b"b",
        "state of a dict": ORDERED + b")R" + dict_({"__reduce__": known + one + b"R"}) + b"b",
        "state of a stand-in": NAMESPACE + b")\x81" + dict_({"x": stacked + one + b"R"}) + b"b",
        "class of a stand-in": NAMESPACE + b")\x81" + dict_({"__class__": known}) + b"b",
        "argument": b"ccollections\ndefaultdict\n" + known + b"\x85R",
        "text of a number": b"c_codecs\nencode\n" + known + b"\x85R",
        "alone": known,
        "fourth protocol": b"\x80\x04\x95" + bytes(8) + stacked + b"\x94" + one + b"R",
    }[how]


HOWS = (
    *("reduce", "stack", "memo", "inst", "object", "new", "new with keywords", "build", "alone"),
    *("state of a dict", "state of a stand-in", "class of a stand-in", "argument"),
    *("text of a number", "fourth protocol"),
)
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "root": lambda call: call,
    "value": lambda call: dict_({"w": call}),
    "beside": lambda call: dict_({"state_dict": dict_({"w": FOUR}), "args": call}),
    "key": lambda call: b"}" + call + FOUR + b"s",
    "attributes": lambda call: dict_({"w": FOUR}) + call + b"b",
    "storage": lambda call: dict_({"w": tensor(call + b"Q", (4,), (1,))}),
    "storage type": lambda call: (
        tuple_(text("storage"), call, text("0"), text("cpu"), b"K\x04") + b"Q"
    ),
    "size": lambda call: REBUILD + tuple_(storage("0", 4), b"K\x00", call, call) + b"R",
    "hooks": lambda call: dict_(
        {"w": REBUILD + tuple_(storage("0", 4), b"K\x00", b")", b")", b"\x89", call) + b"R"}
    ),
    "parameter": lambda call: dict_({"w": PARAMETER + tuple_(FOUR, b"\x88", call) + b"R"}),
    "dropped": lambda call: call + b"0" + dict_({"w": FOUR}),
    "behind": lambda call: dict_({"w": FOUR}) + b"q\x00" + call + b"h\x00",
}


@fuzz(400)
@given(
    target=st.sampled_from(TARGETS),
    how=st.sampled_from(HOWS),
    place=st.sampled_from(list(PLACES)),
    container=st.sampled_from(["zip", "stream", "magic", "version", "info", "keys", "bare"]),
)
def test_fuzz_calls(path: Path, target: str, how: str, place: str, container: str) -> None:
    """No target is on the allow-list, so none of these files gives arrays."""
    call = called(target, how, "touch ran")
    state = PLACES[place](call)
    pickles = {"magic": MAGIC, "version": VERSION, "info": b"}", "state": state, "keys": b"]"}
    if container in pickles:
        pickles[container] = call + b"0" + pickles[container]
    stream = b"".join(b"\x80\x02" + pickle + b"." for pickle in pickles.values())
    if container == "zip":
        data = one_zip(state)
    elif container == "stream":
        data = one_stream(state)
    else:
        data = b"\x80\x02" + state + b"." if container == "bare" else stream
    assert check(path, data)


class Runs:
    """Its pickle calls the builtin whose name it was given."""

    def __init__(self, target: Callable[..., object], argument: object) -> None:
        self.reduced = (target, (argument,))

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


@fuzz(100)
@given(
    target=st.sampled_from([os.system, os.mkdir, eval, exec, pickle.loads, __import__, open]),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    depth=st.integers(0, 3),
    extension=st.sampled_from([b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"]),
)
def test_fuzz_nested_pickles(
    path: Path,
    target: Callable[..., object],
    protocol: int,
    depth: int,
    extension: bytes,
) -> None:
    """A pickle that unpickles its own bytes; pickled by Python itself, in each place it may lie."""
    payload = pickle.dumps(Runs(target, "ran"), protocol)
    for _ in range(depth):
        payload = pickle.dumps(Runs(pickle.loads, payload), protocol)
    state = dict_({"w": FOUR})
    assert check(path, payload)
    assert check(path, one_stream(payload[2:-1] if protocol > 1 else payload[:-1]))
    assert check(path, one_zip(dict_({"w": extension + b")R"})))
    # As bytes it is never looked at, in the archive neither.
    inert = b"B" + struct.pack("<I", len(payload)) + payload
    assert not check(path, one_zip(dict_({"state_dict": state, "blob": inert})))
    assert not check(
        path, zip_file(state, {"0": bytes(16)}, **{"evil/data": payload, "x.py": payload})
    )


# --- Recursion ---

NESTS: dict[str, Callable[[int], bytes]] = {
    "tuples": lambda depth: b")" + b"\x85" * depth,
    "marked tuples": lambda depth: b"(" * depth + b"t" * depth,
    "lists": lambda depth: b"]" * depth + b"a" * (depth - 1),
    "dicts": lambda depth: b"}" + b"K\x01}" * depth + b"s" * depth,
    "ordered dicts": lambda depth: (
        b")" + (b"q\x00" + ORDERED + b"]" + text("k") + b"h\x00\x86a\x85R") * (depth // 8)
    ),
    "states": lambda depth: b"}" * depth + b"b" * (depth - 1),
    "stand-ins": lambda depth: (
        NAMESPACE + b")\x81" + (b"\x85q\x00" + NAMESPACE + b"h\x00R") * depth
    ),
    "offsets": lambda depth: (
        b"K\x00" + (b"q\x00" + REBUILD + b"(" + storage("0", 4) + b"h\x00))tR") * (depth // 16)
    ),
    "parameters": lambda depth: FOUR + (b"q\x00" + PARAMETER + b"(h\x00NNtR") * (depth // 8),
    "storages": lambda depth: text("0") + (b"q\x00" + tuple_(text("storage"), b"h\x00") + b"Q") * 3,
    "doubled tuples": lambda depth: b")" + b"q\x00h\x00\x86" * (depth // 3),
    "list of itself": lambda depth: b"]q\x00" + b"h\x00a" * (depth // 2),
    "dict of itself": lambda depth: b"}q\x00" + text("state_dict") + b"h\x00s",
    "tensors and itself": lambda depth: dict_({"w": FOUR}) + b"q\x00" + text("v") + b"h\x00s",
    "tuple of a list of itself": lambda depth: b"]q\x00h\x00\x85q\x01ah\x01",
}


@fuzz(120)
@given(
    nest=st.sampled_from(list(NESTS)),
    place=st.sampled_from(list(PLACES)),
    depth=st.sampled_from([1, 20, 1_000, 1_100, 50_000]),
    stream=st.booleans(),
)
def test_fuzz_recursion(path: Path, nest: str, place: str, depth: int, stream: bool) -> None:
    state = PLACES[place](NESTS[nest](depth))
    check(path, one_stream(state) if stream else one_zip(state))


def test_the_number_of_cases() -> None:
    tests = {name for name in globals() if name.startswith("test_fuzz")}
    if not tests <= CASES.keys():
        pytest.skip("only counted when every fuzz test of this file ran")
    assert sum(CASES[name] for name in tests) >= 2_000 * TIMES

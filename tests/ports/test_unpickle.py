"""The pickle machine: nothing runs, everything ends soon, little memory is taken."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import pytest
from torch_bytes import (
    FOUR,
    MAGIC,
    NAMESPACE,
    ORDERED,
    PARAMETER,
    REBUILD,
    VERSION,
    dict_,
    number,
    one_stream,
    one_zip,
    refused,
    storage,
    stream_file,
    tensor,
    text,
    tuple_,
    within_a_second,
    zip_file,
)

from ports.torch_file import MAX_STEPS

# --- Code that wants to run ---


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def payloads(path: Path) -> dict[str, bytes]:
    """Pickles that make the folder `path` when Python's own unpickler runs them."""
    argument = text(str(path))
    module = os.mkdir.__module__.encode()  # posix or nt
    string = b"S" + repr(str(path)).encode() + b"\n"
    return {
        "reduce": pickle.dumps(_Runs(path), 2),
        "reduce_4": pickle.dumps(_Runs(path), 4),
        "reduce_0": pickle.dumps(_Runs(path), 0),
        "global": b"\x80\x02cos\nmkdir\n" + argument + b"\x85R.",
        "stack_global": b"\x80\x04" + text("os") + text("mkdir") + b"\x93" + argument + b"\x85R.",
        "inst": b"\x80\x02(" + argument + b"i" + module + b"\nmkdir\n.",
        "inst_text": b"(" + string + b"ios\nmkdir\n.",
        "obj": b"\x80\x02(cos\nmkdir\n" + argument + b"o.",
        "attribute": b"\x80\x04" + text("collections") + text("abc.sys.modules.get") + b"\x93.",
        "nested": b"\x80\x02cpickle\nloads\nB"
        + struct.pack("<I", len(inner := pickle.dumps(_Runs(path), 2)))
        + inner
        + b"\x85R.",
        "nested_builtin": b"\x80\x02c__builtin__\neval\n" + text(f"mkdir({path})") + b"\x85R.",
    }


PAYLOADS = list(payloads(Path("x")))


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_runs(name: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    payload = payloads(target)[name]
    if name not in ("attribute", "nested_builtin"):  # the attack is real
        pickle.loads(payload)
        target.rmdir()
    body = payload[2:-1] if payload.startswith(b"\x80") else payload[:-1]
    refused(payload)
    refused(stream_file(body, {}))
    refused(stream_file(dict_({"w": body}), {}))
    refused(zip_file(body, {}))
    refused(zip_file(dict_({"w": body}), {}))
    assert not target.exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"cos\nsystem\n", "'os.system'"),
        (b"ctorch.nn.modules.container\nSequential\n", "'torch.nn.modules.container.Sequential'"),
        (text("a\nb") + text("c") + b"\x93", r"'a\\nb.c'"),
        (b"ctorch\nComplexFloatStorage\n", "complex numbers, which no backbone here has; save"),
        (b"ctorch\nload\n", "'torch.load'"),
        (ORDERED + b")}\x92", "opcode 0x92"),  # NEWOBJ_EX
        (b"\x82\x01", "opcode 0x82"),  # EXT1
        (b"\x83\x01\x00", "opcode 0x83"),
        (b"\x84\x01\x00\x00\x00", "opcode 0x84"),
        (b"P0\n", "opcode 0x50"),  # PERSID
        (b"\x97", "opcode 0x97"),  # NEXT_BUFFER
        (b"N2", "opcode 0x32"),  # DUP
        (b"I1\n", "opcode 0x49"),  # INT
        (b"\x8b\xff\xff\xff\x7f", "opcode 0x8b"),  # LONG4 of 2 GiB
        (b"\x8e" + b"\xff" * 8, "ends early"),  # BINBYTES8 of 2^64 bytes
        (b"\x8d" + b"\xff" * 8, "ends early"),  # BINUNICODE8
        (b"\x96" + b"\xff" * 8, "ends early"),  # BYTEARRAY8
        (b"B\xff\xff\xff\xff", "ends early"),  # BINBYTES
        (b"i" + b"os\nsystem\n", "opcode 0x69"),  # INST
        (b"(o", "opcode 0x6f"),  # OBJ
        (b"X\xff\xff\xff\xff", "ends early"),
        (b"T\xff\xff\xff\xff", "ends early"),
        (b"]" + dict_({"append": b"N"}) + b"b", "sets attributes"),
        (storage("0", 4) + dict_({"key": b"N"}) + b"b", "sets attributes"),
        (ORDERED + ORDERED + b"\x85R", "damaged"),
        (ORDERED + b"](](NNNee\x85R", "damaged"),
        (b"ctorch\nFloatStorage\n)R", "damaged"),  # no function
        (text("x") + b")R", "damaged"),
        (b"NN)s", "damaged"),
        (b"}(Nu", "damaged"),
        (b"}Na", "damaged"),
        (tuple_(text("module"), ORDERED, text("f"), text("s")) + b"Q", "more than arrays"),
        (number(5) + b"Q", "more than arrays"),
        (b"\x80\x00", "protocol 0"),
        (b"\x80\x06", "protocol 6"),
        (NAMESPACE + b")R)R", "calls what is no function"),  # a stand-in is not called
        (NAMESPACE + b"}b", "sets attributes"),
        (NAMESPACE + b")\x81K\x01Nu", "damaged"),
        (b"]K\x01K\x02s", "no dict"),
        (b"}(K\x01e", "no list"),
        (b"\x85", "damaged"),
        (ORDERED + b"N\x81", "calls what is no function"),
        (b"h\x07", "damaged"),
        (b"t", "damaged"),
        (b"\x87", "damaged"),
        (b"s", "damaged"),
        (b"X\x01\x00\x00\x00\xff", "damaged"),
        (b"c" + b"x" * 5000 + b"\n", "damaged"),
        (b"cos", "damaged"),
    ],
)
def test_every_other_opcode_and_global_is_refused(body: bytes, says: str) -> None:
    assert says.replace("\\\\", "\\") in refused(stream_file(body, {}))
    assert says.replace("\\\\", "\\") in refused(zip_file(body, {}))


# --- Bombs: little time, little memory ---

LAUGHS = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
REPEATED = MAX_STEPS - 100
ENTRIES = 60_000  # two steps each, twice
LONG_BOMBS = {
    "tuple in tuple": b")" + b"\x85" * REPEATED,
    "list in list": b"]" * (REPEATED // 2) + b"a" * (REPEATED // 2 - 1),
    "too many steps": b")" + b"\x85" * (MAX_STEPS + 20),
    "marks": b"(" * (MAX_STEPS + 20),
    "protocols": b"\x80\x02" * REPEATED + b"N",
    "numbers of 255 bytes": (b"\x8a\xff" + b"\x55" * 255) * 4_000,
    "globals": b"ctorch\nFloatStorage\n" * 50_000,
    "ints with one hash": b"}("
    + b"".join(b"J" + struct.pack("<i", (i - 60_000) << 14) + b"N" for i in range(ENTRIES * 2))
    + b"u",
    "list copied through the memo": b"]("
    + b"](K\x01Ne" * 20_000
    + b"eq\x00"
    + (ORDERED + b"h\x00\x85R") * 5_000,
    "tensors": tuple_(storage("0", 4), b"K\x00", b")", b")", b"\x89", b"N")
    + b"q\x00"
    + (REBUILD + b"h\x00R") * 25_000,
    "storages": tuple_(text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), b"K\x04")
    + b"q\x00"
    + b"h\x00Q" * (MAX_STEPS // 2),
    "calls of a stand-in": NAMESPACE + b"q\x00" + b"h\x00)\x81" * (REPEATED // 3),
    # The same dict under every name: to look into it each time would take minutes.
    "one dict, many names": b"}("
    + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(ENTRIES))
    + b"uq\x00}("
    + b"".join(b"J" + struct.pack("<i", i) + b"h\x00" for i in range(ENTRIES))
    + b"u",
    "one tensor, many names": tensor(storage("0", 4, "BFloat16"), (1,) * 8, (1,) * 8)
    + b"q\x00}("
    + b"".join(text(str(i)) + b"h\x00" for i in range(ENTRIES))
    + b"u",
}
BOMBS = {
    "laughs": LAUGHS,
    "laughs as key": b"}" + LAUGHS + b"Ns",
    "laughs as name of the state": b"}" + LAUGHS + dict_({"w": FOUR, "v": b"N"}) + b"s",
    "laughs as arguments": NAMESPACE + LAUGHS + b"R",
    "laughs as attributes": b"}" + LAUGHS + b"b",
    "laughs as size": REBUILD + storage("0", 4) + b"K\x00" + LAUGHS + b"q\x01h\x01(tR",
    "parameters": FOUR + (PARAMETER + b"q\x05h\x05") * 3 + b"\x88N\x87R",
    "laughs as storage": LAUGHS + b"Q",
    "laughs as tensor": REBUILD + LAUGHS + b"R",
    "laughs as global": LAUGHS + text("x") + b"\x93",
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00" + text("a") + b"h\x00s",
    "ordered dict of itself": ORDERED + b"]q\x00h\x00ah\x00\x85R",
    "memo far away": b"Nr\xff\xff\xff\xff",
    "tensor of a giant": tensor(storage("0", 4), (2**62, 2**62), (0, 0)),
    "tensor of 4 GB": dict_({"w": tensor(storage("0", 4), (2**30,), (0,))}),
    "many tensors": dict_({f"{i}": tensor(storage("0", 4), (2**22,), (0,)) for i in range(20)}),
    "empty giant": dict_({"w": tensor(storage("0", 4), (0, 2**62, 2**62), (0, 0, 0))}),
    "high rank": dict_({"w": tensor(storage("0", 4), (1,) * 5000, (1,) * 5000)}),
}


@pytest.mark.parametrize("name", LONG_BOMBS)
def test_long_bombs_end_within_a_second(name: str) -> None:
    for data in (one_stream(LONG_BOMBS[name]), one_zip(LONG_BOMBS[name])):
        within_a_second(lambda data=data: refused(data))


@pytest.mark.parametrize("name", ["magic", "version", "info", "keys"])
def test_only_the_state_may_take_many_steps(name: str) -> None:
    """The stream container holds five pickles; the bound is not five times as large."""
    pickles = {
        "magic": MAGIC,
        "version": VERSION,
        "info": b"}",
        "state": dict_({"w": FOUR}),
        "keys": b"](" + text("0") + b"e",
    }
    pickles[name] = b"N" * 1000 + pickles[name]
    data = b"".join(b"\x80\x02" + pickle + b"." for pickle in pickles.values())
    assert "steps" in refused(data + struct.pack("<q", 4) + bytes(16))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(name: str) -> None:
    for data in (one_zip(BOMBS[name]), stream_file(BOMBS[name], {"0": (4, bytes(16))})):
        tracemalloc.start()
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 70e6, name

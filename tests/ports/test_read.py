"""Dispatch over containers, the hash in a file's name, `.npz` and safetensors."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_bytes import FOUR, dict_, one_zip

import ports.source
from jaxad.errors import InputError
from ports.parity import golden_cases
from ports.prefixes import WRAPPERS
from ports.read import MAX_HEADER, decode_npz, decode_safetensors, read_state
from ports.source import Refusal

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "torch_files"
STATE: dict[str, np.ndarray] = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([1, -2.5], np.float16),
    "double": np.array(0.1),
    "count": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "bytes": np.arange(3, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float32),
}


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, allow_pickle=True, **arrays)
    return file.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(f"{name}.npy", content)
    return file.getvalue()


def same(state: dict[str, np.ndarray]) -> None:
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(state[name], value, strict=True)
        assert state[name].flags.c_contiguous
        assert state[name].flags.writeable


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ""])
def test_content_and_not_the_suffix_tells_the_container(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for data in (npz(**STATE), npz(compressed=True, **STATE), safetensors.numpy.save(STATE)):
        path.write_bytes(data)
        state, sha256 = read_state(path)
        same(state)
        assert sha256 == hashlib.sha256(data).hexdigest()
    for name in ("zip_module.pth", "stream_module.pth"):
        path.write_bytes((GOLDEN / name).read_bytes())
        assert len(read_state(str(path))[0]) == 7


def test_bfloat16_of_safetensors_becomes_float32() -> None:
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = struct.pack("<Q", len(header)) + header + b"\x80\x3f\x20\xc0"
    expected = {"w": np.array([1, -2.5], np.float32)}
    np.testing.assert_equal(decode_safetensors(data), expected)
    with pytest.raises(Refusal, match="'w' has dtype F8_E4M3; save it as float32"):
        decode_safetensors(
            struct.pack("<Q", len(header) + 4)
            + header.replace(b"BF16", b"F8_E4M3").replace(b"[2]", b"[4] ")
            + bytes(4)
        )


def raw_safetensors(shape: list[int], content: bytes = b"") -> bytes:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(content)]}
    text = json.dumps({"w": entry}).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    ("shape", "size", "says"),
    [
        ((0, 2**62), 0, "many times the file's bytes|no plain array of numbers"),
        ((0, 2**40, 2**40), 0, "many times the file's bytes"),
        ((0, 10**17, 10**17), 0, "many times the file's bytes"),
        ((0, 2**30), 0, "many times the file's bytes"),
        ((1,) * 100, 4, "has 100 axes; no backbone has over 8"),
        ((1,) * 9, 4, "has 9 axes; no backbone has over 8"),
    ],
)
def test_shapes_that_no_array_has(
    tmp_path: Path, shape: tuple[int, ...], size: int, says: str
) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    path = tmp_path / "net"
    for data in (
        raw_safetensors(list(shape), bytes(size)),
        archive(w=npy_header(header) + bytes(size)),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=says) as info:
            read_state(path)
        assert len(str(info.value)) < len(str(path)) + 200


def test_safetensors_of_more_arrays_and_of_longer_headers_than_a_network_has() -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({str(i): entry for i in range(ports.source.MAX_ARRAYS + 1)}).encode()
    with pytest.raises(Refusal, match="holds 10001 arrays; no backbone has over 10000"):
        decode_safetensors(struct.pack("<Q", len(text)) + text)
    deep = b'{"__metadata__":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    for text in (deep, b"{" + b" " * MAX_HEADER + b"}"):
        with pytest.raises(Refusal, match="damaged"):
            decode_safetensors(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["model.a"], ["a"]),  # Lightning
        (["net.a", "net.b"], ["a", "b"]),
        (["_orig_mod.a"], ["a"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["model._orig_mod.module.backbone.a"], ["a"]),
        (["n_averaged", "module.module.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),  # a part of the network that is called so
        (["model.a", "module.b"], ["model.a", "module.b"]),
        (["modules.a"], ["modules.a"]),
        (["features.0.weight"], ["features.0.weight"]),
        (["n_averaged", "a"], ["n_averaged", "a"]),
        (["n_averaged"], ["n_averaged"]),
    ],
)
def test_names_of_wrappers_are_taken_off(
    tmp_path: Path, suffix: str, keys: list[str], expected: list[str]
) -> None:
    arrays = {key: np.full(4, i, np.float32) for i, key in enumerate(sorted(keys))}
    contents = {
        ".npz": [npz(**arrays)],
        ".safetensors": [safetensors.numpy.save(arrays)],
        ".pth": [one_zip(dict_(dict.fromkeys(arrays, FOUR)))],
    }
    contents[".pth"].append(one_zip(dict_({"model": dict_(dict.fromkeys(arrays, FOUR))})))
    path = tmp_path / f"net{suffix}"
    for data in contents[suffix]:
        path.write_bytes(data)
        state, _ = read_state(path)
        assert sorted(state) == sorted(expected)
        if suffix != ".pth":
            values = [int(arrays[key][0]) for key in arrays if key != "n_averaged" or key in state]
            assert [int(array[0]) for array in state.values()] == values


def test_no_naming_has_names_that_begin_like_a_wrapper() -> None:
    for naming, architecture in golden_cases():
        names = golden_cases()[naming, architecture].arrays
        assert not any(name.startswith(WRAPPERS) for name in names), naming


def test_npz_of_any_order_and_byte_order() -> None:
    fortran = np.asfortranarray(STATE["conv.weight"])
    big = STATE["conv.weight"].astype(">f8")
    state = decode_npz(npz(fortran=fortran, big=big))
    for array in state.values():
        np.testing.assert_array_equal(array, STATE["conv.weight"])
        assert array.flags.c_contiguous
        assert array.dtype.isnative


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_hash_in_the_name(tmp_path: Path, digits: int) -> None:
    data = npz(**STATE)
    sha256 = hashlib.sha256(data).hexdigest()
    right = tmp_path / f"resnet18-{sha256[:digits]}.npz"
    right.write_bytes(data)
    assert read_state(right)[1] == sha256
    promised = "f37072fd" + "0" * (digits - 8)
    wrong = tmp_path / f"resnet18-{promised}.pth"
    wrong.write_bytes(data)
    says = f"{promised} but the content has {sha256[:digits]}: the download is damaged"
    with pytest.raises(InputError, match=says):
        read_state(wrong)


def test_names_that_carry_no_hash(tmp_path: Path) -> None:
    for name in ("wide_resnet50_2.npz", "net-v2.npz", "net-F37072FD.npz", "net-f37072f.npz"):
        (tmp_path / name).write_bytes(npz(**STATE))
        same(read_state(tmp_path / name)[0])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty; fetch it again"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x1f\x8b\x08\x00" + bytes(8), "gzip"),
        (b"hello", "no .pth, .safetensors, .npz, .h5 or .keras file"),
        (bytes(100), "no .pth, .safetensors, .npz, .h5 or .keras file"),
        (b"PK\x03\x04", "damaged"),
        (npz(), "damaged"),
        (safetensors.numpy.save({}), "holds no array"),
    ],
)
def test_what_is_no_weight_file(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{re.escape(says)}") as info:
        read_state(path)
    assert "\n" not in str(info.value)


def test_what_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone\.pth: no such file; check the path"):
        read_state(tmp_path / "gone.pth")
    with pytest.raises(InputError, match="no such file"):
        read_state("nul\0byte.pth")
    with pytest.raises(InputError, match="is a folder"):
        read_state(tmp_path)
    path = tmp_path / "net.npz"
    path.write_bytes(npz(**STATE))
    with monkeypatch.context() as patch:
        patch.setattr(ports.source, "MAX_BYTES", 100)
        with pytest.raises(InputError, match="longer than 100 bytes"):
            read_state(path)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"can not be read \(Permission denied\)"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"), "no plain"),
        (npy_header("{'descr': '<U3', 'fortran_order': False, 'shape': (1,), }\n"), "no plain"),
        (npy_header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }\n"), "no plain"),
        (npy_header("{'descr': '<b4', 'fortran_order': False, 'shape': (1,), }\n"), "no plain"),
        (npy_header("__import__('os').abort()"), "no plain"),
        (npy_header("(" * 9000), "no plain"),
        (npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"), "length"),
        (npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "no plain"),
        (
            npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**59},), }}"),
            "length",
        ),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "no plain"),
        (b"\x93NUMPY\x09\x00", "no array"),
        (b"", "no array"),
    ],
)
def test_npy_members_that_are_no_numbers(content: bytes, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        decode_npz(archive(w=content))


def test_npz_never_unpickles() -> None:
    with pytest.raises(Refusal, match="'w' is no plain array of numbers"):
        decode_npz(npz(w=np.array([{"a": 1}], dtype=object)))


def test_the_members_of_an_archive_share_one_budget() -> None:
    """Each is small enough, all together are not; as compressed as it gets."""
    zeros = np.zeros(20_000_000, np.uint8)
    fits = npz(compressed=True, a=zeros)
    assert decode_npz(fits)["a"].nbytes == len(zeros)
    tracemalloc.start()
    with pytest.raises(Refusal, match=r"more than this file may|many times the file's bytes"):
        decode_npz(npz(compressed=True, a=zeros, b=zeros))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6
    wide = archive(w=npy_header(
        "{'descr': '|b1', 'fortran_order': False, 'shape': (40000000,), }\n"
    ) + bytes(40_000_000))  # fmt: skip
    with pytest.raises(Refusal, match="many times the file's bytes"):
        decode_npz(wide)


def test_zip_bombs() -> None:
    bomb = bytearray(npz(compressed=True, w=np.zeros(80_000_000, np.uint8)))
    tracemalloc.start()
    with pytest.raises(Refusal, match="more than this file may"):
        decode_npz(bytes(bomb))
    # The directory may lie about the size: no more than it says is unpacked.
    directory = bomb.index(b"PK\x01\x02")
    bomb[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    with pytest.raises(Refusal, match="damaged"):
        decode_npz(bytes(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("data", [npz(**STATE), safetensors.numpy.save(STATE)])
def test_every_truncation_is_refused(data: bytes) -> None:
    decoder = decode_npz if data.startswith(b"PK") else decode_safetensors
    for length in range(0, len(data), 7):
        with pytest.raises(Refusal):
            decoder(data[:length])


@settings(max_examples=300, deadline=2000)
@given(
    data=st.sampled_from(
        [npz(**STATE), npz(compressed=True, **STATE), safetensors.numpy.save(STATE)]
    ),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)
def test_fuzz(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(data)
    for where, value in flips:
        damaged[int(where * (len(damaged) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(damaged)
    try:
        state, _ = read_state(path)
    except InputError as error:
        said = str(error)
        assert "\n" not in said
    else:
        assert all(type(array) is np.ndarray for array in state.values())

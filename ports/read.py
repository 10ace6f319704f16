"""Read a state dict from any container of public weights, told by its content and not its name."""

from __future__ import annotations

import math
import os
import re

import numpy as np
import safetensors

from ports.hdf5 import HDF5_START, KERAS_MEMBER, to_safetensors
from ports.prefixes import unwrapped
from ports.source import DAMAGED, Refusal, budget, check_count, claim, decode, read_source
from ports.torch_file import STREAM_START, ZIP_START, decode_torch, native
from ports.zip_members import list_members, read_member

MAX_HEADER = 16 * 2**20
"""Bytes of the header of a safetensors file; EfficientNet-B7's has 120,000."""

_SAFETENSORS: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}

# What numpy.save writes; numpy.load would evaluate it as a Python literal.
_NPY_HEADER = re.compile(
    r"\{'descr': '([<>|](?:f[248]|[iu][1248]|b1))', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}\s*"
)

# Other things that are often found under the name of a weight file.
_MISTAKEN: dict[bytes, str] = {
    b"version https://git-lfs": "it is a git-lfs pointer; run `git lfs pull`",
    b"<": "it is a web page, not weights; fetch the file itself",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
}


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], str]:
    """Read a weight file: PyTorch (both containers), safetensors, `.npz`, Keras' `.h5` or `.keras`.

    Args:
        path: the file. Where its name ends like `name-f37072fd.pth`, those digits must begin its
            SHA-256.

    Returns:
        The state dict (key -> C-contiguous array; bfloat16 becomes float32, other dtypes are kept),
        its keys without the prefixes of wrappers (`ports.prefixes`), and the SHA-256 of the file in
        hexadecimal.

    Raises:
        InputError: missing, unreadable, of no known container, damaged, unsafe or too large.
    """
    source = read_source(path)
    return unwrapped(decode(source, _decode)), source.sha256


def _decode(data: bytes) -> dict[str, np.ndarray]:
    if data.startswith(ZIP_START):
        members = list_members(data)
        if members and all(name.endswith(".npy") for name in members):
            return decode_npz(data)
        if KERAS_MEMBER in members:
            return decode_keras(data)
        return decode_torch(data)
    if data[8:9] == b"{":  # behind the length of a JSON header
        return decode_safetensors(data)
    if data.startswith(HDF5_START):
        return decode_safetensors(to_safetensors(data))
    if data.startswith(STREAM_START):
        return decode_torch(data)
    for start, verdict in _MISTAKEN.items():
        if data.startswith(start):
            raise Refusal(verdict)
    raise Refusal("it is no .pth, .safetensors, .npz, .h5 or .keras file; " + DAMAGED)


def decode_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Decode the bytes of a safetensors file.

    Raises:
        Refusal: damaged, or a dtype that numpy does not have.
    """
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise Refusal(DAMAGED)
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        raise Refusal(DAMAGED) from None
    check_count(len(tensors))
    most = budget(len(data))
    arrays: dict[str, np.ndarray] = {}
    for key, tensor in sorted(tensors):
        if tensor["dtype"] not in _SAFETENSORS:
            raise Refusal(f"{key[:100]!a} has dtype {tensor['dtype']}; save it as float32")
        dtype = np.dtype(_SAFETENSORS[tensor["dtype"]])
        most = claim(key, tensor["shape"], max(4, dtype.itemsize), most=most)
        array = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        arrays[key] = native(array, bfloat16=tensor["dtype"] == "BF16")
    if not arrays:
        raise Refusal("it holds no array; fetch it again")
    return arrays


def decode_keras(data: bytes) -> dict[str, np.ndarray]:
    """Decode the bytes of a `.keras` archive: the arrays in it; its model is never built.

    Raises:
        Refusal: damaged, too large, or as `hdf5.to_safetensors`.
    """
    member = list_members(data)[KERAS_MEMBER]
    content = read_member(data, member, most=budget(len(data)), compressed=True)
    return decode_safetensors(to_safetensors(content))


def decode_npz(data: bytes) -> dict[str, np.ndarray]:
    """Decode the bytes of a file of `numpy.savez` or `numpy.savez_compressed`; never a pickle.

    Raises:
        Refusal: damaged, too large, or an array of anything but numbers.
    """
    most = budget(len(data))
    arrays: dict[str, np.ndarray] = {}
    for name, info in list_members(data).items():
        key = name.removesuffix(".npy")
        content = read_member(data, info, most=most, compressed=True)
        most -= len(content)
        arrays[key] = _decode_npy(content, key, most=most)
        most -= arrays[key].nbytes
    if not arrays:
        raise Refusal("it holds no array; fetch it again")
    return arrays


def _decode_npy(content: memoryview, key: str, *, most: int) -> np.ndarray:
    shown = f"{key[:100]!a}"
    magic, version = bytes(content[:6]), bytes(content[6:8])
    if magic != b"\x93NUMPY" or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise Refusal(f"{shown} is no array; {DAMAGED}")
    start = 10 if version == b"\x01\x00" else 12
    end = start + int.from_bytes(content[8:start], "little")
    header = _NPY_HEADER.fullmatch(bytes(content[start : min(end, 2**16)]).decode("latin-1"))
    if header is None:
        raise Refusal(f"{shown} is no plain array of numbers; save only the weights as arrays")
    dtype = np.dtype(header[1])
    shape = tuple(int(n) for n in header[3].replace(" ", "").split(",") if n)
    if math.prod(shape) * dtype.itemsize != len(content) - end:
        raise Refusal(f"the data of {shown} has another length than its shape; {DAMAGED}")
    claim(key, shape, dtype.itemsize, most=most)
    array = np.ndarray(shape, dtype, content, end, order="F" if header[2] == "True" else "C")
    return native(array)

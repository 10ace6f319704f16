"""Reader of PyTorch's `.pth` and `.pt` files that needs no torch and can only make numpy arrays.

Both containers hold a pickle in which each tensor is `(storage, offset, size, stride)`:

- zip (torch >= 1.6): `NAME/data.pkl`, and each storage raw in `NAME/data/KEY`;
- stream (before 1.6, or `_use_new_zipfile_serialization=False`): five pickles (magic number,
  protocol version, system info, state, storage keys), then each storage as an int64 count of
  elements and its raw data, little-endian on every machine.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ports.source import DAMAGED, Refusal, budget, decode, read_source
from ports.unpickle import MAX_STEPS, MEND, set_items, unpickle
from ports.zip_members import list_members, read_member

ZIP_START = b"PK\x03\x04"
STREAM_START = b"\x80"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_FEW_STEPS = 200  # for the pickles that hold a number or the system info
_MAX_RANK = 32


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]
    bfloat16: bool = False


@dataclasses.dataclass(frozen=True)
class _Storage:
    type: _StorageType
    key: str
    total: int  # elements of the whole storage
    first: int  # a view of the storage that begins here ...
    count: int  # ... and has this many elements


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: Any
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a state dict saved by `torch.save`.

    Args:
        path: file of either container: a state dict, or a checkpoint that nests exactly one (under
            a key such as "state_dict" or "model").

    Returns:
        Key -> C-contiguous array that owns its memory, in the order of the file. float16, float32,
        float64, integers and bool keep their dtype; bfloat16 becomes float32 (exactly).

    Raises:
        InputError: missing, damaged, more than a dict of tensors, or over a bound.
    """
    return decode(read_source(path), decode_torch)


def decode_torch(data: bytes) -> dict[str, np.ndarray]:
    """Do what `read` does for the bytes of a file.

    Raises:
        Refusal: as `read` raises InputError.
    """
    if data.startswith(ZIP_START):
        return _decode_zip(data)
    if data.startswith(STREAM_START):
        return _decode_stream(data)
    raise Refusal("it is neither container of torch.save; " + DAMAGED)


def _decode_zip(data: bytes) -> dict[str, np.ndarray]:
    members = list_members(data)
    roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refusal("it is a zip archive that torch.save did not write; " + MEND)
    root = roots[0]
    if root + "constants.pkl" in members:
        raise Refusal(f"it is a TorchScript program, which is not run; {MEND}")
    most = budget(len(data))

    def content(name: str) -> memoryview:
        if root + name not in members:
            raise Refusal(f"it has no member {name[:100]!a}; {DAMAGED}")
        return read_member(data, members[root + name], most=most)

    order = bytes(content("byteorder")) if root + "byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise Refusal(f"its byte order is {order[:20]!a}; {DAMAGED}")
    state, _ = _unpickle(bytes(content("data.pkl")), 0)
    buffer = functools.cache(lambda key: content(f"data/{key}"))
    return _arrays(state, buffer, byteorder="<" if order == b"little" else ">", most=most)


def _decode_stream(data: bytes) -> dict[str, np.ndarray]:
    magic, position = _unpickle(data, 0, max_steps=_FEW_STEPS)
    if type(magic) is not int or magic != _MAGIC:
        raise Refusal(f"it is a pickle that torch.save did not write; {MEND}")
    protocol, position = _unpickle(data, position, max_steps=_FEW_STEPS)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise Refusal("it has an unknown version of torch's stream format; " + DAMAGED)
    _, position = _unpickle(data, position, max_steps=_FEW_STEPS)
    item_sizes: dict[str, int] = {}
    state, position = _unpickle(data, position, item_sizes=item_sizes)
    keys, position = _unpickle(data, position)
    if type(keys) is not list:
        raise Refusal(DAMAGED)
    buffers: dict[str, memoryview] = {}
    for key in keys:
        if type(key) is not str or key not in item_sizes or key in buffers:
            raise Refusal(DAMAGED)
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        end = position + 8 + count * item_sizes[key]
        if not position + 8 <= end <= len(data):
            raise Refusal("it ends within its arrays; " + DAMAGED)
        buffers[key] = memoryview(data)[position + 8 : end]
        position = end
    if position != len(data):
        raise Refusal(f"{len(data) - position} bytes follow its arrays; {DAMAGED}")

    def buffer(key: str) -> memoryview:
        if key not in buffers:
            raise Refusal(DAMAGED)
        return buffers[key]

    return _arrays(state, buffer, byteorder="<", most=budget(len(data)))


def _unpickle(
    data: bytes,
    start: int,
    *,
    item_sizes: dict[str, int] | None = None,
    max_steps: int = MAX_STEPS,
) -> tuple[Any, int]:
    """Run one pickle; note the bytes per element of each storage key in `item_sizes`."""

    def persistent_load(pid: object) -> _Storage:
        match pid:
            case ("storage", _StorageType() as type_, str(key), str(), int(total)):
                storage = _Storage(type_, key, total, 0, total)
            case ("storage", _StorageType() as type_, str(key), str(), int(total), None):
                storage = _Storage(type_, key, total, 0, total)
            case (
                "storage",
                _StorageType() as type_,
                str(key),
                str(),
                int(total),
                (str(), int(first), int(count)),
            ):  # views of storages, before torch 0.4
                storage = _Storage(type_, key, total, first, count)
            case _:
                raise Refusal(f"its pickle refers to more than arrays; {MEND}")
        if total < 0 or storage.first < 0 or not 0 <= storage.count <= total - storage.first:
            raise Refusal(DAMAGED)
        if item_sizes is not None:
            itemsize = type_.dtype.itemsize
            if item_sizes.setdefault(key, itemsize) != itemsize:
                raise Refusal(DAMAGED)
        return storage

    return unpickle(
        data, start, allowed=_ALLOWED, persistent_load=persistent_load, max_steps=max_steps
    )


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    match arguments:
        case ():
            pass
        case (list(pairs),):  # as Python 2 pickled it
            for pair in pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    raise Refusal(DAMAGED)
                set_items(result, list(pair))
        case _:
            raise Refusal(DAMAGED)
    return result


def _rebuild_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    match arguments:
        # Then requires_grad and hooks, which mean nothing here, and (torch >= 2.0) conjugate and
        # negative bits, which only a lazy view of a complex tensor has.
        case (_Storage() as storage, offset, tuple(size), tuple(stride), *rest) if not any(
            rest[2:]
        ):
            return _Tensor(storage, offset, size, stride)
    raise Refusal(DAMAGED)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> _Tensor:
    match arguments:
        case (_Tensor() as tensor, _, _):
            return tensor
    raise Refusal(DAMAGED)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "DoubleStorage"): _StorageType(np.dtype("f8")),
    ("torch", "FloatStorage"): _StorageType(np.dtype("f4")),
    ("torch", "HalfStorage"): _StorageType(np.dtype("f2")),
    ("torch", "BFloat16Storage"): _StorageType(np.dtype("u2"), bfloat16=True),
    ("torch", "LongStorage"): _StorageType(np.dtype("i8")),
    ("torch", "IntStorage"): _StorageType(np.dtype("i4")),
    ("torch", "ShortStorage"): _StorageType(np.dtype("i2")),
    ("torch", "CharStorage"): _StorageType(np.dtype("i1")),
    ("torch", "ByteStorage"): _StorageType(np.dtype("u1")),
    ("torch", "BoolStorage"): _StorageType(np.dtype("?")),
}


def _state_dict(root: object) -> dict[str, _Tensor]:
    """Find the one dict of tensors: the root or, where it holds no tensor, a value of it."""

    def has_tensor(value: object) -> bool:
        return type(value) is dict and any(type(v) is _Tensor for v in value.values())

    if type(root) is not dict:
        raise Refusal(f"it holds no dict of arrays; {MEND}")
    state, where = root, ""
    if not has_tensor(root):
        nested = [key for key, value in root.items() if has_tensor(value)]
        if not nested:
            raise Refusal(f"it holds no dict of arrays; {MEND}")
        if len(nested) > 1:
            names = ", ".join(ascii(key)[:40] for key in nested[:5])
            raise Refusal(f"it holds several dicts of arrays ({names}); save one of them alone")
        state, where = root[nested[0]], f" in {ascii(nested[0])[:40]}"
    for key, value in state.items():
        if type(key) is not str or type(value) is not _Tensor:
            raise Refusal(f"key {ascii(key)[:100]}{where} is no array; {MEND}")
    return state


def _arrays(
    root: object, buffer: Callable[[str], memoryview], *, byteorder: Literal["<", ">"], most: int
) -> dict[str, np.ndarray]:
    """Turn the tensors of the state dict into arrays that take at most `most` bytes in all."""
    arrays: dict[str, np.ndarray] = {}
    for key, tensor in _state_dict(root).items():
        dtype = tensor.storage.type.dtype
        _check(tensor, ascii(key)[:100])
        most -= math.prod(max(n, 1) for n in tensor.size) * max(4, dtype.itemsize)
        if most < 0:
            raise Refusal("its arrays take many times the bytes of the file; " + DAMAGED)
        content = buffer(tensor.storage.key)
        if len(content) != tensor.storage.total * dtype.itemsize:
            raise Refusal(f"the storage of {ascii(key)[:100]} has another length; {DAMAGED}")
        arrays[key] = _array(tensor, content, dtype.newbyteorder(byteorder))
    return arrays


def _check(tensor: _Tensor, key: str) -> None:
    """Refuse a tensor that reaches outside its storage."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    inside = (
        len(size) == len(stride) <= _MAX_RANK
        and all(type(n) is int and n >= 0 for n in (*size, *stride, offset))
        and (
            0 in size
            or offset + sum((n - 1) * s for n, s in zip(size, stride)) < tensor.storage.count
        )
    )
    if not inside:
        raise Refusal(f"the tensor {key} reaches outside its storage; {DAMAGED}")


def _array(tensor: _Tensor, content: memoryview, dtype: np.dtype[Any]) -> np.ndarray:
    if 0 in tensor.size:
        array = np.zeros(tensor.size, dtype)
    else:
        # The stride of an axis of length 1 is never used and may be any number.
        strides = [s * dtype.itemsize if n > 1 else 0 for n, s in zip(tensor.size, tensor.stride)]
        first = (tensor.storage.first + tensor.offset) * dtype.itemsize
        array = np.ndarray(tensor.size, dtype, content, first, strides)
    return native(array, bfloat16=tensor.storage.type.bfloat16)


def native(view: np.ndarray, *, bfloat16: bool = False) -> np.ndarray:
    """Copy to an array that is C-contiguous, in the machine's byte order and owns its memory.

    Args:
        view: any shape and strides.
        bfloat16: the view is uint16 that are bfloat16; the result is float32.
    """
    if view.dtype.kind == "b":  # any byte but 0 is true
        return np.array(view.view(np.uint8), bool, order="C")
    array = np.array(view, view.dtype.newbyteorder("="), order="C")
    if bfloat16:  # the upper half of a float32
        wide = array.astype(np.uint32)
        wide <<= np.uint32(16)
        array = wide.view(np.float32)
    return array

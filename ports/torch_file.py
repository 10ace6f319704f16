"""Reader of PyTorch's `.pth` and `.pt` files that needs no torch and can only make numpy arrays.

Both containers hold a pickle in which each tensor is `(storage, offset, size, stride)`:

- zip (torch >= 1.6): `NAME/data.pkl`, and each storage raw in `NAME/data/KEY`;
- stream (before 1.6, or `_use_new_zipfile_serialization=False`): five pickles (magic number,
  protocol version, system info, state, storage keys), then each storage as an int64 count of
  elements and its raw data, little-endian on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jaxad.data.pickle_machine import DamageError, RefusalError, run_pickle
from ports.source import DAMAGED, Refusal, budget, check_count, claim, collector_paused
from ports.torch_globals import MEND, Storage, Tensor, build, find, storage
from ports.zip_members import list_members, read_member

ZIP_START = b"PK\x03\x04"
STREAM_START = b"\x80"
MAX_STEPS = 300_000
"""The state dict of EfficientNet-B7 takes 62,000; with Adam's moments and an average, 222,000."""
MAX_TEXT = 4096
"""Bytes of one text that are kept; the longest are parameter names."""
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_FEW_STEPS = 200  # for the pickles that hold a number or the system info

# What trainers write: the averaged weights, and the last ones beside them.
_AVERAGED = {"state_dict_ema": "state_dict", "model_ema": "model"}


def decode_torch(data: bytes) -> dict[str, np.ndarray]:
    """Decode the bytes of a file saved by `torch.save`, of either container.

    It holds a state dict, or a checkpoint that nests exactly one (under a key such as "state_dict"
    or "model") beside epoch numbers, optimizer state and settings. Where it nests the last weights
    and their moving average ("model" and "model_ema", or "state_dict" and "state_dict_ema"), the
    average is taken: timm and torchvision evaluate and publish that one.

    Returns:
        Key -> C-contiguous array that owns its memory, in the order of the file. float16, float32,
        float64, integers and bool keep their dtype; bfloat16 becomes float32 (exactly).

    Raises:
        Refusal: damaged, more than a dict of tensors, or over a bound.
    """
    with collector_paused():
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
    # Each key takes two or three steps.
    keys, position = _unpickle(data, position, max_steps=_FEW_STEPS + 4 * len(item_sizes))
    if type(keys) is not list:
        raise Refusal(f"it has no list of its storages; {DAMAGED}")
    buffers: dict[str, memoryview] = {}
    for key in keys:
        if type(key) is not str or key not in item_sizes or key in buffers:
            raise Refusal(f"its list of storages is not that of its arrays; {DAMAGED}")
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
            raise Refusal(f"it has no storage {key[:40]!a}; {DAMAGED}")
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

    def persistent_load(pid: object) -> Storage:
        result = storage(pid)
        if item_sizes is not None:
            size = result.type.dtype.itemsize
            if item_sizes.setdefault(result.key, size) != size:
                raise Refusal(f"storage {result.key[:40]!a} has two dtypes; {DAMAGED}")
        return result

    try:
        return run_pickle(
            data,
            start,
            find=find,
            build=build,
            persistent_load=persistent_load,
            max_steps=max_steps,
            max_text=MAX_TEXT,
        )
    except DamageError as error:
        raise Refusal(f"{error}; {DAMAGED}") from None
    except RefusalError as error:
        raise Refusal(f"{error}; {MEND}") from None


def _state_dict(root: object) -> dict[str, Tensor]:
    """Find the one dict of tensors, the root or a value of it, and name its tensors."""
    if type(root) is not dict:
        raise Refusal(f"it holds no dict of arrays; {MEND}")
    nested: dict[object, dict[Any, Any]] = {}
    seen: set[int] = set()  # one dict may stand under any number of keys
    for name, value in root.items():
        if type(value) is dict and id(value) not in seen:
            seen.add(id(value))
            if _tensors(value):
                nested[name] = value
    for averaged, last in _AVERAGED.items():
        if nested.keys() == {averaged, last}:
            del nested[last]
    if len(nested) > 1:
        names = ", ".join(_shown(name) for name in list(nested)[:5])
        raise Refusal(
            f"it holds several dicts of arrays ({names}); save one of them alone with torch.save"
        )
    state, where = root, ""
    for name, value in nested.items():
        # Beside a state dict a tensor is a figure (the best accuracy); in one, a dict is a setting.
        if _tensors(value) > _tensors(root):
            state, where = value, f" in {_shown(name)}"
    if not _tensors(state):
        raise Refusal(f"it holds no dict of arrays; {MEND}")
    check_count(len(state))
    for key, value in state.items():
        if type(key) is not str:
            raise Refusal(f"a key{where} is no string ({_shown(key)}); {MEND}")
        if type(value) is not Tensor:
            raise Refusal(f"key {_shown(key)}{where} is no array; {MEND}")
    return state


def _tensors(values: dict[Any, Any]) -> int:
    return sum(type(value) is Tensor for value in values.values())


def _shown(key: object) -> str:
    return ascii(key)[:80] if type(key) in (str, int) else type(key).__name__


def _arrays(
    root: object, buffer: Callable[[str], memoryview], *, byteorder: Literal["<", ">"], most: int
) -> dict[str, np.ndarray]:
    """Turn the tensors of the state dict into arrays that take at most `most` bytes in all."""
    arrays: dict[str, np.ndarray] = {}
    for key, tensor in _state_dict(root).items():
        dtype = tensor.storage.type.dtype
        _check(tensor, key)
        most = claim(key, tensor.size, max(4, dtype.itemsize), most=most)
        content = buffer(tensor.storage.key)
        if len(content) != tensor.storage.total * dtype.itemsize:
            raise Refusal(f"the storage of {_shown(key)} has another length; {DAMAGED}")
        arrays[key] = _array(tensor, content, dtype.newbyteorder(byteorder))
    return arrays


def _check(tensor: Tensor, key: str) -> None:
    """Refuse a tensor that reaches outside its storage."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    inside = (
        len(size) == len(stride)
        and all(type(n) is int and n >= 0 for n in (*size, *stride, offset))
        and (
            0 in size
            or offset + sum((n - 1) * s for n, s in zip(size, stride)) < tensor.storage.count
        )
    )
    if not inside:
        raise Refusal(f"the tensor {_shown(key)} reaches outside its storage; {DAMAGED}")


def _array(tensor: Tensor, content: memoryview, dtype: np.dtype[Any]) -> np.ndarray:
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

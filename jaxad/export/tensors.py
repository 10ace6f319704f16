"""Weights as safetensors, a format that can hold nothing but arrays: written and read in bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""What an array may hold, by safetensors' names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MOST_ARRAYS, MOST_AXES, MOST_NAME, MOST_SIDE = 16384, 8, 1000, 1 << 31


class Tensor(NamedTuple):
    """One argument of a program."""

    name: str
    """Its place in the tree of variables, with "/"."""
    dtype: str
    """In `DTYPES`."""
    shape: tuple[int, ...]


def specification(name: str, array: np.ndarray) -> Tensor:
    """What a program's manifest says of an array.

    Raises:
        ValueError: It holds what no file can.
    """
    if array.dtype not in _NAMES:
        raise ValueError(f"{name} is {array.dtype}: a file holds {', '.join(DTYPES)}")
    return Tensor(name, _NAMES[array.dtype], tuple(array.shape))


def tensor(found: Any) -> Tensor:
    """Read one `[name, dtype, shape]` of a stranger's manifest.

    Raises:
        ValueError: It is no such thing.
    """
    name, dtype, shape = found
    sides = all(type(side) is int and 0 <= side < MOST_SIDE for side in shape)
    if not isinstance(name, str) or len(name) > MOST_NAME or dtype not in DTYPES or not sides:
        raise ValueError(f"no array: {str(found)[:80]}")
    if len(shape) > MOST_AXES:
        raise ValueError(f"{name[:80]} has {len(shape)} axes")
    return Tensor(name, dtype, tuple(shape))


def save(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays in the order given, one behind the other."""
    header, parts, offset = {}, [], 0
    for name, array in arrays.items():
        _, dtype, shape = specification(name, array)
        data = np.ascontiguousarray(array).tobytes()
        place = [offset, offset + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": place}
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def load(data: memoryview, wanted: tuple[Tensor, ...]) -> list[np.ndarray]:
    """Read the arrays that a manifest names, and see that there is nothing else.

    Args:
        data: A safetensors file.
        wanted: Its arrays, in their order.

    Returns:
        Views of the data, read-only.

    Raises:
        ValueError: The header is not the one of these arrays, or the data not as long.
    """
    size = int.from_bytes(data[:8], "little")
    if size > len(data) - 8:
        raise ValueError("the header is longer than the file")
    header = json.loads(bytes(data[8 : 8 + size]))
    if not isinstance(header, dict) or list(header) != [own.name for own in wanted]:
        raise ValueError("it does not hold the arrays that the manifest names")
    found, offset, body = [], 0, data[8 + size :]
    for name, dtype, shape in wanted:
        end = offset + math.prod(shape) * DTYPES[dtype].itemsize
        if header[name] != {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}:
            raise ValueError(f"{name} is not the array that the manifest names")
        if end > len(body):
            raise ValueError(f"{name} goes beyond the end")
        found.append(np.frombuffer(body[offset:end], DTYPES[dtype]).reshape(shape))
        offset = end
    if offset != len(body):
        raise ValueError("there is something behind the last array")
    return found

"""A reader of pickled dicts of uint8 arrays and lists, as CIFAR-10's python format has them.

It runs the files on `jaxad.data.pickle_machine` with stand-ins for the few names of numpy that they
need, and so can make nothing but bytes, numbers and text, whoever wrote the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.data.pickle_machine import RefusalError, run_pickle
from jaxad.errors import InputError

MAX_BYTES = 256 * 1024 * 1024
"""Size of a file that is read; a batch of CIFAR-10 has 30 MiB, all of its images have 176."""
MAX_STEPS = 1_000_000
"""A batch of 10,000 images takes 30,000 steps as published, 90,000 when pickled by Python 3."""


class _Mark:
    """Stands for a class of numpy, which a pickle may only hand on."""


class _Array:
    """An array, empty until the pickle brings its content."""

    values: np.ndarray[Any, Any] | None = None


_NDARRAY, _UINT8 = _Mark(), _Mark()


def read_pickled_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read some entries of a pickled dict.

    Args:
      path: The file.
      names: Entries wanted, if they are there. Everything else in the dict is passed over.

    Returns:
      By name: uint8 arrays, which share the file's bytes where they can and are read-only; lists
      of int or of str; or str or int.

    Raises:
      InputError: absent, larger than `MAX_BYTES`, damaged, or holding anything beyond that.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: unpack the dataset anew")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes: no batch of CIFAR-10: remove it")
    return parse_pickled_arrays(data, names, source=str(path))


def parse_pickled_arrays(data: bytes, names: Sequence[str], *, source: str) -> dict[str, Any]:
    """Do as `read_pickled_arrays` with the bytes of a file; `source` names it in messages."""
    try:
        # Protocol 2 of Python 3 writes bytes as text: as long as the file, then.
        entries, _ = run_pickle(
            data, find=_find, build=_build, max_steps=MAX_STEPS, max_text=len(data)
        )
        if type(entries) is not dict:
            raise RefusalError("it holds no dict")
        names_held = [key for key in entries if type(key) in (str, bytes)]
        by_name = {_text(key): entries[key] for key in names_held}
        return {name: _plain(name, by_name[name]) for name in names if name in by_name}
    except RefusalError as error:
        raise InputError(
            f"{source}: not read as pickled arrays: {error}; unpack the dataset anew"
        ) from None


def _plain(name: str, value: Any) -> Any:
    if type(value) is _Array and value.values is not None:
        return value.values
    if type(value) is list and all(map(_is_number, value)):
        return value
    if type(value) is list and all(type(item) in (str, bytes) for item in value):
        return [_text(item) for item in value]
    if type(value) in (str, bytes):
        return _text(value)
    if _is_number(value):
        return value
    raise RefusalError(f"entry {name!r} is no uint8 array and no list of numbers or names")


def _is_number(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _encode(arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocol 2 of Python 3 writes bytes."""
    text, encoding = arguments if len(arguments) == 2 else (None, None)
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusalError("it encodes what is no latin1 text")
    return text.encode("latin-1")


def _dtype(arguments: tuple[Any, ...]) -> _Mark:
    if not arguments or arguments[0] not in ("u1", b"u1"):
        raise RefusalError("an array's type is not uint8")
    return _UINT8


def _reconstruct(arguments: tuple[Any, ...]) -> _Array:
    if not arguments or arguments[0] is not _NDARRAY:
        raise RefusalError("it makes an object that is no array")
    return _Array()


def _frombuffer(arguments: tuple[Any, ...]) -> _Array:
    """`_frombuffer(bytes, dtype, shape, order)`: how protocol 5 writes arrays."""
    raw, dtype, shape, order = arguments if len(arguments) == 4 else (None,) * 4
    array = _Array()
    array.values = _filled(raw, dtype, shape, order in ("F", b"F"))
    return array


_ALLOWED: dict[tuple[str, str], object] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    # numpy's inner modules have been renamed; files have either name.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}


def _find(module: str, name: str) -> object:
    if (module, name) not in _ALLOWED:
        raise RefusalError(f"its pickle asks for {f'{module}.{name}'[:100]!a}")
    return _ALLOWED[module, name]


def _build(target: object, state: object) -> None:
    """Give an array its content; a dtype's state says nothing that "u1" does not."""
    if target is _UINT8:
        return
    if type(target) is not _Array or type(state) is not tuple or len(state) != 5:
        raise RefusalError("it sets attributes of an object")
    _, shape, dtype, fortran, raw = state
    target.values = _filled(raw, dtype, shape, bool(fortran))


def _filled(raw: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray[Any, Any]:
    if dtype is not _UINT8:
        raise RefusalError("an array's type is not uint8")
    if type(raw) is str:  # a short string of Python 2
        raw = raw.encode("latin-1")
    if (
        type(raw) not in (bytes, memoryview)
        or type(shape) is not tuple
        or not 1 <= len(shape) <= 4
        or not all(type(length) is int and length >= 0 for length in shape)
        or math.prod(shape) != len(raw)
    ):
        raise RefusalError("an array's shape does not fit its bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")

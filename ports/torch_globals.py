"""What the globals in a file of `torch.save` stand for: an allow-list for the pickle machine.

A global is one of three things here: a part of a tensor, an extra that often lies beside a state
dict in a training checkpoint (it becomes `OTHER`), or refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxad.data.pickle_machine import OTHER, set_items
from ports.source import DAMAGED, Refusal

MEND = "save only model.state_dict() with torch.save and bring that file"


@dataclasses.dataclass(eq=False, slots=True)
class StorageType:
    """The class of a storage."""

    dtype: np.dtype[Any]
    bfloat16: bool = False


@dataclasses.dataclass(eq=False, slots=True)
class Storage:
    """A storage by the key of its bytes, or a part of it."""

    type: StorageType
    key: str
    total: int  # elements of the whole storage
    first: int  # a view of the storage that begins here ...
    count: int  # ... and has this many elements


@dataclasses.dataclass(eq=False, slots=True)
class Tensor:
    """A tensor as the pickle states it, still unchecked."""

    storage: Storage
    offset: Any
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


def find(module: str, name: str) -> object:
    """Return what stands for a global: a function or constant of the allow-list.

    Raises:
        Refusal: It is not on the list; the line says why, where real files have it.
    """
    if (module, name) not in ALLOWED:
        shown = ascii(f"{module[:100]}.{name[:100]}"[:100])
        why = REASONS.get((module, name), f"which is no part of a state dict; {MEND}")
        raise Refusal(f"its pickle asks for {shown}, {why}")
    return ALLOWED[module, name]


def build(target: object, _: object) -> None:
    """Drop the attributes of a dict (torch's `_metadata`).

    Raises:
        Refusal: Attributes of anything else.
    """
    if type(target) is not dict:
        raise Refusal(f"its pickle sets attributes of an object; {MEND}")


def storage(pid: object) -> Storage:
    """Turn the persistent id of a storage into a `Storage`.

    Raises:
        Refusal: another kind of persistent id, or its numbers contradict each other.
    """
    match pid:
        case ("storage", StorageType() as type_, str(key), str(), int(total)):
            result = Storage(type_, key, total, 0, total)
        case ("storage", StorageType() as type_, str(key), str(), int(total), None):
            result = Storage(type_, key, total, 0, total)
        case (
            "storage",
            StorageType() as type_,
            str(key),
            str(),
            int(total),
            (str(), int(first), int(count)),
        ):  # views of storages, before torch 0.4
            result = Storage(type_, key, total, first, count)
        case _:
            raise Refusal(f"its pickle refers to more than arrays; {MEND}")
    if total < 0 or result.first < 0 or not 0 <= result.count <= total - result.first:
        raise Refusal(f"the lengths of storage {key[:40]!a} contradict each other; {DAMAGED}")
    return result


def _other(_: tuple[Any, ...]) -> object:
    """Take any arguments: for globals that are harmless and not needed."""
    return OTHER


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    match arguments:
        case ():
            pass
        case (list(pairs),):  # as Python 2 pickled it
            for pair in pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    raise Refusal(f"its pickle makes a dict of what are no pairs; {DAMAGED}")
                set_items(result, list(pair))
        case _:
            raise Refusal(f"its pickle makes a dict of what are no pairs; {DAMAGED}")
    return result


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        # Then requires_grad and hooks, which mean nothing here, and (torch >= 2.0) the bits of a
        # lazy conjugate or negative view.
        case (Storage() as store, offset, tuple(size), tuple(stride), *rest):
            if any(rest[2:]):
                raise Refusal(
                    "its pickle holds a lazily negated tensor; "
                    "save {k: v.resolve_neg() for k, v in model.state_dict().items()}"
                )
            return Tensor(store, offset, size, stride)
    raise Refusal(f"its pickle makes a tensor of other things than a storage; {DAMAGED}")


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Tensor() as tensor, _, _) | (Tensor() as tensor, _, _, _):  # hooks, attributes
            return tensor
    raise Refusal(f"its pickle makes a parameter of what is no tensor; {DAMAGED}")


_BUILTINS = (
    *("set", "frozenset", "list", "dict", "tuple", "slice", "range", "bytearray", "bytes"),
    *("int", "float", "complex", "str", "bool"),
)
_PATHS = ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "complex64", "complex128", "uint16", "uint32", "uint64"),
)

# What trainers save beside the state dict (argparse.Namespace: timm, torchvision; numpy scalars:
# the metric; Counter: learning rate schedules; numpy arrays: the state of random generators).
_EXTRAS: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "collections": ("Counter", "defaultdict", "deque"),
    "datetime": ("datetime", "date", "timedelta"),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "_codecs": ("encode",),  # how protocol 2 writes bytes
    "__builtin__": _BUILTINS,
    "builtins": _BUILTINS,
    "torch": ("Size", "device", *_DTYPES),
}

ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, name): _other for module, names in _EXTRAS.items() for name in names},
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch", "DoubleStorage"): StorageType(np.dtype("f8")),
    ("torch", "FloatStorage"): StorageType(np.dtype("f4")),
    ("torch", "HalfStorage"): StorageType(np.dtype("f2")),
    ("torch", "BFloat16Storage"): StorageType(np.dtype("u2"), bfloat16=True),
    ("torch", "LongStorage"): StorageType(np.dtype("i8")),
    ("torch", "IntStorage"): StorageType(np.dtype("i4")),
    ("torch", "ShortStorage"): StorageType(np.dtype("i2")),
    ("torch", "CharStorage"): StorageType(np.dtype("i1")),
    ("torch", "ByteStorage"): StorageType(np.dtype("u1")),
    ("torch", "BoolStorage"): StorageType(np.dtype("?")),
}
"""(module, name) -> the function or constant that stands for it."""


def _each(how: str) -> str:
    return f"save {{k: {how} for k, v in model.state_dict().items()}}"


_COMPLEX = f"an array of complex numbers, which no backbone here has; {_each('v.real')}"
_QUANTISED = f"a quantised array; {_each('v.dequantize()')}"
_DEVICE = f"an array of another device; {_each('v.cpu()')}"
_SUBCLASS = f"a tensor with attributes or of a subclass; {_each('v.as_subclass(torch.Tensor)')}"

_REASONS: dict[str, dict[str, str]] = {
    "torch": {
        "ComplexFloatStorage": _COMPLEX,
        "ComplexDoubleStorage": _COMPLEX,
        **dict.fromkeys(
            (
                "QInt8Storage",
                "QUInt8Storage",
                "QInt32Storage",
                "QUInt4x2Storage",
                "QUInt2x4Storage",
            ),
            _QUANTISED,
        ),
    },
    "torch.storage": {"UntypedStorage": f"a bare storage, not a tensor; {MEND}"},
    "torch._tensor": {"_rebuild_from_type": _SUBCLASS, "_rebuild_from_type_v2": _SUBCLASS},
    "torch._utils": {
        "_rebuild_tensor_v3": f"an array of float8 or unsigned integers; {_each('v.float()')}",
        "_rebuild_sparse_tensor": f"a sparse array; {_each('v.to_dense()')}",
        "_rebuild_nested_tensor": f"an array of arrays (nested tensor); {MEND}",
        "_rebuild_meta_tensor_no_storage": f"an array on device 'meta', without values; {MEND}",
        "_rebuild_wrapper_subclass": _SUBCLASS,
        "_rebuild_qtensor": _QUANTISED,
        "_rebuild_device_tensor_from_numpy": _DEVICE,
        "_rebuild_device_tensor_from_cpu_tensor": _DEVICE,
        "_rebuild_xla_tensor": _DEVICE,
    },
}
REASONS: dict[tuple[str, str], str] = {
    (module, name): why for module, names in _REASONS.items() for name, why in names.items()
}
"""(module, name) of a global of real files that is refused -> what it is, and the mend."""

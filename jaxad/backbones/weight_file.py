"""The weight file: what it holds, how it is written, read and checked.

A file is a safetensors file (it can hold nothing but arrays and strings) of the variable tree
flattened with "/", whose metadata say what it is, where it comes from and how its pixels are
prepared, and hold a SHA-256 over everything in it. `python -m ports convert` writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxad.backbones.architectures import Variant
from jaxad.core import InputError, Preprocess, Variables
from jaxad.data.images import FILTERS
from jaxad.files import write_bytes

FORMAT = "3"
"""Version of the file format that is written."""
READ = ("2", FORMAT)
"""Versions that are read; files of version 2 have no checksum."""
CHECKSUM = "sha256"
"""Key of the metadata that holds the checksum."""
SUFFIX = ".safetensors"
FLOATS = ("F16", "F32")
MAX_ARRAYS = 10_000
"""EfficientNet-B7 has 1,200."""
MAX_RANK = 8
"""Axes of one array; the kernels of a network have four."""
MAX_HEADER = 16 * 2**20
"""Bytes of all that is not arrays; EfficientNet-B7's are 120,000."""
MAX_NAME = 200
"""Characters in the name of an array; ours have up to 60."""
MAX_TEXT = 2000
"""Characters in one entry of the metadata; ours have up to 150."""
LEAST, MOST = 1e-6, 1e6
"""Bounds of the numbers that prepare pixels: beyond them float32 overflows within a network."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a weight file says of itself."""

    architecture: str
    levels: tuple[str, ...]
    """The levels its arrays reach, in order of depth."""
    folded: bool
    """Whether BatchNorm has been folded into the convolutions."""
    source: str
    """Name of the file it was converted from."""
    source_sha256: str
    recipe: str
    """How its network was trained, e.g. "IMAGENET1K_V1", where its SHA-256 is known; or ""."""
    licence: str
    preprocess: Preprocess
    variant: Variant

    def to_strings(self) -> dict[str, str]:
        """Return the metadata block of a safetensors file."""
        return {
            "format_version": FORMAT,
            "architecture": self.architecture,
            "levels": ",".join(self.levels),
            "folded": "true" if self.folded else "false",
            "source": self.source,
            "source_sha256": self.source_sha256,
            "recipe": self.recipe,
            "licence": self.licence,
            "preprocessing": json.dumps(dataclasses.asdict(self.preprocess)),
            "variant": json.dumps(dataclasses.asdict(self.variant)),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], *, path: Path) -> Metadata:
        """Read the metadata block of `path`.

        Raises:
            InputError: It is not one of ours, of another version, or damaged.
        """
        if "format_version" not in strings:
            raise InputError(
                f"{path}: not a jaxad weight file; convert it with "
                f"`python -m ports convert NAME {path.name}`"
            )
        version = strings["format_version"]
        if version not in READ:
            raise InputError(
                f"{path}: weight format {version[:20]!r}, this version reads "
                f"{' and '.join(READ)}; convert the source again"
            )
        try:
            if (CHECKSUM in strings) != (version == FORMAT):
                raise ValueError(f"format {version} with {CHECKSUM} missing or out of place")
            if any(len(text) > MAX_TEXT for text in strings.values()):
                raise ValueError(f"an entry of more than {MAX_TEXT} characters")
            return cls(
                architecture=strings["architecture"],
                levels=tuple(strings["levels"].split(",")),
                folded={"true": True, "false": False}[strings["folded"]],
                source=strings["source"],
                source_sha256=strings["source_sha256"],
                recipe=strings["recipe"],
                licence=strings["licence"],
                preprocess=_preprocess(json.loads(strings["preprocessing"])),
                variant=_variant(json.loads(strings["variant"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path}: damaged metadata ({str(error)[:200]!r}); convert the source again"
            ) from None


def _preprocess(fields: Mapping[str, object]) -> Preprocess:
    """Make a `Preprocess` of what a file says.

    Raises:
        TypeError, ValueError, OverflowError: Another field, or a value that no network has.
    """
    if type(fields) is not dict:
        raise TypeError("no object")
    lists = {key: tuple(value) for key, value in fields.items() if type(value) is list}
    preprocess = Preprocess(**{**fields, **lists})
    check_pixels(preprocess)
    mean, std = (tuple(map(float, values)) for values in (preprocess.mean, preprocess.std))
    return dataclasses.replace(preprocess, mean=mean, std=std)  # type: ignore[arg-type]


def check_pixels(preprocess: Preprocess) -> None:
    """Refuse what prepares no pixels.

    Raises:
        ValueError: `mean` and `std` are not three numbers each, a number is not finite or out of
            all bounds, or there is no such order of channels or filter.
    """
    bounds = {"scale": (LEAST, MOST), "mean": (-MOST, MOST), "std": (LEAST, MOST)}
    for key, (least, most) in bounds.items():
        stated = getattr(preprocess, key)
        values = stated if isinstance(stated, tuple) else (stated,)
        if len(values) != (1 if key == "scale" else 3):
            raise ValueError(f"{key} is not of three channels")
        for value in values:
            if type(value) not in (int, float) or not least <= value <= most:
                raise ValueError(f"{key} is {value!r:.40}, no number from {least:g} to {most:g}")
    if preprocess.channels not in ("RGB", "BGR"):
        raise ValueError(f"channels are {preprocess.channels!r:.40}, not 'RGB' or 'BGR'")
    if preprocess.resize not in FILTERS:
        raise ValueError(f"no filter {preprocess.resize!r:.40}; there are {', '.join(FILTERS)}")


def _variant(fields: Mapping[str, object]) -> Variant:
    """Make a `Variant` of what a file says.

    Raises:
        TypeError, ValueError: Another field, or a value that no network has.
    """
    variant = Variant(**fields)  # type: ignore[arg-type]
    epsilon, padding = variant.epsilon, variant.padding
    if not (type(epsilon) is float and 1e-10 <= epsilon < 1):
        raise ValueError(f"epsilon is {epsilon!r:.40}")
    if padding not in ("same", "symmetric") and not (type(padding) is int and 0 < padding < 10_000):
        raise ValueError(f"padding is {padding!r:.40}")
    return variant


def write(path: str | Path, variables: Variables, *, metadata: Metadata) -> None:
    """Write a weight file as float32, whole or not at all; its folder is made.

    The same content gives the same bytes: runs know their weights by the file's SHA-256.

    Raises:
        InputError: It can not be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.asarray(array, np.float32, order="C")
        for name, array in sorted(flatten_dict(variables, sep="/").items())
    }
    strings = metadata.to_strings()
    data = save(flat, metadata=strings | {CHECKSUM: checksum(strings, flat)})
    write_bytes(path, _in_order(data))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: their order is drawn anew in every call."""
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[length:]


def checksum(strings: Mapping[str, str], flat: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all that a file says, in hex.

    Args:
        strings: The metadata; the checksum itself is passed over.
        flat: Name -> C-contiguous array, as the file holds it.
    """
    texts = sorted(pair for pair in strings.items() if pair[0] != CHECKSUM)
    digest = hashlib.sha256(json.dumps(texts).encode())
    for name in sorted(flat):
        array = flat[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read(path: str | Path) -> tuple[Variables, Metadata]:
    """Read a weight file.

    Returns:
        The variables as float32 NumPy arrays (float16 is widened), and the metadata.

    Raises:
        InputError: The file is missing, damaged, not a weight file, or holds anything but finite
            float16 or float32 numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    flat: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if MAX_HEADER < header < path.stat().st_size:
            raise InputError(f"{path}: its header takes {header} bytes; no backbone's is so long")
        with safe_open(path, framework="numpy") as file:
            strings = file.metadata() or {}
            metadata = Metadata.from_strings(strings, path=path)
            names = file.keys()
            if len(names) > MAX_ARRAYS:
                raise InputError(f"{path}: {len(names)} arrays; no backbone has over {MAX_ARRAYS}")
            for name in names:
                if len(name) > MAX_NAME:
                    raise InputError(f"{path}: an array has the endless name {name[:80]!r}")
                stored = file.get_slice(name)
                if stored.get_dtype() not in FLOATS:
                    raise InputError(
                        f"{path}: {name} is {stored.get_dtype()}; only {' and '.join(FLOATS)} load"
                    )
                shape = stored.get_shape()
                if len(shape) > MAX_RANK or 0 in shape:
                    shown = f"{str(shape)[:60]}, {len(shape)} axes"
                    raise InputError(f"{path}: {name} has no shape of a backbone's array ({shown})")
                flat[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    if CHECKSUM in strings and checksum(strings, flat) != strings[CHECKSUM]:
        raise InputError(
            f"{path}: its content does not have the checksum it states; the file is damaged, "
            "convert the source again"
        )
    for name, array in flat.items():
        check_values(f"{path}: {name}", array, variance=name.endswith("/bn/var"))
        flat[name] = array.astype(np.float32, copy=False)
    scopes = {name[:i] for name in flat for i, c in enumerate(name) if c == "/"}
    if scopes & flat.keys():
        clash = few(sorted(scopes & flat.keys()))
        raise InputError(f"{path}: {clash} is both an array and a scope; convert the source again")
    return unflatten_dict(flat, sep="/"), metadata


def check_values(label: str, array: np.ndarray, *, variance: bool = False) -> None:
    """Refuse numbers that no trained network holds.

    Raises:
        InputError: A value is not finite, or a variance is negative.
    """
    if not np.isfinite(array).all():
        raise InputError(f"{label} holds values that are not finite; the weights are damaged")
    if variance and (array < 0).any():
        raise InputError(f"{label} holds a negative variance; the weights are damaged")


def few(names: Sequence[str], limit: int = 4) -> str:
    """Join the first few of many names, for an error message of bounded length."""
    more = f", … {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

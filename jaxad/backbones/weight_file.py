"""The weight file: what it holds, how it is written, read and checked.

A file is a safetensors file (it can hold nothing but arrays and strings) of the variable tree
flattened with "/", whose metadata say what it is, where it comes from and how its pixels are
prepared. `python -m ports convert` writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxad.backbones.architectures import Variant
from jaxad.core import InputError, Preprocess, Variables

FORMAT = "2"
"""Version of the file format; another one is refused."""
SUFFIX = ".safetensors"
FLOATS = ("F16", "F32")


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
        if strings["format_version"] != FORMAT:
            raise InputError(
                f"{path}: weight format {strings['format_version']!r}, this version reads "
                f"{FORMAT!r}; convert the source again"
            )
        try:
            pixels = json.loads(strings["preprocessing"])
            pixels |= {key: tuple(float(x) for x in pixels[key]) for key in ("mean", "std")}
            if {len(pixels["mean"]), len(pixels["std"])} != {3} or 0.0 in pixels["std"]:
                raise ValueError("mean and std are not of three channels")
            return cls(
                architecture=strings["architecture"],
                levels=tuple(strings["levels"].split(",")),
                folded={"true": True, "false": False}[strings["folded"]],
                source=strings["source"],
                source_sha256=strings["source_sha256"],
                recipe=strings["recipe"],
                licence=strings["licence"],
                preprocess=Preprocess(**pixels),
                variant=_variant(json.loads(strings["variant"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged metadata ({error!r}); convert the source again"
            ) from error


def _variant(fields: Mapping[str, object]) -> Variant:
    """Make a `Variant` of what a file says.

    Raises:
        ValueError: Another field, or a value that no network has.
    """
    variant = Variant(**fields)  # type: ignore[arg-type]
    epsilon, padding = variant.epsilon, variant.padding
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        raise ValueError(f"epsilon is {epsilon!r}")
    known = padding in ("same", "symmetric") if isinstance(padding, str) else 0 < padding < 10_000
    if not known:
        raise ValueError(f"padding is {padding!r}")
    return variant


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: str | Path, variables: Variables, *, metadata: Metadata) -> None:
    """Write a weight file as float32, under a temporary name first, so none is ever half there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in sorted(flatten_dict(variables, sep="/").items())
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save(flat, metadata=metadata.to_strings()))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        with safe_open(path, framework="numpy") as file:
            metadata = Metadata.from_strings(file.metadata() or {}, path=path)
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                kind = file.get_slice(name).get_dtype()
                if kind not in FLOATS:
                    raise InputError(f"{path}: {name} is {kind}; only {' and '.join(FLOATS)} load")
                array = file.get_tensor(name).astype(np.float32, copy=False)
                check_values(f"{path}: {name}", array, variance=name.endswith("/bn/var"))
                flat[name] = array
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
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

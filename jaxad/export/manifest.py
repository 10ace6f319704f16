"""What a file says of itself, read as a stranger's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxad.errors import InputError, first_line
from jaxad.export import archive, generated
from jaxad.export.tensors import MOST_ARRAYS, Tensor, tensor

FORMAT = 2
"""The newest. A file has 1 unless its detector takes images for subclasses: older readers know that
one, and nothing else differs."""
KIND = "jaxad export"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MOST_SIDE = 1 << 13
"""Pixels along one side of an image."""

_WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a JSON of another form raises."""


class Manifest(NamedTuple):
    """The parts of `manifest.json` that decide how a file is read."""

    detector: str
    categories: tuple[str, ...]
    size: tuple[int, int]
    resample: str
    upright: bool
    platforms: tuple[str, ...]
    calling_convention: int
    weights: tuple[Tensor, ...]
    members: dict[str, tuple[int, str]]
    """Name -> bytes and SHA-256 of all the others."""
    check: dict[str, np.ndarray]
    """Scores of the generated images: "map" and "image"."""
    id: str
    subclasses: tuple[str, ...]


class About(NamedTuple):
    """What a writer says of a detector."""

    detector: str
    """Its name."""
    method: str
    """That it is of."""
    categories: Sequence[str]
    """That it was trained on."""
    size: tuple[int, int]
    """`(H, W)` of images."""
    resample: str
    """The filter by which photos are resized."""
    upright: bool
    """Whether they are turned by their EXIF orientation before."""
    platforms: Sequence[str]
    """Of `PLATFORMS`."""
    check: dict[str, Any]
    """What `generated.record` makes of its scores."""
    subclasses: Sequence[str] = ()
    """Names of those that it takes images for; none: its program gives scores alone."""


def describe(
    about: About,
    *,
    calling_convention: int,
    weights: Sequence[Tensor],
    members: dict[str, tuple[int, str]],
) -> dict[str, Any]:
    """Make `manifest.json`; `parsed` reads it."""
    height, width = about.size
    named = list(about.subclasses)
    return {
        "format": 2 if named else 1,
        "kind": KIND,
        "id": identity(members),
        "detector": about.detector,
        "method": about.method,
        "categories": list(about.categories),
        **({"subclasses": named} if named else {}),
        "size": [height, width],
        "resample": about.resample,
        "upright": about.upright,
        "platforms": list(about.platforms),
        "calling_convention": calling_convention,
        "inputs": {
            "weights": [[name, dtype, list(shape)] for name, dtype, shape in weights],
            "images": {"shape": ["b", height, width, 3], "dtype": "uint8"},
        },
        "outputs": {
            "map": {"shape": ["b", height, width], "dtype": "float32"},
            "image": {"shape": ["b"], "dtype": "float32"},
            **({"subclass": {"shape": ["b"], "dtype": "int32"}} if named else {}),
        },
        "members": {
            name: {"bytes": size, "sha256": digest} for name, (size, digest) in members.items()
        },
        "check": about.check,
    }


def identity(members: dict[str, tuple[int, str]]) -> str:
    """Sixteen signs that stand for program and weights, and so for every score."""
    text = members[archive.PROGRAM][1] + members[archive.WEIGHTS][1]
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parsed(data: bytes, path: Path) -> tuple[dict[str, Any], Manifest]:
    """Read `manifest.json`: as it is, and the parts that decide.

    Raises:
        InputError: It is of a newer format, or not as jaxad writes it.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise ValueError("it is no manifest")
        version = found["format"]
        if type(version) is int and version > FORMAT:
            raise InputError(
                f"{path} was written by a newer jaxad: format {version}, this one reads up to "
                f"{FORMAT}; install a newer jaxad"
            )
        if type(version) is not int or version < 1:
            raise ValueError(f"no format {version!r:.40}")
        return found, _manifest(found)
    except InputError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        why = f"{archive.MANIFEST}: {first_line(error, 120)}"
        raise archive.damaged(path, why) from None


def _manifest(found: dict[str, Any]) -> Manifest:
    """Raises ValueError and the like where something is not as `describe` makes it."""
    size = tuple(found["size"])
    if len(size) != 2 or not all(type(n) is int and 0 < n <= MOST_SIDE for n in size):
        raise ValueError(f"no size: {size!r:.80}")
    every = found["inputs"]["weights"]
    if not 0 < len(every) <= MOST_ARRAYS:
        raise ValueError(f"{len(every)} arrays")
    weights = tuple(tensor(one) for one in every)
    if len({own.name for own in weights}) < len(weights):
        raise ValueError("an array twice")
    platforms, categories = (_texts(found[key]) for key in ("platforms", "categories"))
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(f"no platforms: {platforms!r:.80}")
    names = _texts([found[key] for key in ("detector", "method", "resample", "id")])
    convention, upright = found["calling_convention"], found["upright"]
    if type(convention) is not int or type(upright) is not bool:
        raise ValueError("no calling convention, or not whether photos are turned upright")
    subclasses = _texts(found["subclasses"]) if found["format"] > 1 else ()
    if found["format"] > 1 and not subclasses:
        raise ValueError("no subclasses")
    members = {name: (own["bytes"], own["sha256"]) for name, own in found["members"].items()}
    if not set(archive.REQUIRED[1:]) <= members.keys() <= archive.MOST_BYTES.keys():
        raise ValueError(f"members {sorted(members)!r:.120}")
    if names[3] != identity(members):
        raise ValueError("its id is not that of program and weights")
    shape = generated.points(np.empty((generated.COUNT, *size), np.bool_)).shape
    check = {key: np.asarray(found["check"][key], np.float64) for key in ("map", "image")}
    if check["map"].shape != shape or check["image"].shape != shape[:1]:
        raise ValueError("no scores of the generated images")
    return Manifest(
        detector=names[0],
        categories=categories,
        size=(size[0], size[1]),
        resample=names[2],
        upright=upright,
        platforms=platforms,
        calling_convention=convention,
        weights=weights,
        members=members,
        check=check,
        id=names[3],
        subclasses=subclasses,
    )


def _texts(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"no list of texts: {str(found)[:80]}")
    return tuple(found)

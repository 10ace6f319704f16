"""An exported detector back from its file, by jax and numpy alone."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxad.compiling import CPU_OPTIONS, fit_as_constants, has_depthwise
from jaxad.errors import InputError, first_line
from jaxad.export import archive, generated, program, tensors
from jaxad.export.manifest import Manifest, parsed


class Scores(NamedTuple):
    """Anomaly scores, higher is more anomalous, raw (never scaled per image)."""

    map: jax.Array
    """`(B, H, W)` float32."""
    image: jax.Array
    """`(B,)` float32."""


class Routed(NamedTuple):
    """`Scores`, and the subclass that each image was taken for."""

    map: jax.Array
    image: jax.Array
    subclass: jax.Array
    """`(B,)` int32, a place in `Exported.subclasses`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A detector from a file of `jaxad export`."""

    id: str
    """Sixteen signs that stand for program and weights: equal where all scores are."""
    detector: str
    """Its name: that of a category, or "all"."""
    categories: tuple[str, ...]
    """What it was trained on."""
    size: tuple[int, int]
    """`(H, W)` of the images that it takes, pixels."""
    resample: str
    """Pillow's filter, in lower case, by which photos were resized to them."""
    upright: bool
    """Whether photos were turned by their EXIF orientation before."""
    platforms: tuple[str, ...]
    """What it runs on: "cpu", "cuda", "rocm", "tpu"."""
    calibration: dict[str, Any] | None
    """What `jaxad.calibration.from_json` reads; None: it was not calibrated."""
    provenance: dict[str, Any]
    """Configuration, fingerprint of the data, weights with their licences, versions."""
    manifest: dict[str, Any]
    """As it is in the file."""
    check: dict[str, np.ndarray]
    """Scores of the generated images where it was made: points of "map", and "image"."""
    program: Callable[[Any], tuple[jax.Array, ...]]
    """Maps and image scores (and subclasses) of `(B, H, W, 3)` uint8 images, for `jax.jit` and
    within it."""
    subclasses: tuple[str, ...] = ()
    """Names of those that it takes images for; none: it takes them for none."""

    def score(self, images: Any) -> Scores:
        """Score `(B, H, W, 3)` uint8 images, red, green and blue, on the host or on a device.

        The first batch of every size B compiles. Does not wait for the result.

        Raises:
            InputError: The images are of another type or shape.
        """
        _check(images, self.size)
        return Scores(*self.program(images)[:2])

    def routed(self, images: Any) -> Routed:
        """As `score`, and which of `subclasses` each image is taken for.

        Raises:
            InputError: As `score`, or there are no subclasses.
        """
        if not self.subclasses:
            raise InputError(f"detector {self.detector!r} takes images for no subclasses")
        _check(images, self.size)
        return Routed(*self.program(images))

    def verify(self) -> float:
        """Score the generated images; return by how much that differs from where it was made.

        Returns:
            The largest difference of a map's point or an image score, in parts of their spread.
        """
        return generated.difference(self.check, *self.score(generated.images(self.size)))


def load(path: str | os.PathLike[str]) -> Exported:
    """Read a file of `jaxad export`.

    Nothing in it is run but the program, which can only compute from images and weights; one that
    could do more is refused. docs/export.md says what that means for a stranger's file.

    Args:
        path: The file.

    Raises:
        InputError: It is no such file, damaged, of a newer jaxad, or not for this machine.
    """
    path = Path(path)
    manifest, stated, members = _members(path)
    here = jax.export.default_export_platform()
    if here not in stated.platforms:
        raise InputError(
            f"{path} is exported for {', '.join(stated.platforms)}, and this is {here}: export "
            f"with --platforms {here}, or set JAX_PLATFORMS"
        )
    first, last = program.calling_conventions()
    if not first <= stated.calling_convention <= last:
        raise InputError(
            f"{path} has calling convention {stated.calling_convention}, and jax {jax.__version__} "
            f"knows {first} to {last}: export again with a jax nearer to this one"
        )
    try:
        arrays = tensors.load(members[archive.WEIGHTS], stated.weights)
    except (ValueError, TypeError, RecursionError) as error:
        raise archive.damaged(path, f"{archive.WEIGHTS}: {first_line(error, 120)}") from None
    texts = {
        name: _json(path, name, members[name])
        for name in (archive.CALIBRATION, archive.PROVENANCE)
        if name in members
    }
    return Exported(
        id=stated.id,
        detector=stated.detector,
        categories=stated.categories,
        size=stated.size,
        resample=stated.resample,
        upright=stated.upright,
        platforms=stated.platforms,
        calibration=texts.get(archive.CALIBRATION),
        provenance=texts[archive.PROVENANCE],
        manifest=manifest,
        check=stated.check,
        program=_compiled(path, bytes(members[archive.PROGRAM]), arrays, stated),
        subclasses=stated.subclasses,
    )


def _members(path: Path) -> tuple[dict[str, Any], Manifest, dict[str, memoryview]]:
    """The manifest, and all other members as it states them."""
    every = archive.read(path)
    _, text = next(every)
    manifest, stated = parsed(bytes(text), path)
    members = dict(every)
    if members.keys() != stated.members.keys():
        names = ", ".join(sorted(members.keys() ^ stated.members.keys()))
        raise archive.damaged(path, f"the manifest and the zip differ in {names}")
    for name, content in members.items():
        if (len(content), hashlib.sha256(content).hexdigest()) != stated.members[name]:
            raise archive.damaged(path, f"{name} does not have its SHA-256")
    return manifest, stated, members


def _json(path: Path, name: str, content: memoryview) -> dict[str, Any]:
    try:
        found = json.loads(bytes(content))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (ValueError, RecursionError) as error:
        raise archive.damaged(path, f"{name}: {first_line(error, 120)}") from None


def _compiled(
    path: Path, text: bytes, arrays: list[np.ndarray], stated: Manifest
) -> Callable[[Any], Any]:
    """The program with its weights, for `jax.jit`, after a look at what it does."""
    try:
        refused = program.look_through(text)
        if refused:
            raise InputError(
                f"{path} is refused: its program holds {', '.join(refused[:4])}, and not only "
                "computing; export it again without, if it is yours"
            )
        call = program.callable_of(
            text,
            stated.weights,
            stated.size,
            stated.platforms,
            stated.calling_convention,
            routed=bool(stated.subclasses),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path}: jax {jax.__version__} can not read its program ({first_line(error, 120)}): "
            "use a newer jax, or export again"
        ) from None
    weights = [jnp.asarray(array) for array in arrays]
    on_cpu = jax.default_backend() == "cpu"
    plain = all(array.dtype == np.float32 for array in arrays) and not has_depthwise(arrays)
    options = _known_options() if on_cpu and plain else None
    if on_cpu and fit_as_constants(weights):  # weights as constants: faster there
        return jax.jit(functools.partial(call, weights), compiler_options=options)
    return functools.partial(jax.jit(call), weights)


@functools.cache
def _known_options() -> dict[str, str | bool] | None:
    """The options for a CPU, if this XLA knows them: a file outlives versions of it."""
    try:
        jax.jit(jnp.negative, compiler_options=CPU_OPTIONS)(np.float32(1))
    except Exception:
        return None
    return CPU_OPTIONS


def _check(images: Any, size: tuple[int, int]) -> None:
    """See that images are what the program takes."""
    height, width = size
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or dtype is None:
        raise InputError(f"images are a {type(images).__name__}: give one array of uint8 pixels")
    if dtype != np.uint8:
        raise InputError(f"images are {dtype}: give uint8 pixels, 0 to 255")
    if tuple(shape) == (height, width, 3):
        raise InputError(f"images are {tuple(shape)}: give (B, H, W, 3), one image as image[None]")
    if len(shape) != 4 or tuple(shape[1:]) != (height, width, 3) or not shape[0]:
        raise InputError(
            f"images are {tuple(shape)}: this detector takes (B, {height}, {width}, 3), "
            "one image or more"
        )

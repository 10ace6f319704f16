"""Weights for backbones: found, merged strictly, and made into a frozen backbone.

`load_backbone` takes them from a weight file (`jaxad.backbones.weight_file`), `init_backbone` draws
them at random.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones.architectures import ARCHITECTURES, Architecture, Variant, architecture
from jaxad.backbones.layers import he_fan_out_std
from jaxad.backbones.weight_file import SUFFIX, Metadata, check_values, few, read, write
from jaxad.core import Array, Backbone, InputError, Preprocess, Variables
from jaxad.files import sha256
from jaxad.ops.fold import fold_batch_norm

__all__ = [
    "Metadata",
    "check_values",
    "few",
    "find",
    "init_backbone",
    "load_backbone",
    "merge_strict",
    "read",
    "sha256",
    "shapes",
    "write",
]


DRAWN = ("kernel", "position", "class_token", "registers")
"""Arrays that `init_backbone` draws."""


def find(name: str | Path, folder: str | Path | None = None) -> Path:
    """Find the weight file of a backbone.

    Args:
        name: The name of an architecture, or the path of a file (recognised by its suffix or by a
            separator in it), which must then exist.
        folder: The folder of the files: no other place is looked at. None or "": `$JAXAD_WEIGHTS`,
            where that is set, and nowhere else; or else `ports/weights` of the checkout that this
            package lies in, and then `ports/weights` of the working directory.

    Raises:
        InputError: There is no such folder, or no such file in it; the line says which command
            makes it.
    """
    text = str(name)
    if text.endswith(SUFFIX) or os.sep in text:
        if not Path(text).is_file():
            raise InputError(f"{text}: no such weight file")
        return Path(text)
    architecture(text)
    named = str(folder or "") or os.environ.get("JAXAD_WEIGHTS", "")
    if named:
        places = [Path(named)]
        otherwise = "name another folder"
    else:
        places = [Path(__file__).resolve().parents[2] / "ports" / "weights", Path("ports/weights")]
        otherwise = "name their folder in JAXAD_WEIGHTS"
    for place in places:
        if (place / f"{text}{SUFFIX}").is_file():
            return place / f"{text}{SUFFIX}"
    shown = ", ".join(map(str, dict.fromkeys(places)))
    what = f"no weights of {text} in {shown}"
    if named and not Path(named).is_dir():
        by = "" if folder else "JAXAD_WEIGHTS: "
        what = f"{by}there is no folder {shown}, so no {text} in it"
    out = f" --out {Path(named) / text}{SUFFIX}" if folder else ""
    raise InputError(
        f"{what}; make them with `python -m ports fetch {text}{out}` or "
        f"`python -m ports convert {text} FILE{out}`, or {otherwise}"
    )


def merge_strict(loaded: Variables, template: Variables, *, name: str = "weights") -> Variables:
    """Return `loaded`, once its arrays are exactly those of `template`.

    Args:
        loaded: A variable tree of arrays.
        template: A variable tree of anything with a shape.
        name: What to call the loaded side in the message.

    Raises:
        InputError: Arrays are missing, not expected, or of another shape; one line lists them all
            three, a few of each.
    """
    have, want = flatten_dict(loaded, sep="/"), flatten_dict(template, sep="/")
    missing = sorted(want.keys() - have.keys())
    extra = sorted(have.keys() - want.keys())
    misshapen = [
        f"{key} is {tuple(have[key].shape)}, not {tuple(want[key].shape)}"
        for key in sorted(want.keys() & have.keys())
        if tuple(have[key].shape) != tuple(want[key].shape)
    ]
    problems = [
        f"{len(found)} {what} ({few(found)})"
        for what, found in (
            ("missing", missing),
            ("not expected", extra),
            ("of another shape", misshapen),
        )
        if found
    ]
    if problems:
        raise InputError(f"{name} do not fit the network: {'; '.join(problems)}")
    return loaded


def shapes(arch: Architecture, *, levels: Sequence[str], folded: bool) -> Variables:
    """Shapes of an architecture's variables up to the deepest of `levels`; computes nothing."""
    deepest = max(levels, key=list(arch.levels).index)
    flat = _flat_shapes(arch, deepest, folded)
    variables: Variables = unflatten_dict(dict(flat))
    return variables


@functools.cache
def _flat_shapes(
    arch: Architecture, level: str, folded: bool
) -> tuple[tuple[tuple[str, ...], jax.ShapeDtypeStruct], ...]:
    """Pairs of path and shape; kept, for tracing a large network takes seconds."""
    module = arch.build(levels=(level,), folded=folded)
    side = 64 // arch.patch * arch.patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return tuple(flatten_dict(jax.eval_shape(module.init, jax.random.key(0), image)).items())


def load_backbone(
    name_or_path: str | Path,
    *,
    levels: Sequence[str] | None = None,
    folder: str | Path | None = None,
) -> tuple[Backbone, Variables]:
    """Load a frozen backbone with the weights of a file.

    BatchNorm is folded, and weights above the deepest level asked for are dropped.

    Args:
        name_or_path: The name of an architecture, looked for as `find` says, or a weight file.
        levels: Which feature maps it yields; None: the architecture's default ones.
        folder: The folder of the weight files; None: those of `find`.

    Returns:
        The backbone and its float32 variables on the default device.

    Raises:
        InputError: No such backbone, file or level, or a file that is damaged, of another
            architecture, or does not reach a level.
    """
    path = find(name_or_path, folder)
    variables, metadata = read(path)
    if metadata.architecture not in ARCHITECTURES:
        raise InputError(
            f"{path}: holds {metadata.architecture!r}, which this version does not know"
        )
    if str(name_or_path) in ARCHITECTURES and metadata.architecture != str(name_or_path):
        raise InputError(
            f"{path}: holds {metadata.architecture}, not {name_or_path}; rename it or convert again"
        )
    arch = architecture(metadata.architecture)
    wanted = arch.check_levels(levels)
    if metadata.levels != tuple(arch.levels)[: len(metadata.levels)]:
        raise InputError(f"{path}: damaged metadata (levels); convert the source again")
    beyond = [level for level in wanted if level not in metadata.levels]
    if beyond:
        raise InputError(
            f"{path}: does not reach {', '.join(beyond)}; it has {', '.join(metadata.levels)}: "
            "convert its source again, if that goes so far"
        )
    held = metadata.levels
    whole = shapes(arch, levels=held, folded=metadata.folded)
    merge_strict(variables, whole, name=f"{path}: arrays")
    if wanted[-1] != held[-1]:
        variables = _prune(variables, shapes(arch, levels=wanted, folded=metadata.folded))
    folded = fold_batch_norm(variables, metadata.variant.epsilon)
    try:
        backbone = _backbone(arch, wanted, metadata.preprocess, metadata.variant)
    except InputError as error:
        raise InputError(f"{path}: {error}; convert the source again") from None
    return backbone, jax.device_put(folded)


def init_backbone(
    name: str, rng: Array, *, levels: Sequence[str] | None = None
) -> tuple[Backbone, Variables]:
    """Make a backbone with random weights: for benchmarks, and to show what pretraining is worth.

    Kernels are normal with He's fan-out scale, as torchvision initialises these networks (but a
    depthwise kernel counts each channel as its own convolution); BatchNorm starts at the identity
    and is folded, so biases are zero. In vision transformers, linear layers, tokens and positions
    have a standard deviation of 0.02, and what scales is one.

    Raises:
        InputError: No such backbone or level.
    """
    arch = architecture(name)
    wanted = arch.check_levels(levels)
    flat_shapes = flatten_dict(shapes(arch, levels=wanted, folded=True))
    # One draw for all: a program that draws each of them takes seconds to compile.
    total = sum(s.size for path, s in flat_shapes.items() if path[-1] in DRAWN)
    noise = np.asarray(jax.random.normal(rng, (total,), jnp.float32))
    flat, start = {}, 0
    for path, shape in flat_shapes.items():
        if path[-1] in DRAWN:
            draw = noise[start : start + shape.size].reshape(shape.shape)
            he = path[-1] == "kernel" and len(shape.shape) == 4
            flat[path] = draw * np.float32(he_fan_out_std(shape.shape) if he else 0.02)
            start += shape.size
        else:
            flat[path] = np.full(shape.shape, path[-1].startswith("scale"), np.float32)
    backbone = _backbone(arch, wanted, arch.preprocess, arch.variant)
    return backbone, jax.device_put(unflatten_dict(flat))


def _backbone(
    arch: Architecture, levels: tuple[str, ...], preprocess: Preprocess, variant: Variant
) -> Backbone:
    module: nn.Module = arch.build(levels=levels, folded=True, variant=variant)
    table = {level: arch.levels[level] for level in levels}
    return Backbone(arch.name, module, table, preprocess, arch.patch)


def _prune(variables: Variables, wanted: Mapping[str, Any]) -> Variables:
    """Return the arrays of `variables` that `wanted` has."""
    flat, keep = flatten_dict(variables, sep="/"), flatten_dict(wanted, sep="/")
    pruned: Variables = unflatten_dict({name: flat[name] for name in keep}, sep="/")
    return pruned

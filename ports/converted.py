"""What every converter makes, and the strict gathering of arrays that all of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones import weights
from jaxad.backbones.architectures import Architecture, Variant, architecture
from jaxad.core import InputError, Preprocess, Variables

State = Mapping[str, np.ndarray]
"""Array name in the source framework -> array."""
TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our name of an array within its layer -> PyTorch's."""


class Converted(NamedTuple):
    """Weights as our variable tree, and what has to be known to use them."""

    variables: Variables
    folded: bool
    """Whether the source had BatchNorm folded into its convolutions."""
    levels: tuple[str, ...]
    """The levels that the source reaches, in order of depth."""
    preprocess: Preprocess
    variant: Variant


class Naming(NamedTuple):
    """How one framework names the arrays of one architecture."""

    framework: str
    array: Callable[[tuple[str, ...]], str]
    """Our path (collection, scopes…, leaf) -> their name."""
    statistics: str
    """Suffix of their running means: without any such name, BatchNorm has been folded."""
    ignored: re.Pattern[str]
    """Names that a feature extractor has no use for: the classifier and counters."""
    bias_before_norm: bool = False
    """Whether a convolution under BatchNorm has a bias (it goes into the running mean)."""
    hwio: bool = False
    """Whether kernels may also come as HWIO (a depthwise one as HWC1)."""


def gather(
    arch: str,
    state: State,
    naming: Naming,
    *,
    preprocess: Preprocess | None = None,
    variant: Variant | None = None,
) -> Converted:
    """Take from `state` exactly what the architecture wants.

    A file may end at the end of a stage; what it reaches becomes `levels`. Arrays are widened or
    narrowed to float32. `preprocess` and `variant` are those of the weights that come under these
    names; None: the architecture's.

    Raises:
        InputError: Arrays are missing, unknown, of another shape, not finite, or not numbers of a
            network; the line lists a few of each.
    """
    table = architecture(arch)
    label = f"{arch} from {naming.framework} names"
    folded = not any(name.endswith(naming.statistics) for name in state)
    levels, shapes = _reach(table, state, naming, folded=folded)

    used: set[str] = set()
    missing: list[str] = []
    misshapen: list[str] = []
    flat: dict[tuple[str, ...], np.ndarray] = {}

    def take(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray | None:
        name = naming.array(path)
        used.add(name)
        if name not in state:
            missing.append(name)
            return None
        array = np.asarray(state[name])
        if path[-1] == "kernel" and len(shape) == 2:  # of a linear layer
            shape = shape[::-1]
            if array.shape == shape:
                return array.T
        elif path[-1] == "kernel":
            height, width, inputs, outputs = shape
            expected = (outputs, inputs, height, width)
            if array.shape == expected:
                return array.transpose(2, 3, 1, 0)
            if naming.hwio and array.shape == shape:
                return array
            if naming.hwio and inputs == 1 and array.shape == (height, width, outputs, 1):
                return array.swapaxes(2, 3)
            shape = expected
        if array.shape != shape:
            misshapen.append(f"{name} is {array.shape}, not {shape}")
            return None
        return array

    for path, leaf in shapes.items():
        array = take(path, tuple(leaf.shape))
        if not folded and naming.bias_before_norm and path[-2:] == ("bn", "mean"):
            bias = take(("params", *path[1:-2], "conv", "bias"), tuple(leaf.shape))
            if array is not None and bias is not None:
                array = array.astype(np.float32) - bias.astype(np.float32)
        if array is not None:
            flat[path] = _float32(array, f"{label}: {naming.array(path)}", path)
    unknown = sorted(name for name in state if name not in used and not naming.ignored.search(name))

    problems = [
        f"{len(found)} {what} ({weights.few(found)})"
        for what, found in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", misshapen),
        )
        if found
    ]
    if problems:
        raise InputError(f"{label}: arrays {'; '.join(problems)}; is it a file of {arch}?")
    return Converted(
        unflatten_dict(flat),
        folded,
        levels,
        preprocess or table.preprocess,
        variant or table.variant,
    )


def write_converted(
    path: str | Path,
    converted: Converted,
    *,
    architecture: str,
    source: str,
    source_sha256: str,
    licence: str,
    recipe: str = "",
) -> None:
    """Write a weight file that `jaxad.load_backbone` reads.

    Args:
        path: The file to write, usually `ports/weights/<architecture>.safetensors`.
        converted: What a converter made.
        architecture: The name of the architecture.
        source: Name of the file the weights came from (its last part is kept).
        source_sha256: Its SHA-256 in hex.
        licence: SPDX identifier of the licence of the weights.
        recipe: How the network was trained, where that is known.
    """
    metadata = weights.Metadata(
        architecture=architecture,
        levels=converted.levels,
        folded=converted.folded,
        source=Path(source).name,
        source_sha256=source_sha256,
        recipe=recipe,
        licence=licence,
        preprocess=converted.preprocess,
        variant=converted.variant,
    )
    weights.write(path, converted.variables, metadata=metadata)


def refuse_other(arch: str, known: tuple[str, ...], framework: str) -> None:
    """Refuse an architecture that a framework's names do not cover.

    Raises:
        InputError: `arch` is not in `known`.
    """
    if arch not in known:
        raise InputError(f"{framework} names cover {', '.join(known)}; not {arch!r}")


def stage_and_place(arch: str, block: str) -> tuple[int, int]:
    """Stage of an EfficientNet's block and its place in it, both from 0: `blocks_1` -> (1, 0)."""
    place = int(block.removeprefix("blocks_"))
    module = architecture(arch).build(levels=("stage1",), folded=True)
    for number, stage in enumerate(module.stages):
        if place < stage.repeats:
            return number, place
        place -= stage.repeats
    raise IndexError(f"{arch} has no {block}")


def _reach(
    table: Architecture, state: State, naming: Naming, *, folded: bool
) -> tuple[tuple[str, ...], dict[tuple[str, ...], Any]]:
    """Return the levels that `state` reaches, and the shapes of our arrays up to the last one."""
    order = tuple(table.levels)
    whole = _shapes(table, order[-1], folded)
    names = {naming.array(path) for path in whole}
    there = names & state.keys()
    if there == names:
        return order, whole
    # The first depth that has all that is there, by halving: each one tried has to be traced. Where
    # a part of its stage is missing, those arrays will be named.
    least, most = 1, len(order)
    while least < most:
        depth = (least + most) // 2
        if there <= {naming.array(path) for path in _shapes(table, order[depth - 1], folded)}:
            most = depth
        else:
            least = depth + 1
    return order[:least], _shapes(table, order[least - 1], folded)


def _shapes(table: Architecture, level: str, folded: bool) -> dict[tuple[str, ...], Any]:
    """Path -> shape of our arrays up to a level."""
    flat: dict[tuple[str, ...], Any] = flatten_dict(
        weights.shapes(table, levels=(level,), folded=folded)
    )
    return flat


def _float32(array: np.ndarray, label: str, path: tuple[str, ...]) -> np.ndarray:
    """Return the array as float32; refuse what no trained network holds."""
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{label} is {array.dtype}, not floating point; is the file right?")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    weights.check_values(label, array, variance=path[-2:] == ("bn", "var"))
    return array

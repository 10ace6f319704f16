"""Starting values of many layers from one draw of random numbers.

A program that draws each kernel by itself takes half a minute to compile for the networks here: XLA
compiles every draw anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.core import Array, Variables

Path = tuple[str, ...]
CONSTANTS = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0}
"""What normalisation and, unless drawn, biases start with, by name."""


def lecun_normal(rng: Array, shapes: Variables, *, dtype: Any = jnp.float32) -> Variables:
    """Fill kernels `(..., inputs, outputs)` with N(0, 1 / fan_in), the rest with `CONSTANTS`."""

    def spread(path: Path, flat: Mapping[Path, Any]) -> float:
        return math.prod(flat[path].shape[:-1]) ** -0.5 if path[-1] == "kernel" else 0.0

    return _fill(jax.random.normal, spread, rng, shapes, dtype)


def torch_linear(rng: Array, shapes: Variables, *, dtype: Any = jnp.float32) -> Variables:
    """Fill layers as torch's `Linear` and 1×1 `Conv2d` start.

    Kernels and their biases are uniform within ±1/√fan_in, the rest is `CONSTANTS`.
    """

    def spread(path: Path, flat: Mapping[Path, Any]) -> float:
        kernel = flat.get((*path[:-1], "kernel"))
        return float(kernel.shape[0]) ** -0.5 if kernel is not None else 0.0

    def uniform(rng: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(rng, shape, dtype, -1.0, 1.0)

    return _fill(uniform, spread, rng, shapes, dtype)


def _fill(
    draw: Callable[..., Array],
    spread: Callable[[Path, Mapping[Path, Any]], float],
    rng: Array,
    shapes: Variables,
    dtype: Any,
) -> Variables:
    """Fill leaves that have a spread with that times numbers of one `draw`."""
    flat = flatten_dict(shapes)
    spreads = {path: spread(path, flat) for path in flat}
    total = sum(leaf.size for path, leaf in flat.items() if spreads[path])
    numbers, start, filled = draw(rng, (total,), dtype), 0, {}
    for path, leaf in flat.items():
        if spreads[path]:
            own = numbers[start : start + leaf.size].reshape(leaf.shape)
            filled[path] = own * spreads[path]
            start += leaf.size
        else:
            filled[path] = jnp.full(leaf.shape, CONSTANTS[path[-1]], dtype)
    variables: Variables = unflatten_dict(filled)
    return variables

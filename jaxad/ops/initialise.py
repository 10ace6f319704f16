"""Starting values of many layers from one draw of random numbers.

A program that draws each kernel by itself takes a minute to compile for AFRAD's network: XLA
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

CONSTANTS = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
"""What normalisation, its running statistics and biases start with, by name."""

Rule = Callable[[tuple[str, ...], Array], Array]
"""`rule(path, numbers)`: an array from standard normal numbers of its shape."""


def drawn(
    rng: Array, shapes: Variables, rules: Mapping[str, Rule], *, dtype: Any = jnp.float32
) -> Variables:
    """Fill arrays by the rule of their name, the last of their path, the rest with `CONSTANTS`."""
    flat = flatten_dict(shapes)
    total = sum(leaf.size for path, leaf in flat.items() if path[-1] in rules)
    numbers, start, filled = jax.random.normal(rng, (total,), dtype), 0, {}
    for path, leaf in flat.items():
        if path[-1] in rules:
            own = numbers[start : start + leaf.size].reshape(leaf.shape)
            filled[path] = rules[path[-1]](path, own)
            start += leaf.size
        else:
            filled[path] = jnp.full(leaf.shape, CONSTANTS[path[-1]], dtype)
    variables: Variables = unflatten_dict(filled)
    return variables


def uniform(numbers: Array) -> Array:
    """Numbers spread evenly between -1 and 1, from standard normal ones."""
    return jax.lax.erf(numbers * 2**-0.5)


def lecun_normal(rng: Array, shapes: Variables, *, dtype: Any = jnp.float32) -> Variables:
    """Fill kernels `(..., inputs, outputs)` with N(0, 1 / fan_in), the rest with `CONSTANTS`."""

    def kernel(_: tuple[str, ...], numbers: Array) -> Array:
        return numbers * math.prod(numbers.shape[:-1]) ** -0.5

    return drawn(rng, shapes, {"kernel": kernel}, dtype=dtype)


def he_normal(rng: Array, shapes: Variables, *, dtype: Any = jnp.float32) -> Variables:
    """Fill kernels `(kh, kw, inputs, outputs)` with N(0, 2 / fan_out), as torchvision's ResNets."""

    def kernel(_: tuple[str, ...], numbers: Array) -> Array:
        shape = numbers.shape
        return numbers * (2 / (math.prod(shape[:-2]) * shape[-1])) ** 0.5

    return drawn(rng, shapes, {"kernel": kernel}, dtype=dtype)

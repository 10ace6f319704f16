"""Starting values of many layers from one draw of random numbers.

A program that draws each kernel by itself takes a minute to compile for AFRAD's network: XLA
compiles every draw anew.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.core import Array, Variables

CONSTANTS = {"scale": 1.0, "bias": 0.0}
"""What normalisation and biases start with, by name."""


def lecun_normal(rng: Array, shapes: Variables, *, dtype: Any = jnp.float32) -> Variables:
    """Fill kernels `(..., inputs, outputs)` with N(0, 1 / fan_in), the rest with `CONSTANTS`."""
    flat = flatten_dict(shapes)
    total = sum(leaf.size for path, leaf in flat.items() if path[-1] == "kernel")
    numbers, start, filled = jax.random.normal(rng, (total,), dtype), 0, {}
    for path, leaf in flat.items():
        if path[-1] == "kernel":
            own = numbers[start : start + leaf.size].reshape(leaf.shape)
            filled[path] = own * math.prod(leaf.shape[:-1]) ** -0.5
            start += leaf.size
        else:
            filled[path] = jnp.full(leaf.shape, CONSTANTS[path[-1]], dtype)
    variables: Variables = unflatten_dict(filled)
    return variables

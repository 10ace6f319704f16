"""Functions of single positions, computed on as many at a time as a CPU's caches hold."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxad.core import Array

ROWS = 2048
"""Positions at a time: enough to share the weights, few enough that what passes from layer to layer
stays in cache (benchmarks/NOTES.md)."""


def by_position(function: Callable[..., Array], *maps: Array) -> Array:
    """Apply `function((n, C_1), (n, C_2), ...) -> (n,)` to maps `(B, h, w, C_i)`: `(B, h, w)`.

    On a CPU about `ROWS` positions at a time, elsewhere all at once.
    """
    shape = maps[0].shape[:-1]
    count = shape[0] * shape[1] * shape[2]
    flat = [x.reshape(count, x.shape[-1]) for x in maps]
    rows = max(n for n in range(1, min(ROWS, count) + 1) if count % n == 0)
    if count <= ROWS or rows < ROWS // 4:  # no even split
        return function(*flat).reshape(shape)

    def chunked(*flat: Array) -> Array:
        chunks = tuple(x.reshape(count // rows, rows, x.shape[-1]) for x in flat)
        return jax.lax.map(lambda chunk: function(*chunk), chunks).reshape(count)

    found: Array = jax.lax.platform_dependent(*flat, cpu=chunked, default=function)
    return found.reshape(shape)

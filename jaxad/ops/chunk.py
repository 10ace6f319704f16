"""Functions of single positions or images, computed on as many at a time as a CPU's caches hold.

What such a loop computes on the way also lies in the same memory in every turn, where a whole batch
would have the system hand out new pages. Elsewhere all is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

from jaxad.core import Array

T = TypeVar("T")

ROWS = 2048
"""Positions at a time: enough to share the weights, few enough that what passes from layer to layer
stays in cache (benchmarks/NOTES.md)."""
PIXELS = 2 * 256 * 256
"""Of the images in a network at a time; with fewer, the products of deep layers get too small."""


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


def by_image(function: Callable[[Array], T], images: Array) -> T:
    """Apply `function((n, H, W, C)) -> arrays of n` to `(B, H, W, C)`: arrays of B.

    On a CPU so many images at a time as have `PIXELS` pixels, elsewhere all at once.
    """
    batch, height, width, channels = images.shape
    fit = max(1, PIXELS // (height * width))
    size = max(n for n in range(1, min(fit, batch) + 1) if batch % n == 0)
    if batch <= fit or size < fit // 2:  # no even split
        return function(images)

    def chunked(images: Array) -> T:
        found = jax.lax.map(function, images.reshape(batch // size, size, height, width, channels))
        merged: T = jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), found)
        return merged

    result: T = jax.lax.platform_dependent(images, cpu=chunked, default=function)
    return result

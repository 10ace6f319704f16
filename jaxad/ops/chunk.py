"""Functions of single positions or images, computed on as many at a time as a CPU's caches hold.

What such a loop computes on the way also lies in the same memory in every turn, where a whole batch
would have the system hand out new pages. Elsewhere all is computed at once.

A program that is exported for any batch has a symbolic number of images, which nothing divides: on
a CPU they then go one at a time, or all at once where a single one is too little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.export import is_symbolic_dim

from jaxad.core import Array

T = TypeVar("T")

ROWS = 2048
"""Positions at a time: enough to share the weights, few enough that what passes from layer to layer
stays in cache (benchmarks/NOTES.md)."""
PIXELS = 2 * 256 * 256
"""Of the images in a network at a time; with fewer, the products of deep layers get too small."""


def by_position(function: Callable[..., Array], *maps: Array) -> Array:
    """Apply `function((..., C_1), (..., C_2), ...) -> (...)` to maps `(B, h, w, C_i)`.

    On a CPU about `ROWS` positions `(n, C_i)` at a time, elsewhere all at once. Another run time
    ("onnx", see `jaxad.ops.convolve`) gets the maps as they are: its convolutions take them so.

    Returns:
        `(B, h, w)`.
    """

    def of_images(*maps: Array) -> Array:
        shape = maps[0].shape[:-1]
        count = shape[0] * shape[1] * shape[2]
        flat = [x.reshape(count, x.shape[-1]) for x in maps]
        return _in_turns(function, *flat, fit=ROWS, least=ROWS // 4).reshape(shape)

    def default(*maps: Array) -> Array:
        _, h, w, _ = maps[0].shape
        return _one_by_one(of_images, *maps, alone=h * w >= ROWS // 4)

    found: Array = jax.lax.platform_dependent(*maps, onnx=function, default=default)
    return found


def by_image(function: Callable[[Array], T], images: Array) -> T:
    """Apply `function((n, H, W, C)) -> arrays of n` to `(B, H, W, C)`: arrays of B.

    On a CPU so many images at a time as have `PIXELS` pixels, elsewhere all at once.
    """
    fit = max(1, PIXELS // (images.shape[1] * images.shape[2]))

    def of_images(images: Array) -> T:
        return _in_turns(function, images, fit=fit, least=fit // 2)

    return _one_by_one(of_images, images, alone=fit <= 2)


def _one_by_one(function: Callable[..., T], *arrays: Array, alone: bool) -> T:
    """Apply `function` to all rows; on a CPU to each `alone` where their number is symbolic."""
    if not (alone and is_symbolic_dim(arrays[0].shape[0])):
        return function(*arrays)

    def turns(*arrays: Array) -> T:
        found = jax.lax.map(lambda row: function(*(x[None] for x in row)), arrays)
        joined: T = jax.tree.map(lambda x: x[:, 0], found)
        return joined

    result: T = jax.lax.platform_dependent(*arrays, cpu=turns, default=function)
    return result


def _in_turns(function: Callable[..., T], *arrays: Array, fit: int, least: int) -> T:
    """Apply `function`, on a CPU to at most `fit` rows at a time; to all if none from `least` fits.

    All turns are of one size, which divides the number of rows.
    """
    count = arrays[0].shape[0]
    if is_symbolic_dim(count):
        return function(*arrays)
    size = max(n for n in range(1, min(fit, count) + 1) if count % n == 0)
    if count <= fit or size < least:
        return function(*arrays)

    def turns(*arrays: Array) -> T:
        parts = tuple(x.reshape(count // size, size, *x.shape[1:]) for x in arrays)
        found = jax.lax.map(lambda part: function(*part), parts)
        joined: T = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), found)
        return joined

    result: T = jax.lax.platform_dependent(*arrays, cpu=turns, default=function)
    return result

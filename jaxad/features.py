"""Features of frozen backbones, computed once: the cache, and what a step takes from it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxad.core import Array, Features

HostFeatures = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def nbytes(shapes: Any, images: int) -> int:
    """Bytes of a cache for `images`, from the shapes of one image's features (leading axis 1)."""
    return images * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def allocate(shapes: Any, images: int) -> HostFeatures:
    """Make an empty host cache: level -> `(images, h, w, C)` float32."""
    return {name: np.empty((images, *leaf.shape[1:]), np.float32) for name, leaf in shapes.items()}


def take_images(cache: Any, index: Any) -> Any:
    """Rows of every level: `(n, h, w, C)`; host and device caches alike."""
    return {name: values[index] for name, values in cache.items()}


def take_positions(cache: Any, index: Any) -> Any:
    """Positions of every level, `(n, C)`; `index` counts through images, rows and columns."""
    return {name: values.reshape(-1, values.shape[-1])[index] for name, values in cache.items()}


def draw_positions(rng: Array, features: Features, *, count: int) -> Features:
    """Draw `count` positions, with replacement, the same ones of every level: `(count, C)`.

    The levels must agree in their leading axes `(B, h, w)`, as those of a pair do.
    """
    first = next(iter(features.values()))
    total = first.size // first.shape[-1]
    drawn: Features = take_positions(features, jax.random.randint(rng, (count,), 0, total))
    return drawn

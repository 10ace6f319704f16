"""Features of frozen backbones, computed once: the cache, and what a step takes from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Features, InputError

HostFeatures = dict[str, np.ndarray[Any, np.dtype[Any]]]


def nbytes(shapes: Any, images: int, *, dtype: str = "float32") -> int:
    """Bytes of a cache for `images`, from the shapes of one image's features (leading axis 1)."""
    return images * sum(leaf.size for leaf in jax.tree.leaves(shapes)) * np.dtype(dtype).itemsize


def allocate(shapes: Any, images: int, *, dtype: str = "float32") -> HostFeatures:
    """Make an empty host cache: level -> `(images, h, w, C)`."""
    return {name: np.empty((images, *leaf.shape[1:]), dtype) for name, leaf in shapes.items()}


def store(cache: HostFeatures, start: int, found: Any) -> None:
    """Write the features of consecutive images, from number `start` on, into the cache.

    Raises:
        InputError: A feature is not finite, or too large for the cache's dtype.
    """
    for name, values in found.items():
        rows = cache[name][start : start + len(values)]
        with np.errstate(over="ignore"):
            rows[:] = values
        if not np.isfinite(rows).all():
            raise InputError(
                f"a feature of {name!r} is not a finite {rows.dtype}: check the weights, or set "
                "train.cache_dtype=float32"
            )


def as_float32(found: Any) -> Any:
    """Features of a cache, whichever dtype it keeps, for computing."""
    return {name: values.astype(np.float32) for name, values in found.items()}


def take_images(cache: Any, index: Any) -> Any:
    """Rows of every level: `(n, h, w, C)`; host and device caches alike."""
    return {name: values[index] for name, values in cache.items()}


def take_positions(cache: Any, index: Any) -> Any:
    """Positions of every level, `(n, C)`; `index` counts through images, rows and columns."""
    return {name: values.reshape(-1, values.shape[-1])[index] for name, values in cache.items()}


def draw_positions(rng: Array, features: Features, *, count: int, groups: int = 1) -> Features:
    """Draw `count` positions, with replacement, the same ones of every level: `(count, C)`.

    The levels must agree in their leading axes `(B, h, w)`, as those of a pair do. If the images go
    through `groups` subclasses in turn, so do the positions.
    """
    batch, h, w = next(iter(features.values())).shape[:3]
    drawn = jax.random.randint(rng, (count,), 0, batch // groups * h * w)
    image = drawn // (h * w) * groups + jnp.arange(count) % groups
    found: Features = take_positions(features, image * (h * w) + drawn % (h * w))
    return found

"""Features of frozen backbones, computed once: the cache, and what a step takes from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Features, InputError
from jaxad.held import take

HostFeatures = dict[str, np.ndarray[Any, np.dtype[Any]]]

SHARE = 0.6
"""A cache may take this share of the memory that is free."""


def nbytes(shapes: Any, images: int, *, dtype: str = "float32") -> int:
    """Bytes of a cache for `images`, from the shapes of one image's features (leading axis 1)."""
    every = jax.tree.leaves(shapes)
    return images * sum(leaf.size * _kept(leaf, dtype).itemsize for leaf in every)


def cache_place(wish: str, need: int, *, device: int, host: int) -> str:
    """Choose where `need` bytes of cached features are kept: "device", "host" or "off".

    Args:
        wish: "auto" takes the memory of the accelerator if there is room, else the host's, else
            features are computed anew in every step. Any other wish is granted.
        need: Bytes of the cache.
        device: Bytes free on the accelerator; 0 without one.
        host: Bytes free on the host.
    """
    if wish != "auto":
        return wish
    if need < SHARE * device:
        return "device"
    return "host" if need < SHARE * host else "off"


def host_shapes(shapes: Any, images: int, *, dtype: str = "float32") -> Any:
    """Level -> shape `(images, h, w, C)` and dtype of a host cache, from those of one image."""
    return {
        name: jax.ShapeDtypeStruct((images, *leaf.shape[1:]), _kept(leaf, dtype))
        for name, leaf in shapes.items()
    }


def _kept(leaf: Any, dtype: str) -> np.dtype[Any]:
    """As what a feature is kept: whole numbers, which pixels are, as they are."""
    return np.dtype(dtype if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)


def allocate(shapes: Any) -> HostFeatures:
    """Make an empty host cache of the `host_shapes`."""
    return {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


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
    """Features of a cache for computing: those kept in fewer bits as float32."""
    return {
        name: values.astype(np.float32) if values.dtype.itemsize < 4 else values
        for name, values in found.items()
    }


def take_images(cache: Any, index: Any) -> Any:
    """Rows of every level: `(n, h, w, C)`; host and device caches alike."""
    return {name: values[index] for name, values in cache.items()}


def take_positions(cache: Any, index: Any) -> Any:
    """Positions of every level, `(n, C)`; `index` counts through images, rows and columns.

    Raises:
        InputError: The levels have other grids: an index would name other places in each.
    """
    return take(as_positions(cache), index)


def as_positions(cache: Any) -> Any:
    """Images `(n, h, w, C)` of every level as rows of positions, `(n * h * w, C)`.

    A level of one position, `(n, 1, 1, C)`, has what is true of the whole image: its rows, n, are
    those of all positions of an image.

    Raises:
        InputError: The levels have other grids.
    """
    _one_grid(cache)
    return {name: values.reshape(-1, values.shape[-1]) for name, values in cache.items()}


def draw_positions(
    rng: Array, features: Features, element: Array, *, each: int, batch: int
) -> tuple[Features, Array]:
    """Draw positions of every image of a batch, with replacement, the same ones of every level.

    What is drawn of an image depends on its place in the batch alone, so devices that share a batch
    draw together what one would.

    Args:
        rng: Key of this step's draw.
        features: `(b, h, w, C)` of each level: the images at hand.
        element: `(b,)` int32, their places in the whole batch.
        each: Positions an image.
        batch: B, images in the whole batch.

    Returns:
        Features `(each * b, C)`, and `(each * b,)` int32: their places among the `each * B` of the
        whole batch, where images follow each other as they do in the batch.

    Raises:
        InputError: The levels have other grids.
    """
    b, h, w = _one_grid(features)

    def of_image(place: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(rng, place), (each,), 0, h * w)

    drawn = jax.vmap(of_image)(element).T  # (each, b)
    index = (jnp.arange(b, dtype=jnp.int32)[None] * (h * w) + drawn).ravel()
    turn = jnp.arange(each, dtype=jnp.int32)[:, None]
    return take_positions(features, index), (turn * batch + element[None]).ravel()


def _one_grid(features: Any) -> tuple[int, int, int]:
    """Images, rows and columns of all levels but those of one position."""
    grids = {name: values.shape[:3] for name, values in features.items()}
    several = {name: grid for name, grid in grids.items() if grid[1:] != (1, 1)}
    grids = several or grids
    if len(set(grids.values())) > 1:
        raise InputError(
            f"levels of other grids can not share drawn positions: {grids}; set train.positions=()"
        )
    first: tuple[int, int, int] = next(iter(grids.values()))
    return first

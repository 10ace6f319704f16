"""What is drawn at random, by whom it belongs to: a name, or an element of a batch.

Every image or drawn position has a key of its own, made from the step's key and its place in the
batch over all devices. So a seed gives the same noise under `pmap`, where a device sees a part of
the batch, under `jit`, and on any number of devices. It costs what one draw for all would.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.core import Array, InputError


def fold_in_name(rng: Array, name: str) -> Array:
    """The key of what is drawn under a name; every name has another."""
    return jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def elements(batch: Mapping[str, Array], count: int) -> Array:
    """The places of a batch's elements in the batch over all devices, `(count,)` int32.

    They are `batch["element"]`; without it the batch is taken for the whole, `0, 1, ...`.

    Raises:
        InputError: There are not `count` of them.
    """
    if "element" not in batch:
        return jnp.arange(count, dtype=jnp.int32)
    element = jnp.asarray(batch["element"])
    if element.shape != (count,):
        raise InputError(
            f'batch["element"] has the shape {element.shape}: give one place in the batch for each '
            f"of the {count} elements"
        )
    return element


def normal_by_element(
    rng: Array, element: Array, shape: tuple[int, ...], *, dtype: Any = jnp.float32
) -> Array:
    """Draw standard normal noise `(n, *shape)` for elements `(n,)` int32.

    Equal elements get equal noise under one key. `rng` is not used up by this: a caller that draws
    twice gives another key each time.
    """

    def one(place: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(rng, place), shape, dtype)

    return jax.vmap(one)(element)

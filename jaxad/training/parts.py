"""Gradient accumulation: a batch in parts, one after the other, for the memory of one part.

A part is every n-th turn of the batch through its subclasses. So each has all subclasses in turn,
and is made of the same elements by pmap and by jit, on one device and on several: a device's share
of a batch holds whole turns, and gives a part of each of them.

What is averaged, and so what equals a whole batch:

- A loss that is a mean over its elements, and its gradient: equal, but for rounding. So are metrics
  that are (sum, count) pairs of such means, and counts of elements: their ratio is that of the
  batch. Noise is the same: it goes by an element's place in the whole batch (`ops.noise`).
- Batch statistics: BatchNorm normalises each part by its own mean and variance, as it would a
  smaller batch. All parts start from the same running statistics, and what they make of them is
  averaged: the running mean is that of the whole batch, the running variance the mean of the parts'
  own, without the spread between their means.
- What moves by a rule of its own (the router's centres): the mean of what each part makes of it.
- Integers and booleans: those of the last part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxad.core import Array, InputError


def mean_of_parts(
    function: Callable[[Mapping[str, Any], Array], Any],
    batch: Mapping[str, Any],
    rng: Array,
    *,
    parts: int,
    turn: int,
) -> Any:
    """Average `function(part, rng)` over the parts of a batch; of one part, it is the batch itself.

    Args:
        function: Of part of the batch and the step's key: the same key for all, as noise goes by
            elements. Its results are trees of one structure.
        batch: Arrays of one length, a multiple of `parts * turn`.
        rng: Key of the step.
        parts: How many.
        turn: Elements of one turn through the subclasses; they stay side by side.

    Raises:
        InputError: The batch can not be split so.
    """
    if parts == 1:
        return function(batch, rng)
    every = jax.tree.map(lambda x: _split(jnp.asarray(x), parts, turn), dict(batch))

    def one(part: Any) -> Any:
        return function(part, jax.random.clone(rng))

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], every))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, part: Any) -> Any:
        return jax.tree.map(lambda x, y: x + y if _inexact(y) else y, total, one(part)), None

    total, _ = jax.lax.scan(add, start, every)
    return jax.tree.map(lambda x: x / parts if _inexact(x) else x, total)


def _split(x: Array, parts: int, turn: int) -> Array:
    """`(n, ...)` to `(parts, n / parts, ...)`."""
    if len(x) % (parts * turn):
        raise InputError(
            f"a batch of {len(x)} can not go through {turn} subclasses in {parts} parts: use a "
            "multiple"
        )
    apart = x.reshape(-1, parts, turn, *x.shape[1:]).swapaxes(0, 1)
    return apart.reshape(parts, -1, *x.shape[1:])


def _inexact(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))

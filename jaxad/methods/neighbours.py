"""Nearest neighbours in a bank of vectors, exact: products on the device, chunk after chunk.

‖x − m‖² = ‖m‖² − 2 x·m + ‖x‖² makes all distances one product, but float32 then rounds them by the
length of the vectors. So all are measured from the bank's mean, products only choose blocks of
members, and within these the distances are sums of squared differences: a vector that is in the
bank has the distance 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxad.core import Array, Variables
from jaxad.ops.precision import EXACT

CHUNK = 4096
"""Members of a product at most."""
BLOCK = 8
"""Members that are compared by differences for each vector; divides `CHUNK`."""


def prepare(bank: Variables) -> Variables:
    """Bring a bank into the form that the other functions take, which serves them alone.

    Args:
        bank: `{"members": (N, C)}`, or what this has returned.

    Returns:
        "centre" `(C,)`, their mean; "members" measured from it and their "squares", filled up to
        whole chunks with members infinitely far away.
    """
    if "squares" in bank:
        return bank
    members = bank["members"]
    count = members.shape[0]
    chunks = -(-count // CHUNK)
    filled = -(-count // (chunks * BLOCK)) * chunks * BLOCK
    centre = jnp.mean(members, axis=0)
    members = members - centre[None]
    squares = jnp.sum(jnp.square(members), axis=1)
    fill = (0, filled - count)
    return {
        "centre": centre,
        "members": jnp.pad(members, (fill, (0, 0))),
        "squares": jnp.pad(squares, fill, constant_values=jnp.inf),
    }


def nearest(x: Array, bank: Variables, *, k: int = 1) -> tuple[Array, Array]:
    """Find the k nearest members of each vector.

    Args:
        x: `(p, C)` float32.
        bank: As `prepare` returns it.
        k: How many; there are fewer where the bank has fewer.

    Returns:
        Squared distances `(p, k)`, rising, infinite beyond the bank's members; and the members'
        numbers `(p, k)`.
    """
    members, squares = bank["members"], bank["squares"]
    count, width = members.shape
    chunks, block = -(-count // CHUNK), max(1, BLOCK // k)
    k, x = min(k, count // block), x - bank["centre"][None]

    def lowest_of_blocks(chunk: tuple[Array, Array]) -> Array:
        own, square = chunk
        distance = square[:, None] - 2 * jnp.matmul(own, x.T, precision=EXACT)
        return jnp.min(distance.reshape(-1, block, x.shape[0]), axis=1)

    with jax.named_scope("nearest"):
        each = (members.reshape(chunks, -1, width), squares.reshape(chunks, -1))
        lowest = jax.lax.map(lowest_of_blocks, each).reshape(-1, x.shape[0])
        # The k nearest lie in the k blocks whose nearest members are nearest.
        if k == 1:
            at = jnp.argmin(lowest, axis=0)[:, None]
        else:
            _, at = jax.lax.top_k(-lowest.T, k)
        numbers = (at[..., None] * block + jnp.arange(block)[None, None]).reshape(-1, k * block)
        apart = jnp.sum(jnp.square(members[numbers] - x[:, None]), axis=-1)
        apart = jnp.where(jnp.isinf(squares[numbers]), jnp.inf, apart)
        distance, place = jax.lax.top_k(-apart, k)
        return -distance, jnp.take_along_axis(numbers, place, axis=1)


def crowding(x: Array, member: Array, bank: Variables, *, neighbours: int) -> Array:
    """PatchCore's weight of a vector: 1 − softmax(d)₀, in [1 − 1/b, 1).

    d are the distances from the vector to the b members that are nearest to its nearest member, the
    first of which is that member itself.

    Args:
        x: `(C,)` float32.
        member: Number of its nearest member.
        bank: As `prepare` returns it.
        neighbours: b; all where the bank has fewer.

    Returns:
        A scalar.
    """
    members, squares = bank["members"], bank["squares"]
    apart = jnp.sum(jnp.square(members - members[member][None]), axis=1)
    apart = jnp.where(jnp.isinf(squares), jnp.inf, apart)
    away, at = jax.lax.top_k(-apart, min(neighbours, members.shape[0]))
    distance = jnp.sqrt(jnp.sum(jnp.square(members[at] - (x - bank["centre"])[None]), axis=1))
    distance = jnp.where(jnp.isinf(away), -jnp.inf, distance)
    return 1 - jax.nn.softmax(distance)[0]

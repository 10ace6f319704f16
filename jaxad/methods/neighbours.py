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
from jaxad.methods.pruned import (
    CHUNK,
    apart_of_blocks,
    basis_of,
    block_of_nearest,
    bounds_of,
    least,
    least_of_blocks,
    leaves_of,
    narrow,
    tree_order,
)

BLOCK = 8
"""Members that are compared by differences for each vector."""


def prepare(bank: Variables) -> Variables:
    """Bring a bank into the form that the other functions take, which serves them alone.

    Args:
        bank: `{"members": (N, C)}`, or what this has returned.

    Returns:
        "centre" `(C,)`, their mean; "members" measured from it and their "squares", filled up with
        members infinitely far away. For larger banks members stand in the order of a tree, and
        "basis" and "bounds" are what `pruned` takes.
    """
    if "squares" in bank:
        return bank
    members = bank["members"]
    count, width = members.shape
    leaves, leaf = leaves_of(count, width, block=BLOCK)
    chunks = -(-count // CHUNK)
    filled = leaves * leaf or -(-count // (chunks * BLOCK)) * chunks * BLOCK
    centre = jnp.mean(members, axis=0)
    members = members - centre[None]
    squares = jnp.sum(jnp.square(members), axis=1)
    fill = (0, filled - count)
    found = {"centre": centre, "members": jnp.pad(members, (fill, (0, 0)))}
    found["squares"] = jnp.pad(squares, fill, constant_values=jnp.inf)
    if leaves:
        basis = basis_of(members)
        own = jnp.pad(narrow(members, squares, basis), (fill, (0, 0)))
        order = tree_order(own, leaves)
        found |= {name: found[name][order] for name in ("members", "squares")}
        bounds = bounds_of(own[order], found["squares"])
        found |= {"basis": basis, "bounds": bounds.reshape(leaves, leaf, -1)}
    return found


def nearest(x: Array, bank: Variables, *, k: int = 1) -> tuple[Array, Array]:
    """Find the k nearest members of each vector.

    Args:
        x: `(p, C)` float32.
        bank: As `prepare` returns it.
        k: How many; there are fewer where the bank has fewer.

    Returns:
        Squared distances `(p, k)`, rising, infinite beyond the bank's members; and the members'
        numbers `(p, k)` in that bank.
    """
    count, block = bank["members"].shape[0], max(1, BLOCK // k)
    k, x = min(k, count // block), x - bank["centre"][None]

    def plain(x: Array, bank: Variables) -> Array:
        lowest = least_of_blocks(bank["members"], x, bank["squares"], block=block)
        # The k nearest lie in the k blocks whose nearest members are nearest.
        return least(lowest)[1][:, None] if k == 1 else jax.lax.top_k(-lowest.T, k)[1]

    def by_bounds(x: Array, bank: Variables) -> Array:
        return block_of_nearest(x, bank, block=block)[:, None]

    with jax.named_scope("nearest"):
        if k == 1 and "bounds" in bank:
            at = jax.lax.platform_dependent(x, bank, cpu=by_bounds, default=plain)
        else:
            at = plain(x, bank)
        apart, number = apart_of_blocks(x, at, bank, block=block)
        distance, place = jax.lax.top_k(-apart, k)
        return -distance, jnp.take_along_axis(number, place, axis=1)


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

"""Which members of a bank may be nearest: exact bounds by few numbers leave most of them out.

For a CPU, where products with all members take longer than the network. The first numbers of
vectors in an orthonormal basis and the length of their rest bound distances from below (Cauchy and
Schwarz): `‖x − m‖² ≥ ‖z_x − z_m‖² + (r_x − r_m)²`, one product of few numbers. The members lie in
leaves of a k-d tree. A leaf is compared only with the vectors that may have their nearest member
there: those whose bound is not above their distance to a member that is known.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp

from jaxad.core import Array, Variables
from jaxad.ops.precision import EXACT

CHUNK = 4096
"""Members of a product at most."""
NUMBERS = 22
"""Of a vector in the basis, beside the length of the rest: 24 of a product, with the square."""
LEAF = 84
"""Members of a leaf, about."""
FEWEST = 2048
"""Members from which bounds pay."""
ROWS, TURN = 32, 16
"""Vectors of a product with a leaf; such products a turn of the loop."""
CROWDED = 0.5
"""Share of all products with leaves from which the plain ones take no longer."""
SLACK = 1e-5
"""By which bounds are lowered, of the squared lengths: more than products and basis round."""


def leaves_of(count: int, width: int, *, block: int) -> tuple[int, int]:
    """Number of leaves for `count` members of `width` numbers, and members of each; 0: no bounds.

    Leaves are as many as a power of two, and of whole blocks.
    """
    if count < FEWEST or width < 2 * NUMBERS:
        return 0, 0
    leaves = 1 << max(0, round(math.log2(count / LEAF)))
    return leaves, -(-count // (leaves * block)) * block


def basis_of(members: Array) -> Array:
    """Nearly the first principal axes of centred members, `(C, NUMBERS)`, a little too short."""
    basis = jax.random.normal(jax.random.key(0), (members.shape[1], NUMBERS))
    for _ in range(6):  # subspace iteration; any orthonormal basis is right
        forth = jnp.matmul(members, basis, precision=EXACT)
        basis, _ = jnp.linalg.qr(jnp.matmul(members.T, forth, precision=EXACT))
    return basis * (1 - SLACK)  # so that no vector gets longer


def narrow(x: Array, squares: Array, basis: Array) -> Array:
    """The first numbers of vectors `(n, C)` and the length of their rest, `(n, NUMBERS + 1)`."""
    z = jnp.matmul(x, basis, precision=EXACT)
    rest = jnp.sqrt(jnp.maximum(squares - jnp.sum(jnp.square(z), axis=1), 0))
    return jnp.concatenate([z, rest[:, None]], axis=1)


def bounds_of(own: Array, squares: Array) -> Array:
    """Of members, their `narrow` numbers and squares: a bound's factor `(n, NUMBERS + 2)`.

    The product with a vector's `narrow` numbers and 1 is no more than the squared distance without
    the vector's own square, lowered by `SLACK` of both.
    """
    return jnp.concatenate([-2 * own, (1 - SLACK) * squares[:, None]], axis=1)


def tree_order(points: Array, leaves: int) -> Array:
    """Order `(n,)` in which the leaves of a k-d tree of points `(n, d)` follow each other.

    Every part is cut in the middle of the coordinate that varies most; `leaves` is a power of two
    that divides n.
    """
    order = jnp.arange(points.shape[0])[None]
    while order.shape[0] < leaves:
        own = points[order]
        axis = jnp.argmax(jnp.var(own, axis=1), axis=1)
        along = jnp.take_along_axis(own, axis[:, None, None], axis=2)[..., 0]
        order = jnp.take_along_axis(order, jnp.argsort(along, axis=1), axis=1)
        order = order.reshape(2 * order.shape[0], -1)
    return order.ravel()


def least(x: Array) -> tuple[Array, Array]:
    """Least values along the last axis but one, and their first place: sooner than `argmin`."""
    found = jnp.min(x, axis=-2)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2)
    place = jnp.where(x == jnp.expand_dims(found, -2), place, x.shape[-2] - 1)
    return found, jnp.min(place, axis=-2)


def least_of_blocks(members: Array, x: Array, squares: Array | None, *, block: int) -> Array:
    """Least `squares − 2 m·x` of every block of members `(n, C)`, for `x` `(p, C)`: `(n/b, p)`.

    Without squares the least product, which takes half the time where numbers are few.
    """
    count, width = members.shape
    chunks = next(n for n in itertools.count(-(-count // CHUNK)) if count % (n * block) == 0)

    def of_chunk(chunk: tuple[Array, ...]) -> Array:
        product = jnp.matmul(chunk[0], x.T, precision=EXACT)
        if squares is not None:
            product = chunk[1][:, None] - 2 * product
        return jnp.min(product.reshape(-1, block, x.shape[0]), axis=1)

    each = [members.reshape(chunks, -1, width)]
    if squares is not None:
        each += [squares.reshape(chunks, -1)]
    return jax.lax.map(of_chunk, tuple(each)).reshape(-1, x.shape[0])


def apart_of_blocks(x: Array, at: Array, bank: Variables, *, block: int) -> tuple[Array, Array]:
    """Squared distances, by differences, of `x` `(p, C)` to all members of blocks `at` `(p, k)`.

    Returns:
        Both `(p, k * block)`: distances, infinite to what fills up; the members' numbers.
    """
    number = (at[..., None] * block + jnp.arange(block)[None, None]).reshape(x.shape[0], -1)
    apart = jnp.sum(jnp.square(bank["members"][number] - x[:, None]), axis=-1)
    return jnp.where(jnp.isinf(bank["squares"][number]), jnp.inf, apart), number


def block_of_nearest(x: Array, bank: Variables, *, block: int) -> Array:
    """Find the block of members in which the nearest one is, for each vector.

    Args:
        x: `(p, C)`, from the bank's centre.
        bank: As `neighbours.prepare` returns it, with "basis" and "bounds".
        block: Members of a block.

    Returns:
        `(p,)` int32.
    """
    count, leaves = x.shape[0], bank["bounds"].shape[0]
    squares = jnp.sum(jnp.square(x), axis=1)
    own = narrow(x, squares, bank["basis"])
    own = jnp.concatenate([own, jnp.ones_like(own[:, :1])], axis=1)
    lowest = least_of_blocks(bank["bounds"].reshape(-1, own.shape[1]), own, None, block=block)
    lowest = lowest.reshape(leaves, -1, count)
    bound = jnp.min(lowest, axis=1)
    # The least bound of all: that of a block of the leaf that has the least one.
    leaf = least(bound)[1]
    within = least(lowest[leaf, :, jnp.arange(count)].T)[1]
    first = leaf * lowest.shape[1] + within
    known = jnp.min(apart_of_blocks(x, first[:, None], bank, block=block)[0], axis=1)
    known = known - (1 - SLACK) * squares
    asked = ~(bound > known[None])  # so that what is no number is compared, too
    groups = -(-jnp.sum(asked, axis=1, dtype=jnp.int32) // ROWS)

    def plain() -> Array:
        found = least_of_blocks(bank["members"], x, bank["squares"], block=block)
        return least(found)[1]

    def by_leaves() -> Array:
        return _by_leaves(x, bank, groups, asked, block=block)

    crowded = jnp.sum(groups) > int(CROWDED * leaves * -(-count // ROWS))
    return jax.lax.cond(crowded, plain, by_leaves)


def _by_leaves(x: Array, bank: Variables, groups: Array, asked: Array, *, block: int) -> Array:
    """Compare every leaf with the vectors that ask for it, `ROWS` at a time."""
    count, width = x.shape
    leaves = asked.shape[0]
    members = bank["members"].reshape(leaves, -1, width)
    squares = bank["squares"].reshape(leaves, -1)
    each = members.shape[1] // block
    ends = jnp.cumsum(groups)
    # The place of every pair among those of its leaf, by sums of ROWS at a time.
    whole = -(-count // ROWS)
    flags = jnp.pad(asked, ((0, 0), (0, whole * ROWS - count))).reshape(leaves, whole, ROWS)
    before = jnp.cumsum(jnp.sum(flags, axis=2, dtype=jnp.int32), axis=1)
    before = jnp.pad(before[:, :-1], ((0, 0), (1, 0)))
    upper = jnp.triu(jnp.ones((ROWS, ROWS)), 1)
    within = jnp.matmul(flags.astype(jnp.float32), upper, precision=EXACT).astype(jnp.int32)
    place = (ends - groups)[:, None, None] * ROWS + before[..., None] + within
    size = (leaves * whole + TURN) * ROWS
    place = jnp.where(flags, place, size).reshape(leaves, -1)[:, :count]
    who = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], (leaves, count))
    asking = jnp.full(size, count, jnp.int32).at[place].set(who, mode="drop")

    def compare(pair: tuple[Array, Array]) -> Array:
        leaf, own = pair
        products = jnp.matmul(members[leaf], own.T, precision=EXACT)
        return jnp.min((squares[leaf][:, None] - 2 * products).reshape(each, block, ROWS), axis=1)

    def turn(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, best, at = state
        number = start + jnp.arange(TURN, dtype=jnp.int32)
        leaf = jnp.sum(ends[None] <= number[:, None], axis=1, dtype=jnp.int32)
        leaf = jnp.minimum(leaf, leaves - 1)
        ids = jax.lax.dynamic_slice(asking, (start * ROWS,), (TURN * ROWS,))
        own = x.at[ids].get(mode="clip").reshape(TURN, ROWS, width)
        value, which = least(jax.lax.map(compare, (leaf, own)))
        value, which = value.ravel(), (leaf[:, None] * each + which).ravel()
        best = best.at[ids].min(value, mode="drop")
        won = value == best.at[ids].get(mode="clip")
        return start + TURN, best, at.at[jnp.where(won, ids, count)].set(which, mode="drop")

    first = (jnp.int32(0), jnp.full(count, jnp.inf), jnp.zeros(count, jnp.int32))
    return jax.lax.while_loop(lambda state: state[0] < ends[-1], turn, first)[2]

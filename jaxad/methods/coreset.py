"""A coreset of a set of vectors: greedy k-centre, the 2-approximation of Gonzalez (1985).

Each step takes the vector that is farthest from all that were taken. The textbook's loop goes over
all vectors in every step. This one gives the same choice for less: distances to what was taken only
fall, so the farthest vector is found among a pool of those that were farthest a while ago, as long
as one of them is no nearer than all others were then. All vectors are only looked at when that
ends, for all that was taken since in products.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array
from jaxad.ops.precision import EXACT
from jaxad.progress import Progress

POOL = 4096
"""Vectors among which the farthest is sought between two looks at all."""
ROWS, TAKEN = 4096, 64
"""Of a product: vectors, and those that were taken."""


def projection(rng: Array, width: int, narrow: int) -> Array:
    """Draw a matrix `(width, narrow)` of normal numbers that keeps distances on average.

    Johnson and Lindenstrauss (1984) bound by how much they change. `narrow` 0: the identity.
    """
    if not narrow:
        return jnp.eye(width)
    return jax.random.normal(rng, (width, narrow)) / math.sqrt(narrow)


def from_row(rows: int, first: int) -> Array:
    """What `k_centre` begins with to take the row `first` first, `(rows,)` float32."""
    return jnp.full(rows, jnp.finfo(jnp.float32).max).at[first].set(jnp.inf)


def from_mean(x: Array, starts: Array) -> Array:
    """What `k_centre` begins with to do as PatchCore's authors' `ApproximateGreedyCoresetSampler`.

    There the mean distance to ten vectors drawn, none of which is taken, stays in the running
    minimum.

    Args:
        x: `(n, d)` float32.
        starts: Numbers of the vectors that were drawn.
    """
    distances = [jnp.sqrt(jnp.sum(jnp.square(x - x[start][None]), axis=1)) for start in starts]
    return jnp.square(sum(distances) / len(distances))


def k_centre(x: Array, count: int, *, closest: Array, pool: int = POOL) -> np.ndarray:
    """Choose vectors so that none is far from all that were chosen.

    Equal vectors are chosen once all others are.

    Args:
        x: `(n, d)` float32.
        count: How many, at most n.
        closest: `(n,)` float32, squared distances to begin with: the vector with the largest is
            chosen first, and no vector counts as farther than that.
        pool: See `POOL`.

    Returns:
        Their numbers, `(count,)` int32, in the order of choice.
    """
    n = x.shape[0]
    fill = -n % min(ROWS, n)
    x = jnp.pad(x, ((0, fill), (0, 0)))
    closest = jnp.pad(closest, (0, fill), constant_values=-1)  # as of those that are chosen
    squares, chosen = jnp.sum(jnp.square(x), axis=1), jnp.zeros(count, jnp.int32)
    progress, done = Progress("coreset", count, "vectors"), 0
    while done < count:
        closest, chosen, end = _choose(x, squares, closest, chosen, done, pool=min(pool, n))
        progress.advance(int(end) - done)
        done = int(end)
    return np.asarray(chosen)


@functools.partial(jax.jit, static_argnames="pool", donate_argnums=(2, 3))
def _choose(
    x: Array, squares: Array, closest: Array, chosen: Array, done: Array, *, pool: int
) -> tuple[Array, Array, Array]:
    """Choose from a new pool, one or more; then bring all distances up to date."""
    most, at = jax.lax.top_k(closest, pool + 1 if pool < closest.shape[0] else pool)
    others = most[pool] if len(most) > pool else jnp.float32(-1)
    candidates = x[at[:pool]].T  # so that sums over numbers are quick

    def open_(state: tuple[Array, Array, Array]) -> Array:
        own, _, i = state
        return (i < chosen.shape[0]) & (jnp.max(own) >= others)

    def choose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        own, chosen, i = state
        j = jnp.argmax(own)
        apart = jnp.sum(jnp.square(candidates - candidates[:, j][:, None]), axis=0)
        return jnp.minimum(own, apart).at[j].set(-1), chosen.at[i].set(at[j]), i + 1

    _, chosen, end = jax.lax.while_loop(open_, choose, (most[:pool], chosen, jnp.int32(done)))

    rows = min(ROWS, x.shape[0])
    parts = (x.reshape(-1, rows, x.shape[1]), squares.reshape(-1, rows))

    def update(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, closest = state
        # Beyond the end the last one again, which changes nothing.
        new = chosen[jnp.minimum(start + jnp.arange(TAKEN), end - 1)]

        def nearest(part: tuple[Array, Array]) -> Array:
            own, square = part
            product = jnp.matmul(x[new], own.T, precision=EXACT)
            return jnp.maximum(jnp.min(squares[new][:, None] - 2 * product, axis=0) + square, 0)

        apart = jax.lax.map(nearest, parts).ravel()
        return start + TAKEN, jnp.minimum(closest, apart).at[new].set(-1)

    _, closest = jax.lax.while_loop(
        lambda state: state[0] < end, update, (jnp.int32(done), closest)
    )
    return closest, chosen, end

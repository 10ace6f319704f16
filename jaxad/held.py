"""Rows that devices hold together: each row is on one of them alone, a step takes them of all.

What a program must not do is to bring all rows to every device, which the compiler may when it is
left to find a way. So the way is written down, the same for pmap and jit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Held(NamedTuple):
    """How devices hold rows."""

    put: Callable[[Any], Any]
    """Host arrays `(n, ...)` of one length over the devices: each row is on one of them alone."""
    pick: Callable[[Callable[[Any], Any]], Callable[[Any, Any], Any]]
    """Make `rows(data, index)` for use within a `held` step: the rows `view(data)[index]` of what
    `put` has given. `view` makes as many rows, one after the other, of every row of its own; see
    `at` for arrays of fewer."""
    row: Callable[[Any, int], Any]
    """One row `(1, ...)` of what `put` has given, on all devices."""


def take(every: Any, index: Any) -> Any:
    """These rows of all arrays of a tree, of those with fewer as `at` says."""
    return jax.tree.map(lambda rows: rows[at(index, rows, every)], every)


def at(index: Any, rows: Any, every: Any) -> Any:
    """Where an index into the longest arrays of a tree points to in one of them.

    Of an array of n times fewer rows each belongs to n of the others, one after the other.
    """
    each = max(len(leaf) for leaf in jax.tree.leaves(every)) // len(rows)
    return index if each == 1 else index // each


def held_by_one(device: NamedSharding) -> Held:
    """Make the functions for a single device, which has nothing to share."""

    def pick(view: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda data, index: take(view(data), index)

    return Held(
        lambda tree: jax.device_put(tree, device),
        pick,
        # By an array: a number that stands in the program would make a program of each.
        lambda data, number: jax.tree.map(lambda rows: rows[np.asarray([number])], data),
    )


def held_by_several(mesh: Mesh, *, in_pmap: bool) -> Held:
    """Make the functions for the devices of a mesh.

    Arrays are `(devices, n / devices, ...)`: a device has consecutive rows, filled up with zeros.
    In a step each looks up all indices among its own rows, zeros for those of others; the sum over
    devices, of which each gets its part of the batch, is exact: one summand is not zero.
    """
    (axis,), count = mesh.axis_names, mesh.size
    split = NamedSharding(mesh, PartitionSpec(axis))

    def put(tree: Any) -> Any:
        def of(host: Any) -> Any:
            each = -(-len(host) // count)

            def part(at: Any) -> Any:
                first = (at[0].start or 0) * each
                rows = np.asarray(host[first : first + each])
                missing = each - len(rows)
                if missing:
                    rows = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
                return rows[None]

            return jax.make_array_from_callback((count, each, *host.shape[1:]), split, part)

        return jax.tree.map(of, tree)

    def own(rows: Any, index: Any) -> Any:
        """The rows asked for that are this device's; zeros for the others."""
        here = index - jax.lax.axis_index(axis).astype(index.dtype) * len(rows)
        mine = (here >= 0) & (here < len(rows))
        found = rows[jnp.clip(here, 0, len(rows) - 1)]
        return jnp.where(mine.reshape(-1, *[1] * (found.ndim - 1)), found, jnp.zeros_like(found))

    def pick(view: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def of_device(data: Any, index: Any) -> Any:
            every = jax.lax.all_gather(index, axis, tiled=True)
            seen = view(data)

            def rows_of_all(rows: Any) -> Any:
                return jax.lax.psum_scatter(own(rows, at(every, rows, seen)), axis, tiled=True)

            return jax.tree.map(rows_of_all, seen)

        def in_mesh(data: Any, index: Any) -> Any:
            return of_device(jax.tree.map(lambda part: part[0], data), index)

        if in_pmap:
            return of_device
        own_rows = split.spec
        return jax.shard_map(in_mesh, mesh=mesh, in_specs=(own_rows, own_rows), out_specs=own_rows)

    def take_row(data: Any, index: Any) -> Any:
        return jax.tree.map(lambda part: jax.lax.psum(own(part[0], index), axis), data)

    one_row = jax.jit(
        jax.shard_map(
            take_row,
            mesh=mesh,
            in_specs=(PartitionSpec(axis), PartitionSpec()),
            out_specs=PartitionSpec(),
        )
    )

    def row(data: Any, number: int) -> Any:
        return one_row(data, np.asarray([number], np.int32))

    return Held(put, pick, row)

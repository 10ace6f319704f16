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
    `put` has given. `view` makes as many rows, one after the other, of every row of its own."""
    row: Callable[[Any, int], Any]
    """One row `(1, ...)` of what `put` has given, on all devices."""


def held_by_one(device: NamedSharding) -> Held:
    """Make the functions for a single device, which has nothing to share."""

    def pick(view: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda data, index: jax.tree.map(lambda rows: rows[index], view(data))

    return Held(
        lambda tree: jax.device_put(tree, device),
        pick,
        lambda data, number: jax.tree.map(lambda rows: rows[number : number + 1], data),
    )


def held_by_several(mesh: Mesh, *, in_pmap: bool) -> Held:
    """Make the functions for the devices of a mesh.

    Arrays are `(devices, n / devices, ...)`: a device has consecutive rows, filled up with zeros.
    In a step each looks up all indices among its own rows, zeros for those of others; the sum over
    devices, of which each gets its part of the batch, is exact: one summand is not zero.
    """
    (axis,), count = mesh.axis_names, mesh.size
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*p)) for p in ((), (axis,)))

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

    def pick(view: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def own_rows(data: Any, index: Any) -> Any:
            every = jax.lax.all_gather(index, axis, tiled=True)

            def of(rows: Any) -> Any:
                at = every - jax.lax.axis_index(axis).astype(every.dtype) * len(rows)
                mine = (at >= 0) & (at < len(rows))
                found = rows[jnp.clip(at, 0, len(rows) - 1)]
                mine = mine.reshape(-1, *[1] * (found.ndim - 1))
                found = jnp.where(mine, found, jnp.zeros_like(found))
                return jax.lax.psum_scatter(found, axis, tiled=True)

            return jax.tree.map(of, view(data))

        def in_mesh(data: Any, index: Any) -> Any:
            return own_rows(jax.tree.map(lambda part: part[0], data), index)

        if in_pmap:
            return own_rows
        own = PartitionSpec(axis)
        return jax.shard_map(in_mesh, mesh=mesh, in_specs=(own, own), out_specs=own)

    def row(data: Any, number: int) -> Any:
        def of(leaf: Any) -> Any:
            device, at = divmod(int(number), leaf.shape[1])
            (part,) = (s.data for s in leaf.addressable_shards if (s.index[0].start or 0) == device)
            return jax.device_put(part[0, at : at + 1], everywhere)

        return jax.tree.map(of, data)

    return Held(put, pick, row)

"""The only room that knows devices: one step body, run data-parallel by pmap or by jit.

The state is an ordinary replicated tree under both, so it is saved, donated and compared like any
other. Bodies contain no collectives of their own: pmap gets them through the injected `mean` and
the `axis_name` of BatchNorm; jit needs none. What is drawn at random goes by an element's global
index in the batch (`ops.noise`), so that both draw the same, on any number of devices.

Several processes (`jax.distributed`) run jit over the devices of all: each gives its own rows of a
batch, and each has the whole state. What needs no step, features and scores, each computes of its
share on its own devices (`here`), and `together` brings the rows to all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxad.core import InputError
from jaxad.held import Held, held_by_one, held_by_several

AXIS = "batch"


class DataParallel(NamedTuple):
    """A backend's functions. `shard` every batch and `replicate` every state before the call."""

    axis_name: str | None
    """For modules that share statistics over devices; None where the compiler does it."""
    mean: Callable[[Any], Any]
    """Average over devices, to be injected into `steps.make_train_step`. Integers and booleans are
    kept: they have to be the same on all devices."""
    train_step: Callable[..., Callable[..., Any]]
    """Compile `step(state, frozen, batch, rng) -> (state, metrics)`; only the state's buffers are
    donated. With `held=True` what is frozen is what `held.put` has given."""
    map: Callable[[Callable[..., Any]], Callable[..., Any]]
    """Compile `f(variables, batch) -> outputs` (leading axis = batch) for sharded batches.

    A call does not wait: `gather` brings its outputs to the host.
    """
    gather: Callable[[Any], Any]
    """Wait for outputs of `map`; host arrays in the order of the batch."""
    replicate: Callable[[Any], Any]
    shard: Callable[[Any], Any]
    """Takes this process's `own` rows of a batch."""
    held: Held
    """What devices hold together: each row is on one of them alone."""
    device_count: int
    """Of all processes."""
    process: int = 0
    """Number of this one."""
    processes: int = 1
    local: Callable[[Any], Any] = lambda tree: tree
    """A replicated tree as arrays of this process alone."""
    here: DataParallel | None = None
    """Over the devices of this process, where there are others."""

    def own(self, rows: int) -> slice:
        """Which of the rows of a batch of all devices this process has to give."""
        each = rows // self.processes
        return slice(self.process * each, (self.process + 1) * each)

    def within(self) -> DataParallel:
        """Over the devices of this process."""
        return self.here or self


def data_parallel(
    backend: str = "pmap", *, devices: Sequence[jax.Device] | None = None
) -> DataParallel:
    """Set up data parallelism over `devices` (default: all local ones).

    Args:
        backend: "pmap" or "jit" (NamedSharding of the batch, replicated state).
        devices: In the order in which a batch is split over them.

    Raises:
        InputError: Unknown backend, or pmap over several processes.
    """
    if backend not in ("pmap", "jit"):
        raise InputError(f"train.parallel is {backend!r}: use 'pmap' or 'jit'")
    if devices is None and jax.process_count() > 1:
        if backend == "pmap":
            raise InputError(
                "train.parallel is 'pmap', which runs in one process: several take "
                "--config.train.parallel=jit"
            )
        return _over_processes()
    devices = list(jax.local_devices() if devices is None else devices)
    n = len(devices)
    mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*p)) for p in ((), (AXIS,)))
    in_shares = (
        held_by_one(everywhere) if n == 1 else held_by_several(mesh, in_pmap=backend == "pmap")
    )

    def replicate(tree: Any) -> Any:
        return jax.device_put(tree, everywhere)

    def check(tree: Any) -> None:
        for leaf in jax.tree.leaves(tree):
            if len(leaf) % n:
                raise InputError(
                    f"a batch of {len(leaf)} can not be split over {n} devices: use a multiple"
                )

    if backend == "jit":

        def shard(tree: Any) -> Any:
            check(tree)
            return jax.device_put(tree, split)

        def train_step(step: Callable[..., Any], *, held: bool = False) -> Callable[..., Any]:
            del held  # the compiler sees where it is
            return jax.jit(step, donate_argnums=0, out_shardings=everywhere)

        def map_(function: Callable[..., Any]) -> Callable[..., Any]:
            return jax.jit(function, out_shardings=split)

        return DataParallel(
            None,
            lambda tree: tree,
            train_step,
            map_,
            jax.device_get,
            replicate,
            shard,
            in_shares,
            n,
        )

    def shard_leading(tree: Any) -> Any:
        check(tree)
        return jax.tree.map(
            lambda x: jax.device_put(x.reshape(n, len(x) // n, *x.shape[1:]), split), tree
        )

    def mean(tree: Any) -> Any:
        def of(x: Any) -> Any:
            exact = not jnp.issubdtype(jnp.result_type(x), jnp.inexact)
            return jax.lax.pmax(x, AXIS) if exact else jax.lax.pmean(x, AXIS)

        return jax.tree.map(of, tree)

    # A pmap's program has no name of its own; in a profile its operations then have the body's.
    def named(body: Callable[..., Any]) -> Callable[..., Any]:
        return jax.named_scope(body.__name__)(body)

    def pmap_train_step(step: Callable[..., Any], *, held: bool = False) -> Callable[..., Any]:
        return jax.pmap(
            named(step),
            axis_name=AXIS,
            in_axes=(None, 0 if held and n > 1 else None, 0, None),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )

    def pmap_map(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.pmap(named(function), axis_name=AXIS, in_axes=(None, 0), devices=devices)

    def gather(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(tree))

    return DataParallel(
        AXIS, mean, pmap_train_step, pmap_map, gather, replicate, shard_leading, in_shares, n
    )


def _over_processes() -> DataParallel:
    """Jit over the devices of all processes, whose rows of a batch follow each other."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*p)) for p in ((), (AXIS,)))
    index, count = jax.process_index(), jax.process_count()
    each = Counter(device.process_index for device in devices)
    if len({*each.values()}) > 1:
        raise InputError(
            f"processes have other numbers of devices ({dict(each)}): give each as many"
        )

    def replicate(tree: Any) -> Any:
        def of(leaf: Any) -> Any:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = of(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, everywhere, lambda at: host[at])

        return jax.tree.map(of, tree)

    def shard(tree: Any) -> Any:
        def of(leaf: Any) -> Any:
            if len(leaf) * count % len(devices):
                raise InputError(
                    f"a batch of {len(leaf) * count} can not be split over {len(devices)} devices: "
                    "use a multiple"
                )
            return jax.make_array_from_process_local_data(split, np.asarray(leaf))

        return jax.tree.map(of, tree)

    return DataParallel(
        None,
        lambda tree: tree,
        lambda step, **held: jax.jit(step, donate_argnums=0, out_shardings=everywhere),
        lambda function: jax.jit(function, out_shardings=split),
        lambda tree: multihost_utils.process_allgather(tree, tiled=True),
        replicate,
        shard,
        held_by_several(mesh, in_pmap=False),
        len(devices),
        index,
        count,
        lambda tree: jax.tree.map(lambda leaf: leaf.addressable_data(0), tree),
        data_parallel("jit", devices=jax.local_devices()),
    )


def together(tree: Any) -> Any:
    """Rows of all processes, on every one of them, in the order of what they have read in turn.

    Args:
        tree: Host arrays `(b, ...)`: row j is number `j * processes + process` of the batch.

    Returns:
        Host arrays `(b * processes, ...)`.
    """
    if jax.process_count() == 1:
        return tree

    def of(rows: Any) -> Any:
        rows = np.asarray(rows)
        # As bytes: half precision and booleans have no collective on every device.
        data = np.ascontiguousarray(rows.reshape(len(rows), -1)).view(np.uint8)
        every = np.swapaxes(multihost_utils.process_allgather(data), 0, 1)
        return np.ascontiguousarray(every).view(rows.dtype).reshape(-1, *rows.shape[1:])

    return jax.tree.map(of, tree)


def from_first(tree: Any) -> Any:
    """The host arrays of the first process, on every one; the others give any of these shapes."""
    if jax.process_count() == 1:
        return tree

    def of(leaf: Any) -> Any:
        host = np.ascontiguousarray(leaf)
        data = multihost_utils.broadcast_one_to_all(host.reshape(-1).view(np.uint8))
        return data.view(host.dtype).reshape(host.shape)

    return jax.tree.map(of, tree)


def free_device_memory() -> int:
    """Bytes that are free on the first local accelerator; 0 where there is none."""
    device = jax.local_devices()[0]
    stats = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    return int(stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))


def device_memory_in_use() -> int | None:
    """Bytes that are in use on all local accelerators; None where there is none that tells."""
    told = [
        device.memory_stats() or {} for device in jax.local_devices() if device.platform != "cpu"
    ]
    return sum(int(stats.get("bytes_in_use", 0)) for stats in told) if any(told) else None

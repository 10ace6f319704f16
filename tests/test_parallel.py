"""pmap, jit and one device are the same training; batches that do not split are refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.memory import free_memory
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.parallel import data_parallel, free_device_memory
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

LEVELS = [PairLevel("source/a", "target/a", 4, 3e-4)]


def features_of(seed: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = {"source/a": (4, 5), "target/a": (4, 7)}
    return {
        name: np.abs(draw.normal(size=(8, size, size, c))).astype(dtype)
        for name, (size, c) in sizes.items()
    }


def three_steps(backend: str, devices: int, dtype: type = np.float32) -> tuple[dict, float]:
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    method = pfm(LEVELS, axis_name=parallel.axis_name)
    optimizer = method.optimizer(3)
    first = {k: jnp.asarray(v) for k, v in features_of(0, dtype).items()}
    state = init_state(method.init(jax.random.key(1), first), optimizer)
    state = parallel.replicate(state)
    rng = parallel.replicate(jax.random.key(2))
    step = parallel.train_step(
        make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), optimizer, mean=parallel.mean)
    )
    for seed in range(3):
        state, metrics = step(state, {}, parallel.shard(features_of(seed, dtype)), rng)
    assert int(state.step) == 3
    total, count = metrics["loss"]
    return jax.device_get(state.variables), float(total) / float(count)


def test_pmap_jit_and_one_device_agree_after_three_steps() -> None:
    # In float64: in float32 a bias before BatchNorm, which has no gradient but rounding noise, is
    # moved by Adam as far as any other weight, and no two orders of summation agree on it.
    with jax.enable_x64(True):
        expected, loss = three_steps("jit", 1, dtype=np.float64)
        for backend, devices in (("pmap", 1), ("pmap", 4), ("jit", 4)):
            variables, other = three_steps(backend, devices, dtype=np.float64)
            np.testing.assert_allclose(other, loss, rtol=1e-9)
            for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(expected)):
                assert a.dtype == np.float64
                np.testing.assert_allclose(a, b, atol=1e-6, err_msg=backend)


def test_same_seed_gives_the_same_bits() -> None:
    one, two = three_steps("pmap", 4), three_steps("pmap", 4)
    jax.tree.map(np.testing.assert_array_equal, one[0], two[0])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_map_keeps_the_order_of_the_batch(backend: str) -> None:
    parallel = data_parallel(backend)
    double = parallel.map(lambda v, x: {"y": x * v, "sum": x.sum(axis=1)})
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    out = parallel.gather(double(parallel.replicate(jnp.float32(2)), parallel.shard(x)))
    np.testing.assert_array_equal(out["y"], 2 * x)
    np.testing.assert_array_equal(out["sum"], x.sum(axis=1))


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_batch_that_does_not_split_names_the_keys(backend: str) -> None:
    with pytest.raises(InputError, match=r"6 can not be split over 4 devices: use a multiple"):
        data_parallel(backend).shard(np.zeros((6, 2), np.float32))
    with pytest.raises(InputError, match="'pmap' or 'jit'"):
        data_parallel("threads")


def test_free_memory_of_the_host_is_plausible() -> None:
    assert free_device_memory() == 0  # these tests run on CPU
    assert 1 << 28 < free_memory() < 1 << 50

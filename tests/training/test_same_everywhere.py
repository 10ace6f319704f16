"""A seed gives the same training by pmap and by jit, on one device and on four, noise included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_student import student_of
from tiny import backbones, photo, toy

from jaxad.core import Method
from jaxad.detector import Detector
from jaxad.methods.adapted_moe import experts
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.methods.mixture import learning
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.recipe import Phase
from jaxad.training import phases
from jaxad.training.fit import training_key
from jaxad.training.state import init_state

VARIANTS = [("jit", 1), ("jit", 4), ("pmap", 1), ("pmap", 4)]
IN_PARTS = [("jit", 1), ("jit", 2), ("pmap", 2)]
"""Devices that can share a batch of 8 in two parts of two subclasses."""
BATCH = 8


def of_pfm(axis_name: str | None) -> Method:
    return pfm([PairLevel("net/a", "net/b", 2, 3e-4)], bidirectional=False, axis_name=axis_name)


def of_afrad(axis_name: str | None) -> Method:
    del axis_name
    stages = [Stage("net/a", 2, 1, 1, 0, 0), Stage("net/b", 2, 1, 1, 0, 1)]
    # As little as there can be: noise is drawn before the network.
    less = {"local": (), "compensation": (), "ngib_layers": 0, "refine": False, "ratio": 1}
    return afrad(stages, grid=2, width=2, adaptive=(1, 2), jitter=1.2, **less)


def of_simplenet(axis_name: str | None) -> Method:
    return simplenet("net/a", hidden=3, noise=0.5, axis_name=axis_name)


def of_router(axis_name: str | None) -> Method:
    return routing("net/a", Router(2, 2, True), axis_name=axis_name)


def of_experts(axis_name: str | None) -> Method:
    return experts("net/a", Expert(3, axis_name), count=2, noise=0.5)


def of_stfpm(axis_name: str | None) -> Method:
    return student_of("net/a", "net/b", 6, axis_name=axis_name, learning_rate=0.1)


def of_any_experts(axis_name: str | None) -> Method:
    return learning(of_pfm(axis_name), ("net/a", "net/b"), count=2)


METHODS = {
    "pfm": (of_pfm, 1, 0),
    "afrad": (of_afrad, 1, 0),
    "simplenet": (of_simplenet, 1, 16),
    "router": (of_router, 2, 0),
    "experts": (of_experts, 2, 0),
    "stfpm": (of_stfpm, 1, 0),
    "experts of any": (of_any_experts, 2, 16),
}
"""How each is made, its subclasses, and the positions of a step."""


def features(step: int, positions: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    shape = (positions,) if positions else (BATCH, 3, 4)
    return {name: np.abs(draw.normal(size=(*shape, c))) for name, c in (("net/a", 4), ("net/b", 6))}


def three_steps(name: str, parts: int, backend: str, devices: int) -> Any:
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    make, groups, positions = METHODS[name]
    method = make(parallel.axis_name)
    like = {key: jnp.asarray(x[:1]) for key, x in features(0, 0).items()}
    state = init_state(jax.jit(method.init)(jax.random.key(1), like), method.optimizer(3))
    phase = Phase("all", method, 3, positions, ("net/a", "net/b"))
    computing = phases.Computing(parallel, parts)
    step = phases.cached_step(phase, 3, groups=groups, computing=computing)
    batches = ({**x, "element": place(x)} for x in (features(n, positions) for n in range(3)))
    return run(parallel, step, state, {}, batches)


def three_held_steps(name: str, parts: int, backend: str, devices: int) -> Any:
    """The same on features that the devices hold together, some images more than batches have."""
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    make, groups, positions = METHODS[name]
    method = make(parallel.axis_name)
    every = [features(n, positions) for n in range(3)]
    cache = {key: np.concatenate([x[key] for x in every]) for key in every[0]}
    if positions:  # as images of 2 x 2
        cache = {key: x.reshape(-1, 2, 2, x.shape[-1]) for key, x in cache.items()}
    cache = {key: np.concatenate([x, x[:2]]) for key, x in cache.items()}
    like = {key: jnp.asarray(x[:1]) for key, x in features(0, 0).items()}
    state = init_state(jax.jit(method.init)(jax.random.key(1), like), method.optimizer(3))
    phase = Phase("all", method, 3, positions, ("net/a", "net/b"))
    computing = phases.Computing(parallel, parts)
    steps = phases.device_step(phase, 3, groups=groups, computing=computing)
    size = positions or BATCH
    stream = (np.arange(size, dtype=np.int32) + size * n for n in range(3))
    blocks = phases.blocks(stream, 3)
    return run(parallel, steps, state, cache, blocks, hold=True)


def place(batch: Any) -> np.ndarray:
    return np.arange(len(next(iter(batch.values()))), dtype=np.int32)


def run(
    parallel: DataParallel, step: Any, state: Any, frozen: Any, batches: Any, *, hold: bool = False
) -> Any:
    told: list[Any] = []
    state, rng = map(parallel.replicate, (state, training_key(888, "all")))
    frozen = parallel.held.put(frozen) if hold else parallel.replicate(frozen)
    batches = map(parallel.shard, batches)
    state = phases.run(
        step, state, frozen, batches, rng, lambda found, more: told.append(sums(found))
    )
    return jax.device_get((state, told))


def sums(found: Any) -> Any:
    return {name: found[name] for name in ("loss", "gradient_norm")}


def same(of: Callable[[str, int], Any], variants: Sequence[tuple[str, int]]) -> None:
    expected = of(*variants[0])
    assert int(expected[0].step) == 3
    for variant in variants[1:]:
        equal(of(*variant), expected, str(variant))


def equal(found: Any, expected: Any, what: str) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        told = f"{what} {jax.tree_util.keystr(path)}"
        assert a.dtype == b.dtype, told
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=told)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_three_steps_are_the_same_on_any_devices(name: str, parts: int) -> None:
    # In float64: in float32 a bias before BatchNorm, which has no gradient but rounding noise, is
    # moved by Adam as far as any other weight, and no two orders of summation agree on it.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        same(functools.partial(three_steps, name, parts), VARIANTS if parts == 1 else IN_PARTS)


@pytest.mark.parametrize(
    ("name", "parts", "devices"), [*((name, 1, 4) for name in METHODS), ("router", 2, 2)]
)
def test_features_that_devices_hold_together_train_the_same(
    name: str, parts: int, devices: int
) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        expected, told = three_steps(name, parts, "pmap", 1)
        for backend in ("pmap", "jit"):
            found, held = three_held_steps(name, parts, backend, devices)
            equal(found, expected, backend)
            equal(flat(held), flat(told), f"told by {backend}")


def flat(metrics: Any) -> Any:
    """Of steps, whether one or several came from a program."""
    return {
        name: [tuple(map(np.ravel, step[name])) for step in metrics]
        for name in ("loss", "gradient_norm")
    }


def uncached(parts: int, backend: str, devices: int) -> Any:
    parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
    networks, method = backbones("net"), toy(noise=1.0)
    detector = Detector(networks.networks, method)
    phase = Phase("all", method, 3, 20, ("net/a",))
    computing = phases.Computing(parallel, parts)
    step = phases.image_step(phase, 3, detector, groups=2, batch=BATCH, computing=computing)
    state = init_state({"params": {"all": jnp.zeros(3)}}, method.optimizer(3))
    images = (np.stack([photo(BATCH * n + i) for i in range(BATCH)]) for n in range(3))
    batches = ({"image": x, "element": np.arange(BATCH, dtype=np.int32)} for x in images)
    return run(parallel, step, state, networks.variables, batches)


@pytest.mark.parametrize("parts", [1, 2])
def test_positions_of_photos_are_the_same_on_any_devices(parts: int) -> None:
    same(functools.partial(uncached, parts), VARIANTS if parts == 1 else IN_PARTS)


def test_a_batch_in_parts_is_the_whole_batch_where_nothing_goes_over_it() -> None:
    """A loss that is a mean, with noise: on photos too, where positions are drawn."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for name, parts in (("afrad", 4), ("afrad", 8)):
            equal(three_steps(name, parts, "jit", 1), three_steps(name, 1, "jit", 1), name)
    equal(uncached(4, "jit", 1), uncached(1, "jit", 1), "toy")


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = uncached(1, "pmap", 4), uncached(1, "pmap", 4)
    jax.tree.map(np.testing.assert_array_equal, one, two)

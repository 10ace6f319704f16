"""One step: what is trained, what is frozen, which key; a detector's own loss goes through it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import backbones, photo, toy

from jaxad.core import Aux
from jaxad.detector import Detector
from jaxad.parallel import data_parallel
from jaxad.training.state import TrainState, init_state
from jaxad.training.steps import make_steps, make_train_step


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_a_detector_s_loss_trains_detector_after_detector(backend: str) -> None:
    networks, method = backbones("net"), toy()
    detector = Detector(networks.networks, method)
    parallel = data_parallel(backend, devices=jax.local_devices()[:2])
    optimizer = method.optimizer(2)
    step = parallel.train_step(make_train_step(detector.loss, optimizer, mean=parallel.mean))
    frozen = parallel.replicate(networks.variables)
    images = np.stack([photo(n) for n in range(4)])
    of = {"subclass": np.zeros(4, np.int32), "element": np.arange(4, dtype=np.int32)}
    batch = {"image": images, **of}
    found = []
    for _ in range(2):
        variables = {"params": {"all": jnp.ones(3)}}
        state = parallel.replicate(init_state(variables, optimizer))
        # The state is of the method alone: what is donated has nothing of the frozen networks.
        assert jax.tree.structure(state.variables) == jax.tree.structure(variables)
        for _ in range(2):
            key = parallel.replicate(jax.random.key(0))
            state, _ = step(state, frozen, parallel.shard(batch), key)
        found.append(np.asarray(state.variables["params"]["all"]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(frozen))
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0] - 1).min() > 0.1


def counting(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
    w, count = variables["params"]["w"], variables["counts"]["seen"]
    drawn = jax.random.normal(rng, ())
    moved = {"counts": {"seen": count + 2}, "mean": {"x": variables["mean"]["x"] + batch["x"]}}
    return w * frozen["x"], Aux(moved, {"drawn": (drawn, jnp.ones(()))})


def start() -> TrainState:
    variables = {
        "params": {"w": jnp.float32(1)},
        "counts": {"seen": jnp.int32(0)},
        "mean": {"x": jnp.float32(0)},
    }
    return init_state(variables, optax.sgd(0.5))


def test_params_move_by_gradient_and_the_rest_by_rules_of_its_own() -> None:
    step = make_train_step(counting, optax.sgd(0.5))
    state, metrics = step(start(), {"x": jnp.float32(3)}, {"x": jnp.float32(7)}, jax.random.key(0))
    assert float(state.variables["params"]["w"]) == 1 - 0.5 * 3
    assert float(state.variables["mean"]["x"]) == 7
    seen = state.variables["counts"]["seen"]
    assert (int(seen), seen.dtype, int(state.step)) == (2, jnp.int32, 1)
    assert float(metrics["loss"][0]) == 3


def test_steps_in_one_program_are_steps_one_by_one() -> None:
    data = {"x": jnp.asarray([1.0, 10.0, 100.0])}

    def pick(data: Any, index: Any) -> Any:
        return {"x": data["x"][index["at"]].sum()}

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        return counting(variables, {"x": jnp.float32(3)}, batch, rng)

    step = make_train_step(loss, optax.sgd(0.5))
    index = np.asarray([[0, 1], [2, 2], [1, 0]])  # (steps, elements)
    together, metrics = make_steps(step, pick)(
        start(), data, {"at": jnp.asarray(index.T)}, jax.random.key(0)
    )
    state, drawn = start(), []
    for at in index:
        state, one = step(state, {}, {"x": data["x"][at].sum()}, jax.random.key(0))
        drawn.append(float(one["drawn"][0]))
    jax.tree.map(np.testing.assert_array_equal, together, state)
    np.testing.assert_array_equal(metrics["drawn"][0], drawn)
    # Another key in every step, though it is given the same.
    assert len(set(drawn)) == 3

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

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        picked = {"x": frozen["x"][batch["at"]].sum()}
        return counting(variables, {"x": jnp.float32(3)}, picked, rng)

    step = make_train_step(loss, optax.sgd(0.5))
    index = np.asarray([[0, 1], [2, 2], [1, 0]])  # (steps, elements)
    together, metrics = make_steps(step)(
        start(), data, {"at": jnp.asarray(index.T)}, jax.random.key(0)
    )
    state, drawn = start(), []
    for at in index:
        state, one = step(state, data, {"at": jnp.asarray(at)}, jax.random.key(0))
        drawn.append(float(one["drawn"][0]))
    jax.tree.map(np.testing.assert_array_equal, together, state)
    np.testing.assert_array_equal(metrics["drawn"][0], drawn)
    # Another key in every step, though it is given the same.
    assert len(set(drawn)) == 3


def test_gradient_norm_and_learning_rates_are_metrics() -> None:
    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        p = variables["params"]
        return 3 * p["w"] + 4 * jnp.sum(p["v"]), Aux({}, {})

    def metrics_of(schedules: Any, steps: int = 1) -> Any:
        state = init_state({"params": {"w": jnp.ones(()), "v": jnp.ones(9)}}, optax.sgd(1.0))
        step = make_train_step(loss, optax.sgd(1.0), schedules=schedules)
        for _ in range(steps):
            state, metrics = step(state, {}, {}, jax.random.key(0))
        return {name: float(total) / float(count) for name, (total, count) in metrics.items()}

    found = metrics_of(None)
    assert set(found) == {"loss", "gradient_norm"}
    assert found["gradient_norm"] == pytest.approx((9 + 9 * 16) ** 0.5)
    assert metrics_of({"all": 0.25})["learning_rate"] == 0.25
    falling = optax.linear_schedule(1.0, 0.0, 4)
    found = metrics_of({"a": falling, "b": 0.5}, steps=2)
    assert (found["learning_rate_a"], found["learning_rate_b"]) == (0.75, 0.5)  # of step 1, from 0


def test_networks_compute_in_half_precision_and_all_else_in_float32() -> None:
    seen: list[Any] = []

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        p = variables["params"]
        seen.append({name: tree["w"].dtype for name, tree in p.items()})
        value = sum(jnp.mean(tree["w"].astype(jnp.float32) ** 2) for tree in p.values())
        return value, Aux({"batch_stats": {"x": variables["batch_stats"]["x"] + 1}}, {})

    names = ("layer", "norm", "bn", "router")
    params = {name: {"w": jnp.full((3,), 1.0015)} for name in names}
    optimizer = optax.adam(1e-3)
    state = init_state({"params": params, "batch_stats": {"x": jnp.zeros(())}}, optimizer)
    after, _ = make_train_step(loss, optimizer, dtype="bfloat16")(state, {}, {}, jax.random.key(0))
    half = {name: jnp.bfloat16 if name == "layer" else jnp.float32 for name in names}
    assert seen == [half]
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    # A step smaller than bfloat16 can tell is taken, and remembered.
    for tree in after.variables["params"].values():
        np.testing.assert_allclose(tree["w"], 1.0005, rtol=0, atol=1e-6)

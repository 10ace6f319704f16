"""Experts of any method, trained side by side: each as by itself, or all as one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from jaxad.core import Aux, Method
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.side_by_side import APART, STACKED, side_by_side
from jaxad.methods.simplenet import simplenet

SIZES = {"s/a": 6, "t/a": 4}
METHODS = {
    "pfm": pfm([PairLevel("s/a", "t/a", 2, 1e-2)], bidirectional=False),
    "simplenet": simplenet("s/a", hidden=5, noise=0.4),
}


def batch(count: int = 12) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    return {n: jnp.asarray(draw.normal(size=(count, c)), jnp.float32) for n, c in SIZES.items()}


def part(x: dict[str, jax.Array], k: int, count: int) -> dict[str, jax.Array]:
    return {name: value[k::count] for name, value in x.items()}


def gradient(method: Method, variables: Any, features: Any, places: Any) -> Any:
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any) -> Any:
        return method.loss(
            {**rest, "params": params}, features, {"element": places}, jax.random.key(3)
        )

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def alike(found: Any, want: Any, *, atol: float = 2e-6) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", METHODS)
def test_each_expert_learns_as_it_would_alone(name: str) -> None:
    """Loss, gradients and statistics, noise included."""
    alone, x, n = METHODS[name], batch(), 3
    stacked = side_by_side(alone, n)
    variables = quick.filled(stacked, x)
    places = jnp.arange(12, dtype=jnp.int32)

    @quick.jit
    def both(variables: Any) -> Any:
        found = gradient(stacked, variables, x, places)
        each = [
            gradient(alone, STACKED.own(variables, k), part(x, k, n), places[k::n])
            for k in range(n)
        ]
        return found, each

    ((value, aux), grads), each = both(variables)
    np.testing.assert_allclose(value, sum(own[0][0] for own in each), rtol=1e-5)
    for k, ((_, own_aux), own_grads) in enumerate(each):
        alike(STACKED.own(grads, k), own_grads)
        alike(STACKED.own(aux.updates, k), own_aux.updates)


def test_a_norm_that_gradients_are_clipped_by_is_that_of_one_expert() -> None:
    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        return jnp.sum(variables["params"]["w"]), Aux({}, {})

    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    method = Method(
        lambda rng, features: {"params": {"w": jnp.zeros(2)}}, loss, None, lambda steps: clipped
    )  # type: ignore[arg-type]
    gradients = {"w": jnp.asarray([[3.0, 4.0], [0.3, 0.4]])}
    (moves,) = quick.updates_of(side_by_side(method, 2), 1, gradients, [gradients])
    np.testing.assert_allclose(moves["w"], [[-0.6, -0.8], [-0.3, -0.4]], rtol=1e-5)


def test_tied_experts_learn_from_all_and_stay_equal() -> None:
    alone, x, n = METHODS["simplenet"], batch(), 3
    tied = side_by_side(alone, n, tied=True)
    places = jnp.arange(12, dtype=jnp.int32)
    variables = quick.init(tied, x)
    one = STACKED.own(variables, 2)
    alike(STACKED.own(variables, 0), one)

    @quick.jit
    def both(variables: Any, one: Any) -> Any:
        return gradient(tied, variables, x, places), gradient(alone, one, x, places)

    ((_, aux), grads), ((_, own_aux), own) = both(variables, one)
    for k in range(n):
        alike(STACKED.own(grads, k), own)
        alike(STACKED.own(aux.updates, k), own_aux.updates)


@pytest.mark.parametrize("holding", [STACKED, APART])
def test_an_expert_is_found_by_its_number(holding: Any) -> None:
    each = [{"bank": {"x": jnp.full((2, 3), float(k))}} for k in range(3)]
    joined = holding.join(each)
    for k in range(3):
        np.testing.assert_array_equal(holding.own(joined, k)["bank"]["x"], each[k]["bank"]["x"])

    @quick.jit
    def ask(j: jax.Array) -> jax.Array:
        return holding.ask(joined, j, lambda own: jnp.sum(own["bank"]["x"]))

    assert [float(ask(jnp.int32(j))) for j in range(3)] == [0.0, 6.0, 12.0]

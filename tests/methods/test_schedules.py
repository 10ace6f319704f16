"""Learning rates that are logged are those by which parameters move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.core import Method
from jaxad.methods.adapted_moe import experts
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet

STEPS = 10
PAIRS = [PairLevel("a", "b", 4, 0.5), PairLevel("b", "a", 4, 0.25)]
FEWEST: dict[str, Any] = {"local": (), "compensation": (), "adaptive": (1,), "clip": 0.0}
STAGES = (Stage("a", 4, 1, 1, 0, 0),)
METHODS: dict[str, Method] = {
    "pfm": pfm(PAIRS),
    "pfm, one cycle": pfm(PAIRS, one_cycle=True, decoupled_weight_decay=True),
    "afrad": afrad(STAGES, grid=1, width=4, learning_rate=0.5, **FEWEST),
    "afrad, one cycle": afrad(STAGES, grid=1, width=4, learning_rate=0.5, one_cycle=True, **FEWEST),
    "simplenet": simplenet("a", learning_rates=(0.5, 0.25)),
    "experts": experts("a", Expert(4), count=2, learning_rates=(0.5, 0.25)),
    "router": routing("a", Router(3, 2, True), learning_rate=0.5),
}
VARY = {"pfm, one cycle", "afrad", "afrad, one cycle"}


@pytest.mark.parametrize("name", METHODS)
def test_schedules_are_what_the_optimizer_does(name: str) -> None:
    """Adam moves a parameter at zero, whose gradient is always one, by the learning rate."""
    method = METHODS[name]
    found = {key: jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32) for key in "ab"}
    shapes = jax.eval_shape(method.init, jax.random.key(0), found)["params"]
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    ones = jax.tree.map(np.ones_like, params)
    moves = quick.updates_of(method, STEPS, params, [ones] * STEPS)
    assert method.schedules is not None
    rates = method.schedules(STEPS)
    with jax.numpy_dtype_promotion("standard"):
        told = {
            key: [float(rate(n)) if callable(rate) else rate for n in range(STEPS)]
            for key, rate in rates.items()
        }
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        own = next((key for key in told if key in names), list(told)[-1])
        moved = [-float(np.ravel(_at(move, names))[0]) for move in moves]
        np.testing.assert_allclose(moved, told[own], rtol=1e-4, err_msg=str(names))
        assert leaf.size
    assert any(len(set(values)) > 1 for values in told.values()) == (name in VARY)


def _at(tree: Any, names: list[str]) -> Any:
    for name in names:
        tree = tree[name]
    return tree

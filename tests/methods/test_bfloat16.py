"""Training in bfloat16: products of networks are, losses, statistics and weights are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from small_student import student_of

from jaxad.core import Method
from jaxad.methods.adapted_moe import experts
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.methods.dinomaly import dinomaly
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.rd4ad import rd4ad
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet
from jaxad.methods.uniad import uniad
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

STAGES = (Stage("a", 8, 2, 2, 1, 1), Stage("b", 8, 1, 1, 1, 1))
METHODS: dict[str, Method] = {
    "pfm": pfm([PairLevel("a", "b", 8, 1e-3)]),
    "pfm, normalised": pfm(
        [PairLevel("a", "b", 8, 1e-3)], normalise_output=True, conv_block_everywhere=True
    ),
    "afrad": afrad(
        STAGES, grid=2, width=8, local=(1,), compensation=(), adaptive=(2,), kernels=(3,)
    ),
    "afrad, hidden": afrad(
        STAGES,
        grid=2,
        width=8,
        local=(),
        compensation=(),
        adaptive=(1, 2),
        ngib_layers=0,
        refine=False,
        hidden=((1,), (2,)),
        normalise=1.0,
    ),
    "simplenet": simplenet("a", hidden=8),
    "experts": experts("a", Expert(8), count=2),
    "router": routing("a", Router(4, 2, True)),
    "rd4ad": rd4ad(("l1", "l2", "l3"), blocks=(1, 1, 1, 1)),
    "uniad": uniad(("a", "b"), grid="b", width=8, heads=2, inner=8, layers=1, neighbours=3),
    "stfpm": student_of("a", "b", 6, learning_rate=0.1),
    "dinomaly": dinomaly(("a", "b"), "l3", blocks=2, heads=2),
}
EXACT = {"router"}
"""All of it stays float32."""
GRIDS = {"a": 4, "b": 4, "l1": 8, "l2": 4, "l3": 2}
FOUND = {
    name: np.random.default_rng(n).normal(size=(4, grid, grid, 6)).astype(np.float32)
    for n, (name, grid) in enumerate(GRIDS.items())
}
BATCH = {"subclass": np.arange(4, dtype=np.int32) % 2}


def step_of(name: str, dtype: str) -> tuple[Any, tuple[Any, ...]]:
    method = METHODS[name]
    optimizer = method.optimizer(10)

    def loss(variables: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        return method.loss(variables, frozen, batch, rng)

    state = init_state(quick.filled(method, FOUND), optimizer)
    step = make_train_step(loss, optimizer, dtype=dtype)
    return step, (state, FOUND, BATCH, jax.random.key(0))


def products(jaxpr: Any) -> Iterator[Any]:
    """The types that are multiplied, whatever calls the products."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield {np.dtype(x.aval.dtype) for x in eqn.invars}
        for value in eqn.params.values():
            for inner in value if isinstance(value, (list, tuple)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


@pytest.mark.parametrize("name", METHODS)
def test_products_are_in_half_precision_forward_and_backward(name: str) -> None:
    step, args = step_of(name, "bfloat16")
    found = list(products(jax.make_jaxpr(step)(*args).jaxpr))
    half = [types for types in found if types == {np.dtype(jnp.bfloat16)}]
    assert all(len(types) == 1 for types in found)
    if name in EXACT:
        assert not half
    else:
        # What is not: maps that are resized before the network.
        assert len(half) >= 0.8 * len(found)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_nearly_that_of_float32_and_its_state_is_float32(name: str) -> None:
    (full, wanted), (half, metrics) = (
        quick.jit(step)(*args) for step, args in (step_of(name, t) for t in ("float32", "bfloat16"))
    )
    assert jax.tree.map(lambda x: x.dtype, half) == jax.tree.map(lambda x: x.dtype, full)
    assert {x.dtype for x in jax.tree.leaves(metrics)} == {np.dtype(np.float32)}
    for key in ("loss", "gradient_norm"):
        got, want = float(metrics[key][0]), float(wanted[key][0])
        assert got == pytest.approx(want, rel=0.05), key
        assert (got == want) == (name in EXACT)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full)):
        assert np.isfinite(a).all()
        if a.dtype == np.float32:
            np.testing.assert_allclose(a, b, rtol=0.2, atol=0.05)

"""A trace reads like the papers: their parts are scopes of the programs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxad.core import Method
from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet

X = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
FOUND = {"net/a": X, "net/b": X}
EXPERT, ROUTER = Expert(4), Router(3, 2, True)
PARTS = {
    "experts": experts("net/a", EXPERT, count=2),
    "router": routing("net/a", ROUTER),
}
METHODS: dict[str, tuple[Method, set[str], set[str]]] = {
    "pfm": (
        pfm([PairLevel("net/a", "net/b", 4, 1e-3)]),
        {"mapping_networks/a", "forward_layer1", "reverse_layer6", "loss/a"},
        {"mapping_networks/a"},
    ),
    "afrad": (
        afrad(
            (Stage("net/a", 4, 2, 2, 1, 1), Stage("net/b", 4, 1, 1, 1, 1)),
            grid=2,
            width=4,
            local=(1, 2),
            compensation=(1,),
            adaptive=(1, 2),
            kernels=(3,),
        ),
        {"M-FPN", "stage_adaptive", "compensation", "focused_local", "NGIB", "loss"},
        {"M-FPN", "NGIB"},
    ),
    "simplenet": (simplenet("net/a"), {"adaptor_and_discriminator", "loss"}, set()),
    "adapted_moe": (
        adapted_moe("net/a", PARTS, EXPERT, ROUTER, count=2),
        {"router", "experts", "loss"},
        {"router", "experts"},
    ),
}


def scopes(function: Any, *args: Any) -> set[str]:
    """All names in the places that a program's operations come from."""
    text = jax.jit(function).lower(*args).as_text(debug_info=True)
    return {name for name in text.replace('"', "\n").splitlines() if "/" in name}


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_a_method_are_scopes(name: str) -> None:
    method, in_loss, in_score = METHODS[name]
    variables = jax.eval_shape(method.init, jax.random.key(0), FOUND)
    batch = {"subclass": jax.ShapeDtypeStruct((2,), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    for wanted, names in (
        (in_loss, scopes(method.loss, variables, FOUND, batch, key)),
        (in_score, scopes(lambda v, f: method.score(v, f, size=(8, 8)), variables, FOUND)),
    ):
        for scope in wanted:
            assert any(f"{scope}/" in name for name in names), scope

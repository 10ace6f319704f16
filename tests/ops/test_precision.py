"""Which products may be rounded on an accelerator, as the programs say."""

import jax
import jax.numpy as jnp
import pytest

from jaxad.methods.adapted_moe import adapted_moe, experts, of_experts
from jaxad.methods.routing import Router, cosines, moved_centres, routing
from jaxad.methods.simplenet import Expert, merge
from jaxad.ops.convolve import convolve
from jaxad.ops.layers import Linear
from jaxad.ops.pool import average_pool
from jaxad.ops.precision import EXACT, NETWORK, at_least_float32, rounded
from jaxad.ops.resample import resize, resize_map

X = jnp.ones((2, 4, 4, 3))
EXPERT, ROUTER = Expert(5), Router(4, 2, True)
STACKED = experts("x", EXPERT, count=2).init(jax.random.key(0), {"x": X})
WHOLE = adapted_moe(
    "x",
    {"experts": experts("x", EXPERT, count=2), "router": routing("x", ROUTER)},
    EXPERT,
    ROUTER,
    count=2,
)


def products(function, *args):
    """The precision of every product and convolution in a program, whatever calls it."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                yield eqn.params["precision"]
            for value in eqn.params.values():
                for inner in value if isinstance(value, (list, tuple)) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from walk(inner)

    found = list(walk(jax.make_jaxpr(function)(*args).jaxpr))
    assert found
    return {p[0] if isinstance(p, tuple) else p for p in found}


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda x: resize(x, size=(8, 8)), (X,)),
        (lambda x: resize_map(x, size=(8, 8), sigma=1.0), (X[..., 0],)),
        (lambda x: average_pool(x, window=2), (X[..., 0],)),
        (cosines, (X[0, 0], X[0, 1])),
        (lambda x: moved_centres(x, x, jnp.arange(4), rate=0.5), (X[0, 0],)),
        (lambda x: ROUTER.init(jax.random.key(0), x), (X,)),
        (lambda v: merge(of_experts(v)), (STACKED,)),
        (
            lambda x: WHOLE.observe({}, [({"x": x}, {"subclass": jnp.arange(2)})])["patches"],
            (X,),
        ),
    ],
    ids=["resize", "map", "pool", "cosines", "centres", "router", "merge", "statistics"],
)
def test_what_becomes_a_score_or_a_choice_is_exact(function, args):
    assert products(function, *args) == {EXACT}


@pytest.mark.parametrize("side", [1, 3])
def test_layers_of_networks_take_the_one_choice(side):
    kernel = jnp.ones((side, side, 3, 5))
    assert products(lambda x: convolve(x, kernel, stride=1, padding="SAME"), X) == {NETWORK}
    layer = Linear(5)
    assert products(lambda x: layer.init(jax.random.key(0), x), X) == {NETWORK}


def test_a_mixture_is_exact_beside_the_experts_layers():
    variables = {**STACKED, "patches": {"mean": jnp.zeros((2, 3)), "std": jnp.ones((2, 3))}}
    made = routing("x", ROUTER).init(jax.random.key(0), {"x": X})
    variables = {**variables, "routing": made["routing"]}
    variables["params"] = {**STACKED["params"], **made["params"]}
    found = products(lambda v, x: WHOLE.score(v, {"x": x}, size=(4, 4)), variables, X)
    assert found == {EXACT, NETWORK}


def test_parameters_are_rounded_and_what_decides_is_not():
    one = jnp.ones(2)
    names = ("layer", "norm", "norm1", "norm2", "bn", "router")
    tree = {"params": {name: {"kernel": one} for name in names}, "batch_stats": {"layer": one}}
    found = rounded(tree, "bfloat16")
    half = {name: found["params"][name]["kernel"].dtype == jnp.bfloat16 for name in names}
    assert half == {name: name == "layer" for name in names}
    assert found["batch_stats"]["layer"].dtype == jnp.float32
    assert rounded(tree, "float32") is tree
    within = rounded({"method": tree}, "bfloat16")["method"]["params"]["layer"]["kernel"]
    assert within.dtype == jnp.bfloat16
    gradient = jax.grad(
        lambda tree: rounded(tree, "bfloat16")["params"]["layer"]["kernel"].sum().astype("float32")
    )(tree)
    assert gradient["params"]["layer"]["kernel"].dtype == jnp.float32


def test_statistics_are_of_float32_at_least():
    for given, want in (("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32")):
        assert at_least_float32(jnp.ones(2, given)).dtype == want
    with jax.enable_x64(True):
        assert at_least_float32(jnp.ones(2, "float64")).dtype == "float64"

"""Gradients are finite where functions have corners: at zero, at constants, at no error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from small_student import student_of

from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.adaption import adapt, moments, quartiles
from jaxad.methods.afrad import afrad, jitter_features
from jaxad.methods.afrad_network import Stage
from jaxad.methods.dinomaly import dinomaly
from jaxad.methods.draem import focal, ssim
from jaxad.methods.draem_defects import turned
from jaxad.methods.draem_networks import strongest
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.methods.rd4ad import cosine, rd4ad
from jaxad.methods.routing import Router, cosines, moved_centres, route, routing, routing_loss
from jaxad.methods.simplenet import Expert, margin_loss, patch_features, simplenet
from jaxad.methods.uniad import jittered, uniad
from jaxad.ops.layers import BatchNorm
from jaxad.ops.normalise import l2_normalise, rms, safe_sqrt, shortened, signed_root
from jaxad.ops.pool import average_pool, top_share_mean
from jaxad.ops.resample import resize_map

X = (2, 4, 4, 3)
CORNERS = {
    "zero": np.zeros(X),
    "one": np.ones(X),
    "a zero vector": np.concatenate([np.zeros((1, *X[1:])), np.ones((1, *X[1:]))]),
    "tiny": np.full(X, 1e-20),
    "short": np.full(X, 1e-9),
    "huge": np.full(X, 1e9),
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "safe_sqrt": safe_sqrt,
    "signed_root": signed_root,
    "l2_normalise": l2_normalise,
    "rms": rms,
    "rms, minimum": lambda x: rms(x, minimum=1e-6),
    "shortened": lambda x: shortened(x, power=1.0),
    "moments, positions": lambda x: moments(x, axes="positions"),
    "moments, channels": lambda x: moments(x, axes="channels"),
    "quartiles": lambda x: quartiles(x, axes="positions"),
    "adapt": lambda x: adapt(x, moments(x, axes="positions"), (x[:1], x[1:]), share=0.5),
    "top_share_mean": lambda x: top_share_mean(x[..., 0], 0.3),
    "maximum": lambda x: top_share_mean(x[..., 0], 0.0),
    "average_pool": lambda x: average_pool(x[..., 0], window=3),
    "resize_map": lambda x: resize_map(x[..., 0], size=(8, 8), sigma=1.0),
    "cosines": lambda x: cosines(x[0, 0], x[1, 0]),
    "route": lambda x: route(x[0, 0], x[1, 0], k=2, temperature=0.1)[1],
    "routing_loss": lambda x: routing_loss(
        x[0, 0], x[1, 0], x[1, 1, :3], jnp.asarray([0, 1, 2, 0]), alpha=0.5
    ),
    "moved_centres": lambda x: moved_centres(x[0, 0], x[1, 0], jnp.arange(4), rate=0.5),
    "margin_loss": lambda x: margin_loss(x, x, margin=0.0),
    "patch_features": lambda x: patch_features({"a": x, "b": x}, ("a", "b"), width=4),
    "jitter_features": lambda x: jitter_features(
        jax.random.key(0), [x], element=jnp.arange(2), scale=1.0, grid=(2, 2)
    ),
    "jittered": lambda x: jittered(jax.random.key(0), x, element=jnp.arange(2), scale=1.0),
    "cosine": lambda x: cosine(x[0], x[1]),
    "strongest": strongest,
    "ssim": lambda x: ssim(x, x[::-1]),
    "ssim, of itself": lambda x: ssim(x, x),
    "focal": lambda x: focal(x[..., :2], x[..., 2] > 0),
    "focal, the other": lambda x: focal(jnp.stack([x[..., 0], -x[..., 0]], -1), x[..., 2] > 0),
    "turned": lambda x: turned(x[0], jnp.float32(0.5)),
    "BatchNorm": lambda x: BatchNorm().init_with_output(jax.random.key(0), x, train=True)[0],
}


@pytest.fixture(scope="module")
def gradients() -> dict[str, Any]:
    """Of the sum of every function's outputs, at every corner: one program for all."""

    @quick.jit
    def every(corners: Any) -> Any:
        return {
            name: jax.vmap(
                jax.value_and_grad(lambda x, f=f: sum(jnp.sum(y) for y in jax.tree.leaves(f(x))))
            )(corners)
            for name, f in FUNCTIONS.items()
        }

    return every(jnp.asarray(np.stack(list(CORNERS.values())), jnp.float32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_finite_at_corners(name: str, gradients: Any) -> None:
    value, gradient = gradients[name]
    for i, corner in enumerate(CORNERS):
        assert np.isfinite(value[i]), corner
        assert np.isfinite(gradient[i]).all(), corner


def test_what_has_no_length_has_no_gradient() -> None:
    """Not one over the smallest length that counts, from which Adam does not recover."""
    for function in (l2_normalise, rms, safe_sqrt, signed_root, lambda x: shortened(x, power=1.0)):
        gradient = quick.jit(jax.grad(lambda x, f=function: jnp.sum(f(x))))(jnp.zeros((2, 3)))
        np.testing.assert_array_equal(gradient, 0)
    for length in (1e-13, 0.9e-12):
        x = jnp.full((1, 4), length / 2)
        gradient = quick.jit(jax.grad(lambda x: l2_normalise(x).sum()))(x)
        np.testing.assert_array_equal(gradient, 0)
        np.testing.assert_allclose(l2_normalise(x), x / 1e-12, rtol=1e-6)


def test_elsewhere_the_gradients_are_those_of_the_formula() -> None:
    x = jax.random.normal(jax.random.key(0), (5, 4))
    weights = jax.random.normal(jax.random.key(1), (5, 4))

    def length(x: Any) -> Any:
        return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))

    for ours, formula in (
        (l2_normalise, lambda x: x / length(x)),
        (rms, lambda x: length(x) / 2),
        (lambda x: shortened(x, power=0.75), lambda x: x / (length(x) / 2) ** 0.75),
    ):
        got, want = (
            quick.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) * weights[:, : f(x).shape[-1]])))(x)
            for f in (ours, formula)
        )
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


STAGES = (Stage("a", 4, 2, 2, 1, 1), Stage("b", 4, 1, 1, 1, 1))
LEVEL = PairLevel("a", "b", 4, 1e-3)
EXPERT, ROUTER = Expert(4), Router(3, 2, True)
METHODS = {
    "pfm": pfm([LEVEL]),
    "pfm, normalised": pfm([LEVEL], normalise_output=True),
    "afrad": afrad(
        STAGES,
        grid=2,
        width=4,
        local=(1, 2),
        compensation=(1,),
        adaptive=(1, 2),
        kernels=(3,),
        normalise=1.0,
        map_length=0.5,
    ),
    "simplenet": simplenet("a"),
    "adapted_moe": adapted_moe(
        "a",
        {"experts": experts("a", EXPERT, count=2), "router": routing("a", ROUTER)},
        EXPERT,
        ROUTER,
        count=2,
    ),
    "routing": routing("a", ROUTER),
    "rd4ad": rd4ad(("l1", "l2", "l3"), blocks=(1, 1, 1, 1)),
    "uniad": uniad(("a", "b"), grid="b", width=4, heads=2, inner=4, layers=1, neighbours=3),
    "stfpm": student_of("a", "b", 3),
    "dinomaly": dinomaly(("a", "b"), "l3", blocks=2, heads=1),
}


def features_of(make: Callable[[tuple[int, ...]], Any]) -> dict[str, Any]:
    """Two levels of one grid, and three of RD4AD's."""
    grids = {"a": (4, 4), "b": (4, 4), "l1": (8, 8), "l2": (4, 4), "l3": (2, 2)}
    return {key: make((2, *grid, 3)) for key, grid in grids.items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_loss_and_score_have_finite_gradients(name: str) -> None:
    """By features and parameters, where all features and all parameters are zero, and where not."""
    method = METHODS[name]
    found = features_of(jnp.ones)
    variables = quick.filled(method, found)

    def total(params: Any, found: Any) -> Any:
        every = {**variables, "params": params}
        batch = {"subclass": jnp.asarray([0, 1], jnp.int32)}
        scores = method.score(every, found, size=(8, 8))
        loss = method.loss(every, found, batch, jax.random.key(1))[0]
        return loss + jnp.sum(scores.map) + jnp.sum(scores.image)

    run = quick.jit(jax.grad(total, argnums=(0, 1)))
    zeros = [jax.tree.map(jnp.zeros_like, tree) for tree in (variables["params"], found)]
    for params in (variables["params"], zeros[0]):
        for features in (found, zeros[1]):
            for path, leaf in jax.tree_util.tree_leaves_with_path(run(params, features)):
                assert np.isfinite(leaf).all(), path


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_in_double_precision_too(name: str) -> None:
    """What follows the features' type can be compared where rounding is no excuse."""
    method = METHODS[name]
    with jax.enable_x64(True):
        found = features_of(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float64))
        variables = jax.eval_shape(method.init, jax.random.key(0), found)
        batch = {"subclass": jax.ShapeDtypeStruct((2,), jnp.int32)}
        value, aux = jax.eval_shape(method.loss, variables, found, batch, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves((variables, value, aux.updates))} == {
        np.dtype(np.float64)
    }

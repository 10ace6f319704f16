"""SimpleNet: parity with the authors' recipe in torch, patch features, training, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.core import InputError
from jaxad.methods.simplenet import (
    Expert,
    aggregation_kernel,
    margin_loss,
    patch_features,
    simplenet,
    two_rates,
)
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_simplenet
from ports.golden_pfm import unpack

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "simplenet.npz")
STEP = unpack(GOLDEN["contents"], GOLDEN["values"])
LEAVES = {
    "adaptor.weight": ("params", "adaptor", "kernel"),
    "adaptor.bias": ("params", "adaptor", "bias"),
    "discriminator.0.weight": ("params", "enter", "kernel"),
    "discriminator.0.bias": ("params", "enter", "bias"),
    "discriminator.1.weight": ("params", "norm", "scale"),
    "discriminator.1.bias": ("params", "norm", "bias"),
    "discriminator.1.running_mean": ("batch_stats", "norm", "mean"),
    "discriminator.1.running_var": ("batch_stats", "norm", "var"),
    "discriminator.3.weight": ("params", "leave", "kernel"),
}


def to_variables(part: str) -> Any:
    """Torch's `part/name` arrays as our tree."""
    flat = {
        path: jnp.asarray(STEP[f"{part}/{name}"].T)
        for name, path in LEAVES.items()
        if f"{part}/{name}" in STEP
    }
    return traverse_util.unflatten_dict(flat)


def test_patch_features_are_the_references() -> None:
    found = {name: jnp.asarray(GOLDEN[name]) for name in golden_simplenet.LEVELS}
    got = patch_features(found, tuple(found), width=golden_simplenet.WIDTH)
    np.testing.assert_allclose(got, GOLDEN["patches"], rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(channels=st.integers(1, 24), outputs=st.integers(1, 12), levels=st.integers(1, 3))
def test_aggregation_is_two_adaptive_poolings(channels: int, outputs: int, levels: int) -> None:
    """For any sizes the kernel averages as torch's formula does."""
    width = outputs * levels
    kernel, groups = aggregation_kernel(channels, width=width, levels=levels)
    assert kernel.shape == (3, 3, channels // groups, outputs)
    np.testing.assert_allclose(kernel.sum(axis=(0, 1, 2)), 1, rtol=1e-5)
    flat = np.random.default_rng(0).normal(size=9 * channels)
    pooled = [
        flat[i * 9 * channels // width : -(-(i + 1) * 9 * channels // width)].mean()
        for i in range(width)
    ]
    expected = np.reshape(pooled, (outputs, levels)).mean(axis=1)
    per_group = flat.reshape(groups, channels // groups, 3, 3)
    weights = kernel.transpose(3, 2, 0, 1).reshape(groups, outputs // groups, -1)
    got = np.einsum("goi,gi->go", weights, per_group.reshape(groups, -1)).ravel()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_one_step_equals_the_reference_recipe() -> None:
    expert, variables = Expert(golden_simplenet.HIDDEN), to_variables("before")
    x, noise = jnp.asarray(GOLDEN["x"]), jnp.asarray(GOLDEN["noise"])
    made = expert.init(jax.random.key(0), x, noise)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        both, updates = expert.apply(
            {**variables, "params": params}, x, noise, mutable=["batch_stats"]
        )
        true, fake = margin_loss(*both, margin=0.5)
        return true.mean() + fake.mean(), updates

    (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    np.testing.assert_allclose(value, STEP["loss"], rtol=1e-5)
    close(grads, to_variables("grad")["params"], 1e-6)
    optimizer = two_rates(1e-4, 2e-4, adaptor_decay=1e-2, discriminator_decay=1e-5)
    params = variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        moves, _ = optimizer.update(grads, optimizer.init(params), params)
    after = {**updates, "params": optax.apply_updates(params, moves)}
    want = to_variables("after")
    # Before BatchNorm a bias has no gradient; what Adam makes of its rounding is torch's own.
    for tree in (after, want):
        tree["params"]["enter"].pop("bias")
        tree["params"]["adaptor"].pop("bias")
    close(after, want, 2e-6)
    scores = -expert.apply(to_variables("after"), x)[0]
    np.testing.assert_allclose(scores, STEP["scores"], rtol=1e-4, atol=1e-5)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    actual, expected = (traverse_util.flatten_dict(t, sep="/") for t in (actual, expected))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_training_learns_where_normal_features_lie() -> None:
    """Normal features lie on a line; what is off it must score higher, at the position it is at."""
    method = simplenet("p", hidden=16, noise=0.3, learning_rates=(1e-3, 5e-3), smoothing=1.0)
    rng = np.random.default_rng(0)
    line = rng.normal(size=8).astype(np.float32)

    def normal(shape: tuple[int, ...]) -> dict[str, Any]:
        return {"p": rng.uniform(1, 2, (*shape, 1)).astype(np.float32) * line}

    state = init_state(method.init(jax.random.key(0), normal((1,))), method.optimizer(150))
    step = jax.jit(make_train_step(lambda v, b, r: method.loss(v, b, {}, r), method.optimizer(150)))
    losses = []
    for _ in range(150):
        state, metrics = step(state, normal((256,)), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    maps = normal((2, 6, 6))
    maps["p"][1, 4, 1] += 3 * rng.normal(size=8)
    scores = method.score(state.variables, maps, size=(48, 48))
    assert scores.map.shape == (2, 48, 48)
    assert scores.image[1] > scores.image[0]
    row, column = divmod(int(scores.map[1].argmax()), 48)
    assert abs(row - 35.5) < 6
    assert abs(column - 11.5) < 6


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="no feature 'p'"):
        simplenet("p").init(jax.random.key(0), {"q": jnp.zeros((1, 2, 2, 3))})
    with pytest.raises(InputError, match="no feature 'b'"):
        patch_features({"a": jnp.zeros((1, 2, 2, 3))}, ("a", "b"), width=4)
    with pytest.raises(InputError, match="use a multiple of the 2 levels"):
        aggregation_kernel(8, width=5, levels=2)

"""SimpleNet: parity with the authors' recipe in torch, patch features, training, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
import scipy.ndimage
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.core import InputError
from jaxad.methods.simplenet import (
    Expert,
    aggregation_kernel,
    margin_loss,
    merge,
    patch_features,
    simplenet,
    two_rates,
)
from jaxad.ops.noise import normal_by_element
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


@settings(max_examples=20, deadline=None)
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
    made = jax.eval_shape(expert.init, jax.random.key(0), x, noise)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        both, updates = expert.apply(
            {**variables, "params": params}, x, noise, mutable=["batch_stats"]
        )
        true, fake = margin_loss(*both, margin=0.5)
        return true.mean() + fake.mean(), updates

    run = quick.jit(jax.value_and_grad(loss, has_aux=True))
    (value, updates), grads = run(variables["params"])
    np.testing.assert_allclose(value, STEP["loss"], rtol=1e-5)
    close(grads, to_variables("grad")["params"], 1e-6)
    optimizer = two_rates(1e-4, 2e-4, adaptor_decay=1e-2, discriminator_decay=1e-5)
    params = variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        moves, _ = quick.jit(optimizer.update)(grads, optimizer.init(params), params)
    after = {**updates, "params": optax.apply_updates(params, moves)}
    want = to_variables("after")
    # Before BatchNorm a bias has no gradient; what Adam makes of its rounding is torch's own.
    for tree in (after, want):
        tree["params"]["enter"].pop("bias")
        tree["params"]["adaptor"].pop("bias")
    close(after, want, 2e-6)
    scores = -quick.jit(expert.apply)(to_variables("after"), x)[0]
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

    state = init_state(quick.init(method, normal((1,))), method.optimizer(150))
    step = quick.jit(
        make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), method.optimizer(150))
    )
    losses = []
    for _ in range(150):
        state, metrics = step(state, {}, normal((256,)), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    maps = normal((2, 6, 6))
    maps["p"][1, 4, 1] += 3 * rng.normal(size=8)
    scores = quick.score(method, state.variables, maps, size=(48, 48))
    assert scores.map.shape == (2, 48, 48)
    assert scores.image[1] > scores.image[0]
    row, column = divmod(int(scores.map[1].argmax()), 48)
    assert abs(row - 35.5) < 6
    assert abs(column - 11.5) < 6


@pytest.fixture(scope="module")
def maps() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 6, 5, 8))


@pytest.fixture(scope="module")
def variables(maps: jax.Array) -> Any:
    """With running statistics as if it had been trained."""
    made = quick.init(simplenet("p", hidden=16), {"p": maps})
    draw = np.random.default_rng(0)
    stats = jax.tree.map(lambda x: draw.uniform(0.2, 2, x.shape), made["batch_stats"])
    return {**made, "batch_stats": jax.tree.map(np.float32, stats)}


def test_map_is_smoothed_and_image_score_is_the_raw_maximum(maps: Any, variables: Any) -> None:
    raw = -np.asarray(quick.jit(Expert(16).apply)(variables, maps)[0])
    found = quick.score(
        simplenet("p", hidden=16, smoothing=2.0), variables, {"p": maps}, size=(6, 5)
    )
    want = np.stack([scipy.ndimage.gaussian_filter(x, 2.0) for x in raw])
    np.testing.assert_allclose(found.map, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.image, raw.max(axis=(1, 2)), rtol=1e-5)
    assert (found.image > found.map.max(axis=(1, 2)) + 0.01).all()


@pytest.mark.parametrize(("noise", "margin"), [(0.015, 0.5), (0.7, 0.1)])
def test_loss_has_the_noise_and_margin_that_were_asked_for(
    noise: float, margin: float, maps: Any, variables: Any
) -> None:
    method = simplenet("p", hidden=16, noise=noise, margin=margin)
    key = jax.random.key(1)

    @quick.jit
    def both(x: Any) -> Any:
        drawn = normal_by_element(key, jnp.arange(2), x.shape[1:])
        true, fake = Expert(16).apply(variables, x, noise * drawn, mutable=["batch_stats"])[0]
        want = jnp.mean(jnp.maximum(margin - true, 0)) + jnp.mean(jnp.maximum(margin + fake, 0))
        return method.loss(variables, {"p": x}, {}, key)[0], want

    np.testing.assert_allclose(*both(maps), rtol=1e-6)


def test_noise_goes_by_an_elements_place_in_the_batch(maps: Any, variables: Any) -> None:
    method, order = simplenet("p", hidden=16, noise=0.7), np.asarray([1, 0])
    run = quick.jit(
        lambda x, e: method.loss(variables, {"p": x}, {"element": e}, jax.random.key(1))
    )
    first = run(maps, np.asarray([3, 8], np.int32))[0]
    np.testing.assert_allclose(first, run(maps[order], np.asarray([8, 3], np.int32))[0], rtol=1e-6)
    assert abs(first - run(maps, np.asarray([8, 3], np.int32))[0]) > 1e-5


@pytest.mark.parametrize("stacked", [False, True])
def test_merged_layers_score_alike(stacked: bool, maps: Any, variables: Any) -> None:
    if stacked:
        turned = jax.tree.map(lambda x: -0.5 * x + 1, variables)
        variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, turned)
    merged = quick.jit(merge)(variables)
    assert "adaptor" not in merged["params"]
    assert "batch_stats" not in merged

    def run(variables: Any) -> Any:
        return Expert(16).apply(variables, maps)[0]

    both = quick.jit(jax.vmap(run) if stacked else run)
    np.testing.assert_allclose(both(merged), both(variables), rtol=1e-3, atol=1e-4)


def test_optimizer_is_adamw_for_the_adaptor_and_adam_with_l2_for_the_rest() -> None:
    draw = np.random.default_rng(0)
    params = {"adaptor": np.float32([1e3, -2e3]), "leave": np.float32([2e5, -1e5])}
    gradients = [{n: np.float32(draw.normal(size=2)) for n in params} for _ in range(4)]
    found = quick.updates_of(simplenet("p"), 4, params, gradients)
    for name, rate, decay in (("adaptor", 1e-4, {"decay": 1e-2}), ("leave", 2e-4, {"l2": 1e-5})):
        own = [g[name] for g in gradients]
        want = quick.adam_by_hand(lambda t, r=rate: r, params[name], own, **decay)
        np.testing.assert_allclose([x[name] for x in found], want, rtol=1e-3)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="no feature 'p'"):
        simplenet("p").init(jax.random.key(0), {"q": jnp.zeros((1, 2, 2, 3))})
    with pytest.raises(InputError, match="no feature 'b'"):
        patch_features({"a": jnp.zeros((1, 2, 2, 3))}, ("a", "b"), width=4)
    with pytest.raises(InputError, match="use a multiple of the 2 levels"):
        aggregation_kernel(8, width=5, levels=2)

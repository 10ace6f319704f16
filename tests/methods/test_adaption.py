"""Calibration of features: to what, by which statistics, how far, and what a defect does to it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from sklearn.metrics import roc_auc_score

from jaxad.methods.adapted_moe import experts
from jaxad.methods.adaption import BOUND, QUARTILES, Adaption, adapt, moments, quartiles
from jaxad.methods.simplenet import Expert

C, GRID = 16, 10
ONE = "positions"


@pytest.mark.parametrize("kind", [moments, quartiles])
def test_adapted_features_have_the_experts_location_and_scale(kind: Any) -> None:
    x = 3.0 * jax.random.normal(jax.random.key(0), (2, 5, 4, 3)) + 7.0
    location, scale = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0])
    y = quick.jit(lambda x: adapt(x, kind(x, axes=ONE), (location, scale)))(x)
    found = quick.jit(lambda y: kind(y, axes=ONE))(y)
    np.testing.assert_allclose(found[0][:, 0, 0], [location] * 2, atol=1e-5)
    np.testing.assert_allclose(found[1][:, 0, 0], [scale] * 2, atol=1e-5)
    # Calibrated to its own, an image stays what it is, whatever the axes.
    for axes in ("positions", "all", "channels"):
        own = kind(x, axes=axes)
        np.testing.assert_allclose(adapt(x, own, own), x, atol=1e-4)


def test_quartiles_are_numpy_s_in_standard_deviations() -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
    found = quick.jit(lambda x: quartiles(x, axes=ONE))(x)
    low, middle, high = np.quantile(
        x, [0.25, 0.5, 0.75], axis=(1, 2), keepdims=True, method="inverted_cdf"
    )
    np.testing.assert_allclose(found[0], middle, atol=1e-5)
    np.testing.assert_allclose(found[1], (high - low) / QUARTILES, atol=1e-5)
    assert np.ravel(quartiles(jnp.full((1, 3, 3, 1), 0.1), axes=ONE)).tolist() == [
        np.float32(0.1),
        0,
    ]
    many = np.random.default_rng(0).normal(3, 2, (1, 400, 400, 1)).astype(np.float32)
    np.testing.assert_allclose(np.ravel(quartiles(many, axes=ONE)), [3, 2], rtol=0.01)


def test_a_share_goes_that_far_and_none_changes_nothing() -> None:
    x = 3.0 * jax.random.normal(jax.random.key(0), (2, 5, 4, 3)) + 7.0
    own, to = moments(x, axes=ONE), (jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(adapt(x, own, to, share=0.0), x, atol=1e-6)
    location, scale = moments(adapt(x, own, to, share=0.25), axes=ONE)
    want = [0.75 * np.asarray(own[0]) + 0.25 * np.asarray(to[0])]
    want.append(np.asarray(own[1]) ** 0.75 * np.asarray(to[1]) ** 0.25)
    np.testing.assert_allclose(location, want[0], rtol=1e-5)
    np.testing.assert_allclose(scale, want[1], rtol=1e-5)


def test_a_constant_channel_is_moved_and_not_scaled() -> None:
    x = jnp.full((1, 4, 4, 2), 5.0)
    to = (jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 0.0]))
    y = adapt(x, moments(x, axes=ONE), to)
    np.testing.assert_allclose(y, jnp.broadcast_to(to[0], x.shape), atol=1e-6)
    # Nor is a channel that was constant for the expert: what varies in it now may be the defect.
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    y = adapt(x, moments(x, axes=ONE), (jnp.zeros(2), jnp.zeros(2)))
    np.testing.assert_allclose(jnp.std(y, (1, 2)), jnp.std(x, (1, 2)), rtol=1e-5)


def test_no_scale_is_blown_up() -> None:
    x = 1e-4 * jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    y = adapt(x, moments(x, axes=ONE), (jnp.zeros(2), jnp.ones(2)))
    np.testing.assert_allclose(jnp.std(y, (1, 2)), BOUND * jnp.std(x, (1, 2)), rtol=1e-4)


def test_a_large_defect_spoils_moments_and_not_quartiles() -> None:
    """Every image has its own unknown scale and offset; a defect covers a fifth of its positions.

    Features are normal numbers, and judged by their length. What moments that a defect has moved
    leave of it is two standard deviations at most: sqrt((1 - p) / p) for a share p of positions.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, GRID, GRID, C)).astype(np.float32)
    mask = np.zeros(x.shape[:3], bool)
    mask[100:, : GRID // 5] = True
    x[..., :3][mask] += 8
    each = (len(x), 1, 1, C)
    moved = x * rng.uniform(0.4, 2.5, each) + 9 * rng.normal(size=each)

    def auroc(x: Any) -> np.ndarray:
        length = np.linalg.norm(x, axis=-1)
        image = roc_auc_score(np.repeat([0, 1], 100), length.max(axis=(1, 2)))
        return np.asarray([image, roc_auc_score(mask.ravel(), length.ravel())])

    def restored(kind: Any) -> Any:
        x = jnp.asarray(moved, jnp.float32)
        return auroc(
            quick.jit(lambda x: adapt(x, kind(x, axes=ONE), (jnp.zeros(C), jnp.ones(C))))(x)
        )

    known = auroc(x)
    assert known.min() > 0.95
    assert (auroc(moved) < known - 0.1).all()
    assert (restored(quartiles) > known - 0.02).all()
    assert (restored(moments) < known - 0.1).all()


def test_experts_learn_calibrated_features_from_maps_and_drawn_positions_alike() -> None:
    """What a loss sees of positions, with their images' statistics, is what it sees of maps."""
    how = Adaption("quartiles", share=0.5, training=True)
    names = ("l", "s")
    method = experts("x", Expert(8), count=2, adaption=how, statistics=names, noise=0.0)
    x = 2 + 3 * jax.random.normal(jax.random.key(0), (4, 3, 3, C))
    variables = quick.init(method, {"x": x})
    variables["patches"] = {
        "mean": jnp.asarray(np.random.default_rng(0).normal(size=(2, C)), jnp.float32),
        "std": jnp.asarray(np.random.default_rng(1).uniform(0.5, 2, (2, C)), jnp.float32),
    }
    location, scale = how.of(x)
    y = np.asarray([0, 1, 0, 1], np.int32)
    maps = quick.loss(method, variables, {"x": x}, {"subclass": y})[0]
    # All positions of all images, so that images stay in turn.
    flat = {"x": x.swapaxes(0, 1).swapaxes(1, 2).reshape(-1, C)}
    flat |= {n: jnp.tile(v[:, 0, 0], (9, 1)) for n, v in zip(names, (location, scale))}
    drawn = quick.loss(method, variables, flat, {"subclass": np.tile(y, 9)})[0]
    np.testing.assert_allclose(drawn, maps, rtol=1e-5)
    by_hand = adapt(x, (location, scale), tuple(v[y][:, None, None] for v in (
        variables["patches"]["mean"], variables["patches"]["std"])), share=0.5)  # fmt: skip
    plain = experts("x", Expert(8), count=2, noise=0.0)
    np.testing.assert_allclose(quick.loss(plain, variables, {"x": by_hand}, {})[0], maps, rtol=1e-5)
    assert abs(quick.loss(plain, variables, {"x": x}, {})[0] - maps) > 1e-3


def test_one_network_that_all_experts_share() -> None:
    """It learns from all, as one SimpleNet of the calibrated features does, and serves each."""
    how = Adaption(training=True)
    shared = experts("x", Expert(8), count=2, shared=True, adaption=how, noise=0.0)
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, C))
    variables = quick.init(shared, {"x": x})
    sizes = {len(leaf) for leaf in jax.tree.leaves(variables["params"])}
    assert sizes == {1}
    assert variables["patches"]["mean"].shape == (2, C)
    one = experts("x", Expert(8), count=1, noise=0.0)
    to = jnp.asarray(np.random.default_rng(0).normal(size=(2, C)), jnp.float32)
    variables["patches"]["mean"] = to
    y = np.asarray([0, 1, 0, 1], np.int32)
    seen = adapt(x, how.of(x), (to[y][:, None, None], jnp.ones(C)))
    np.testing.assert_allclose(
        quick.loss(shared, variables, {"x": x}, {"subclass": y})[0],
        quick.loss(one, variables, {"x": seen}, {})[0],
        rtol=1e-5,
    )
    each = [
        quick.score(one, variables, {"x": adapt(x, how.of(x), (t, jnp.ones(C)))}, size=(3, 3)).map
        for t in to
    ]
    found = quick.score(shared, variables, {"x": x}, size=(3, 3))
    np.testing.assert_allclose(found.map, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)

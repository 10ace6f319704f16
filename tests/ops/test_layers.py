"""BatchNorm and normalisation as torch does them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.ops.layers import BatchNorm, Linear
from jaxad.ops.normalise import l2_normalise


def test_batch_norm_keeps_the_unbiased_variance() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4)) * 5 + 100
    module = BatchNorm()
    variables = module.init(jax.random.key(1), x, train=True)
    y, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(y.reshape(-1, 4).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4).std(axis=0), 1, atol=1e-4)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(axis=0, ddof=1), rtol=1e-5)
    still = module.apply({**variables, **updates}, x, train=False)
    expected = (flat - np.asarray(stats["mean"])) / np.sqrt(np.asarray(stats["var"]) + 1e-5)
    np.testing.assert_allclose(still.reshape(-1, 4), expected, rtol=1e-4)


def test_batch_norm_over_devices_equals_one_device() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 6, 3))
    variables = BatchNorm().init(jax.random.key(1), x, train=True)
    whole, whole_stats = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    spread, stats = jax.pmap(
        lambda part: BatchNorm(axis_name="b").apply(
            variables, part, train=True, mutable=["batch_stats"]
        ),
        axis_name="b",
        out_axes=(0, None),
    )(x)
    np.testing.assert_allclose(spread, whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, whole_stats)


def test_linear_starts_within_torchs_bound() -> None:
    params = Linear(50).init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    for leaf in (params["kernel"], params["bias"]):
        assert 0.2 < float(jnp.abs(leaf).max()) <= 0.25
    assert abs(float(params["kernel"].mean())) < 0.02


def test_l2_normalise_is_torchs() -> None:
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [3e-13, 4e-13]])
    np.testing.assert_allclose(l2_normalise(x), [[0.6, 0.8], [0, 0], [0.3, 0.4]], rtol=1e-6)


def test_batch_norm_of_half_precision_takes_its_statistics_in_float32() -> None:
    x = (jax.random.normal(jax.random.key(0), (400, 4)) + 30).astype(jnp.bfloat16)
    module = BatchNorm()
    variables = module.init(jax.random.key(1), x, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    y, half = module.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = x.astype(jnp.float32)
    want, full = module.apply(variables, wide, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, half, full)
    still = module.apply({**variables, **half}, x, train=False)
    np.testing.assert_array_equal(
        still, module.apply({**variables, **full}, wide, train=False).astype(jnp.bfloat16)
    )

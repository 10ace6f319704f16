import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.backbones.layers import ConvNorm
from jaxad.ops.fold import fold_batch_norm


def random_norm(random, channels, *, bias):
    conv = {"kernel": random.standard_normal((3, 3, 2, channels), np.float32)}
    if bias:
        conv["bias"] = random.standard_normal(channels, np.float32)
    bn = {
        "scale": random.uniform(-2, 2, channels).astype(np.float32),
        "bias": random.standard_normal(channels, np.float32),
    }
    stats = {
        "mean": random.standard_normal(channels, np.float32),
        "var": random.uniform(0, 3, channels).astype(np.float32),
    }
    return {"conv": conv, "bn": bn}, {"bn": stats}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-5, 1.001e-5, 1e-3]))
def test_folded_layer_computes_the_same(seed, epsilon):
    random = np.random.default_rng(seed)
    params, stats = random_norm(random, 4, bias=False)
    variables = {"params": params, "batch_stats": stats}
    x = jnp.asarray(random.standard_normal((2, 5, 5, 2), np.float32))
    with jax.default_matmul_precision("highest"):
        want = ConvNorm(4, 3, epsilon=epsilon, folded=False).apply(variables, x)
        folded = fold_batch_norm(variables, epsilon)
        got = ConvNorm(4, 3, epsilon=epsilon, folded=True).apply(folded, x)
    largest = np.abs(folded["params"]["conv"]["kernel"]).max() * 20
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * (largest + np.abs(want).max()))


def test_bias_before_the_norm_is_folded_too():
    params, stats = random_norm(np.random.default_rng(0), 3, bias=True)
    folded = fold_batch_norm({"params": params, "batch_stats": stats}, 1e-3)["params"]["conv"]
    a = params["bn"]["scale"] / np.sqrt(stats["bn"]["var"] + 1e-3)
    want = (params["conv"]["bias"] - stats["bn"]["mean"]) * a + params["bn"]["bias"]
    np.testing.assert_allclose(folded["bias"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_only_conv_with_norm_changes_at_any_depth(convert):
    random = np.random.default_rng(1)
    params, stats = random_norm(random, 3, bias=False)
    other = random.standard_normal(3, np.float32)
    variables = jax.tree.map(
        convert,
        {
            "params": {"block": {"inner": params, "dense": {"kernel": other}}, "alone": other},
            "batch_stats": {"block": {"inner": stats, "counter": {"n": other}}},
            "router": {"centres": other},
        },
    )
    before = jax.tree.map(np.array, variables)
    folded = fold_batch_norm(variables, 1e-5)
    assert folded["params"]["block"]["inner"].keys() == {"conv"}
    assert folded["params"]["block"]["inner"]["conv"].keys() == {"kernel", "bias"}
    assert folded["batch_stats"] == {
        "block": {"counter": variables["batch_stats"]["block"]["counter"]}
    }
    assert folded["router"] is variables["router"]
    np.testing.assert_array_equal(folded["params"]["alone"], other)
    jax.tree.map(np.testing.assert_array_equal, variables, before)  # the input is left as it was


def test_folding_twice_changes_nothing():
    params, stats = random_norm(np.random.default_rng(2), 3, bias=False)
    once = fold_batch_norm({"params": {"a": params}, "batch_stats": {"a": stats}}, 1e-5)
    assert once.keys() == {"params"}
    assert fold_batch_norm(once, 1e-5) == once

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxad.backbones.layers import ConvNorm, max_pool
from jaxad.ops.convolve import convolve, same_padding, symmetric_padding


@given(st.integers(1, 700), st.integers(1, 7), st.integers(1, 4))
def test_same_padding_is_the_least_that_gives_all_positions(size, kernel_size, stride):
    before, after = same_padding(size, kernel_size=kernel_size, stride=stride)
    assert 0 <= before <= after <= before + 1
    outputs = -(-size // stride)
    assert (size + before + after - kernel_size) // stride + 1 >= outputs
    if before + after > 0:  # one zero less would lose the last position
        assert (size + before + after - 1 - kernel_size) // stride + 1 < outputs


@settings(max_examples=10, deadline=None)
@given(
    st.tuples(st.integers(5, 9), st.integers(5, 9)),
    st.sampled_from(["pointwise", "depthwise", "dense"]),
    st.sampled_from([1, 2]),
    st.sampled_from([((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 1), (2, 1)), "SAME"]),
)
def test_convolve_is_a_convolution(size, kind, stride, padding):
    random = np.random.default_rng(0)
    side = {"pointwise": 1, "depthwise": 3, "dense": 3}[kind]
    channels, groups = 4, {"pointwise": 1, "depthwise": 4, "dense": 1}[kind]
    outputs = 4 if kind == "depthwise" else 6
    x = random.standard_normal((2, *size, channels), np.float32)
    kernel = random.standard_normal((side, side, channels // groups, outputs), np.float32)
    with jax.default_matmul_precision("highest"):
        got = convolve(jnp.asarray(x), kernel, stride=stride, padding=padding, groups=groups)
        want = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_max_pool_pads_with_nothing():
    x = -jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    got = max_pool(x, size=3, stride=2, padding=1)
    np.testing.assert_array_equal(got[0, :, :, 0], [[-1.0, -2.0], [-5.0, -6.0]])


@pytest.mark.parametrize("folded", [False, True])
def test_conv_norm_names_its_parameters(folded, rng):
    layer = ConvNorm(5, 3, padding=symmetric_padding(1), folded=folded)
    shapes = jax.tree.map(jnp.shape, layer.init(rng, jnp.zeros((1, 4, 4, 2))))
    kernel = (3, 3, 2, 5)
    if folded:
        assert shapes == {"params": {"conv": {"kernel": kernel, "bias": (5,)}}}
    else:
        assert shapes == {
            "params": {"conv": {"kernel": kernel}, "bn": {"scale": (5,), "bias": (5,)}},
            "batch_stats": {"bn": {"mean": (5,), "var": (5,)}},
        }

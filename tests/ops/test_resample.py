"""Resizing and smoothing against scipy, jax.image and torch's numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxad.ops.resample import bicubic_matrix, bilinear_matrix, gaussian_matrix, resize_map


@settings(max_examples=60, deadline=None)
@given(size_in=st.integers(1, 20), size_out=st.integers(1, 40), corners=st.booleans())
def test_rows_are_weights(size_in: int, size_out: int, corners: bool) -> None:
    matrix = bilinear_matrix(size_in, size_out, align_corners=corners)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert matrix.min() >= 0
    assert (np.count_nonzero(matrix, axis=1) <= 2).all()


@pytest.mark.parametrize(("size_in", "size_out"), [(4, 16), (5, 17), (16, 256), (3, 3)])
def test_half_pixel_upsampling_equals_jax_image(size_in: int, size_out: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, size_in, size_in + 1))
    expected = jax.image.resize(x, (2, size_out, size_out + 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resize_map(x, size=(size_out, size_out + 3)), expected, atol=1e-5)


def test_known_numbers_of_torch_interpolate() -> None:
    # torch.nn.functional.interpolate(torch.tensor([0., 1., 4.]), 5) for either align_corners
    x = np.array([0.0, 1.0, 4.0])
    np.testing.assert_allclose(bilinear_matrix(3, 5) @ x, [0.0, 0.4, 1.0, 2.8, 4.0])
    np.testing.assert_allclose(
        bilinear_matrix(3, 5, align_corners=True) @ x, [0.0, 0.5, 1.0, 2.5, 4.0]
    )


def test_bicubic_by_hand() -> None:
    """The first of five lies at -0.2: only x[1] at the distance 1.2 counts, by -0.096."""
    x = np.array([0.0, 1.0, 4.0])
    found = bicubic_matrix(3, 5) @ x
    np.testing.assert_allclose(found, [-0.096, 0.172, 1.0, 2.908, 4.288], atol=1e-12)
    assert (bicubic_matrix(3, 3) == np.eye(3)).all()
    # Another factor than that of the lengths: the first position lies at 0.5 / 1.25 - 0.5 = -0.1.
    taps = bicubic_matrix(9, 9, scale=1.25)[0]
    np.testing.assert_allclose(taps, [1.06075, -0.06075, *7 * [0]], atol=1e-12)


@pytest.mark.parametrize(("size_in", "size_out"), [(37, 32), (37, 5), (14, 16), (37, 60), (3, 3)])
def test_antialiased_bicubic_is_that_of_pillow(size_in: int, size_out: int) -> None:
    """And of torch, which has taken its filter over."""
    x = np.random.default_rng(0).normal(size=size_in).astype(np.float32)
    want = Image.fromarray(x[None]).resize((size_out, 1), Image.Resampling.BICUBIC)
    found = bicubic_matrix(size_in, size_out, antialias=True) @ x
    np.testing.assert_allclose(found, np.asarray(want)[0], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 60), sigma=st.floats(0.3, 12))
def test_gaussian_equals_scipy_even_when_wider_than_the_image(size: int, sigma: float) -> None:
    x = np.random.default_rng(size).normal(size=size)
    expected = scipy.ndimage.gaussian_filter1d(x, sigma, mode="reflect")
    np.testing.assert_allclose(gaussian_matrix(size, sigma) @ x, expected, atol=1e-12)


def test_smoothed_resize_equals_resize_then_scipy() -> None:
    x = jax.random.uniform(jax.random.key(1), (1, 8, 8))
    plain = np.asarray(resize_map(x, size=(32, 48)))[0]
    smoothed = resize_map(x, size=(32, 48), sigma=4.0)[0]
    np.testing.assert_allclose(smoothed, scipy.ndimage.gaussian_filter(plain, 4.0), atol=1e-5)
    assert smoothed.dtype == jnp.float32

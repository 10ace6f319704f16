"""Whitening: covariance and mean are gone, by how much, in parts, and what has none."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.ops.whiten import NONE, whitened, whitening

VECTORS = (
    np.random.default_rng(0).normal(size=(200, 5)) @ np.diag([9.0, 3, 1, 0.3, 0.1]) + 7
).astype(np.float32)


@pytest.mark.parametrize("ridge", [1e-9, 0.5])
def test_variances_are_shares_of_themselves_and_the_ridge(ridge: float) -> None:
    moments = NONE.plus(VECTORS[:120].reshape(2, 3, 20, 5)).plus(VECTORS[120:])
    mean, matrix = whitening(moments, ridge=ridge)
    np.testing.assert_allclose(mean, VECTORS.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    white = whitened(jnp.asarray(VECTORS), *(jnp.asarray(x, jnp.float32) for x in (mean, matrix)))
    covariance = np.cov(np.asarray(white, np.float64).T, bias=True)
    variances = np.linalg.eigvalsh(np.cov(VECTORS.T, bias=True))
    left = variances / (variances + ridge * variances.mean())
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), left / left.mean(), rtol=1e-3)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)


def test_half_precision_stays_what_it_is() -> None:
    x = jnp.asarray(VECTORS, jnp.bfloat16)
    assert whitened(x, jnp.zeros(5), jnp.eye(5)).dtype == jnp.bfloat16


def test_vectors_that_are_all_alike_have_no_covariance() -> None:
    with pytest.raises(InputError, match="do not differ"):
        whitening(NONE.plus(np.ones((4, 3), np.float32)), ridge=1.0)

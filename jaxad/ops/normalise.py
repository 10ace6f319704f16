"""Normalisation of feature vectors."""

from __future__ import annotations

import jax.numpy as jnp

from jaxad.core import Array


def l2_normalise(x: Array, *, epsilon: float = 1e-12) -> Array:
    """Scale every vector on the last axis to unit Euclidean length, as torch's `F.normalize`.

    Vectors shorter than `epsilon` are divided by `epsilon`; the gradient is finite at zero.
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, epsilon**2))

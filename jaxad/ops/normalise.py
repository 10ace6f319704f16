"""Lengths of feature vectors, with gradients that stay finite where a vector vanishes.

The derivative of a square root at zero is infinite, and that of a direction grows as one over the
length. Zero vectors are common (a ReLU makes them), so what can not be told at zero is constant
there: its gradient is zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxad.core import Array


def safe_sqrt(x: Array) -> Array:
    """The square root of `x >= 0`; where it is zero, so is its gradient."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), 0 * x)


def l2_normalise(x: Array, *, epsilon: float = 1e-12) -> Array:
    """Scale every vector on the last axis to unit Euclidean length, as torch's `F.normalize`.

    Vectors not longer than `epsilon` are divided by `epsilon`. They have no direction, so their
    gradient is zero (torch's is 1 / `epsilon`, which no optimizer recovers from).
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    known = square > epsilon**2
    x = jnp.where(known, x, jax.lax.stop_gradient(x))
    return x / jnp.sqrt(jnp.where(known, square, epsilon**2))


def signed_root(x: Array) -> Array:
    """The square root of every number's size, with its sign; where it is zero, so is its gradient.

    What leaves a ReLU is mostly small and now and then large; its roots are more alike, so that
    distances say less of the few largest channels.
    """
    return jnp.sign(x) * safe_sqrt(jnp.abs(x))


def rms(x: Array, *, minimum: float = 0.0) -> Array:
    """Root mean square over the channels of `(..., C)`, `(..., 1)`, not below `minimum`.

    Where it is at the minimum, its gradient is zero.
    """
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return jnp.sqrt(jnp.where(square > minimum**2, square, minimum**2))


def shortened(x: Array, *, power: float, minimum: float = 1e-6) -> Array:
    """Divide every vector on the last axis by this power of its root mean square.

    Vectors with one below `minimum` are divided by that power of `minimum`; their gradient is zero.
    """
    length = rms(x, minimum=minimum)
    x = jnp.where(length > minimum, x, jax.lax.stop_gradient(x))
    return x * length**-power

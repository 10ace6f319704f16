"""Features without their mean and covariance over the training images.

What varies much among normal images says little of an odd one, and what hardly varies says much.
The ridge keeps axes along which too few images differ from counting most (Ledoit & Wolf 2004 shrink
towards the same multiple of the identity).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, InputError
from jaxad.ops.precision import EXACT, at_least_float32

Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Moments(NamedTuple):
    """Sums over vectors of C channels."""

    count: int
    total: Any
    """Of the vectors, `(C,)` float64."""
    products: Any
    """Of their outer products, `(C, C)` float64."""

    def plus(self, part: Array) -> Moments:
        """Count the vectors of `(..., C)` too."""
        x = np.asarray(part, np.float64).reshape(-1, part.shape[-1])
        return Moments(self.count + len(x), self.total + x.sum(axis=0), self.products + x.T @ x)


NONE = Moments(0, 0.0, 0.0)
"""Of no vector yet."""


def whitening(moments: Moments, *, ridge: float) -> tuple[Float64, Float64]:
    """Find what takes mean and covariance from vectors.

    Args:
        moments: Of the vectors.
        ridge: What is added to each variance, in units of their mean.

    Returns:
        Mean `(C,)` and the symmetric matrix a (C + ridge)^-1/2, `(C, C)`, with a such that the
        whitened vectors' mean square over all channels is 1.

    Raises:
        InputError: The vectors are all alike.
    """
    count, total, products = moments
    mean = total / count
    variances, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
    variances = np.maximum(variances, 0.0)
    if variances.mean() <= 1e-12 * np.mean(mean**2):
        raise InputError("features do not differ between training images: there is no covariance")
    scales = (variances + ridge * variances.mean()) ** -0.5
    scales /= np.sqrt(np.mean(variances * scales**2))
    return mean, (axes * scales) @ axes.T


def whitened(x: Array, mean: Array, matrix: Array) -> Array:
    """Apply what `whitening` found to `(..., C)`: in float32 at least, in the type of `x`."""
    one = (1,) * (x.ndim - 1)
    wide = at_least_float32(x) - mean.reshape(*one, -1)
    return jnp.matmul(wide, matrix, precision=EXACT).astype(x.dtype)

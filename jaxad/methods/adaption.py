"""Calibrating patch features (Eq. 5 of Adapted-MoE): to which statistics, by which, and how far.

An image of a part under another light has other features by an offset and a scale, which an expert
takes for defects. Calibrated, its features have the location and scale that the expert has learnt.
Two things are not said by the paper. What a defect does to the statistics: mean and standard
deviation move with it, so that calibrating hides a large one; quartiles do not, up to a quarter of
the image. And how far to go: location and scale also tell good parts from bad ones, and what is
taken away is lost, so a `share` of the way may be best.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxad.core import Array
from jaxad.ops.normalise import safe_sqrt

AXES = {"positions": (1, 2), "all": (1, 2, 3), "channels": (3,)}
"""What Eq. 5 may take its statistics over, of patch features `(B, h, w, C)`."""
QUARTILES = 1.3489795
"""Distance between the quartiles of a normal distribution, in standard deviations."""
HALVINGS = 20
BOUND = 8.0
"""Of the factor between two scales: what hardly varies here or there is not blown up."""


def moments(x: Array, *, axes: str) -> tuple[Array, Array]:
    """Mean and standard deviation of each image's patch features over `AXES[axes]`, kept as 1."""
    over = AXES[axes]
    spread = safe_sqrt(jnp.var(x, axis=over, keepdims=True))
    return jnp.mean(x, axis=over, keepdims=True), spread


def quartiles(x: Array, *, axes: str) -> tuple[Array, Array]:
    """Median, and distance between the quartiles as a standard deviation; as `moments`.

    What lies beyond the quartiles moves them little: a defect of any strength may cover less than a
    quarter of the positions. They are constants to gradients.
    """
    low, middle, high = quantiles(x, (0.25, 0.5, 0.75), axes=axes)
    return middle, (high - low) / QUARTILES


def quantiles(x: Array, shares: tuple[float, ...], *, axes: str) -> Array:
    """The least values that these shares of each image's features do not exceed, axes kept as 1.

    numpy.quantile's "inverted_cdf" to a millionth of the range, found by halving it: on a CPU ten
    times as fast as sorting is.

    Returns:
        `(len(shares), B, ...)`, as `moments` behind the first axis.
    """
    over = AXES[axes]
    share = jnp.asarray(shares, x.dtype).reshape(-1, *[1] * x.ndim)
    x = jax.lax.stop_gradient(x)
    ends = (jnp.min(x, axis=over, keepdims=True), jnp.max(x, axis=over, keepdims=True))
    low, high = (jnp.broadcast_to(end[None], (len(shares), *end.shape)) for end in ends)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) / 2
        below = jnp.mean(x[None] <= middle, axis=tuple(1 + n for n in over), keepdims=True)
        enough = below.astype(x.dtype) >= share
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    return jax.lax.fori_loop(0, HALVINGS, halve, (low, high))[1]


STATISTICS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "moments": moments,
    "quartiles": quartiles,
}
"""`f(x, axes=...)`: location and scale of each image."""


def adapt(
    x: Array,
    own: tuple[Array, Array],
    learnt: tuple[Array, Array],
    *,
    share: float = 1.0,
    epsilon: float = 1e-5,
) -> Array:
    """Move features this share of the way to the location and scale that an expert has learnt.

    Eq. 5 for a `share` of 1. Scales are moved in their logarithms.

    Args:
        x: `(..., C)`.
        own: Location and scale of the image, of as many axes as `x`, to be broadcast with it.
        learnt: Those of the expert; axes that are missing in front are taken to be 1.
        share: 0 leaves `x` as it is.
        epsilon: What varies less than this, here or there, is constant: it is moved, not scaled.
    """
    location, scale = own
    to, wide = (v.reshape(*[1] * (x.ndim - v.ndim), *v.shape) for v in learnt)
    known = (scale > epsilon) & (wide > epsilon)
    ratio = jnp.where(known, wide, 1.0) / jnp.where(known, scale, 1.0)
    ratio = jnp.clip(ratio, 1 / BOUND, BOUND) ** share
    return (x - location) * ratio + location + share * (to - location)


class Adaption(NamedTuple):
    """How images are calibrated."""

    statistics: str = "moments"
    """Location and scale: one of `STATISTICS`."""
    axes: str = "positions"
    """What they are taken over: one of `AXES`."""
    share: float = 1.0
    """How far an image is moved, 0 to 1; 1 is Eq. 5."""
    training: bool = False
    """Whether experts learn calibrated features too; the paper calibrates test images alone."""

    def of(self, x: Array) -> tuple[Array, Array]:
        """Location and scale of each image's patch features `(B, h, w, C)`, axes kept as 1."""
        return STATISTICS[self.statistics](x, axes=self.axes)

    def width(self, channels: int) -> int:
        """How many numbers describe an expert's location, where features have so many channels."""
        return channels if self.axes == "positions" else 1


AS_PRINTED = Adaption()

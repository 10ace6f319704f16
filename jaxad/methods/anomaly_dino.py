"""AnomalyDINO (Damm et al., WACV 2025): no normal patch points in the direction of this one.

The patches of all normal photos are kept, as a self-supervised transformer sees them (DINOv2's last
block). A patch's score is 1 - cosine to the nearest of them, a photo's the mean of its highest
hundredth. Bank and search are PatchCore's (`jaxad.methods.patchcore`); here is what becomes of the
patches before, as in the authors' code (dammsi/AnomalyDINO).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxad.core import Array
from jaxad.ops.normalise import l2_normalise
from jaxad.ops.precision import EXACT, at_least_float32

BORDER = 0.2
"""Of each side of a photo: what lies further in is its middle, where parts lie."""
ROUNDS = 100
"""Of the power iteration; components that it can not tell apart by then are as good as equal."""


def directions(x: Array) -> Array:
    """Scale the vectors on the last axis to the length √½: squared distances are 1 - cosine."""
    return l2_normalise(at_least_float32(x)) * math.sqrt(0.5)


def foreground(x: Array, *, threshold: float) -> Array:
    """Tell patches of the part from those of the background by a photo's first principal component.

    The patches whose component is beyond `threshold` are the part, on the side that has more of the
    photo's middle; then holes of one patch are closed, and one patch around is added. (The authors
    change sides where a third of the middle is left; which one they begin with is the solver's.)

    Args:
        x: Patches `(B, h, w, C)`, as the network has them.
        threshold: In units of `x`; theirs is 10.

    Returns:
        `(B, h, w, 1)` float, 1 for the part, 0 for the background.
    """
    _, h, w, channels = x.shape
    rows, columns = (slice(int(n * BORDER), int(n * (1 - BORDER))) for n in (h, w))

    def first_component(image: Array) -> Array:
        flat = image.reshape(h * w, channels)
        flat = flat - jnp.mean(flat, axis=0, keepdims=True)
        scatter = jnp.matmul(flat.T, flat, precision=EXACT)

        def turn(_: int, v: Array) -> Array:
            return l2_normalise(jnp.matmul(scatter, v, precision=EXACT))

        start = l2_normalise(scatter[jnp.argmax(jnp.diagonal(scatter))])
        axis = jax.lax.fori_loop(0, ROUNDS, turn, start)
        return jnp.matmul(flat, axis, precision=EXACT).reshape(h, w)

    with jax.named_scope("foreground"):
        component = jax.vmap(first_component)(at_least_float32(x))
        sides = [side > threshold for side in (component, -component)]
        middles = [jnp.sum(side[:, rows, columns], axis=(1, 2)) for side in sides]
        part: Array = jnp.where((middles[0] >= middles[1]).reshape(-1, 1, 1), sides[0], sides[1])
        one = part.astype(component.dtype)[..., None]
        return -_highest(-_highest(_highest(one)))


def _highest(x: Array) -> Array:
    """The largest of 3 x 3 values of `(B, h, w, C)`; what lies outside never wins."""
    window = (1, 3, 3, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME")

"""From score maps to image scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array
from jaxad.ops.precision import EXACT


def average_pool(x: Array, *, window: int) -> Array:
    """Mean over every `window` x `window` square of `(B, H, W)` maps, stride 1, no padding.

    Equal to torch's `avg_pool2d(window, stride=1)`; along an axis shorter than the window, the mean
    of that whole axis.

    Returns:
        `(B, H - window + 1, W - window + 1)`.
    """
    rows, columns = (_box_matrix(size, min(window, size)) for size in x.shape[1:])
    return jnp.einsum(
        "Hh,bhw,Ww->bHW",
        jnp.asarray(rows, x.dtype),
        x,
        jnp.asarray(columns, x.dtype),
        precision=EXACT,
    )


def top_share_mean(map_: Array, share: float) -> Array:
    """Mean of the highest `share` of the pixels of `(B, H, W)` maps, `(B,)`; 0: the maximum."""
    flat = map_.reshape(map_.shape[0], -1)
    count = max(1, round(share * flat.shape[1]))
    if count == 1:
        return jnp.max(flat, axis=1)
    return jnp.mean(jax.lax.top_k(flat, count)[0], axis=1)


def _box_matrix(size: int, window: int) -> np.ndarray:
    offset = np.arange(size)[None, :] - np.arange(size - window + 1)[:, None]
    return ((offset >= 0) & (offset < window)) / window

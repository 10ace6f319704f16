"""EfficientAD-S's autoencoder, and how its networks start.

As the best known code has it (nelson1425/EfficientAd, common.py), for photos of any size from 64
pixels on: at 256 x 256 all grids are that code's. Teacher and student are
the network of `jaxad.backbones.patch_description`.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.core import Array, Variables
from jaxad.ops.convolve import convolve, symmetric_padding
from jaxad.ops.resample import resize

LEAST = 64
"""Pixels a side that the autoencoder halves five times."""
DROPOUT = 0.2


class Conv(nn.Module):
    """A convolution with bias."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, I)` to `(B, h, w, features)`."""
        shape, zeros = (self.size, self.size, x.shape[-1], self.features), nn.initializers.zeros
        kernel = self.param("kernel", zeros, shape)
        bias = self.param("bias", zeros, (self.features,))
        pads = symmetric_padding(self.padding)
        return convolve(x, kernel, stride=self.stride, padding=pads) + bias.reshape(1, 1, 1, -1)


class Autoencoder(nn.Module):
    """Rebuilds the teacher's map from one vector of the whole photo."""

    channels: int
    grid: tuple[int, int]
    """Of the teacher's map."""
    width: int = 32

    @nn.compact
    def __call__(self, x: Array, rng: Array | None = None, element: Array | None = None) -> Array:
        """Map `(B, H, W, 3)` to `(B, *grid, channels)`.

        Args:
            x: Photos.
            rng: In training: of dropout, which goes by `element`.
            element: `(B,)` int32, places in the batch of all devices.
        """
        _, height, width, _ = x.shape
        wide = 2 * self.width
        for n, features in enumerate((self.width, self.width, wide, wide, wide)):
            x = nn.relu(Conv(features, 4, 2, 1, name=f"encode{n}")(x))
        # One vector of the whole grid, as a product: it is as large as the photo makes it.
        x = x.reshape(x.shape[0], 1, 1, math.prod(x.shape[1:]))  # the first may be symbolic
        x = Conv(wide, 1, name="vector")(x)
        for n, (by, less) in enumerate(((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))):
            h, w = (max(1, side // by - less) for side in (height, width))
            x = nn.relu(Conv(wide, 4, padding=2, name=f"decode{n}")(resize(x, size=(h, w))))
            if rng is not None and element is not None:
                x = dropped(x, jax.random.fold_in(rng, n), element)
        x = nn.relu(Conv(wide, 3, padding=1, name="decode6")(resize(x, size=self.grid)))
        return Conv(self.channels, 3, padding=1, name="decode7")(x)


def dropped(x: Array, rng: Array, element: Array) -> Array:
    """Drop `DROPOUT` of the values of `(B, ...)`, by each element's place in the batch."""

    def keep(place: Array) -> Array:
        key = jax.random.fold_in(rng, place)
        return jax.random.bernoulli(key, 1 - DROPOUT, x.shape[1:])

    return jnp.where(jax.vmap(keep)(element), x / (1 - DROPOUT), jnp.zeros_like(x))


def started(rng: Array, shapes: Variables, *, dtype: Any) -> Variables:
    """Draw kernels and biases as torch's `Conv2d`: uniform within 1 / sqrt(fan_in)."""
    flat = flatten_dict(shapes)
    total = sum(leaf.size for leaf in flat.values())
    numbers, at, filled = jax.random.uniform(rng, (total,), dtype, -1, 1), 0, {}
    for path, leaf in flat.items():
        bound = math.prod(flat[(*path[:-1], "kernel")].shape[:-1]) ** -0.5
        filled[path] = numbers[at : at + leaf.size].reshape(leaf.shape) * bound
        at += leaf.size
    variables: Variables = unflatten_dict(filled)
    return variables

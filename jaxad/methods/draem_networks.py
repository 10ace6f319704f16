"""The two networks of DRAEM: one rebuilds a photo without its defects, one tells where they were.

Those of the authors' code (VitjanZ/DRAEM, model_unet.py), without the biases in front of BatchNorm,
which takes them out again.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxad.core import Array
from jaxad.methods.efficientad_network import Conv
from jaxad.methods.rd4ad import ConvNorm
from jaxad.ops.resample import resize

MOST_TIMES = 8
"""Layers of half the grid have twice the channels, up to so many times those of the first."""


def times(depth: int) -> int:
    """How many times the channels of the first layers those have that are halved `depth` times."""
    return min(2 ** max(depth, 0), MOST_TIMES)


def strongest(x: Array) -> Array:
    """Maximum of each 2 x 2 square of `(B, 2 h, 2 w, C)`, whose gradient goes to one pixel.

    That is the first one of several, as torch has it.
    """
    # `jnp.max` hands its gradient to the pixels that equal what it gave, over their number. A
    # program that computes `x` again for that may round it otherwise: then none does, 0 / 0.
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    for axis in (4, 2):
        first, second = (lax.index_in_dim(squares, n, axis, keepdims=False) for n in (0, 1))
        squares = jnp.where(first < second, second, first)
    return squares


def doubled(x: Array) -> Array:
    """`(B, h, w, C)` on twice the grid, bilinearly, corners on corners."""
    return resize(x, size=(2 * x.shape[1], 2 * x.shape[2]), align_corners=True)


class Layers(nn.Module):
    """Convolutions of 3 x 3, each with BatchNorm and ReLU."""

    widths: tuple[int, ...]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map `(B, h, w, C)` to `(B, h, w, widths[-1])`."""
        for n, width in enumerate(self.widths):
            made = ConvNorm(width, 3, axis_name=self.axis_name, name=f"layer{n}")
            x = nn.relu(made(x, train=train))
        return x


class Rebuilding(nn.Module):
    """The reconstructive network: halved and doubled once less often than the other."""

    width: int = 128
    halvings: int = 4
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map photos `(B, H, W, 3)` to what they would be without a defect."""
        for depth in range(self.halvings + 1):
            width = times(depth) * self.width
            made = Layers((width, width), self.axis_name, name=f"encode{depth}")
            x = made(strongest(x) if depth else x, train=train)
        for n, depth in enumerate(reversed(range(self.halvings))):
            # The first brings up, two more follow.
            width, out = times(depth) * self.width, times(depth - 1) * self.width
            made = Layers((width, width, out), self.axis_name, name=f"decode{n}")
            x = made(doubled(x), train=train)
        return Conv(3, 3, padding=1, name="out")(x)


class Telling(nn.Module):
    """The discriminative network: a U-Net."""

    width: int = 64
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map photos beside rebuilt ones, `(B, H, W, 6)`, to logits `(B, H, W, 2)`."""
        seen = []
        for depth in range(self.halvings + 1):
            width = times(depth) * self.width
            made = Layers((width, width), self.axis_name, name=f"encode{depth}")
            x = made(strongest(x) if depth else x, train=train)
            seen.append(x)
        for n, depth in enumerate(reversed(range(self.halvings))):
            width = times(depth - 1) * self.width
            up = Layers((width,), self.axis_name, name=f"up{n}")(doubled(x), train=train)
            x = jnp.concatenate([up, seen[depth]], axis=-1)
            x = Layers((width, width), self.axis_name, name=f"decode{n}")(x, train=train)
        return Conv(2, 3, padding=1, name="out")(x)


class Networks(nn.Module):
    """Both, one after the other."""

    width: int = 128
    telling_width: int = 64
    halvings: int = 5
    """Of the telling network. Sides of photos are multiples of 2 to its power."""
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Map photos `(B, H, W, 3)`, 0 to 1, to rebuilt ones and to logits `(B, H, W, 2)`."""
        rebuilding = Rebuilding(self.width, self.halvings - 1, self.axis_name, name="rebuild")
        telling = Telling(self.telling_width, self.halvings, self.axis_name, name="tell")
        with jax.named_scope("rebuild"):
            rebuilt = rebuilding(x, train=train)
        with jax.named_scope("tell"):
            both = jnp.concatenate([rebuilt, x.astype(rebuilt.dtype)], axis=-1)
            logits = telling(both, train=train)
        return rebuilt, logits

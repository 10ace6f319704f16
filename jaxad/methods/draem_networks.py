"""The two networks of DRAEM: one rebuilds a photo without its defects, one tells where they were.

Those of the authors' code (VitjanZ/DRAEM, model_unet.py), without the biases in front of BatchNorm,
which takes them out again.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.core import Array
from jaxad.methods.efficientad_network import Conv
from jaxad.methods.rd4ad import ConvNorm
from jaxad.ops.resample import resize

STRIDE = 32
"""Pixels a side that the deepest positions see apart: photos have a multiple of it."""


def strongest(x: Array) -> Array:
    """Maximum of each 2 x 2 square of `(B, 2 h, 2 w, C)`."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.max(squares, axis=(2, 4))


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
    """The reconstructive network: four times halved, four times doubled."""

    width: int = 128
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map photos `(B, H, W, 3)` to what they would be without a defect."""
        w = self.width
        for n, by in enumerate((1, 2, 4, 8, 8)):
            made = Layers((by * w, by * w), self.axis_name, name=f"encode{n}")
            x = made(strongest(x) if n else x, train=train)
        for n, (by, out) in enumerate(((8, 4), (4, 2), (2, 1), (1, 1))):
            # The first brings up, two more follow.
            made = Layers((by * w, by * w, out * w), self.axis_name, name=f"decode{n}")
            x = made(doubled(x), train=train)
        return Conv(3, 3, padding=1, name="out")(x)


class Telling(nn.Module):
    """The discriminative network: a U-Net, five times halved and doubled."""

    width: int = 64
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map photos beside rebuilt ones, `(B, H, W, 6)`, to logits `(B, H, W, 2)`."""
        w, seen = self.width, []
        for n, by in enumerate((1, 2, 4, 8, 8, 8)):
            made = Layers((by * w, by * w), self.axis_name, name=f"encode{n}")
            x = made(strongest(x) if n else x, train=train)
            seen.append(x)
        for n, by in enumerate((8, 4, 2, 1, 1)):
            up = Layers((by * w,), self.axis_name, name=f"up{n}")(doubled(x), train=train)
            x = jnp.concatenate([up, seen[4 - n]], axis=-1)
            x = Layers((by * w, by * w), self.axis_name, name=f"decode{n}")(x, train=train)
        return Conv(2, 3, padding=1, name="out")(x)


class Networks(nn.Module):
    """Both, one after the other."""

    width: int = 128
    telling_width: int = 64
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Map photos `(B, H, W, 3)`, 0 to 1, to rebuilt ones and to logits `(B, H, W, 2)`."""
        with jax.named_scope("rebuild"):
            rebuilt = Rebuilding(self.width, self.axis_name, name="rebuild")(x, train=train)
        with jax.named_scope("tell"):
            both = jnp.concatenate([rebuilt, x.astype(rebuilt.dtype)], axis=-1)
            logits = Telling(self.telling_width, self.axis_name, name="tell")(both, train=train)
        return rebuilt, logits

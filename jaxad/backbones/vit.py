"""Vision transformers as feature extractors: DINOv2 (Oquab et al. 2023) and DeiT (Touvron 2020).

Level `blockN` is the output of the N-th of twelve blocks, raw, as a map of the patches: the class
token and the registers take part in attention and are left out. `norm` is the last block's after
the final LayerNorm, which is what most papers read. Block parts are named as timm's.

The table of positions is for the size of training. For other sizes it is resized as the publishers
do it, with an axis at a time: DINOv2 without registers by torch's bicubic filter at a factor that
is off by a tenth of a patch, all others antialiased.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.backbones.layers import Conv, reached
from jaxad.core import Array, Features, InputError, Level
from jaxad.ops.precision import EXACT, NETWORK, at_least_float32
from jaxad.ops.resample import bicubic_matrix

BLOCKS = tuple(f"block{i}" for i in range(1, 13))
LEVELS = (*BLOCKS, "norm")
OTHERS = "others"
"""Of a level, `LEVEL/others`: the tokens that belong to no patch."""
OFFSET = 0.1
"""Of a patch: what DINOv2 adds to each side of the grid, lest rounding loses a patch."""

_zeros = nn.initializers.zeros_init()


def levels_of(*, channels: int, patch: int) -> dict[str, Level]:
    """Channels and stride of the thirteen levels."""
    return dict.fromkeys(LEVELS, Level(channels=channels, stride=patch))


def resized(position: Array, *, trained: int, grid: tuple[int, int], offset: bool) -> Array:
    """Resize a table of positions to another grid of patches.

    Args:
        position: `(1, trained * trained, C)`, row by row.
        trained: Patches along each side of the table.
        grid: `(h, w)` patches of the image at hand; the trained grid has the table as it is.
        offset: Without antialiasing, at the factor `(h + OFFSET) / trained`.

    Returns:
        `(1, h * w, C)`, of the same type.
    """
    if grid == (trained, trained):
        return position
    rows, columns = (
        jnp.asarray(
            bicubic_matrix(
                trained,
                size,
                scale=(size + OFFSET) / trained if offset else None,
                antialias=not offset,
            ),
            jnp.float32,
        )
        for size in grid
    )
    table = at_least_float32(position).reshape(trained, trained, -1)
    table = jnp.einsum(
        "Hh,hwc,Ww->HWc",
        rows.astype(table.dtype),
        table,
        columns.astype(table.dtype),
        precision=EXACT,
    )
    return table.reshape(1, grid[0] * grid[1], -1).astype(position.dtype)


class Norm(nn.Module):
    """LayerNorm in float32 at least, as are its parameters `scale` and `bias`."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise `(B, n, C)`."""
        wide = at_least_float32(x)
        channels = x.shape[-1]
        scale = self.param("scale", _zeros, (channels,), wide.dtype)
        bias = self.param("bias", _zeros, (channels,), wide.dtype)
        # Two passes: a few channels of these networks are far larger than the others.
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)).astype(x.dtype)


class Block(nn.Module):
    """Attention, then two linear layers; each normalises first and is added to the tokens."""

    heads: int
    layer_scale: bool
    """Whether what is added is multiplied by a learned factor for each channel."""
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map tokens `(B, n, C)` to the same."""
        batch, n, channels = x.shape

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=_zeros, precision=NETWORK, name=name)

        def scaled(y: Array, name: str) -> Array:
            if not self.layer_scale:
                return y
            return y * self.param(name, _zeros, (channels,)).reshape(1, 1, -1)

        y = dense(3 * channels, "qkv")(Norm(self.epsilon, name="norm1")(x))
        q, k, v = jnp.split(y.reshape(batch, n, 3 * self.heads, channels // self.heads), 3, axis=2)
        q = q * (channels // self.heads) ** -0.5
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=NETWORK)
        weights = jax.nn.softmax(at_least_float32(logits), axis=-1).astype(v.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=NETWORK)
        x = x + scaled(dense(channels, "proj")(y.reshape(x.shape)), "scale1")
        y = dense(4 * channels, "fc1")(Norm(self.epsilon, name="norm2")(x))
        y = 0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))  # GELU, as torch computes it
        return x + scaled(dense(channels, "fc2")(y), "scale2")


class VisionTransformer(nn.Module):
    """A vision transformer up to the deepest of `levels`; yields the maps of those."""

    channels: int
    heads: int
    patch: int
    """Pixels along each side of a patch."""
    trained: int
    """Patches along each side of the images of training."""
    registers: int
    """Further tokens that belong to no patch."""
    layer_scale: bool
    offset: bool
    """How the table of positions is resized; see `resized`."""
    levels: tuple[str, ...]
    epsilon: float = 1e-6
    others: bool = False
    """Whether each level comes with its `OTHERS`, `(B, 1, 1, (1 + registers) * C)`: class token,
    then registers."""

    @nn.compact
    def __call__(self, x: Array) -> Features:
        """Map network input `(B, H, W, 3)` to `{level: (B, H / patch, W / patch, C)}`.

        Raises:
            InputError: A side of the image is no multiple of `patch`.
        """
        if not (x.shape[1] and x.shape[2]) or x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise InputError(f"images of {x.shape[1]} x {x.shape[2]}: no patches of {self.patch}")
        embed = Conv(self.channels, self.patch, self.patch, use_bias=True, name="patch_embed")
        x = embed(x)
        batch, *grid, channels = x.shape
        shape = (1, self.trained**2, channels)
        position = self.param("position", _zeros, shape)
        tokens = [self.param("class_token", _zeros, (1, 1, channels))]
        if self.registers:
            tokens.append(self.param("registers", _zeros, (1, self.registers, channels)))
        place = resized(position, trained=self.trained, grid=(grid[0], grid[1]), offset=self.offset)
        x = x.reshape(batch, grid[0] * grid[1], channels) + place
        x = jnp.concatenate(
            [*(jnp.broadcast_to(t, (batch, *t.shape[1:])) for t in tokens), x], axis=1
        )
        first = 1 + self.registers
        features: Features = {}
        for level in LEVELS[: reached(self.levels, LEVELS)]:
            if level == "norm":
                x = Norm(self.epsilon, name=level)(x)
            else:
                x = Block(self.heads, self.layer_scale, self.epsilon, name=level)(x)
            if level in self.levels:
                features[level] = x[:, first:].reshape(batch, *grid, channels)
                if self.others:
                    features[f"{level}/{OTHERS}"] = x[:, :first].reshape(batch, 1, 1, -1)
        return features

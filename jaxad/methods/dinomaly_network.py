"""Dinomaly's bottleneck and decoder: dropout for noise, attention that can not look at one place.

`jaxad.methods.dinomaly` trains them and scores by them. Layers normalise first, as in the encoder.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.core import Array
from jaxad.methods.uniad_network import Drops, dense
from jaxad.ops.precision import NETWORK, at_least_float32

RATIO = 4
"""Of the width of what lies between two linear layers to the channels."""


class Norm(nn.Module):
    """LayerNorm in float32 at least, as are its parameters."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, n, C)` to the same."""
        wide = at_least_float32(x)
        normalise = nn.LayerNorm(
            epsilon=1e-8,
            param_dtype=wide.dtype,
            use_fast_variance=False,
            force_float32_reductions=False,
            name="norm",
        )
        return normalise(wide).astype(x.dtype)


def gelu(x: Array) -> Array:
    """GELU, as torch computes it."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class LinearAttention(nn.Module):
    """Attention by products of elu(q) + 1 and elu(k) + 1 (Katharopoulos et al. 2020).

    Without a softmax weights are never far apart, so that no token can copy another.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, n, C)` to the same."""
        batch, n, channels = x.shape
        y = dense(3 * channels, "qkv")(x)
        q, k, v = jnp.split(y.reshape(batch, n, 3 * self.heads, -1), 3, axis=2)
        q, k = nn.elu(q) + 1, nn.elu(k) + 1
        every = jnp.sum(at_least_float32(k), axis=1).astype(k.dtype)
        weight = at_least_float32(jnp.einsum("bnhd,bhd->bnh", q, every, precision=NETWORK))
        values = jnp.einsum("bnhd,bnhe->bhde", k, v, precision=NETWORK)
        y = jnp.einsum("bnhd,bhde->bnhe", q, values, precision=NETWORK)
        y = (at_least_float32(y) / weight[..., None]).astype(x.dtype)
        return dense(channels, "proj")(y.reshape(x.shape))


class Block(nn.Module):
    """Linear attention, then two linear layers; each is added to the tokens."""

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, n, C)` to the same."""
        channels = x.shape[-1]
        x = x + LinearAttention(self.heads, name="attention")(Norm(name="norm1")(x))
        y = gelu(dense(RATIO * channels, "fc1")(Norm(name="norm2")(x)))
        made: Array = x + dense(channels, "fc2")(y)
        return made


class Bottleneck(nn.Module):
    """Two linear layers, with dropout before, between and after them."""

    dropout: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """Map `(B, n, C)` to the same; `keys` `(B,)` of the images' dropout, None: without."""
        _, n, channels = x.shape
        drops = Drops(keys, "bottleneck", (2 + RATIO) * n * channels, self.dropout)
        y = drops(gelu(dense(RATIO * channels, "fc1")(drops(x))))
        return drops(dense(channels, "fc2")(y))


class Decoder(nn.Module):
    """The bottleneck, then blocks one after the other."""

    heads: int
    blocks: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> list[Array]:
        """Map tokens `(B, n, C)` to what each block makes, the last one's first."""
        x = Bottleneck(self.dropout, name="bottleneck")(x, keys)
        found: list[Array] = []
        for i in range(self.blocks):
            x = Block(self.heads, name=f"block{i + 1}")(x)
            found.insert(0, x)
        return found

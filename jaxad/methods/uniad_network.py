"""UniAD's transformer: neighbour-masked attention, and queries in every layer of the decoder.

`jaxad.methods.uniad` trains it and scores by it. Layers normalise after each part, as in
"Attention is all you need"; attention, dropout and LayerNorm are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array
from jaxad.ops.noise import fold_in_name
from jaxad.ops.precision import NETWORK, at_least_float32

FINE = 1 << 16
"""Steps between nothing and all in which a share is drawn: half the numbers that floats take."""


def neighbour_mask(grid: tuple[int, int], side: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which tokens `(n, n)` lie in the square of this side around each token, itself included."""
    rows, columns = (at.ravel() for at in np.indices(grid))
    near = [np.abs(at[:, None] - at[None, :]) <= side // 2 for at in (rows, columns)]
    mask: np.ndarray[Any, np.dtype[np.bool_]] = near[0] & near[1]
    return mask


def sine_positions(grid: tuple[int, int], width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sines and cosines of a token's row, then of its column, `(n, width)`."""
    half = width // 2
    wave = 10000.0 ** (2 * (np.arange(half) // 2) / half)
    parts = []
    for at, size in zip(np.indices(grid), grid):
        angle = (at.ravel() + 1) / (size + 1e-6) * 2 * np.pi
        waves = angle[:, None] / wave
        waves[:, 0::2], waves[:, 1::2] = np.sin(waves[:, 0::2]), np.cos(waves[:, 1::2])
        parts.append(waves)
    return np.concatenate(parts, axis=1)


class Drops:
    """The dropout of one layer: one draw for all of it, for every image by a key of its own."""

    def __init__(self, keys: Array | None, name: str, sizes: int, rate: float) -> None:
        """Draw `sizes` numbers an image.

        Args:
            keys: `(B,)`, of the images; None: nothing is left out.
            name: Of the layer: every one draws others.
            sizes: How many numbers the layer takes.
            rate: Share that is left out.
        """
        self.bits: Array | None = None
        self.at, self.level = 0, round(rate * FINE)
        if keys is not None and self.level:

            def draw(key: Array) -> Array:
                return jax.random.bits(fold_in_name(key, name), (sizes,), jnp.uint16)

            self.bits = jax.vmap(draw)(keys)

    def __call__(self, x: Array) -> Array:
        """Leave out a share of `(B, ...)`, and make the rest up for it."""
        if self.bits is None:
            return x
        size = x.size // x.shape[0]
        own = self.bits[:, self.at : self.at + size].reshape(x.shape)
        self.at += size
        return jnp.where(own >= self.level, x * (FINE / (FINE - self.level)), jnp.zeros_like(x))


def dense(features: int, name: str) -> nn.Dense:
    """A linear layer on the last axis."""
    return nn.Dense(features, name=name, precision=NETWORK)


class Attention(nn.Module):
    """Attention of several heads."""

    heads: int

    @nn.compact
    def __call__(
        self, query: Array, key: Array, value: Array, hidden: Array | None, drops: Drops
    ) -> Array:
        """Map `(B, n, width)` to the same; what is `hidden`, `(n, n)`, is not attended to."""
        batch, n, width = query.shape
        each = width // self.heads

        def project(x: Array, name: str) -> Array:
            return dense(width, name)(x).reshape(batch, n, self.heads, each)

        q, k, v = project(query, "query"), project(key, "key"), project(value, "value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", q * each**-0.5, k, precision=NETWORK)
        logits = at_least_float32(logits)
        if hidden is not None:
            logits = jnp.where(hidden[None, None], jnp.asarray(-jnp.inf, logits.dtype), logits)
        weights = drops(jax.nn.softmax(logits, axis=-1)).astype(v.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=NETWORK)
        return dense(width, "out")(y.reshape(batch, n, width))


class AddNorm(nn.Module):
    """LayerNorm of a sum, in float32 at least, as are its parameters."""

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """Map two `(..., width)` to one."""
        wide = at_least_float32(x + y)
        return layer_norm(wide)(wide).astype(y.dtype)


def layer_norm(x: Array) -> nn.LayerNorm:
    """Torch's, for values of this type."""
    return nn.LayerNorm(
        epsilon=1e-5, param_dtype=x.dtype, force_float32_reductions=False, name="norm"
    )


class Layer(nn.Module):
    """Attentions one after the other, then two linear layers; each is added and normalised."""

    heads: int
    inner: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        sources: Sequence[Array],
        position: Array,
        hidden: Array | None,
        keys: Array | None,
    ) -> Array:
        """Map tokens `(B, n, width)` to as many, by an attention to each of the sources.

        Without tokens the layer has its own to begin with, learned queries.
        """
        _, n, width = sources[0].shape
        if x is None:
            queries = self.param("queries", nn.initializers.zeros, (n, width))
            x = jnp.broadcast_to(queries.astype(sources[0].dtype)[None], sources[0].shape)
        numbers = len(sources) * (self.heads * n * n + n * width) + n * self.inner + n * width
        drops = Drops(keys, "/".join(self.path), numbers, self.dropout)
        for i, source in enumerate(sources):
            attention = Attention(self.heads, name=f"attention{i}")
            y = attention(x + position, source + position, source, hidden, drops)
            x = AddNorm(name=f"attended{i}")(x, drops(y))
        y = drops(nn.relu(dense(self.inner, "expand")(x)))
        fed: Array = AddNorm(name="fed")(x, drops(dense(width, "project")(y)))
        return fed


class Transformer(nn.Module):
    """From tokens to tokens."""

    grid: tuple[int, int]
    channels: int
    width: int
    heads: int
    inner: int
    layers: int
    neighbours: int
    """See `neighbour_mask`; 0: tokens attend to all."""
    sine: bool
    dropout: float

    @nn.compact
    def __call__(self, F: Array, keys: Array | None) -> Array:
        """Map features `(B, h, w, channels)` to the same; dropout by a key for each image."""
        h, w = self.grid
        x = dense(self.width, "enter")(F.reshape(F.shape[0], h * w, self.channels))
        position = self._positions().astype(x.dtype)[None]
        hidden = None
        if self.neighbours:
            hidden = jnp.asarray(neighbour_mask(self.grid, self.neighbours))

        def layer(x: Array | None, sources: Sequence[Array], name: str) -> Array:
            made = Layer(self.heads, self.inner, self.dropout, name=name)
            y: Array = made(x, sources, position, hidden, keys)
            return y

        with jax.named_scope("encoder"):
            for i in range(self.layers):
                x = layer(x, [x], f"encoder{i}")
        with jax.named_scope("decoder"):
            memory = x
            for i in range(self.layers):
                x = layer(None, [memory, x], f"decoder{i}")
            wide = at_least_float32(x)
            x = layer_norm(wide)(wide).astype(x.dtype)
        return dense(self.channels, "leave")(x).reshape(F.shape)

    def _positions(self) -> Array:
        """`(n, width)`."""
        (h, w), half = self.grid, self.width // 2
        if self.sine:
            return jnp.asarray(sine_positions(self.grid, self.width), jnp.float32)
        columns = self.param("columns", nn.initializers.zeros, (w, half))
        rows = self.param("rows", nn.initializers.zeros, (h, half))
        both = (columns[None], rows[:, None])
        whole = jnp.concatenate([jnp.broadcast_to(x, (h, w, half)) for x in both], axis=-1)
        return whole.reshape(h * w, self.width)

"""PDN-S, the patch description network of EfficientAD (Batzner et al., WACV 2024).

Four convolutions without BatchNorm: each output describes 33 x 33 pixels, at stride 4. The authors
distilled theirs from Wide ResNet-101 on ImageNet. Level `patches`, whose grid is a quarter of the
photo's, with zeros around each convolution but the last; EfficientAD's student sees none.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxad.backbones.layers import Conv
from jaxad.core import Array, Features, Level
from jaxad.ops.convolve import symmetric_padding

PATCHES = "patches"


def levels_of(*, channels: int) -> dict[str, Level]:
    """Channels and stride of the one level."""
    return {PATCHES: Level(channels=channels, stride=4)}


def halved(x: Array, *, padding: int) -> Array:
    """Mean of each 2 x 2 square of `(B, H, W, C)`; zeros around it count, an odd row does not."""
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    batch, height, width, channels = x.shape
    h, w = height // 2, width // 2
    x = x[:, : 2 * h, : 2 * w].reshape(batch, h, 2, w, 2, channels)
    return jnp.mean(x, axis=(2, 4))


class PatchDescription(nn.Module):
    """PDN-S: each of its outputs sees 33 x 33 pixels, at stride 4."""

    channels: int
    width: int = 128

    @nn.compact
    def __call__(self, x: Array, *, padded: bool = False) -> Array:
        """Map `(B, H, W, 3)` to `(B, h, w, channels)`: 56 x 56 of 256 x 256, 64 x 64 if padded."""
        pad, width = int(padded), self.width

        def conv(x: Array, features: int, size: int, padding: int, name: str) -> Array:
            pads = symmetric_padding(padding)
            return Conv(features, size, padding=pads, use_bias=True, name=name)(x)

        x = nn.relu(conv(x, width, 4, 3 * pad, "conv1"))
        x = halved(x, padding=pad)
        x = nn.relu(conv(x, 2 * width, 4, 3 * pad, "conv2"))
        x = halved(x, padding=pad)
        x = nn.relu(conv(x, 2 * width, 3, pad, "conv3"))
        return conv(x, self.channels, 4, 0, "conv4")


class FrozenPatchDescription(PatchDescription):
    """The same as a feature extractor, with the same variables."""

    def __call__(self, x: Array) -> Features:
        """Map network input `(B, H, W, 3)` to `{"patches": (B, H / 4, W / 4, channels)}`."""
        return {PATCHES: super().__call__(x, padded=True)}

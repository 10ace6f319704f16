"""VGG-16 and VGG-19 (Simonyan & Zisserman 2015), with or without BatchNorm, as feature extractors.

Level `blockK` is what follows the last ReLU of block K, before its max-pool (strides 1, 2, 4, 8,
16). PFM's reference reads blocks 3 to 5 of the BatchNorm variants. Convolutions are named by block
and place in it, so both variants have the same names; the one without BatchNorm is simply in the
folded form (a convolution with bias).
"""

from __future__ import annotations

import flax.linen as nn

from jaxad.backbones.layers import ConvNorm, max_pool, reached
from jaxad.core import Array, Features, Level
from jaxad.ops.convolve import symmetric_padding

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each block (the paper's configurations D and E)."""
LEVELS = tuple(f"block{i + 1}" for i in range(5))


def levels_of() -> dict[str, Level]:
    """Channels and stride of the five levels."""
    return {name: Level(channels=CHANNELS[i], stride=2**i) for i, name in enumerate(LEVELS)}


class VGG(nn.Module):
    """The convolutions of a VGG up to the deepest of `levels`."""

    convolutions: tuple[int, int, int, int, int]
    """In each block."""
    levels: tuple[str, ...]
    epsilon: float = 1e-5
    folded: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Features:
        """Map network input `(B, H, W, 3)` to `{level: (B, h, w, C)}`."""
        features: Features = {}
        for block in range(reached(self.levels, LEVELS)):
            if block > 0:
                x = max_pool(x, size=2, stride=2)
            for i in range(self.convolutions[block]):
                x = ConvNorm(
                    CHANNELS[block],
                    3,
                    padding=symmetric_padding(1),
                    epsilon=self.epsilon,
                    folded=self.folded,
                    name=f"{LEVELS[block]}_conv{i + 1}",
                )(x)
                x = nn.relu(x)
            if LEVELS[block] in self.levels:
                features[LEVELS[block]] = x
        return features

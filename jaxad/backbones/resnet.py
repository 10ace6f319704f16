"""ResNet (He et al. 2016) as a feature extractor: `layer1` to `layer4` at strides 4, 8, 16, 32.

Module names follow torchvision. One module for all depths: basic or bottleneck blocks, width of the
bottleneck, and the place of the stride, which the original (and Keras) has in a block's first 1x1
convolution and torchvision ("v1.5") in its 3x3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxad.backbones.layers import ConvNorm, max_pool, reached
from jaxad.core import Array, Features, Level
from jaxad.ops.convolve import symmetric_padding

LEVELS = ("layer1", "layer2", "layer3", "layer4")


def levels_of(*, bottleneck: bool) -> dict[str, Level]:
    """Channels and stride of the four levels."""
    expansion = 4 if bottleneck else 1
    return {
        name: Level(channels=64 * 2**i * expansion, stride=4 * 2**i)
        for i, name in enumerate(LEVELS)
    }


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    channels: int
    stride: int
    norm: Mapping[str, Any]
    """How `ConvNorm` normalises."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, C)` to `(B, h, w, channels)`."""
        norm = self.norm
        pad = symmetric_padding(1)
        y = ConvNorm(self.channels, 3, self.stride, pad, **norm, name="conv1")(x)
        y = ConvNorm(self.channels, 3, 1, pad, **norm, name="conv2")(nn.relu(y))
        if self.stride != 1 or x.shape[-1] != self.channels:
            x = ConvNorm(self.channels, 1, self.stride, **norm, name="downsample")(x)
        return nn.relu(y + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; `inner` channels in the 3x3."""

    channels: int
    inner: int
    stride: int
    stride_in_1x1: bool
    norm: Mapping[str, Any]
    """How `ConvNorm` normalises."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, C)` to `(B, h, w, channels)`."""
        norm = self.norm
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = ConvNorm(self.inner, 1, first, **norm, name="conv1")(x)
        y = ConvNorm(self.inner, 3, second, symmetric_padding(1), **norm, name="conv2")(nn.relu(y))
        y = ConvNorm(self.channels, 1, **norm, name="conv3")(nn.relu(y))
        if self.stride != 1 or x.shape[-1] != self.channels:
            x = ConvNorm(self.channels, 1, self.stride, **norm, name="downsample")(x)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """A ResNet up to the deepest of `levels`; yields the outputs of those stages.

    `train`, unfolded, is one that learns: BatchNorm by the batch, over all devices of `axis_name`.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    levels: tuple[str, ...]
    width_per_group: int = 64
    """64; 128 makes the wide bottleneck of Wide ResNet-50-2."""
    stride_in_1x1: bool = False
    epsilon: float = 1e-5
    folded: bool = True
    train: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Features:
        """Map network input `(B, H, W, 3)` to `{level: (B, h, w, C)}`."""
        norm = {
            "epsilon": self.epsilon,
            "folded": self.folded,
            "train": self.train,
            "axis_name": self.axis_name,
        }
        x = ConvNorm(64, 7, 2, symmetric_padding(3), **norm, name="conv1")(x)
        x = max_pool(nn.relu(x), size=3, stride=2, padding=1)
        table = levels_of(bottleneck=self.bottleneck)
        features: Features = {}
        for stage in range(reached(self.levels, LEVELS)):
            level = LEVELS[stage]
            channels = table[level].channels
            for i in range(self.blocks[stage]):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"{level}_{i}"
                if self.bottleneck:
                    inner = self.width_per_group * 2**stage
                    x = Bottleneck(channels, inner, stride, self.stride_in_1x1, norm, name=name)(x)
                else:
                    x = BasicBlock(channels, stride, norm, name=name)(x)
            if level in self.levels:
                features[level] = x
        return features

"""EfficientNet B0-B7 (Tan & Le 2019) and EfficientNet-Lite as feature extractors.

Lite has no squeeze-excite, ReLU6 for swish, and a stem and ends that do not scale. Level `stageK`
is the output of the last block of the K-th of the seven stages, after projection and skip, as the
reference implementations cut them; `head` is what the classifier takes the mean of, a wide 1x1
convolution behind them with its activation. Block names follow lukemelas' PyTorch port.

Padding: the original weights were trained in TensorFlow, whose "SAME" padding at a strided
convolution depends on the parity of its input. Three ports read them in three ways, so padding
belongs to the weights (`Variant.padding`): EfficientNet-PyTorch freezes the padding of the native
training size for every input (a number of pixels; every kernel then sees the pixels in the phase it
was trained in, at any image size), timm's `tf_` models and Keras follow the input at hand ("same"),
torchvision and timm's own models pad alike on both sides ("symmetric"), and were trained so. The
first two agree at the native size; at 256 px B4 (native 380) differs in one convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from jaxad.backbones.layers import Conv, ConvNorm, reached
from jaxad.core import Array, Features, Level
from jaxad.ops.convolve import Padding, same_padding, symmetric_padding

HEAD = "head"
LEVELS = (*(f"stage{i + 1}" for i in range(7)), HEAD)


class Stage(NamedTuple):
    """A row of the paper's Table 1: MBConv blocks of one kind."""

    repeats: int
    kernel_size: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def round_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Scale a number of channels, rounded to a multiple of `divisor`, by at most 10 % downward."""
    scaled = channels * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def scaled_stages(*, width: float, depth: float, scale_ends: bool) -> tuple[Stage, ...]:
    """The stages of a family member; `scale_ends` is false in Lite, whose ends keep their depth."""
    last = len(STAGES) - 1
    return tuple(
        stage._replace(
            channels=round_channels(stage.channels, width),
            repeats=stage.repeats
            if i in (0, last) and not scale_ends
            else math.ceil(stage.repeats * depth),
        )
        for i, stage in enumerate(STAGES)
    )


def levels_of(stages: tuple[Stage, ...], *, head_channels: int) -> dict[str, Level]:
    """Channels and stride of the seven stages and of the head."""
    levels, stride = {}, 2  # of the stem
    for name, stage in zip(LEVELS, stages):
        stride *= stage.stride
        levels[name] = Level(channels=stage.channels, stride=stride)
    return {**levels, HEAD: Level(channels=head_channels, stride=stride)}


def paddings(size: int | str) -> Callable[[int, int], Padding]:
    """Make `f(kernel_size, stride)`: the padding of the next convolution, in the network's order.

    `size` is that of `EfficientNet.padding`; where it is a number of pixels, it moves on from each
    convolution's input to its output.
    """

    def pad_and_shrink(kernel_size: int, stride: int) -> Padding:
        nonlocal size
        if size == "symmetric":
            return symmetric_padding(kernel_size // 2)
        if isinstance(size, str):
            return "SAME"
        pads = same_padding(size, kernel_size=kernel_size, stride=stride)
        size = -(-size // stride)
        return (pads, pads)

    return pad_and_shrink


class SqueezeExcite(nn.Module):
    """A gate per channel, computed from the mean over positions (Hu et al. 2018)."""

    squeezed: int
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Scale the channels of `(B, H, W, C)`."""
        gate = x.mean(axis=(1, 2), keepdims=True)
        gate = self.activation(Conv(self.squeezed, 1, use_bias=True, name="reduce")(gate))
        return x * nn.sigmoid(Conv(x.shape[-1], 1, use_bias=True, name="expand")(gate))


class MBConv(nn.Module):
    """Inverted bottleneck: expand 1x1, depthwise, gate, project 1x1; a skip where it fits."""

    channels: int
    kernel_size: int
    stride: int
    expand: int
    padding: Padding
    squeeze: bool
    activation: Callable[[Array], Array]
    epsilon: float
    folded: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, C)` to `(B, h, w, channels)`."""
        norm = {"epsilon": self.epsilon, "folded": self.folded}
        inner = x.shape[-1] * self.expand
        y = x
        if self.expand != 1:
            y = self.activation(ConvNorm(inner, 1, **norm, name="expand_conv")(y))
        y = ConvNorm(
            inner,
            self.kernel_size,
            self.stride,
            self.padding,
            groups=inner,
            **norm,
            name="depthwise_conv",
        )(y)
        y = self.activation(y)
        if self.squeeze:  # to a quarter of what enters the block
            y = SqueezeExcite(x.shape[-1] // 4, self.activation, name="squeeze_excite")(y)
        y = ConvNorm(self.channels, 1, **norm, name="project_conv")(y)
        return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class EfficientNet(nn.Module):
    """An EfficientNet up to the deepest of `levels`; yields the outputs of those."""

    stages: tuple[Stage, ...]
    levels: tuple[str, ...]
    padding: int | str
    """Image size whose "SAME" padding is used for every input; or "same", "symmetric"."""
    stem_channels: int
    head_channels: int
    squeeze: bool
    activation: Callable[[Array], Array]
    epsilon: float = 1e-3
    folded: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Features:
        """Map network input `(B, H, W, 3)` to `{level: (B, h, w, C)}`."""
        norm = {"epsilon": self.epsilon, "folded": self.folded}
        pad_and_shrink = paddings(self.padding)
        stem = ConvNorm(self.stem_channels, 3, 2, pad_and_shrink(3, 2), **norm, name="conv_stem")
        x = self.activation(stem(x))
        features: Features = {}
        block = 0
        for level, stage in zip(LEVELS[: reached(self.levels, LEVELS)], self.stages):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                x = MBConv(
                    stage.channels,
                    stage.kernel_size,
                    stride,
                    stage.expand,
                    pad_and_shrink(stage.kernel_size, stride),
                    self.squeeze,
                    self.activation,
                    **norm,
                    name=f"blocks_{block}",
                )(x)
                block += 1
            if level in self.levels:
                features[level] = x
        if HEAD in self.levels:
            head = ConvNorm(self.head_channels, 1, **norm, name="conv_head")
            features[HEAD] = self.activation(head(x))
        return features

"""The layers that all backbones are made of, for inference: convolution with BatchNorm, max-pool.

How a convolution is computed is decided here and nowhere else. XLA's convolution on CPU is slow at
two shapes that these networks are full of, so both are written as what they are: a 1x1 convolution
is a matrix product over channels (2 to 5 times faster), a depthwise convolution is a sum of shifted
products (15 to 40 times faster). Parameters keep the shape of a convolution kernel throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxad.core import Array

Padding = tuple[tuple[int, int], tuple[int, int]] | Literal["SAME"]
"""Zeros before and after, along height and width; "SAME" is TensorFlow's, by the input at hand."""


def same_padding(size: int, *, kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis of `size`, as TensorFlow's "SAME" places them.

    The output then has `ceil(size / stride)` positions; the odd zero comes last.
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def symmetric_padding(padding: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The same number of zeros on all four sides, as PyTorch's integer padding."""
    return ((padding, padding), (padding, padding))


def convolve(x: Array, kernel: Array, *, stride: int, padding: Padding, groups: int = 1) -> Array:
    """Convolve `(B, H, W, I)` with an HWIO kernel `(kh, kw, I / groups, O)` to `(B, h, w, O)`.

    Args:
        x: The input.
        kernel: The kernel, of the same dtype.
        stride: Along both axes.
        padding: Explicit zeros, or "SAME".
        groups: 1, or the number of channels of a depthwise convolution, or anything that divides.
    """
    kh, kw = kernel.shape[:2]
    if padding == "SAME":
        height, width = x.shape[1:3]
        padding = (
            same_padding(height, kernel_size=kh, stride=stride),
            same_padding(width, kernel_size=kw, stride=stride),
        )
    if kh == kw == 1 and groups == 1 and padding == ((0, 0), (0, 0)):
        return jnp.dot(x[:, ::stride, ::stride, :], kernel[0, 0])
    if groups == x.shape[-1] == kernel.shape[-1]:
        return _depthwise(x, kernel, stride=stride, padding=padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _depthwise(
    x: Array, kernel: Array, *, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]
) -> Array:
    """Sum over the taps of the kernel of shifted input times that tap's weight per channel."""
    kh, kw = kernel.shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, height, width, channels = x.shape
    h, w = (height - kh) // stride + 1, (width - kw) // stride + 1
    shape = (batch, h, w, channels)
    y = jnp.zeros(shape, x.dtype)
    for i in range(kh):
        for j in range(kw):
            # lax, not indexing: large networks have hundreds of taps to trace.
            end = (batch, i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, channels)
            shifted = lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
            tap = lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, 1, channels))
            y = lax.add(y, lax.mul(shifted, lax.broadcast_in_dim(tap, shape, (0, 1, 2, 3))))
    return y


def max_pool(x: Array, *, size: int, stride: int, padding: int = 0) -> Array:
    """Largest value of each `size` x `size` window of `(B, H, W, C)`; padded places never win."""
    return nn.max_pool(x, (size, size), (stride, stride), symmetric_padding(padding))


def he_fan_out_std(shape: tuple[int, ...]) -> float:
    """Standard deviation of an HWIO kernel: He et al. 2015, fan-out mode, as torchvision has it.

    The fan of a depthwise kernel, `(kh, kw, 1, C)`, is that of one channel.
    """
    kh, kw, inputs, outputs = shape
    return float((2.0 / (kh * kw * (outputs if inputs > 1 else 1))) ** 0.5)


class Conv(nn.Module):
    """A convolution without activation; parameters `kernel` (HWIO) and, where asked, `bias`."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, I)` to `(B, h, w, features)`."""
        size, groups = self.kernel_size, self.groups
        shape = (size, size, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", nn.initializers.normal(he_fan_out_std(shape)), shape)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding, groups=groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            y = y + bias.reshape(1, 1, 1, -1)
        return y


class ConvNorm(nn.Module):
    """A convolution and its BatchNorm with running statistics: children `conv` and `bn`.

    `folded` takes the form that `fold_batch_norm` gives: `conv` with a bias, and no `bn`. It is
    also the form of a convolution that never had BatchNorm.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1
    epsilon: float = 1e-5
    folded: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, H, W, I)` to `(B, h, w, features)`."""
        y: Array = Conv(
            features=self.features,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            use_bias=self.folded,
            name="conv",
        )(x)
        if not self.folded:
            y = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="bn")(y)
        return y


def reached(levels: Sequence[str], order: Sequence[str]) -> int:
    """Return how many stages of `order` must be computed to yield all of `levels`."""
    return max(order.index(level) for level in levels) + 1

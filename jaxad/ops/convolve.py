"""Convolution for inference and training, put to XLA in the form that it computes fast.

How a convolution is computed is decided here and nowhere else. XLA's convolution on CPU is slow at
two shapes that these networks are full of, so both are written as what they are: a 1x1 convolution
is a matrix product over channels (2 to 5 times faster), a depthwise convolution is a sum of shifted
products (15 to 40 times faster). Parameters keep the shape of a convolution kernel throughout.

Another run time has convolutions of its own, and gets them as such: `jaxad.runtimes` takes the
branches for the platform "onnx", which XLA has not.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import lax

from jaxad.core import Array
from jaxad.ops.precision import NETWORK

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
    pads = padding

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision=NETWORK,
        )

    def product(x: Array, kernel: Array) -> Array:
        return jnp.dot(x[:, ::stride, ::stride, :], kernel[0, 0], precision=NETWORK)

    def depthwise(x: Array, kernel: Array) -> Array:
        return _depthwise(x, kernel, stride=stride, padding=pads)

    if kh == kw == 1 and groups == 1 and pads == ((0, 0), (0, 0)):
        y = lax.platform_dependent(x, kernel, onnx=plain, default=product)
    elif groups == x.shape[-1] == kernel.shape[-1]:
        y = lax.platform_dependent(x, kernel, onnx=plain, default=depthwise)
    else:
        y = plain(x, kernel)
    convolved: Array = y
    return convolved


def convolve_up(x: Array, kernel: Array) -> Array:
    """Convolve `(B, h, w, I)` transposed, by a kernel as long as its stride: `(B, h n, w n, O)`.

    The kernel is `(n, n, I, O)`, of the same dtype. Its places do not overlap, so it is one matrix
    product and a change of order. Equal to torch's `conv_transpose2d(x, kernel, stride=n)`.
    """
    n, _, inputs, outputs = kernel.shape
    flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, inputs, n * n * outputs)
    y = convolve(x, flat, stride=1, padding=symmetric_padding(0))
    batch, h, w, _ = x.shape
    y = y.reshape(batch, h, w, n, n, outputs).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, h * n, w * n, outputs)


def _depthwise(
    x: Array, kernel: Array, *, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]
) -> Array:
    """Sum over the taps of the kernel of shifted input times that tap's weight per channel."""
    kh, kw = kernel.shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    # XLA would otherwise read the middle tap from x as it was before, and compute that once more.
    x = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
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

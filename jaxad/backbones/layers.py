"""The layers that all backbones are made of: convolution with BatchNorm, pool."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from jaxad.core import Array
from jaxad.ops.convolve import Padding, convolve, symmetric_padding
from jaxad.ops.layers import BatchNorm


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
        # Zeros: linen traces an initialiser in every call, and `init_backbone` draws by itself.
        kernel = self.param("kernel", nn.initializers.zeros_init(), shape)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding, groups=groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            y = y + bias.reshape(1, 1, 1, -1)
        return y


class ConvNorm(nn.Module):
    """A convolution and its BatchNorm: children `conv` and `bn`.

    `folded` takes the form that `fold_batch_norm` gives: `conv` with a bias, and no `bn`. It is
    also the form of a convolution that never had BatchNorm. `train` takes the statistics of the
    batch, over all devices of `axis_name`, and moves the running ones.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1
    epsilon: float = 1e-5
    folded: bool = True
    train: bool = False
    axis_name: str | None = None

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
            norm = BatchNorm(epsilon=self.epsilon, axis_name=self.axis_name, name="bn")
            y = norm(y, train=self.train)
        return y


def reached(levels: Sequence[str], order: Sequence[str]) -> int:
    """Return how many stages of `order` must be computed to yield all of `levels`."""
    return max(order.index(level) for level in levels) + 1

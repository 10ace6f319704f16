"""Trainable layers that behave as torch's: running variance and initialisation."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.core import Array
from jaxad.ops.precision import NETWORK, at_least_float32


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, as torch's `BatchNorm1d` / `BatchNorm2d`.

    It normalises by the biased variance and, unlike linen's, keeps the unbiased one as running
    statistic. With `axis_name` the statistics span all devices of that mapped axis. Without
    variables (`jaxad.ops.fold` took them into the layer before) it does nothing. Of half precision
    only what comes in and goes out may be.
    """

    momentum: float = 0.1
    """Weight of the new batch in the running statistics (torch's convention)."""
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Normalise `(..., C)`."""
        channels = x.shape[-1]
        if not (train or self.is_initializing() or self.has_variable("params", "scale")):
            return x
        dtype, x = x.dtype, at_least_float32(x)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        # There is no mapped axis yet when the variables are made.
        axis_name = None if self.is_initializing() else self.axis_name
        if train:
            count = x.size // channels
            mean = jnp.mean(x.reshape(-1, channels), axis=0)
            if axis_name is not None:
                mean = jax.lax.pmean(mean, axis_name)
                count = count * jax.lax.axis_size(axis_name)
            # Two passes: E[x²] − E[x]² would cancel for features of small spread.
            centred = x - mean.reshape((1,) * (x.ndim - 1) + (channels,))
            var = jnp.mean(jnp.square(centred).reshape(-1, channels), axis=0)
            if axis_name is not None:
                var = jax.lax.pmean(var, axis_name)
            if not self.is_initializing():
                keep = 1 - self.momentum
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
            centred = x - mean.reshape((1,) * (x.ndim - 1) + (channels,))
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (channels,)
        return (centred * gain.reshape(shape) + bias.reshape(shape)).astype(dtype)


class Linear(nn.Module):
    """A dense layer on the last axis, initialised as torch's `Linear` and 1×1 `Conv2d`.

    Kernel and bias are uniform within ±1/√fan_in.
    """

    features: int
    xavier: bool = False
    """Draw the kernel as torch's `xavier_normal_`."""
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(..., C)` to `(..., features)`."""
        bound = float(x.shape[-1]) ** -0.5

        def uniform(rng: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(rng, shape, minval=-bound, maxval=bound)

        draw = nn.initializers.xavier_normal() if self.xavier else uniform
        kernel = self.param("kernel", draw, (x.shape[-1], self.features))
        y = jnp.dot(x.astype(kernel.dtype), kernel, precision=NETWORK)
        if not self.use_bias:
            return y
        bias = self.param("bias", uniform, (self.features,))
        return y + bias.reshape((1,) * (x.ndim - 1) + (self.features,))

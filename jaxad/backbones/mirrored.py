"""A frozen network that sees every photo twice, as it is and mirrored left to right.

For what is the same thing either way round, such as the objects of CIFAR-10: the mean of both has
less of what is the photo's alone. It costs the network twice. As a part of the network it holds
wherever that is used: training, scoring, caches, exported programs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxad.core import Array, Backbone, Features, Variables, as_inner


class Mirrored(nn.Module):
    """The mean of a network's features of a photo and of its mirror image, turned back."""

    inner: nn.Module

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` float32 to maps `(B, h, w, C)`, as the network's own."""
        # One call for both: the network is traced and compiled once.
        found: Features = self.inner(jnp.concatenate([x, x[:, :, ::-1]]))
        return jax.tree.map(_mean, found)


def mirrored(network: Backbone, variables: Variables) -> tuple[Backbone, dict[str, Any]]:
    """Put `Mirrored` behind a backbone."""
    twice = dataclasses.replace(network, module=Mirrored(network.module))
    return twice, as_inner(variables)


def _mean(x: Array) -> Array:
    """Map `(2B, h, w, C)`, photos before their mirror images, to `(B, h, w, C)`."""
    seen, reflected = jnp.split(x, 2)
    return (seen + reflected[:, :, ::-1]) / 2

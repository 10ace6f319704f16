"""The vocabulary of jaxad: the few shapes that every room speaks.

An image batch flows through frozen backbones into named feature maps (`Features`); a `Method` turns
feature maps into a loss or into `Scores`. Everything here is data or a tuple of pure functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.errors import InputError as InputError

Array = jax.Array
Features = dict[str, Array]
"""Level name -> `(B, h, w, C)` float32 (or `(n, C)` once positions have been drawn)."""
Variables = dict[str, Any]
"""A linen variable tree: collection name ("params", "batch_stats", ...) -> tree of arrays."""
Metrics = dict[str, tuple[Array, Array]]
"""Metric name -> (sum, count); adds across batches, devices and hosts."""


def pick(features: Features, names: Sequence[str]) -> list[Array]:
    """Return the named features, in this order.

    Raises:
        InputError: One is missing.
    """
    for name in names:
        if name not in features:
            raise InputError(f"no feature {name!r}; there are {sorted(features)}")
    return [features[name] for name in names]


class Scores(NamedTuple):
    """Anomaly scores, higher is more anomalous, raw (never scaled per image)."""

    map: Array
    """`(B, H, W)` float32, at the resolution of the input images."""
    image: Array
    """`(B,)` float32."""


class Level(NamedTuple):
    """What a backbone yields at one level."""

    channels: int
    stride: int
    """Input pixels per feature position, along each axis."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How the pixels of one set of weights are prepared: `(x * scale - mean) / std`, per channel.

    It belongs to the weights, so two backbones of one detector may differ.
    """

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: str = "RGB"
    """Order that the network reads, "RGB" or "BGR"; `mean` and `std` are in this order."""
    resize: str = "bilinear"
    """The filter the weights were trained with, used where a configuration names none."""

    def __call__(self, images: Array) -> Array:
        """Turn `(B, H, W, 3)` uint8 RGB pixels into `(B, H, W, 3)` float32 network input."""
        x = images.astype(jnp.float32)
        if self.channels == "BGR":
            x = x[..., ::-1]
        mean = jnp.asarray(self.mean, jnp.float32).reshape(1, 1, 1, 3)
        std = jnp.asarray(self.std, jnp.float32).reshape(1, 1, 1, 3)
        return (x * jnp.float32(self.scale) - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen feature extractor: a linen module, its levels as data, its preprocessing."""

    name: str
    module: nn.Module
    """Maps `(B, H, W, 3)` float32 to `Features` with exactly the keys of `levels`."""
    levels: Mapping[str, Level]
    """In order of depth; nothing above the last one is built or computed."""
    preprocess: Preprocess

    def features(self, variables: Variables, images: Array) -> Features:
        """Map `(B, H, W, 3)` uint8 RGB images to their feature maps, preprocessing included."""
        x = self.preprocess(images)
        dtype = jax.tree.leaves(variables["params"])[0].dtype
        features: Features = self.module.apply(variables, x.astype(dtype))
        return {name: value.astype(jnp.float32) for name, value in features.items()}


class Aux(NamedTuple):
    """What a loss yields beside its value."""

    updates: Variables
    """New values of the collections that are not trained by gradient, e.g. "batch_stats"."""
    metrics: Metrics


class Method(NamedTuple):
    """An anomaly detection method as pure functions of features, in the manner of optax."""

    init: Callable[[Array, Features], Variables]
    """`init(rng, features) -> variables`; only the shapes of `features` matter."""
    loss: Callable[[Variables, Features, Mapping[str, Array], Array], tuple[Array, Aux]]
    """`loss(variables, features, batch, rng) -> (scalar, aux)`, in training mode."""
    score: Callable[..., Scores]
    """`score(variables, features, *, size) -> Scores` with maps of `size = (H, W)`."""
    optimizer: Callable[[int], optax.GradientTransformation]
    """`optimizer(steps)`: the recipe's chain for a run of that many steps."""
    finalize: Callable[[Variables, Iterable[Any]], Variables] | None = None
    """`finalize(variables, batches)`: statistics from a pass over the training images, in pairs
    `(features, batch)` as `loss` takes them."""
    prepare: Callable[[Variables], Variables] | None = None
    """`prepare(variables)`: a form of them that gives equal scores faster, and serves `score` alone
    (BatchNorm folded, linear layers merged)."""

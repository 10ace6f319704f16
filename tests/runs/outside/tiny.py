"""A recipe outside the package, whose programs compile in moments: for tests of the jobs.

One random convolution is the frozen network; the method learns the mean of its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Backbone, Features, Level, Method, Preprocess, Scores, Variables
from jaxad.keys import Key, flag, integer, number
from jaxad.ops.resample import resize_map
from jaxad.recipes.recipe import Backbones, Phase, Recipe

KEYS = {
    "random_weights": Key(True, flag(), "drawn anew by every replicate"),
    "channels": Key(4, integer(least=1), "of the features"),
    "learning_rate": Key(0.1, number(above=0), "of the mean"),
}
FEATURE = "backbone/level"


class Convolution(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Features:
        return {"level": nn.Conv(self.channels, (4, 4), strides=(4, 4))(x)}


class Mean(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mean = self.param("mean", nn.initializers.normal(), (1, self.channels)).astype(x.dtype)
        return jnp.sum((x - mean.reshape((1,) * (x.ndim - 1) + (-1,))) ** 2, axis=-1)


def backbones(config: Any) -> Backbones:
    m = config.method
    module = Convolution(m.channels)
    seed = config.train.seed if m.random_weights else 0
    variables = module.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))
    network = Backbone("tiny", module, {"level": Level(m.channels, 4)}, Preprocess())
    return Backbones({"backbone": network}, {"backbone": variables}, {"backbone": f"seed {seed}"})


def method(
    config: Any, networks: Mapping[str, Backbone], *, axis_name: str | None, subclasses: int
) -> tuple[Method, list[Phase]]:
    module = Mean(config.method.channels)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del batch, rng
        return jnp.mean(module.apply(variables, features[FEATURE])), Aux({}, {})

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        map_ = resize_map(module.apply(variables, features[FEATURE]), size=size)
        return Scores(map_, map_.max(axis=(1, 2)))

    whole = Method(
        init=lambda rng, features: module.init(rng, features[FEATURE]),
        loss=loss,
        score=score,
        optimizer=lambda steps: optax.adam(config.method.learning_rate),
    )
    t = config.train
    steps, positions = (values[0] if values else 0 for values in (t.steps, t.positions))
    return whole, [Phase("all", whole, steps, positions, (FEATURE,))]


RECIPE = Recipe(KEYS, backbones, method)

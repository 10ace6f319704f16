"""From a configuration to Dinomaly: the only reader of its `method.*` keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxad.backbones.vit import BLOCKS, OTHERS, VisionTransformer
from jaxad.core import Array, Backbone, Features, InputError, Level, Method, Variables, as_inner
from jaxad.keys import Key, flag, integer, number, several, text
from jaxad.methods.dinomaly import dinomaly
from jaxad.recipes.recipe import (
    ROLE,
    Backbones,
    Phase,
    Recipe,
    read_through,
    steps_of_one_phase,
)

KEYS = {
    "backbone": Key("dinov2_vitb14_reg", text(empty=False), "vision transformer or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        BLOCKS[2:10],
        several(text(empty=False), empty=False, distinct=True, what="levels"),
        "blocks that are rebuilt; the decoder has as many",
    ),
    "groups": Key(
        2, integer(least=1, most=100), "of so many averages of levels each is rebuilt as one"
    ),
    "heads": Key(
        0, integer(least=0, most=1024), "of every attention; 0 = one for each 64 channels"
    ),
    "dropout": Key(0.2, number(least=0, below=1), "share that the bottleneck leaves out"),
    "easy": Key(
        0.1, number(least=0, most=1), "factor on gradients of positions that are rebuilt well"
    ),
    "easy_share": Key(0.9, number(least=0, most=1), "of positions, that are taken for such"),
    "easy_steps": Key(
        1000, integer(least=0), "steps in which that share rises from 0; 0 = it is there at once"
    ),
    "learning_rate": Key(
        (2e-3, 2e-4),
        several(number(above=0), count=2, empty=False, what="values, the peak and the last one"),
        "of StableAdamW, along a cosine",
    ),
    "warmup": Key(100, integer(least=0), "steps in which it rises, at most half of all"),
    "weight_decay": Key(1e-4, number(least=0), "decoupled"),
    "clip": Key(0.1, number(least=0), "largest norm of the gradient; 0 = any"),
    "top_share": Key(
        0.01, number(least=0, most=1), "pixels whose mean is the image score; 0 = the highest"
    ),
    "smoothing": Key(
        4.0,
        number(least=0, most=1000),
        "Gaussian on the score map, standard deviation, pixels; cut off after half of it",
    ),
}
"""Below `method`."""


class Grouped(nn.Module):
    """A frozen transformer up to what Dinomaly reads: averages of its blocks."""

    inner: nn.Module
    levels: tuple[str, ...]
    groups: int

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` to "group1" and so on, and to `OTHERS` of all levels."""
        found = self.inner(x)

        def mean(names: list[str]) -> Array:
            return jnp.mean(jnp.stack([found[name] for name in names]), axis=0)

        each = len(self.levels) // self.groups
        features = {
            f"group{n + 1}": mean(list(self.levels[n * each : (n + 1) * each]))
            for n in range(self.groups)
        }
        return {**features, OTHERS: mean([f"{name}/{OTHERS}" for name in self.levels])}


def grouped(
    network: Backbone, variables: Variables, *, groups: int
) -> tuple[Backbone, dict[str, Any]]:
    """Put `Grouped` behind a vision transformer.

    Raises:
        InputError: It is none, or its levels do not divide into the groups.
    """
    inner, levels = network.module, tuple(network.levels)
    if not isinstance(inner, VisionTransformer):
        raise InputError(
            f"method.backbone is {network.name}: Dinomaly rebuilds the blocks of a vision "
            "transformer, such as dinov2_vits14_reg"
        )
    if len(levels) % groups:
        raise InputError(
            f"method.groups is {groups}: the {len(levels)} levels do not divide into so many"
        )
    # The authors' networks resize their positions so, those with registers, too.
    inner = inner.clone(others=True, offset=True)
    level = network.levels[levels[0]]
    named = dict.fromkeys([f"group{n + 1}" for n in range(groups)], level)
    named[OTHERS] = Level((1 + inner.registers) * level.channels, 0)
    whole = dataclasses.replace(network, module=Grouped(inner, levels, groups), levels=named)
    return whole, as_inner(variables)


def backbones(config: Any) -> Backbones:
    """Load the one network, and put `Grouped` behind it; raises as `read_through`."""
    return read_through(config, grouped, groups=config.method.groups)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make Dinomaly, trained in one phase on whole maps."""
    del subclasses
    m, network = config.method, networks[ROLE]
    steps = steps_of_one_phase(config, "Dinomaly trains in one phase on whole maps")
    groups = tuple(f"{ROLE}/{name}" for name in network.levels if name != OTHERS)
    others = f"{ROLE}/{OTHERS}"
    channels = next(iter(network.levels.values())).channels
    same = ("dropout", "easy", "easy_share", "easy_steps", "warmup", "weight_decay", "clip")
    whole = dinomaly(
        groups,
        others,
        blocks=len(m.levels),
        heads=m.heads or max(channels // 64, 1),
        learning_rate=tuple(m.learning_rate),
        top_share=m.top_share,
        smoothing=m.smoothing,
        axis_name=axis_name,
        **{key: m[key] for key in same},
    )
    return whole, [Phase("all", whole, steps, 0, (*groups, others))]


RECIPE = Recipe(KEYS, backbones, method)

"""From a configuration to SimpleNet: the only reader of its `method.*` keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxad.core import Array, Backbone, Features, InputError, Level, Method, Variables, as_inner
from jaxad.keys import Key, flag, integer, number, several, text
from jaxad.methods.simplenet import patch_features, simplenet
from jaxad.recipes.recipe import Backbones, Phase, Recipe, read_through

_TWO = "values, of adaptor and discriminator"

KEYS = {
    "backbone": Key("wide_resnet50_2", text(empty=False), "architecture or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        ("layer2", "layer3"),
        several(text(empty=False), distinct=True, what="levels"),
        "levels of the patch features; the one whose resolution counts first; () = the usual ones",
    ),
    "embedding": Key(1536, integer(least=1, most=65536), "channels of the patch features"),
    "hidden": Key(1024, integer(least=1, most=65536), "width of the discriminator, channels"),
    "noise": Key(0.015, number(least=0), "standard deviation of the noise on adapted features"),
    "margin": Key(0.5, number(least=0), "of the loss"),
    "learning_rate": Key(
        (1e-4, 2e-4),
        several(number(above=0), count=2, empty=False, what=_TWO),
        "learning rates",
    ),
    "weight_decay": Key(
        (1e-2, 1e-5),
        several(number(least=0), count=2, empty=False, what=_TWO),
        "decoupled for the adaptor, L2 for the discriminator",
    ),
    "smoothing": Key(
        4.0, number(least=0, most=1000), "Gaussian on the score map, standard deviation, pixels"
    ),
}
"""Below `method`."""

PATCHES = "patches"
FEATURE = f"backbone/{PATCHES}"


class Patches(nn.Module):
    """A frozen network up to its patch features: all that SimpleNet reads, and all that is cached.

    They are a fixed function of the image as the levels are, and position by position.
    """

    inner: nn.Module
    levels: tuple[str, ...]
    width: int

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` float32 to the patch features `(B, h, w, width)`."""
        return {PATCHES: patch_features(self.inner(x), self.levels, width=self.width)}


def patched(
    network: Backbone, variables: Variables, *, width: int
) -> tuple[Backbone, dict[str, Any]]:
    """Put `Patches` behind a backbone."""
    levels = tuple(network.levels)
    channels = width or sum(level.channels for level in network.levels.values())
    whole = dataclasses.replace(
        network,
        module=Patches(network.module, levels, width),
        levels={PATCHES: Level(channels, network.levels[levels[0]].stride)},
    )
    return whole, as_inner(variables)


def backbones(config: Any) -> Backbones:
    """Load the one network, and put `Patches` behind it; raises as `read_through`."""
    return read_through(config, patched, width=config.method.embedding)


def expert_options(config: Any) -> dict[str, Any]:
    """How an adaptor and discriminator are trained."""
    m = config.method
    return {
        "noise": m.noise,
        "margin": m.margin,
        "learning_rates": tuple(m.learning_rate),
        "weight_decays": tuple(m.weight_decay),
    }


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make SimpleNet, trained in one phase on whole maps or drawn positions."""
    del networks, subclasses
    m, train = config.method, config.train
    if len(train.steps) > 1 or len(train.positions) > 1:
        raise InputError("SimpleNet trains in one phase: train.steps and positions are (N,) or ()")
    whole = simplenet(
        FEATURE,
        hidden=m.hidden,
        smoothing=m.smoothing,
        axis_name=axis_name,
        **expert_options(config),
    )
    steps, positions = (values[0] if values else 0 for values in (train.steps, train.positions))
    return whole, [Phase("all", whole, steps, positions, (FEATURE,))]


RECIPE = Recipe(KEYS, backbones, method)

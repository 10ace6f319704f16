"""From a configuration to SPADE: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.core import Backbone, Method
from jaxad.keys import Key, flag, integer, several, text
from jaxad.methods.spade import spade
from jaxad.recipes.recipe import ROLE, Backbones, Phase, Recipe, check_no_steps, one_network
from jaxad.recipes.simplenet import KEYS as SIMPLENET

KEYS = {
    **{name: SIMPLENET[name] for name in ("backbone", "random_weights")},
    "levels": Key(
        ("layer1", "layer2", "layer3"),
        several(text(empty=False), distinct=True, what="levels"),
        "levels that the map is the mean of; () = the map is the image score, everywhere",
    ),
    "pooled": Key(
        "layer4",
        text(empty=False),
        "level whose mean over positions tells which photos are nearest",
    ),
    "neighbours": Key(5, integer(least=1, most=1000), "photos that are nearest; 50 in the paper"),
    "cosine": Key(False, flag(), "1 - cosine instead of Euclidean distances"),
    "smoothing": SIMPLENET["smoothing"],
}
"""Below `method`."""


def backbones(config: Any) -> Backbones:
    """Load the one network up to all levels that are read; raises as `one_network`."""
    return one_network(config, levels=(*config.method.levels, config.method.pooled))


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make SPADE, which has no phases.

    Raises:
        InputError: The configuration speaks of steps.
    """
    del networks, axis_name, subclasses
    check_no_steps(config, "SPADE")
    m = config.method
    return spade(
        [f"{ROLE}/{level}" for level in m.levels],
        pooled=f"{ROLE}/{m.pooled}",
        neighbours=m.neighbours,
        cosine=m.cosine,
        smoothing=m.smoothing,
    ), []


RECIPE = Recipe(KEYS, backbones, method)

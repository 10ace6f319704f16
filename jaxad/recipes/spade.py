"""From a configuration to SPADE: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.backbones.mirrored import mirrored
from jaxad.core import Backbone, Method
from jaxad.keys import Key, flag, integer, several, text
from jaxad.methods.spade import spade
from jaxad.recipes.afrad import KEYS as AFRAD
from jaxad.recipes.recipe import (
    ROLE,
    Backbones,
    Phase,
    Recipe,
    check_no_steps,
    one_network,
    read_through,
)
from jaxad.recipes.simplenet import KEYS as SIMPLENET

KEYS = {
    **{name: SIMPLENET[name] for name in ("backbone", "random_weights")},
    "mirror": AFRAD["mirror"],
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
    "root": Key(False, flag(), "photos are compared by the square roots of their means (ours)"),
    "smoothing": SIMPLENET["smoothing"],
}
"""Below `method`."""


def backbones(config: Any) -> Backbones:
    """Load the one network up to all levels that are read, and put `Mirrored` behind it if asked.

    Raises as `one_network`.
    """
    m = config.method
    levels = (*m.levels, m.pooled)
    if m.mirror:
        return read_through(config, mirrored, levels=levels)
    return one_network(config, levels=levels)


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
        root=m.root,
        smoothing=m.smoothing,
    ), []


RECIPE = Recipe(KEYS, backbones, method)

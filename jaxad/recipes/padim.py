"""From a configuration to PaDiM: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.core import Backbone, Method
from jaxad.keys import Key, flag, integer, several, text
from jaxad.methods.padim import padim
from jaxad.recipes.recipe import ROLE, Phase, Recipe, check_no_steps, one_network
from jaxad.recipes.simplenet import KEYS as SIMPLENET

KEYS = {
    "backbone": Key("resnet18", text(empty=False), "architecture or weight file"),
    "random_weights": SIMPLENET["random_weights"],
    "levels": Key(
        ("layer1", "layer2", "layer3"),
        several(text(empty=False), distinct=True, what="levels"),
        "levels to read; the one whose resolution counts first; () = the usual ones",
    ),
    "dimensions": Key(
        100, integer(least=0, most=65536), "channels that are drawn of all levels'; 0 = all"
    ),
    "full": Key(True, flag(), "whole covariances instead of variances alone"),
    "smoothing": SIMPLENET["smoothing"],
}
"""Below `method`."""


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make PaDiM, which has no phases.

    Raises:
        InputError: The configuration speaks of steps.
    """
    del axis_name, subclasses
    check_no_steps(config, "PaDiM")
    m = config.method
    levels = [f"{ROLE}/{level}" for level in networks[ROLE].levels]
    return padim(levels, dimensions=m.dimensions, full=m.full, smoothing=m.smoothing), []


RECIPE = Recipe(KEYS, one_network, method)

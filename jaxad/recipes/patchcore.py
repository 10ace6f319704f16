"""From a configuration to PatchCore: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.core import Backbone, Method
from jaxad.keys import Key, choice, flag, integer, number
from jaxad.methods.patchcore import SAMPLERS, patchcore
from jaxad.recipes.recipe import Phase, Recipe, check_no_steps
from jaxad.recipes.simplenet import FEATURE, backbones
from jaxad.recipes.simplenet import KEYS as SIMPLENET

KEYS = {
    **{name: SIMPLENET[name] for name in ("backbone", "random_weights", "levels")},
    "embedding": Key(
        1024,
        integer(least=0, most=65536),
        "channels of the patch features; 0 = all channels of all levels, each averaged over 3 x 3 "
        "positions, as in anomalib",
    ),
    "sampler": Key(
        "reference",
        choice(*SAMPLERS),
        "what chooses the bank: greedy k-centre from the mean distance to ten patches, greedy = "
        "from one patch as textbooks have it",
    ),
    "share": Key(0.1, number(above=0, most=1), "of all training patches, in the bank"),
    "projection": Key(
        128,
        integer(least=0, most=65536),
        "numbers that a patch is projected to while the bank is chosen; 0 = not projected",
    ),
    "squared": Key(True, flag(), "squared distances instead of distances"),
    "neighbours": Key(
        1, integer(least=1, most=1000), "members whose mean distance is a patch's score"
    ),
    "reweighting": Key(
        0,
        integer(least=0, most=1000),
        "neighbours by which anomalib weighs the image score (9 there); 0 = not weighed",
    ),
    "top_share": Key(
        0.0, number(least=0, most=1), "patches whose mean is the image score; 0 = the highest"
    ),
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
    """Make PatchCore, which has no phases.

    Raises:
        InputError: The configuration speaks of steps, or its keys contradict each other.
    """
    del networks, axis_name, subclasses
    check_no_steps(config, "PatchCore")
    m = config.method
    return patchcore(
        FEATURE,
        sampler=m.sampler,
        share=m.share,
        narrow=m.projection,
        squared=m.squared,
        neighbours=m.neighbours,
        reweighting=m.reweighting,
        top_share=m.top_share,
        smoothing=m.smoothing,
    ), []


RECIPE = Recipe(KEYS, backbones, method)

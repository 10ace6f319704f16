"""From a configuration to AnomalyDINO: the only reader of its `method.*` keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxad.core import Array, Backbone, Features, Level, Method, Variables, as_inner
from jaxad.keys import Key, flag, number, several, text
from jaxad.methods.anomaly_dino import directions, foreground
from jaxad.methods.patchcore import patchcore
from jaxad.recipes.patchcore import KEYS as PATCHCORE
from jaxad.recipes.recipe import ROLE, Backbones, Phase, Recipe, check_no_steps, read_through

KEYS = {
    "backbone": Key("dinov2_vits14", text(empty=False), "architecture or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        ("norm",), several(text(empty=False), count=1, empty=False, what="levels"), "of the patches"
    ),
    "foreground": Key(
        0.0,
        number(least=0),
        "patches of a photo score whose first principal component is beyond this, the others have "
        "0; 10 in the authors' code for 5 of 15 categories of MVTec AD; 0 = all score",
    ),
    "share": PATCHCORE["share"]._replace(default=1.0),
    "neighbours": PATCHCORE["neighbours"],
    "top_share": PATCHCORE["top_share"]._replace(default=0.01),
    "smoothing": PATCHCORE["smoothing"],
}
"""Below `method`."""

PATCHES, PART = "patches", "part"


class Patches(nn.Module):
    """A frozen network up to what AnomalyDINO reads."""

    inner: nn.Module
    level: str
    foreground: float

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` float32 to directions of patches `(B, h, w, C)`, and which count."""
        found = self.inner(x)[self.level]
        features = {PATCHES: directions(found)}
        if self.foreground:
            features[PART] = foreground(found, threshold=self.foreground)
        return features


def patched(
    network: Backbone, variables: Variables, *, foreground: float
) -> tuple[Backbone, dict[str, Any]]:
    """Put `Patches` behind a backbone of one level."""
    ((name, level),) = network.levels.items()
    levels = {PATCHES: level} | ({PART: Level(1, level.stride)} if foreground else {})
    whole = dataclasses.replace(
        network, module=Patches(network.module, name, foreground), levels=levels
    )
    return whole, as_inner(variables)


def backbones(config: Any) -> Backbones:
    """Load the one network, and put `Patches` behind it; raises as `read_through`."""
    return read_through(config, patched, foreground=config.method.foreground)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make AnomalyDINO, which has no phases.

    Raises:
        InputError: The configuration speaks of steps.
    """
    del networks, axis_name, subclasses
    check_no_steps(config, "AnomalyDINO")
    m = config.method
    return patchcore(
        f"{ROLE}/{PATCHES}",
        sampler="random",
        share=m.share,
        neighbours=m.neighbours,
        top_share=m.top_share,
        smoothing=m.smoothing,
        weight=f"{ROLE}/{PART}" if m.foreground else "",
    ), []


RECIPE = Recipe(KEYS, backbones, method)

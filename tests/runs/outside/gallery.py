"""A recipe without phases that keeps several arrays of every photo: SPADE on one convolution."""

from __future__ import annotations

from typing import Any

from outside import tiny

from jaxad.core import Method
from jaxad.methods.spade import spade
from jaxad.recipes.recipe import Phase, Recipe, check_no_steps


def method(config: Any, *_: Any, **__: Any) -> tuple[Method, list[Phase]]:
    check_no_steps(config, "gallery")
    return spade([tiny.FEATURE], pooled=tiny.FEATURE, neighbours=2), []


RECIPE = Recipe(tiny.KEYS, tiny.backbones, method)

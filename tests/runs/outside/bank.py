"""A recipe without phases whose variables grow with the photos: PatchCore on one convolution."""

from __future__ import annotations

from typing import Any

from outside import tiny

from jaxad.core import Method
from jaxad.methods.patchcore import patchcore
from jaxad.recipes.recipe import Phase, Recipe, check_no_steps


def method(config: Any, *_: Any, **__: Any) -> tuple[Method, list[Phase]]:
    check_no_steps(config, "bank")
    return patchcore(tiny.FEATURE, narrow=0, squared=False, reweighting=3), []


RECIPE = Recipe(tiny.KEYS, tiny.backbones, method)

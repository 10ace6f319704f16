"""From a configuration to backbones and a method, by the recipe that it names."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from jaxad.core import InputError
from jaxad.detector import Detector
from jaxad.recipes import mixture
from jaxad.recipes.foreign import import_recipe
from jaxad.recipes.recipe import Backbones, Model, Recipe

OWN = (
    "pfm",
    "afrad",
    "simplenet",
    "adapted_moe",
    "patchcore",
    "padim",
    "spade",
    "rd4ad",
    "uniad",
    "stfpm",
    "efficientad",
    "draem",
    "anomaly_dino",
    "dinomaly",
)
"""The recipes in this folder."""


def recipe_named(name: str) -> Recipe:
    """Find a recipe: one of `OWN`, or the `RECIPE` of the module `package.module`.

    `adapted_moe:NAME` is Adapted-MoE with experts of recipe NAME.

    Raises:
        InputError: There is no such module, it does not import, or it has no recipe; or it can not
            be an expert.
    """
    if name.startswith(mixture.PREFIX):
        inner = name.removeprefix(mixture.PREFIX)
        if inner.startswith(mixture.PREFIX):
            raise InputError(f"method.name is {name[:200]!r}: experts have no experts")
        return mixture.recipe_of(recipe_named(inner), inner)
    if name in OWN:
        module = importlib.import_module(f"jaxad.recipes.{name}")
    elif "." in name:
        module = import_recipe(name)
    else:
        raise InputError(
            f"method.name is {name!r}: known are {', '.join(OWN)}, adapted_moe:RECIPE, or "
            "package.module of your own"
        )
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"method.name is {name!r}: that module has no RECIPE, a jaxad.recipes.recipe.Recipe"
        )
    return recipe


def network_keys(config: Any) -> Any:
    """The section whose keys name frozen networks: `method`, or that of its experts."""
    composed = config.method.name.startswith(mixture.PREFIX)
    return config.method.expert if composed else config.method


def build_backbones(config: Any) -> Backbones:
    """Load the frozen networks of the method that the configuration names.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    return recipe_named(config.method.name).backbones(config)


def models(
    config: Any, backbones: Backbones, *, axis_name: str | None = None
) -> Callable[[int], Model]:
    """Make `model(count)`: detector and phases for a number of subclasses, 0 where none are learnt.

    The same number gives the same object, so that programs compiled for it serve again.
    """
    recipe = recipe_named(config.method.name)

    @functools.cache
    def model(count: int) -> Model:
        method, phases = recipe.method(
            config, backbones.networks, axis_name=axis_name, subclasses=count
        )
        return Model(Detector(backbones.networks, method), phases)

    return model


def learns_subclasses(config: Any) -> bool:
    """Whether the method wants to know each training image's subclass."""
    return recipe_named(config.method.name).learns_subclasses(config)

"""From a configuration to backbones and a method, whichever it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxad.config import method_defaults
from jaxad.core import Backbone, InputError, Method
from jaxad.recipes import adapted_moe, afrad, pfm, simplenet
from jaxad.recipes.recipe import Backbones, Phase, Recipe

RECIPES = {
    "pfm": pfm.RECIPE,
    "afrad": afrad.RECIPE,
    "simplenet": simplenet.RECIPE,
    "adapted_moe": adapted_moe.RECIPE,
}
"""By `method.name`; the names are those of `jaxad.config.METHODS`."""


def _recipe(config: Any) -> Recipe:
    name = config.method.name
    missing = method_defaults(name).keys() - config.method.keys()
    if missing:
        raise InputError(
            f"method.name is {name!r}, but the configuration has another method's keys (no "
            f"method.{min(missing)}): start from one of the method's own in configs/"
        )
    return RECIPES[name]


def build_backbones(config: Any) -> Backbones:
    """Load the frozen networks of the method that the configuration names.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    return _recipe(config).backbones(config)


def build_method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: Sequence[str] = (),
) -> tuple[Method, list[Phase]]:
    """Make the whole method, and the phases that train it one after the other.

    `subclasses` names those of the training images, where the method `learns_subclasses`.
    """
    return _recipe(config).method(config, networks, axis_name=axis_name, subclasses=subclasses)


def learns_subclasses(config: Any) -> bool:
    """Whether the method wants to know each training image's subclass."""
    return _recipe(config).learns_subclasses(config)

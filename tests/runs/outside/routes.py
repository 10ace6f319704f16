"""The tiny recipe with two subclasses: photos without contrast to grey, and all others."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from outside import tiny

from jaxad.core import Array, Features, Method, Variables
from jaxad.keys import Key, integer
from jaxad.recipes.recipe import Phase, Recipe

KEYS = {**tiny.KEYS, "clusters": Key(0, integer(least=0), "subclasses to find; 0 = as labelled")}


def route(variables: Variables, features: Features) -> Array:
    x: Array = features[tiny.FEATURE]
    return (jnp.mean(jnp.square(x), axis=(1, 2, 3)) > 0.3).astype(jnp.int32)


def method(config: Any, *arguments: Any, **given: Any) -> tuple[Method, list[Phase]]:
    whole, phases = tiny.method(config, *arguments, **given)
    return whole._replace(route=route), phases


RECIPE = Recipe(KEYS, tiny.backbones, method, lambda config: True)

"""From a configuration to Adapted-MoE with experts of another recipe: `adapted_moe:RECIPE`.

`method.expert` is a section: what `method` is in that recipe's own configuration, read by it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxad.core import Array, Backbone, Features, InputError, Level, Method, as_inner
from jaxad.keys import Key, flag, number, text
from jaxad.methods.adaption import Adaption
from jaxad.methods.calibrated import LOCATION, SCALE
from jaxad.methods.mixture import Routed, learning, mixture
from jaxad.recipes.adapted_moe import KEYS as ADAPTED_MOE
from jaxad.recipes.adapted_moe import adaption_of, learns_subclasses, router_of
from jaxad.recipes.recipe import Backbones, Phase, Recipe, check_no_steps

PREFIX = "adapted_moe:"
_SAME = (
    *("moe", "shared", "adaption", "adapt_training", "statistics", "share", "axes"),
    *("clusters", "top_k", "temperature", "normalise_embedding", "router_width"),
    *("router_learning_rate", "centre_weight", "centre_rate"),
)
KEYS = {
    **{name: ADAPTED_MOE[name] for name in _SAME},
    "routed_by": Key(
        "", text(), "feature that the router reads, role/level; '' = the first network's middle one"
    ),
    "warm_start": Key(
        0.0,
        number(least=0, most=1),
        "share of every phase's steps that experts learn as one, from all subclasses, before each "
        "goes on by itself",
    ),
    "normalise_scores": Key(
        True, flag(), "tell an expert's scores in the mean and spread of its normal photos' scores"
    ),
}
"""Below `method`, beside those of the expert, which are below `method.expert`."""


class Described(nn.Module):
    """A frozen network's levels, and what Eq. 5 reads of a whole image, as levels of their own."""

    inner: nn.Module
    adaption: Adaption

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` float32 to every level, and its location and scale."""
        found: Features = dict(self.inner(x))
        for name, level in list(found.items()):
            found[name + LOCATION], found[name + SCALE] = self.adaption.of(level)
        return found


def described(network: Backbone, adaption: Adaption) -> Backbone:
    """Put `Described` behind a backbone."""
    levels = dict(network.levels)
    for name, (channels, stride) in network.levels.items():
        of_image = Level(adaption.width(channels), stride if adaption.axes == "channels" else 0)
        levels |= {name + LOCATION: of_image, name + SCALE: of_image}
    # Whatever the share, features are the same: what is equal is computed once.
    module = Described(network.module, adaption._replace(share=1.0))
    return dataclasses.replace(network, module=module, levels=levels)


def plain(network: Backbone) -> Backbone:
    """The levels alone, as the expert's own recipe knows them."""
    levels = {n: v for n, v in network.levels.items() if not n.endswith((LOCATION, SCALE))}
    return dataclasses.replace(network, levels=levels)


def of_expert(config: Any, *, name: str) -> Any:
    """The configuration of one expert, whose steps come behind the router's in `train.steps`."""
    own = copy.deepcopy(config)
    with own.unlocked(), own.ignore_type():
        own.method = own.method.expert
        own.method.name = name
        own.train.steps = tuple(config.train.steps)[1:]
        if config.method.moe:  # the router has them
            own.train.holdout, own.train.profile = 0.0, ()
    return own


def backbones(config: Any, *, expert: Recipe, name: str) -> Backbones:
    """Load the expert's networks, with statistics of whole images where training wants them."""
    found = expert.backbones(of_expert(config, name=name))
    adaption = adaption_of(config)
    if adaption is None or not adaption.training:
        return found
    variables = {role: as_inner(own) for role, own in found.variables.items()}
    networks = {role: described(network, adaption) for role, network in found.networks.items()}
    return found._replace(networks=networks, variables=variables)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
    expert: Recipe,
    name: str,
) -> tuple[Method, list[Phase]]:
    """Make the whole, and its phases: the router's, then the expert's own.

    `train.steps` is (router, *those of the expert's phases), `train.positions` the expert's.

    Raises:
        InputError: Unfit keys, or a method that can not be an expert.
    """
    m, own = config.method, of_expert(config, name=name)
    known = {role: plain(network) for role, network in networks.items()}
    try:
        whole, phases = expert.method(own, known, axis_name=axis_name, subclasses=0)
    except InputError as error:
        raise InputError(f"{error} (of an expert: train.steps has the router's first)") from error
    count, adaption = (max(subclasses, 1) if m.moe else 1), adaption_of(config)
    learns = adaption is not None and adaption.training
    every = [f"{role}/{level}" for role, network in known.items() for level in network.levels]

    def phase(of: Phase, kind: str, steps: int, *, tied: bool) -> Phase:
        options = {"count": count, "shared": m.shared, "adaption": adaption, "tied": tied}
        part = learning(of.method, of.features, **options)
        more = [name + what for name in of.features for what in (LOCATION, SCALE)]
        read = (*of.features, *(more if learns else ()))
        return of._replace(
            name=f"{kind}-{of.name}", method=part, steps=steps, features=read, check=None
        )

    if m.warm_start and phases and not config.train.steps:
        raise InputError("method.warm_start shares steps out: set train.steps")
    made = []
    for of in phases:
        common = round(m.warm_start * of.steps) if count > 1 and not m.shared else 0
        if common:
            made.append(phase(of, "common", common, tied=True))
        if not of.steps or of.steps > common:
            made.append(phase(of, "experts", of.steps - common, tied=False))
    routed = None
    if count > 1:
        routed, first = router(config, every, axis_name=axis_name, count=count, known=known)
        made.insert(0, first)
    elif not phases:
        check_no_steps(own, f"{PREFIX}{name} without a router")
    return mixture(
        whole,
        every,
        routed,
        count=count,
        size=tuple(config.data.image_size),
        trained=bool(phases),
        k=m.top_k if routed else 1,
        temperature=m.temperature,
        shared=m.shared,
        adaption=adaption,
        normalise_scores=m.normalise_scores,
    ), made


def router(
    config: Any,
    every: list[str],
    *,
    axis_name: str | None,
    count: int,
    known: Mapping[str, Backbone],
) -> tuple[Routed, Phase]:
    """Make the router and its phase."""
    m = config.method
    role, network = next(iter(known.items()))
    feature = m.routed_by or f"{role}/{list(network.levels)[len(network.levels) // 2]}"
    if feature not in every:
        raise InputError(f"method.routed_by is {feature!r}: there are {', '.join(every)}")
    module, phase = router_of(config, feature, count=count, axis_name=axis_name)
    return Routed(feature, module, phase.method), phase


def recipe_of(expert: Recipe, name: str) -> Recipe:
    """Make the recipe `adapted_moe:NAME`.

    Raises:
        InputError: That recipe learns subclasses itself.
    """
    if "clusters" in expert.keys:
        raise InputError(
            f"method.name is {PREFIX + name!r}: {name} learns subclasses itself, and can not be an "
            "expert"
        )
    keys = {**KEYS, **{f"expert.{key}": value for key, value in expert.keys.items()}}
    return Recipe(
        keys,
        functools.partial(backbones, expert=expert, name=name),
        functools.partial(method, expert=expert, name=name),
        learns_subclasses,
    )

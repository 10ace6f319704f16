"""From a configuration to Adapted-MoE: the only reader of its own `method.*` keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxad.core import Array, Backbone, Features, InputError, Level, Method, as_inner
from jaxad.keys import Key, choice, flag, integer, number
from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.adaption import AXES, STATISTICS, Adaption
from jaxad.methods.routing import Router, embed, routed_right, routing
from jaxad.methods.simplenet import Expert
from jaxad.recipes.recipe import ROLE, Backbones, Phase, Recipe
from jaxad.recipes.simplenet import FEATURE, PATCHES, expert_options
from jaxad.recipes.simplenet import KEYS as SIMPLENET
from jaxad.recipes.simplenet import backbones as simplenet_backbones

KEYS = {
    **SIMPLENET,
    "moe": Key(True, flag(), "one expert a subclass; False = one for all, and no router"),
    "shared": Key(
        False, flag(), "one network for all experts, which then differ in Eq. 5's statistics alone"
    ),
    "adaption": Key(True, flag(), "calibrate test images to the expert (Eq. 5)"),
    "adapt_training": Key(False, flag(), "calibrate training images, too"),
    "statistics": Key(
        "moments",
        choice(*STATISTICS),
        "of Eq. 5: mean and standard deviation, or median and distance of quartiles",
    ),
    "share": Key(1.0, number(least=0, most=1), "how far Eq. 5 moves an image; 1 = as printed"),
    "normalise_embedding": Key(True, flag(), "x of the router to length 1"),
    "normalise_patches": Key(True, flag(), "patch features to length 1 (Eq. 6)"),
    "clusters": Key(
        0,
        integer(least=0, most=1000),
        "subclasses by k-means; 0 = as labelled, or else as many as the silhouette says",
    ),
    "top_k": Key(1, integer(least=1, most=1000), "experts that judge an image"),
    "temperature": Key(0.1, number(above=0), "of the experts' weights (Eq. 4), in cosines"),
    "router_width": Key(256, integer(least=1, most=65536), "C of Eq. 1, channels"),
    "router_learning_rate": Key(1e-3, number(above=0), "of Adam, for the router"),
    "centre_weight": Key(0.5, number(least=0, most=1), "alpha of Eq. 2; 0 = cross-entropy alone"),
    "centre_rate": Key(0.5, number(least=0, most=1), "of the centres' own steps"),
    "axes": Key("positions", choice(*AXES), "what Eq. 5's statistics are taken over"),
    "spread": Key(
        "image",
        choice("image", "all"),
        "an expert's standard deviation: mean of each image's, or of all patches together",
    ),
    "centre": Key(
        "patches",
        choice("patches", "router"),
        "what Eq. 5 adds: mean of the expert's patches, or the router's centre",
    ),
}
"""Below `method`."""


LOCATION, SCALE = "location", "scale"
STATISTICS_OF = (f"{ROLE}/{LOCATION}", f"{ROLE}/{SCALE}")


class Described(nn.Module):
    """Patch features, and what Eq. 5 reads of a whole image, as features of their own.

    Training draws positions of many images: it needs their images' statistics beside them.
    """

    inner: nn.Module
    adaption: Adaption

    def __call__(self, x: Array) -> Features:
        """Map `(B, H, W, 3)` float32 to patch features, and each image's location and scale."""
        found: Features = self.inner(x)
        location, scale = self.adaption.of(found[PATCHES])
        return {**found, LOCATION: location, SCALE: scale}


def backbones(config: Any) -> Backbones:
    """Load the one network as SimpleNet does, with statistics where training wants them."""
    found = simplenet_backbones(config)
    adaption = adaption_of(config)
    if adaption is None or not adaption.training:
        return found
    network = found.networks[ROLE]
    channels, stride = network.levels[PATCHES]
    of_image = Level(adaption.width(channels), stride if adaption.axes == "channels" else 0)
    network = dataclasses.replace(
        network,
        # Whatever the share, features are the same: what is equal is computed once.
        module=Described(network.module, adaption._replace(share=1.0)),
        levels={**network.levels, LOCATION: of_image, SCALE: of_image},
    )
    variables = as_inner(found.variables[ROLE])
    return found._replace(networks={ROLE: network}, variables={ROLE: variables})


def adaption_of(config: Any) -> Adaption | None:
    """How images are calibrated, if they are."""
    m = config.method
    if not m.adaption:
        return None
    return Adaption(m.statistics, m.axes, m.share, m.adapt_training)


def router_of(
    config: Any, feature: str, *, count: int, axis_name: str | None
) -> tuple[Router, Phase]:
    """Make the router of `count` subclasses that reads a feature, and its phase, the first one."""
    m = config.method
    router = Router(m.router_width, count, m.normalise_embedding)
    part = routing(
        feature,
        router,
        alpha=m.centre_weight,
        centre_rate=m.centre_rate,
        learning_rate=m.router_learning_rate,
        axis_name=axis_name,
    )

    def check(variables: Any, features: Any, batch: Any) -> Any:
        x, _ = embed(router, variables, features[feature])
        return {"routed_right": routed_right(x, variables["routing"]["centres"], batch["subclass"])}

    steps = next(iter(config.train.steps), 0)
    return router, Phase("router", part, steps, 0, (feature,), check)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make the whole method, and its phases: the router on whole maps, then the experts.

    `train.steps` is (router, experts), `train.positions` (N,) for the experts alone.
    """
    del networks
    m, train = config.method, config.train
    count = max(subclasses, 1) if m.moe else 1
    steps, positions = tuple(train.steps) or (0, 0), tuple(train.positions) or (0,)
    if len(steps) != 2 or len(positions) != 1:
        raise InputError(
            f"train.steps is {tuple(train.steps)}, train.positions {tuple(train.positions)}: "
            "Adapted-MoE takes (steps of the router, of the experts) or (), and (N,) or ()"
        )
    expert, adaption = Expert(m.hidden, axis_name), adaption_of(config)
    read = STATISTICS_OF if adaption is not None and adaption.training else ()
    trained = experts(
        FEATURE,
        expert,
        count=count,
        shared=m.shared,
        adaption=adaption,
        statistics=STATISTICS_OF,
        normalise=m.normalise_patches,
        smoothing=m.smoothing,
        **expert_options(config),
    )
    parts = {"experts": trained}
    phases = [Phase("experts", trained, steps[1], positions[0], (FEATURE, *read))]
    router = None
    if count > 1:
        router, first = router_of(config, FEATURE, count=count, axis_name=axis_name)
        parts["router"] = first.method
        phases.insert(0, first)
    if m.centre == "router" and m.router_width != m.embedding:
        raise InputError(
            f"method.centre='router' adds centres of {m.router_width} channels to patch features "
            f"of {m.embedding}: set method.router_width={m.embedding}, or centre=patches"
        )
    whole = adapted_moe(
        FEATURE,
        parts,
        expert,
        router,
        count=count,
        k=m.top_k if router else 1,
        temperature=m.temperature,
        shared=m.shared,
        adaption=adaption,
        spread=m.spread,
        centre=m.centre if router else "patches",
        normalise=m.normalise_patches,
        smoothing=m.smoothing,
    )
    return whole, phases


def learns_subclasses(config: Any) -> bool:
    """Whether there is one expert a subclass."""
    return bool(config.method.moe)


RECIPE = Recipe(KEYS, backbones, method, learns_subclasses)

"""From a configuration to Adapted-MoE: the only reader of its own `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxad.core import Backbone, InputError, Method
from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.routing import Router, embed, routed_right, routing
from jaxad.methods.simplenet import Expert
from jaxad.recipes.recipe import Phase, Recipe
from jaxad.recipes.simplenet import FEATURE, backbones, expert_options


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: Sequence[str] = (),
) -> tuple[Method, list[Phase]]:
    """Make the whole method, and its phases: the router on whole maps, then the experts.

    `train.steps` is (router, experts), `train.positions` (N,) for the experts alone.
    """
    del networks
    m, train = config.method, config.train
    count = max(len(subclasses), 1) if m.moe else 1
    steps, positions = tuple(train.steps) or (0, 0), tuple(train.positions) or (0,)
    if len(steps) != 2 or len(positions) != 1:
        raise InputError(
            f"train.steps is {tuple(train.steps)}, train.positions {tuple(train.positions)}: "
            "Adapted-MoE takes (steps of the router, of the experts) or (), and (N,) or ()"
        )
    expert = Expert(m.hidden, axis_name)
    trained = experts(
        FEATURE,
        expert,
        count=count,
        normalise=m.normalise_patches,
        smoothing=m.smoothing,
        **expert_options(config),
    )
    parts = {"experts": trained}
    phases = [Phase("experts", trained, steps[1], positions[0], (FEATURE,))]
    router = None
    if count > 1:
        router = Router(m.router_width, count, m.normalise_embedding)
        parts["router"] = routing(
            FEATURE,
            router,
            alpha=m.centre_weight,
            centre_rate=m.centre_rate,
            learning_rate=m.router_learning_rate,
            axis_name=axis_name,
        )

        def check(variables: Any, features: Any, batch: Any) -> Any:
            x, _ = embed(router, variables, features[FEATURE])
            centres = variables["routing"]["centres"]
            return {"routed_right": routed_right(x, centres, batch["subclass"])}

        phases.insert(0, Phase("router", parts["router"], steps[0], 0, (FEATURE,), check))
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
        adaption=m.adaption,
        axes=m.axes,
        spread=m.spread,
        centre=m.centre if router else "patches",
        normalise=m.normalise_patches,
        smoothing=m.smoothing,
    )
    return whole, phases


def learns_subclasses(config: Any) -> bool:
    """Whether there is one expert a subclass."""
    return bool(config.method.moe)


RECIPE = Recipe(backbones, method, learns_subclasses)

"""From a configuration to AFRAD: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxad.core import Backbone, InputError, Method
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.recipes.recipe import Backbones, Phase, Recipe, frozen_network

PER_STAGE = ("width", "patch_kernel", "patch_stride", "refinements", "decodings")


def backbones(config: Any) -> Backbones:
    """Load (or, for `method.random_weights`, draw) the one network.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    m = config.method
    levels = tuple(m.levels) or None
    network, variables, digest = frozen_network(config, m.backbone, levels=levels, number=0)
    return Backbones({"backbone": network}, {"backbone": variables}, {"backbone": digest})


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: Sequence[str] = (),
) -> tuple[Method, list[Phase]]:
    """Make AFRAD, trained in one phase on whole maps."""
    del axis_name, subclasses  # no statistics over the batch
    m, levels = config.method, tuple(networks["backbone"].levels)
    for key in PER_STAGE:
        if len(m[key]) != len(levels):
            raise InputError(
                f"method.{key} is {tuple(m[key])}: give {len(levels)} values, for the stages "
                f"{', '.join(levels)}"
            )
    if config.train.positions or len(config.train.steps) > 1:
        raise InputError("AFRAD trains in one phase on whole maps: train.steps is (N,) or ()")
    stages = [
        Stage(f"backbone/{level}", *values)
        for level, *values in zip(levels, *(m[key] for key in PER_STAGE))
    ]
    whole = afrad(
        stages,
        grid=m.grid,
        width=m.decoder_width,
        local=m.local,
        compensation=m.compensation,
        adaptive=m.adaptive,
        kernels=m.local_kernels,
        compensation_refinements=m.compensation_refinements,
        ratio=m.mlp_ratio,
        ngib_layers=m.ngib_layers,
        refine=m.refine,
        hidden=m.hidden,
        normalise=m.normalise,
        jitter=m.jitter,
        sum_of_scales=m.sum_of_scales,
        map_length=m.map_length,
        image_stages=m.image_stages,
        pooling=m.pooling,
        top_share=m.top_share,
        learning_rate=m.learning_rate,
        weight_decay=m.weight_decay,
        clip=m.clip,
        one_cycle=m.one_cycle,
    )
    steps = config.train.steps[0] if config.train.steps else 0
    return whole, [Phase("all", whole, steps, 0, tuple(stage.feature for stage in stages))]


RECIPE = Recipe(backbones, method)

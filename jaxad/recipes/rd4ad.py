"""From a configuration to RD4AD: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.backbones.efficientnet import EfficientNet
from jaxad.backbones.resnet import ResNet
from jaxad.core import Backbone, InputError, Method
from jaxad.keys import Key, flag, integer, number, several, text
from jaxad.methods.rd4ad import rd4ad
from jaxad.recipes.recipe import ROLE, Phase, Recipe, one_network, steps_of_one_phase

KEYS = {
    "backbone": Key("wide_resnet50_2", text(empty=False), "architecture or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        ("layer1", "layer2", "layer3"),
        several(text(empty=False), count=3, empty=False, distinct=True, what="levels"),
        "levels to rebuild, of strides 4, 8 and 16",
    ),
    "blocks": Key(
        (),
        several(integer(least=1, most=100), count=4, what="numbers"),
        "residual blocks of the student's third, second and first level and of the embedding; () = "
        "a ResNet's own",
    ),
    "by_position": Key(
        False,
        flag(),
        "loss: mean over positions of 1 - cosine, as the paper prints it; the code has one cosine "
        "of each image's level",
    ),
    "learning_rate": Key(5e-3, number(above=0), "of Adam"),
    "betas": Key(
        (0.5, 0.999),
        several(number(least=0, below=1), count=2, empty=False, what="values"),
        "of Adam",
    ),
    "smoothing": Key(
        4.0, number(least=0, most=1000), "Gaussian on the score map, standard deviation, pixels"
    ),
}
"""Below `method`."""


def _mirrored(config: Any, network: Backbone) -> dict[str, Any]:
    """Blocks as the network has them, so that the student is it backwards."""
    module, blocks = network.module, tuple(config.method.blocks)
    if isinstance(module, EfficientNet):
        raise InputError(
            f"method.backbone is {network.name}, whose features may be negative: RD4AD's student "
            "ends in ReLU and can not rebuild them; use a ResNet"
        )
    if isinstance(module, ResNet):
        inner = module.width_per_group / 256 if module.bottleneck else 0.0
        return {"blocks": blocks or module.blocks, "inner": inner}
    if not blocks:
        raise InputError(
            f"method.blocks is empty, and {network.name} is no ResNet whose blocks it could take: "
            "give four numbers, as 2,2,2,2"
        )
    return {"blocks": blocks, "inner": 0.0}


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make RD4AD, trained in one phase on whole maps."""
    del subclasses
    m, network = config.method, networks[ROLE]
    steps = steps_of_one_phase(config, "RD4AD trains in one phase on whole maps")
    levels = tuple(f"{ROLE}/{level}" for level in network.levels)
    whole = rd4ad(
        levels,
        **_mirrored(config, network),
        by_position=m.by_position,
        learning_rate=m.learning_rate,
        betas=tuple(m.betas),
        smoothing=m.smoothing,
        axis_name=axis_name,
    )
    return whole, [Phase("all", whole, steps, 0, levels)]


RECIPE = Recipe(KEYS, one_network, method)

"""From a configuration to UniAD: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.core import Backbone, InputError, Method
from jaxad.keys import Key, choice, flag, integer, number, several, text
from jaxad.methods.uniad import uniad
from jaxad.recipes.afrad import KEYS as AFRAD
from jaxad.recipes.recipe import ROLE, Phase, Recipe, one_network, steps_of_one_phase

KEYS = {
    "backbone": Key("efficientnet_b4", text(empty=False), "architecture or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        (),
        several(text(empty=False), distinct=True, what="levels"),
        "stages whose features are rebuilt; () = the usual ones",
    ),
    "stride": Key(
        16,
        integer(least=1, most=1024),
        "pixels between tokens: that of one of the levels, to whose grid the others are resized",
    ),
    "width": Key(256, integer(least=4, most=65536), "channels of the transformer"),
    "heads": Key(8, integer(least=1, most=1024), "of every attention"),
    "inner": Key(1024, integer(least=1, most=65536), "width between two attentions, channels"),
    "layers": Key(4, integer(least=1, most=100), "of the encoder, and of the decoder"),
    "neighbours": Key(
        7,
        integer(least=0, most=1023),
        "side of the square around a token that it does not attend to, odd, tokens; 0 = it attends "
        "to all",
    ),
    "position": Key("learned", choice("learned", "sine"), "what tells tokens where they are"),
    "dropout": Key(0.1, number(least=0, below=1), "share that is left out in training"),
    "jitter": Key(
        20.0,
        number(least=0),
        "noise on the features in training: standard deviation, in units of a token's length over "
        "its channels",
    ),
    **{
        name: AFRAD[name]
        for name in ("pooling", "learning_rate", "weight_decay", "clip", "one_cycle")
    },
    "zero_output": Key(False, flag(), "start the last layer at zero (ours)"),
}
"""Below `method`."""


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make UniAD, trained in one phase on whole maps."""
    del axis_name, subclasses  # no statistics over the batch
    m, network = config.method, networks[ROLE]
    steps = steps_of_one_phase(config, "UniAD trains in one phase on whole maps")
    grids = [name for name, level in network.levels.items() if level.stride == m.stride]
    if not grids:
        told = ", ".join(f"{name} {level.stride}" for name, level in network.levels.items())
        raise InputError(
            f"method.stride is {m.stride}, and no level of {network.name} that is read has it "
            f"({told}): change method.stride or method.levels"
        )
    passed = set(KEYS) - {"backbone", "random_weights", "levels", "stride"}
    stages = tuple(f"{ROLE}/{name}" for name in network.levels)
    whole = uniad(stages, grid=f"{ROLE}/{grids[0]}", **{key: m[key] for key in passed})
    return whole, [Phase("all", whole, steps, 0, stages)]


RECIPE = Recipe(KEYS, one_network, method)

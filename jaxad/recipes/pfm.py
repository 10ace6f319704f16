"""From a configuration to PFM, B-PFM or MB-PFM: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.backbones.architectures import architecture
from jaxad.core import Backbone, InputError, Method, Variables
from jaxad.keys import Key, flag, integer, number, several, text
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.recipes.recipe import Backbones, Phase, Recipe, frozen_network

_HIERARCHIES = "values, of hierarchies 1, 2 and 3"
_LEVELS = several(text(empty=False), count=3, distinct=True, what="levels")

KEYS = {
    "source": Key("resnet34", text(empty=False), "architecture or weight file of the source"),
    "target": Key("resnet50", text(empty=False), "architecture or weight file of the target"),
    "random_weights": Key(False, flag(), "random instead of converted weights (Table VII, case 9)"),
    "levels": Key(
        (1, 2, 3),
        several(integer(least=1, most=3), empty=False, distinct=True, what="hierarchies"),
        "hierarchies to map",
    ),
    "source_levels": Key((), _LEVELS, "names of the source's levels; () = its usual ones"),
    "target_levels": Key((), _LEVELS, "names of the target's levels; () = its usual ones"),
    "latent": Key(
        (200, 400, 900),
        several(integer(least=1, most=65536), count=3, empty=False, what=_HIERARCHIES),
        "c of Table II, channels",
    ),
    "learning_rate": Key(
        (3e-3, 3e-4, 3e-4),
        several(number(above=0), count=3, empty=False, what=_HIERARCHIES),
        "learning rate, the peak if scheduled",
    ),
    "one_cycle": Key(False, flag(), "cosine one-cycle schedule instead of a constant rate"),
    "weight_decay": Key(1e-5, number(least=0), "coefficient of the weights' decay"),
    "decoupled_weight_decay": Key(False, flag(), "AdamW instead of Adam with L2"),
    "bidirectional": Key(True, flag(), "map both ways (B-PFM, MB-PFM)"),
    "normalise_output": Key(
        False, flag(), "as Eq. 7 and 8 are printed; the authors' code does not"
    ),
    "conv_block_everywhere": Key(False, flag(), "Table I's footnote 2 for Layer3 and Layer6 too"),
    "zero_output": Key(False, flag(), "start Layer6 at zero (ours)"),
    "smoothing": Key(
        0.0, number(least=0, most=1000), "Gaussian on the score map, standard deviation, pixels"
    ),
    "top_share": Key(
        0.0,
        number(least=0, most=1),
        "image score = mean of this share of the highest pixels; 0 = the maximum",
    ),
}
"""Below `method`."""


def _of_hierarchy(config: Any, name: str) -> tuple[int, ...]:
    """The three values of `train.*`, one for each hierarchy."""
    values = tuple(config.train[name])
    if len(values) != 3:
        raise InputError(f"train.{name} is {values}: give three values, for hierarchies 1, 2 and 3")
    return values


def _level_names(config: Any, role: str, default: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(config.method[f"{role}_levels"]) or default
    if len(names) != 3:
        raise InputError(f"method.{role}_levels is {names}: name three levels, shallow first")
    return names


def backbones(config: Any) -> Backbones:
    """Load (or, for `method.random_weights`, draw) the source and target network.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    wanted = sorted(config.method.levels)
    networks: dict[str, Backbone] = {}
    variables: Variables = {}
    hashes: dict[str, str] = {}
    for nth, role in enumerate(("source", "target")):
        name, named = config.method[role], tuple(config.method[f"{role}_levels"]) or None
        if config.method.random_weights:
            named = named or architecture(name).default_levels
        loaded = frozen_network(config, name, levels=named, number=nth)
        levels = _level_names(config, role, tuple(loaded[0].levels))
        if len(wanted) < len(levels):  # nothing above the last level that is mapped
            levels = tuple(levels[h - 1] for h in wanted)
            loaded = frozen_network(config, name, levels=levels, number=nth)
        networks[role], variables[role], hashes[role] = loaded
    return Backbones(networks, variables, hashes)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make the whole method, and the phases that train it one after the other.

    With `train.steps` each hierarchy is a phase of its own; otherwise all are trained together.
    """
    del subclasses
    m = config.method
    wanted = sorted(m.levels)
    for role in ("source", "target"):
        found = tuple(networks[role].levels)
        if len(found) != len(wanted):
            raise InputError(
                f"the {role} network was built for the levels {', '.join(found)}, and "
                f"method.levels is {tuple(wanted)}: build it with one level for each hierarchy"
            )
    pairs = [
        PairLevel(f"source/{source}", f"target/{target}", m.latent[h - 1], m.learning_rate[h - 1])
        for h, source, target in zip(wanted, networks["source"].levels, networks["target"].levels)
    ]

    def of(levels: list[PairLevel]) -> Method:
        return pfm(
            levels,
            bidirectional=m.bidirectional,
            normalise_output=m.normalise_output,
            conv_block_everywhere=m.conv_block_everywhere,
            weight_decay=m.weight_decay,
            decoupled_weight_decay=m.decoupled_weight_decay,
            one_cycle=m.one_cycle,
            zero_output=m.zero_output,
            smoothing=m.smoothing,
            top_share=m.top_share,
            axis_name=axis_name,
        )

    whole = of(pairs)
    if not config.train.steps:
        if config.train.positions:
            raise InputError("train.positions needs train.steps: a budget for each hierarchy")
        names = [name for pair in pairs for name in (pair.source, pair.target)]
        return whole, [Phase("all", whole, 0, 0, tuple(names))]
    steps = _of_hierarchy(config, "steps")
    positions = _of_hierarchy(config, "positions") if config.train.positions else (0, 0, 0)
    return whole, [
        Phase(pair.name, of([pair]), steps[h - 1], positions[h - 1], (pair.source, pair.target))
        for h, pair in zip(wanted, pairs)
    ]


RECIPE = Recipe(KEYS, backbones, method)

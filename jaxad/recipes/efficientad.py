"""From a configuration to EfficientAD-S: the only reader of its `method.*` keys."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxad.backbones.patch_description import FrozenPatchDescription, PatchDescription
from jaxad.backbones.pixels import IMAGE, pixels
from jaxad.core import Backbone, InputError, Method, Variables
from jaxad.data.images import decode_image
from jaxad.data.sources import Sources
from jaxad.keys import Key, integer, number, text
from jaxad.methods.efficientad import efficientad
from jaxad.methods.efficientad_teacher import distillation, learnt, published
from jaxad.recipes.recipe import ROLE, Backbones, Phase, Recipe, frozen_network, one_network
from jaxad.recipes.simplenet import FEATURE, patched
from jaxad.recipes.simplenet import KEYS as SIMPLENET

PIXELS = "pixels"
MOST_OTHERS = 256
"""Photos of the penalty; of a folder with more, the first ones in order."""

KEYS = {
    "backbone": Key(
        "resnet18",
        text(empty=False),
        "network whose features the teacher learns; pdn_small (with levels ()) is the teacher",
    ),
    "random_weights": SIMPLENET["random_weights"],
    "levels": SIMPLENET["levels"],
    "channels": Key(
        384,
        integer(least=1, most=4096),
        "of a teacher that learns; a multiple of the number of levels",
    ),
    "width": Key(128, integer(least=1, most=4096), "of its first layer, channels"),
    "autoencoder_width": Key(32, integer(least=1, most=4096), "of its first layers, channels"),
    "hard": Key(0.999, number(least=0, below=1), "quantile from which on features are hard"),
    "penalty": Key(
        "",
        text(),
        "folder of photos that are not of the parts, on which the student is to say nothing "
        f"(of more than {MOST_OTHERS} the first ones); '' = no such penalty",
    ),
    "learning_rate": Key(1e-4, number(above=0), "of Adam; a tenth of it after 95 % of the steps"),
    "weight_decay": Key(1e-5, number(least=0), "L2 on every parameter"),
}
"""Below `method`."""


def backbones(config: Any) -> Backbones:
    """Load the network that is distilled, or the teacher itself; pixels come beside it.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    found = one_network(config)
    network, variables = found.networks[ROLE], found.variables[ROLE]
    if not isinstance(network.module, FrozenPatchDescription):
        network, variables = patched(network, variables, width=config.method.channels)
    seen, nothing = pixels(network.preprocess)
    return Backbones(
        {ROLE: network, PIXELS: seen}, {ROLE: variables, PIXELS: nothing}, found.sha256
    )


def other_photos(folder: str, size: tuple[int, int]) -> Callable[[], np.ndarray] | None:
    """What reads the photos of the penalty when it is called; None where no folder is named."""
    if not folder:
        return None

    @functools.cache
    def read() -> np.ndarray:
        every = itertools.islice(Sources([folder]), MOST_OTHERS)
        return np.stack([decode_image(p.path, size=size, resample="bilinear") for p in every])

    return read


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make EfficientAD-S: the teacher's phase, where it has to learn, and that of the student.

    Raises:
        InputError: The configuration speaks of other phases, or of positions.
    """
    del axis_name, subclasses  # no statistics over the batch
    m, train, module = config.method, config.train, networks[ROLE].module
    there = module if isinstance(module, FrozenPatchDescription) else None
    names = ("student",) if there else ("teacher", "student")
    if train.positions or len(train.steps) not in (0, len(names)):
        what = "N,), as its teacher is there" if there else "steps of the teacher, of the student)"
        raise InputError(
            f"EfficientAD trains on whole photos: train.steps is ({what}, or () for epochs, and "
            "train.positions ()"
        )
    prepare, photo = networks[PIXELS].preprocess, f"{PIXELS}/{IMAGE}"
    steps, (height, width) = train.steps or (0,) * len(names), config.data.image_size
    how: dict[str, Any] = {"learning_rate": m.learning_rate, "weight_decay": m.weight_decay}
    phases: list[Phase] = []
    if there:
        network = PatchDescription(there.channels, there.width)

        def weights() -> Variables:
            with jax.ensure_compile_time_eval():  # variables may be made within a program
                _, variables, _ = frozen_network(config, m.backbone, levels=None, number=0)
            own: Variables = variables["params"]
            return own

        teacher = published(photo, network, weights, prepare=prepare)
    else:
        network = PatchDescription(m.channels, m.width)
        first = distillation(photo, FEATURE, network, prepare=prepare, **how)
        phases.append(Phase("teacher", first, steps[0], 0, (photo, FEATURE)))
        teacher = learnt(network, first)
    whole = efficientad(
        photo,
        teacher,
        prepare=prepare,
        width=m.autoencoder_width,
        hard=m.hard,
        penalty=other_photos(m.penalty, (height, width)),
        **how,
    )
    return whole, [*phases, Phase("student", whole, steps[-1], 0, (photo,))]


RECIPE = Recipe(KEYS, backbones, method)

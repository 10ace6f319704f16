"""From a configuration to EfficientAD-S: the only reader of its `method.*` keys."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxad.backbones.pixels import IMAGE, pixels
from jaxad.core import Backbone, InputError, Method
from jaxad.data.images import decode_image
from jaxad.data.sources import Sources
from jaxad.keys import Key, integer, number, text
from jaxad.methods.efficientad import distillation, efficientad
from jaxad.methods.efficientad_network import PatchDescription
from jaxad.recipes.recipe import ROLE, Backbones, Phase, Recipe, one_network
from jaxad.recipes.simplenet import FEATURE, patched
from jaxad.recipes.simplenet import KEYS as SIMPLENET

PIXELS = "pixels"
MOST_OTHERS = 256
"""Photos of the penalty; of a folder with more, the first ones in order."""

KEYS = {
    "backbone": Key("resnet18", text(empty=False), "network whose features the teacher learns"),
    "random_weights": SIMPLENET["random_weights"],
    "levels": SIMPLENET["levels"],
    "channels": Key(
        384, integer(least=1, most=4096), "of the teacher; a multiple of the number of levels"
    ),
    "width": Key(128, integer(least=1, most=4096), "of the teacher's first layer, channels"),
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
    """Load the network that is distilled; pixels come beside it.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    found = one_network(config)
    network, variables = patched(
        found.networks[ROLE], found.variables[ROLE], width=config.method.channels
    )
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
    """Make EfficientAD-S, in two phases: the teacher, then student and autoencoder.

    Raises:
        InputError: The configuration speaks of other phases, or of positions.
    """
    del axis_name, subclasses  # no statistics over the batch
    m, train = config.method, config.train
    if train.positions or len(train.steps) not in (0, 2):
        raise InputError(
            "EfficientAD trains on whole photos: train.steps is (steps of the teacher, of the "
            "student), or () for epochs, and train.positions ()"
        )
    prepare, photo = networks[PIXELS].preprocess, f"{PIXELS}/{IMAGE}"
    steps, (height, width) = train.steps or (0, 0), config.data.image_size
    teacher = PatchDescription(m.channels, m.width)
    how: dict[str, Any] = {
        "prepare": prepare,
        "learning_rate": m.learning_rate,
        "weight_decay": m.weight_decay,
    }
    first = distillation(photo, FEATURE, teacher, **how)
    whole = efficientad(
        photo,
        first,
        teacher,
        feature=FEATURE,
        width=m.autoencoder_width,
        hard=m.hard,
        penalty=other_photos(m.penalty, (height, width)),
        **how,
    )
    return whole, [
        Phase("teacher", first, steps[0], 0, (photo, FEATURE)),
        Phase("student", whole, steps[1], 0, (photo,)),
    ]


RECIPE = Recipe(KEYS, backbones, method)

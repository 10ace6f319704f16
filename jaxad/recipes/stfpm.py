"""From a configuration to STFPM: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxad.backbones.pixels import IMAGE, pixels
from jaxad.backbones.resnet import ResNet
from jaxad.core import Backbone, InputError, Method
from jaxad.keys import Key, flag, number, several, text
from jaxad.methods.stfpm import stfpm
from jaxad.recipes.recipe import Backbones, Phase, Recipe, one_network, steps_of_one_phase

TEACHER, PIXELS = "teacher", "pixels"

KEYS = {
    "backbone": Key(
        "resnet18",
        text(empty=False),
        "architecture or weight file of the teacher, a ResNet; the student has its architecture",
    ),
    "random_weights": Key(False, flag(), "a teacher of random instead of converted weights"),
    "levels": Key(
        ("layer1", "layer2", "layer3"),
        several(text(empty=False), distinct=True, what="levels"),
        "levels that are learnt; the one whose resolution counts first; () = the usual ones",
    ),
    "learning_rate": Key(0.4, number(above=0), "of SGD, the peak if scheduled"),
    "momentum": Key(0.9, number(least=0, below=1), "of SGD"),
    "weight_decay": Key(1e-4, number(least=0), "L2 on every parameter"),
    "one_cycle": Key(False, flag(), "cosine one-cycle schedule instead of a constant rate (ours)"),
}
"""Below `method`."""


def backbones(config: Any) -> Backbones:
    """Load (or, for `method.random_weights`, draw) the teacher; pixels come beside it.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    found = one_network(config, role=TEACHER)
    seen, nothing = pixels(found.networks[TEACHER].preprocess)
    return found._replace(
        networks={**found.networks, PIXELS: seen}, variables={**found.variables, PIXELS: nothing}
    )


def student_of(
    teacher: Backbone, *, axis_name: str | None
) -> tuple[Callable[..., nn.Module], float]:
    """Make `student(train=, folded=)` of the teacher's architecture, and its BatchNorm's epsilon.

    Raises:
        InputError: It is no ResNet: only these can be trained.
    """
    net = teacher.module
    if not isinstance(net, ResNet):
        raise InputError(
            f"method.backbone is {teacher.name}: a student learns as a ResNet, so name one"
        )

    def student(*, train: bool, folded: bool) -> nn.Module:
        return net.clone(train=train, folded=folded, axis_name=axis_name if train else None)

    return student, net.epsilon


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make STFPM, trained in one phase on whole photos.

    Raises:
        InputError: The configuration speaks of other phases or of positions, or names no ResNet.
    """
    del subclasses
    m, teacher = config.method, networks[TEACHER]
    steps = steps_of_one_phase(config, "STFPM trains in one phase on whole photos")
    student, epsilon = student_of(teacher, axis_name=axis_name)
    photo, levels = f"{PIXELS}/{IMAGE}", [f"{TEACHER}/{level}" for level in teacher.levels]
    whole = stfpm(
        photo,
        levels,
        student,
        prepare=networks[PIXELS].preprocess,
        epsilon=epsilon,
        learning_rate=m.learning_rate,
        momentum=m.momentum,
        weight_decay=m.weight_decay,
        one_cycle=m.one_cycle,
    )
    return whole, [Phase("all", whole, steps, 0, (photo, *levels))]


RECIPE = Recipe(KEYS, backbones, method)

"""What a configuration comes to: frozen backbones, and the phases in which a method is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxad.backbones.weights import find, init_backbone, load_backbone, sha256
from jaxad.core import Backbone, Method, Metrics, Variables


class Phase(NamedTuple):
    """A part of a method that is trained by itself, with its own budget."""

    name: str
    method: Method
    steps: int
    """0: by `train.epochs`."""
    positions: int
    """Random positions a step; 0: whole maps."""
    features: tuple[str, ...]
    """The features it reads."""
    check: Callable[[Variables, Any, Any], Metrics] | None = None
    """`check(variables, features, batch)`: what else to report of held-out images."""


class Backbones(NamedTuple):
    """The frozen networks of a detector by role, their variables, and their files' SHA-256."""

    networks: Mapping[str, Backbone]
    variables: Variables
    sha256: dict[str, str]


class Recipe(NamedTuple):
    """How the configuration of one method is read."""

    backbones: Callable[[Any], Backbones]
    """`backbones(config)`: loads the networks that it reads."""
    method: Callable[..., tuple[Method, list[Phase]]]
    """`method(config, networks, *, axis_name, subclasses)`: the whole method, and its phases."""
    learns_subclasses: Callable[[Any], bool] = lambda config: False
    """Whether the method wants to know each training image's subclass."""


def frozen_network(
    config: Any, name: str, *, levels: Sequence[str] | None, number: int
) -> tuple[Backbone, Variables, str]:
    """Load the network `name`, or draw it for `method.random_weights`.

    Args:
        config: The configuration.
        name: Architecture, or path of a weight file.
        levels: The levels to read; None: the architecture's usual ones.
        number: Of the network within the detector: tells two random ones apart.

    Returns:
        The backbone, its variables and the SHA-256 of its file (or the seed).
    """
    if config.method.random_weights:
        rng = jax.random.fold_in(jax.random.key(config.train.seed), number)
        return *init_backbone(name, rng, levels=levels), f"random:{config.train.seed}"
    folder = config.weights or None
    return *load_backbone(name, levels=levels, folder=folder), sha256(find(name, folder))

"""What a recipe is: the keys of one method, and what a configuration of them comes to.

A recipe is a module with a `RECIPE`. jaxad's own lie in this folder; any other module is as good,
`method.name` then is its dotted name (docs/own_method.md has an example).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxad.backbones.weights import find, init_backbone, load_backbone, sha256
from jaxad.core import Array, Backbone, InputError, Method, Metrics, Variables
from jaxad.detector import Detector
from jaxad.keys import Key
from jaxad.ops.noise import fold_in_name


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


class Model(NamedTuple):
    """A detector, and the phases that train its method."""

    detector: Detector
    phases: list[Phase]


ROLE = "backbone"
"""Of the network of a method that reads one."""


class Recipe(NamedTuple):
    """How the configuration of one method is read."""

    keys: Mapping[str, Key]
    """The keys below `method` but for `name`; "levels" is `method.levels`."""
    backbones: Callable[[Any], Backbones]
    """`backbones(config)`: loads the networks that it reads."""
    method: Callable[..., tuple[Method, list[Phase]]]
    """`method(config, networks, *, axis_name, subclasses)`: the whole method, and its phases.
    `subclasses` is the number of kinds of training images, 0 where the method learns none. No
    phases: it learns without steps (`jaxad.core.without_steps`)."""
    learns_subclasses: Callable[[Any], bool] = lambda config: False
    """Whether the method wants to know each training image's subclass. If so, there is a key
    `clusters`: the number of subclasses to find by k-means, 0 for those that are labelled."""


def check_no_steps(config: Any, name: str) -> None:
    """See that nothing is asked of the steps of a method that has none.

    Raises:
        InputError: Something is.
    """
    empty = {"steps": (), "positions": (), "holdout": 0.0, "augment": (), "profile": ()}
    for key, unset in empty.items():
        if config.train[key] != unset:
            raise InputError(
                f"train.{key} is {config.train[key]}: {name} learns without steps, so leave it at "
                f"{unset}"
            )


def steps_of_one_phase(config: Any, told: str) -> int:
    """The steps of a method that trains in one phase on all positions; 0: by `train.epochs`.

    Raises:
        InputError: The configuration speaks of other phases, or of positions; begins with `told`.
    """
    steps = config.train.steps
    if config.train.positions or len(steps) > 1:
        raise InputError(f"{told}: train.steps is (N,) or (), and train.positions ()")
    return int(steps[0]) if steps else 0


def named_key(seed: int, name: str) -> Array:
    """The key of what is drawn under that name, from the run's seed."""
    return fold_in_name(jax.random.key(seed), name)


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
        # A key of its own: the first ones of this seed are those of methods' variables.
        rng = named_key(config.train.seed, f"network/{number}")
        return *init_backbone(name, rng, levels=levels), f"random:{config.train.seed}"
    folder = config.weights or None
    return *load_backbone(name, levels=levels, folder=folder), sha256(find(name, folder))


def one_network(config: Any, *, role: str = ROLE, levels: Sequence[str] | None = None) -> Backbones:
    """Load (or, for `method.random_weights`, draw) the network of a method that reads one.

    Args:
        config: The configuration.
        role: Of the network.
        levels: The levels to read; None: `method.levels`, and the usual ones where that is empty.

    Raises:
        InputError: Unknown architecture or level, missing or unfit weights.
    """
    m = config.method
    levels = tuple(m.levels if levels is None else levels) or None
    network, variables, digest = frozen_network(config, m.backbone, levels=levels, number=0)
    return Backbones({role: network}, {role: variables}, {role: digest})


def read_through(
    config: Any,
    put: Callable[..., tuple[Backbone, Variables]],
    *,
    levels: Sequence[str] | None = None,
    **options: Any,
) -> Backbones:
    """Load the one network, and put behind it what a method reads; raises as both do.

    Args:
        config: The configuration.
        put: `put(network, variables, **options)`: the network with more behind it.
        levels: As `one_network` has them.
        options: Of `put`.
    """
    found = one_network(config, levels=levels)
    network, variables = put(found.networks[ROLE], found.variables[ROLE], **options)
    return Backbones({ROLE: network}, {ROLE: variables}, found.sha256)

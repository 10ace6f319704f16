"""The state of a training run as one plain, fully replicated tree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxad.core import Array, Variables


class TrainState(NamedTuple):
    """What a train step maps to its successor."""

    step: Array
    """Steps taken, int32 scalar."""
    variables: Variables
    """All collections; `params` is trained by gradient, the others move by their own rules."""
    opt_state: Any


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """Start a run from freshly initialised variables."""
    return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))

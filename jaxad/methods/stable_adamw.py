"""StableAdamW (Wortsman et al., NeurIPS 2023) as Dinomaly's authors have it, with AMSGrad.

Loss spikes come from gradients that their running mean square does not know yet. So a step of each
array is divided by the root mean square of gradient / denominator, where that is above 1, as in
AdaFactor. optax clips what Adam makes of a gradient, not this ratio, and its AMSGrad takes the
largest of the corrected mean squares; torch's, which is followed here, of the raw ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array


class State(NamedTuple):
    """Steps done, and by parameter the running means: of gradients, of squares, their maximum."""

    steps: Array
    mean: Any
    square: Any
    largest: Any


def stable_adamw(
    learning_rate: Callable[[Array], Array],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-10,
    weight_decay: float = 1e-4,
) -> optax.GradientTransformation:
    """Build the optimizer.

    Args:
        learning_rate: Of the step, from 0.
        b1: Decay of the mean gradient.
        b2: Decay of the mean square.
        epsilon: Added to the denominator.
        weight_decay: Decoupled.
    """

    def init(params: optax.Params) -> State:
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(3)]
        return State(jnp.zeros((), jnp.int32), *zeros)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, State]:
        rate, steps = learning_rate(state.steps), state.steps + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, updates)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.square, updates)
        largest = jax.tree.map(jnp.maximum, state.largest, square)
        first, second = (1 - b ** steps.astype(jnp.float32) for b in (b1, b2))

        def move(g: Array, m: Array, v: Array, p: Array) -> Array:
            denominator = jnp.sqrt(v) / jnp.sqrt(second) + epsilon
            unknown = jnp.sqrt(jnp.mean(jnp.square(g / denominator)))
            step = rate / first / jnp.maximum(1, unknown)
            return (-step * (m / denominator) - rate * weight_decay * p).astype(p.dtype)

        moves: optax.Updates = jax.tree.map(move, updates, mean, largest, params)
        return moves, State(steps, mean, square, largest)

    return optax.GradientTransformation(init, update)


def warm_cosine(
    steps: int, *, peak: float, last: float, warmup: int
) -> Callable[[Array | int], Array]:
    """Make a learning rate that rises from 0 to its peak in a line, then falls along a cosine.

    Args:
        steps: Of the run.
        peak: Reached at the last step of the warm-up, and again the step after.
        last: What it falls to.
        warmup: Steps of the rise; at most half of the run.
    """
    up = min(warmup, steps // 2)

    def rate(step: Array | int) -> Array:
        t = jnp.asarray(step, jnp.float32)
        share = (t - up) / max(steps - up, 1)
        down = last + (peak - last) * (1 + jnp.cos(jnp.pi * share)) / 2
        return jnp.where(t < up, peak * t / max(up - 1, 1), down)

    return rate

"""What tests of methods share: programs that compile quickly, and optimizers by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Method, Scores

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""For programs of small arrays that run a few times: half the time to compile."""


def init(method: Method, features: Any, *, seed: int = 0) -> Any:
    """The method's variables, as `Detector.init` makes them."""
    return jit(method.init)(jax.random.key(seed), features)


def filled(method: Method, features: Any, *, seed: int = 0) -> Any:
    """Variables as after some training, drawn by NumPy: nothing is compiled."""
    draw = np.random.default_rng(seed)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        if path[-1].key in ("var", "scale"):
            return draw.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        spread = np.prod(shape.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.1
        return (spread * draw.normal(size=shape.shape)).astype(np.float32)

    shapes = jax.eval_shape(method.init, jax.random.key(0), features)
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(leaf, shapes))


def score(method: Method, variables: Any, found: Any, *, size: tuple[int, int]) -> Scores:
    """The method's scores."""
    return jit(functools.partial(method.score, size=size))(variables, found)


def loss(method: Method, variables: Any, found: Any, batch: Any = None, *, seed: int = 1) -> Any:
    """The method's loss and what comes with it."""
    return jit(method.loss)(variables, found, batch or {}, jax.random.key(seed))


def updates_of(method: Method, steps: int, params: Any, gradients: list[Any]) -> list[Any]:
    """What the method's optimizer for `steps` steps does, gradient after gradient.

    The parameters stay where they are, so that what decay does can be seen.
    """
    optimizer = method.optimizer(steps)
    with jax.numpy_dtype_promotion("standard"):
        state = jit(optimizer.init)(params)
        step = jit(optimizer.update)
        found = []
        for gradient in gradients:
            moves, state = step(gradient, state, params)
            found.append(moves)
    return found


def adam_by_hand(
    rate: Callable[[int], float],
    params: np.ndarray,
    gradients: list[np.ndarray],
    *,
    decay: float = 0.0,
    l2: float = 0.0,
    clip: float = 0.0,
) -> list[np.ndarray]:
    """Adam (Kingma & Ba 2015) of one leaf at β 0.9 and 0.999, with what surrounds it.

    Args:
        rate: Of step 0, 1, ...
        params: Values that decay.
        gradients: One a step.
        decay: Decoupled (AdamW).
        l2: Added to the gradient.
        clip: Largest norm of the gradient; 0: any.
    """
    m = v = np.zeros_like(params, np.float64)
    found = []
    for t, gradient in enumerate(gradients):
        g = np.asarray(gradient, np.float64)
        if clip:
            g = g * min(1.0, clip / np.linalg.norm(g))
        g = g + l2 * params
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        found.append(-rate(t) * (step + decay * params))
    return found


def one_cycle(steps: int, peak: float) -> Callable[[int], float]:
    """Cosine one-cycle as torch's `OneCycleLR`: a 25th, the peak after 30 %, then next to none."""

    def rate(t: int) -> float:
        up = int(0.3 * steps)
        low, high, share = (
            (peak / 25, peak, t / up)
            if t < up
            else (peak / 25 / 1e4, peak, 1 - (t - up) / (steps - up))
        )
        return low + (high - low) * (1 - np.cos(np.pi * share)) / 2

    return rate

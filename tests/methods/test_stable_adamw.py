"""StableAdamW with AMSGrad by hand, step after step, and the learning rate before it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import quick

from jaxad.methods.stable_adamw import stable_adamw, warm_cosine


def by_hand(values: np.ndarray, gradients: list[np.ndarray], rate: Any, decay: float) -> Any:
    """What each step adds to an array that stays where it is, and its ratio."""
    mean = square = largest = np.zeros_like(values, np.float64)
    for t, g in enumerate(gradients):
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        largest = np.maximum(largest, square)
        below = np.sqrt(largest) / np.sqrt(1 - 0.999 ** (t + 1)) + 1e-10
        ratio = np.sqrt(np.mean((g / below) ** 2))
        step = rate(t) / (1 - 0.9 ** (t + 1)) / max(1, ratio)
        yield -rate(t) * decay * values - step * mean / below, ratio


def test_steps_are_those_of_the_formulas() -> None:
    draw = np.random.default_rng(0)
    params = {"a": np.float32([[1e2, -2], [3, 0.5]]), "b": np.float32([5])}
    # A spike, which the mean square does not know yet; then less than before, which it remembers.
    gradients = [
        {name: np.float32(draw.normal(size=x.shape) * by) for name, x in params.items()}
        for by in (1, 1, 100, 1, 0.01, 1)
    ]
    with jax.numpy_dtype_promotion("standard"):
        optimizer = stable_adamw(lambda t: 0.1 / (1 + t), weight_decay=0.01)
        state, step = optimizer.init(params), quick.jit(optimizer.update)
        found = []
        for gradient in gradients:
            moves, state = step(gradient, state, params)
            found.append(moves)
    for name, values in params.items():
        own = [g[name] for g in gradients]
        want, ratios = zip(*by_hand(values, own, lambda t: 0.1 / (1 + t), 0.01))
        for n, move in enumerate(want):
            np.testing.assert_allclose(found[n][name], move, rtol=1e-4, err_msg=f"{name} {n}")
        assert ratios[2] > 1.4  # so that step is shortened
        assert ratios[4] < 0.1
    assert int(state.steps) == 6


def test_a_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    rate = warm_cosine(1000, peak=2e-3, last=2e-4, warmup=100)
    want = np.concatenate(
        [
            np.linspace(0, 2e-3, 100),
            2e-4 + 0.5 * 1.8e-3 * (1 + np.cos(np.pi * np.arange(900) / 900)),
        ]
    )
    np.testing.assert_allclose(rate(jnp.arange(1000)), want, atol=1e-9)
    # Runs that are shorter than the rise spend half of it on it.
    np.testing.assert_allclose(
        warm_cosine(4, peak=1.0, last=0.0, warmup=100)(jnp.arange(4)), [0, 1, 1, 0.5], atol=1e-7
    )
    assert float(warm_cosine(1, peak=1.0, last=0.0, warmup=100)(0)) == 1.0

"""One training step and one scoring step, arrays in and arrays out, no devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Metrics, Variables
from jaxad.training.state import TrainState

Loss = Callable[[Variables, Mapping[str, Any], Array], tuple[Array, Aux]]
"""`loss(variables, batch, rng) -> (scalar, aux)`."""
Step = Callable[[TrainState, Mapping[str, Any], Array], tuple[TrainState, Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    mean: Callable[[Any], Any] = lambda tree: tree,
) -> Step:
    """Make `step(state, batch, rng) -> (state, metrics)`.

    Args:
        loss: Differentiated with respect to the collection `params` only.
        optimizer: The method's chain.
        mean: Averages a tree over devices; `parallel.py` injects it, identity on one device. It is
            applied to gradients, new statistics and metrics (so that their ratio stays right).

    Returns:
        A pure function; `metrics["loss"]` is the loss, all metrics are (sum, count) pairs.
    """

    def step(state: TrainState, batch: Mapping[str, Any], rng: Array) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(rng, state.step)
        fixed = {name: tree for name, tree in state.variables.items() if name != "params"}

        def loss_of(params: Variables) -> tuple[Array, Aux]:
            return loss({"params": params, **fixed}, batch, rng)

        params = state.variables["params"]
        (value, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        value, aux, grads = mean((value, aux, grads))
        # optax raises a float to an int32 count, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        variables = {**fixed, **aux.updates, "params": params}
        metrics = {"loss": (value, jnp.ones(())), **aux.metrics}
        return TrainState(state.step + 1, variables, opt_state), metrics

    return step


def make_steps(step: Step, pick: Callable[[Any, Array], Mapping[str, Any]]) -> Callable[..., Any]:
    """Make `steps(state, indices, (rng, data))`: several steps in one program, on data at hand.

    Args:
        step: See `make_train_step`.
        pick: `pick(data, index) -> batch` of one step.

    Returns:
        A pure function of a state, `(n, K)` indices of K steps and what they point into; it returns
        the state after the last step and the metrics of all, `(K,)` each.
    """

    def steps(state: TrainState, indices: Array, shared: tuple[Array, Any]) -> Any:
        rng, data = shared
        return jax.lax.scan(lambda s, index: step(s, pick(data, index), rng), state, indices.T)

    return steps

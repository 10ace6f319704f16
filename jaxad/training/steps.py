"""One training step, arrays in and arrays out, no devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Metrics, Variables
from jaxad.training.state import TrainState

Loss = Callable[[Variables, Any, Mapping[str, Any], Array], tuple[Array, Aux]]
"""`loss(variables, frozen, batch, rng) -> (scalar, aux)`, as `Detector.loss`."""
Step = Callable[[TrainState, Any, Mapping[str, Any], Array], tuple[TrainState, Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    mean: Callable[[Any], Any] = lambda tree: tree,
) -> Step:
    """Make `step(state, frozen, batch, rng) -> (state, metrics)`.

    Args:
        loss: Differentiated with respect to the collection `params` only. What it is given as
            `frozen` is no part of the state: weights of backbones, or features at hand.
        optimizer: The method's chain.
        mean: Averages a tree over devices; `parallel.py` injects it, identity on one device. It is
            applied to gradients, new statistics and metrics (so that their ratio stays right).

    Returns:
        A pure function; `metrics["loss"]` is the loss, all metrics are (sum, count) pairs. The key
        is the same in every step: the step's number is folded into it.
    """

    def train_step(
        state: TrainState, frozen: Any, batch: Mapping[str, Any], rng: Array
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(rng, state.step)
        fixed = {name: tree for name, tree in state.variables.items() if name != "params"}

        def loss_of(params: Variables) -> tuple[Array, Aux]:
            return loss({"params": params, **fixed}, frozen, batch, rng)

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

    return train_step


def make_steps(step: Step, pick: Callable[[Any, Any], Mapping[str, Any]]) -> Callable[..., Any]:
    """Make `steps(state, data, index, rng)`: several steps in one program, on data at hand.

    Args:
        step: See `make_train_step`; what it gets as `frozen` is empty.
        pick: `pick(data, index) -> batch` of one step.

    Returns:
        A pure function of a state, of the data, and of `(n, K)` indices of K steps into it; it
        returns the state after the last step and the metrics of all, `(K,)` each.
    """

    def train_steps(state: TrainState, data: Any, index: Any, rng: Array) -> Any:
        def one(state: TrainState, at: Any) -> Any:
            return step(state, {}, pick(data, at), rng)

        return jax.lax.scan(one, state, jax.tree.map(jnp.transpose, index))

    return train_steps

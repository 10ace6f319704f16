"""One training step, arrays in and arrays out, no devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Metrics, Variables
from jaxad.ops.precision import rounded
from jaxad.training.parts import mean_of_parts
from jaxad.training.state import TrainState

Loss = Callable[[Variables, Any, Mapping[str, Any], Array], tuple[Array, Aux]]
"""`loss(variables, frozen, batch, rng) -> (scalar, aux)`, as `Detector.loss`."""
Step = Callable[[TrainState, Any, Mapping[str, Any], Array], tuple[TrainState, Metrics]]
RATE = "learning_rate"
"""Name of a metric, or the beginning of those of several rates."""


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    mean: Callable[[Any], Any] = lambda tree: tree,
    schedules: Mapping[str, optax.ScalarOrSchedule] | None = None,
    parts: int = 1,
    turn: int = 1,
    dtype: str = "float32",
) -> Step:
    """Make `step(state, frozen, batch, rng) -> (state, metrics)`.

    Args:
        loss: Differentiated with respect to the collection `params` only. What it is given as
            `frozen` is no part of the state: weights of backbones, or features at hand.
        optimizer: The method's chain.
        mean: Averages a tree over devices; `parallel.py` injects it, identity on one device. It is
            applied to gradients, new statistics and metrics (so that their ratio stays right).
        schedules: The optimizer's learning rates, see `Method.schedules`; they become metrics.
        parts: Into so many a batch is split, computed one after the other (`mean_of_parts`).
        turn: Elements that stay side by side then: a batch goes through the subclasses in turn.
        dtype: In which networks compute, "float32" or "bfloat16". Parameters, what is summed up of
            them and gradients are float32 at either.

    Returns:
        A pure function; all metrics are (sum, count) pairs, among them `loss`, `gradient_norm` (the
        global norm of the averaged gradients) and learning rates. The key is the same in every
        step: the step's number is folded into it.
    """

    def train_step(
        state: TrainState, frozen: Any, batch: Mapping[str, Any], rng: Array
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(rng, state.step)
        fixed = {name: tree for name, tree in state.variables.items() if name != "params"}
        params = state.variables["params"]

        def differentiate(batch: Mapping[str, Any], rng: Array) -> Any:
            def loss_of(params: Variables) -> tuple[Array, Aux]:
                return loss({**rounded({"params": params}, dtype), **fixed}, frozen, batch, rng)

            return jax.value_and_grad(loss_of, has_aux=True)(params)

        (value, aux), grads = mean_of_parts(differentiate, batch, rng, parts=parts, turn=turn)
        value, aux, grads = mean((value, aux, grads))
        # optax raises a float to an int32 count, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"), jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, params)
            norm = optax.tree.norm(grads)
            rates = _rates(schedules or {}, state.step)
        params = optax.apply_updates(params, updates)
        variables = {**fixed, **aux.updates, "params": params}
        one = jnp.ones(())
        more = {name: (number, one) for name, number in {"gradient_norm": norm, **rates}.items()}
        metrics = {"loss": (value, one), **aux.metrics, **more}
        return TrainState(state.step + 1, variables, opt_state), metrics

    return train_step


def _rates(schedules: Mapping[str, optax.ScalarOrSchedule], step: Array) -> dict[str, Array]:
    """Learning rates of one step as metrics; a single one needs no name."""
    found = {
        name: jnp.asarray(rate(step) if callable(rate) else rate)
        for name, rate in schedules.items()
    }
    if len(found) == 1:
        return {RATE: next(iter(found.values()))}
    return {f"{RATE}_{name}": rate for name, rate in found.items()}


def make_steps(step: Step) -> Callable[..., Any]:
    """Make `steps(state, data, index, rng)`: several steps in one program, on data at hand.

    Args:
        step: See `make_train_step`; it gets the data as `frozen`, and the indices of one step as
            its batch.

    Returns:
        A pure function of a state, of the data, and of `(n, K)` indices of K steps into it; it
        returns the state after the last step and the metrics of all, `(K,)` each.
    """

    def train_steps(state: TrainState, data: Any, index: Any, rng: Array) -> Any:
        def one(state: TrainState, at: Any) -> Any:
            return step(state, data, at, rng)

        return jax.lax.scan(one, state, jax.tree.map(jnp.transpose, index))

    return train_steps

"""The programs that training compiles, once for all detectors of a configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Variables
from jaxad.recipes.recipe import Model, Phase
from jaxad.training import phases
from jaxad.training.state import TrainState, init_state


class Programs:
    """By what a program depends on: another detector of the same shapes asks for the same."""

    def __init__(
        self, model: Callable[[int], Model], shapes: Any, computing: phases.Computing
    ) -> None:
        """Set up; nothing is compiled.

        Args:
            model: Builds the detector for a number of subclasses; the same object for the same.
            shapes: Of one image's features.
            computing: How steps are computed.
        """
        self._model, self._shapes, self._computing = model, shapes, computing
        self.init = functools.cache(self._make_init)
        """`init(count)(rng)`: the method's variables for a number of subclasses."""
        self.holdout = functools.cache(
            lambda count, n: phases.holdout_program(self._model(count).phases[n])
        )
        """`holdout(count, n)`: what measures held-out images after phase n."""
        self.optimizer = functools.cache(self._describe_optimizer)
        """`optimizer(count, n, steps)`: all that it computes, and its schedules, as text."""
        self._steps: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def part(self, phase: Phase, variables: Variables) -> Variables:
        """What of the variables a phase trains or reads."""
        return {
            collection: {name: variables[collection][name] for name in levels}
            for collection, levels in _shapes_of(phase.method, self._shapes).items()
        }

    def variables(self, count: int) -> Any:
        """The method's variables without their values."""
        return _shapes_of(self._model(count).detector.method, self._shapes)

    def state(self, phase: Phase, steps: int) -> TrainState:
        """The state of a phase without its values."""
        part = _shapes_of(phase.method, self._shapes)
        return jax.eval_shape(lambda v: init_state(v, phase.method.optimizer(steps)), part)

    def step(
        self, count: int, n: int, steps: int, turns: int, batch: int, place: str
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What begins a phase, and its step.

        Where epochs make the number of steps, and no schedule looks at it, one program serves all.

        Args:
            count: Of subclasses that the method is built for.
            n: Number of the phase.
            steps: That it takes.
            turns: Subclasses that a batch goes through in turn.
            batch: Elements of a step.
            place: Where features are: "device", "host" or "off".
        """
        key = (count, n, self.optimizer(count, n, steps), turns, batch, place)
        if key not in self._steps:
            self._steps[key] = self._make_step(count, n, steps, turns, batch, place)
        return self._steps[key]

    def _make_init(self, count: int) -> Callable[..., Variables]:
        method = self._model(count).detector.method

        def init_method(rng: Any) -> Variables:
            return method.init(rng, _zeros(self._shapes))

        return jax.jit(init_method)

    def _describe_optimizer(self, count: int, n: int, steps: int) -> str:
        method = self._model(count).phases[n].method
        optimizer = method.optimizer(steps)
        rates = {} if method.schedules is None else method.schedules(steps)
        params = _shapes_of(method, self._shapes)["params"]

        def all_of(params: Any, step: Any) -> Any:
            told = {name: rate(step) if callable(rate) else rate for name, rate in rates.items()}
            return optimizer.update(params, optimizer.init(params), params), told

        with jax.numpy_dtype_promotion("standard"):
            traced = jax.make_jaxpr(all_of)(params, jnp.zeros((), jnp.int32))
        return f"{traced.jaxpr} {[np.asarray(value).tolist() for value in traced.consts]}"

    def _make_step(
        self, count: int, n: int, steps: int, turns: int, batch: int, place: str
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        detector, every = self._model(count)
        phase, computing = every[n], self._computing

        @jax.jit
        def start_phase(part: Variables) -> Any:
            return init_state(part, phase.method.optimizer(steps))

        if place == "off":
            step = phases.image_step(
                phase, steps, detector, groups=turns, batch=batch, computing=computing
            )
        else:
            make = phases.device_step if place == "device" else phases.cached_step
            step = make(phase, steps, groups=turns, computing=computing)
        return start_phase, step


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _shapes_of(method: Any, shapes: Any) -> Any:
    """The method's variables without their values; nothing is computed."""
    return jax.eval_shape(lambda rng: method.init(rng, _zeros(shapes)), jax.random.key(0))

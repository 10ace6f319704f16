"""Experts of any method, one a subclass: how their variables are held, and how they are trained.

Those that are trained by steps are stacked: every array has the experts on its first axis, so that
one program trains them all. What grows with the photos (a memory bank) differs in length from one
subclass to the next, and is held apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables


def grouped(x: Array, groups: int) -> Array:
    """Sort a batch that goes through the subclasses in turn: `(m·n, ...)` to `(n, m, ...)`.

    Under pmap this is one device's part, which goes through them all by itself.

    Raises:
        InputError: The batch is not a multiple of `groups`.
    """
    if len(x) % groups:
        raise InputError(
            f"a batch of {len(x)} can not go through {groups} subclasses in turn: use a multiple"
        )
    return jnp.swapaxes(x.reshape(-1, groups, *x.shape[1:]), 0, 1)


class Holding(NamedTuple):
    """How the variables of several experts are one tree."""

    join: Callable[[Sequence[Variables]], Variables]
    """`join(variables of each)`."""
    own: Callable[[Variables, int], Variables]
    """`own(variables, k)`: those of expert k, as its method has them."""
    ask: Callable[[Variables, Array, Callable[[Variables], Any]], Any]
    """`ask(variables, j, f)`: `f` of the variables of expert j, which a program finds out."""


def _stack(each: Sequence[Variables]) -> Variables:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def _of_stack(variables: Variables, j: Any) -> Variables:
    return jax.tree.map(lambda leaf: leaf[j], variables)


def _side(each: Sequence[Variables]) -> Variables:
    return {name: {str(k): one[name] for k, one in enumerate(each)} for name in each[0]}


def _of_side(variables: Variables, k: int) -> Variables:
    return {name: tree[str(k)] for name, tree in variables.items()}


def _switch(variables: Variables, j: Array, f: Callable[[Variables], Any]) -> Any:
    count = len(next(iter(variables.values())))
    return jax.lax.switch(j, [lambda k=k: f(_of_side(variables, k)) for k in range(count)])


STACKED = Holding(_stack, _of_stack, lambda variables, j, f: f(_of_stack(variables, j)))
"""`(n, ...)` in every array."""
APART = Holding(_side, _of_side, _switch)
"""A tree by the number of the expert in every collection."""


def side_by_side(method: Method, count: int, *, tied: bool = False) -> Method:
    """Train `count` experts at once, each as the method by itself on its own subclass.

    All begin with the same variables: what they come to differ in is what they have seen.

    Args:
        method: Of one expert; it has steps.
        count: n.
        tied: All learn from all subclasses, as one: their common gradient keeps them equal. A start
            for experts that then go on by themselves.

    Returns:
        A `Method` on stacked variables, whose batches go through the subclasses in turn. Its loss
        is the sum over the experts, so each has the gradients that it has alone; its optimizer
        works on each alone, too. Its score is the mean of all.
    """

    def init(rng: Array, features: Features) -> Variables:
        return _stack([method.init(rng, features)] * count)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        if tied:
            one = {**_of_stack(variables, 0)}
            # Of the mean each has the n-th part of the gradient.
            one["params"] = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), variables["params"])
            value, aux = method.loss(one, features, batch, rng)
            return count * value, Aux(_stack([aux.updates] * count), aux.metrics)
        parts = {name: grouped(x, count) for name, x in features.items()}
        rest = {name: grouped(jnp.asarray(x), count) for name, x in batch.items()}

        def of_one(own: Variables, features: Features, batch: Mapping[str, Array]) -> Any:
            return method.loss(own, features, batch, rng)

        values, aux = jax.vmap(of_one)(variables, parts, rest)
        metrics = {name: (jnp.sum(a), jnp.sum(b)) for name, (a, b) in aux.metrics.items()}
        return jnp.sum(values), Aux(aux.updates, metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        each = jax.lax.map(lambda own: method.score(own, features, size=size), variables)
        return Scores(*(jnp.mean(found, axis=0) for found in each))

    def optimizer(steps: int) -> optax.GradientTransformation:
        # Of each by itself: a norm that gradients are clipped by is that of one expert.
        chain = method.optimizer(steps)

        def update(gradients: Any, state: Any, params: Any = None) -> Any:
            return jax.vmap(chain.update)(gradients, state, params)

        return optax.GradientTransformation(jax.vmap(chain.init), update)

    return Method(init, loss, score, optimizer, schedules=method.schedules)


def joint(
    parts: Mapping[str, Method],
) -> tuple[
    Callable[[Variables, Features, Mapping[str, Array], Array], tuple[Array, Aux]],
    Callable[[int], optax.GradientTransformation],
]:
    """Make `loss` and `optimizer` of methods that share no parameters, trained together (Eq. 3).

    Args:
        parts: By name. A part has the parameters of its name; all others are "experts".
    """

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        total, updates, metrics = jnp.zeros(()), dict[str, Any](), {}
        for part, key in zip(parts.values(), jax.random.split(rng, len(parts))):
            value, aux = part.loss(variables, features, batch, key)
            total = total + value
            updates.update(aux.updates)
            metrics.update(aux.metrics)
        return total, Aux(updates, metrics)

    def optimizer(steps: int) -> optax.GradientTransformation:
        return optax.multi_transform(
            {name: part.optimizer(steps) for name, part in parts.items()},
            lambda params: {name: name if name in parts else "experts" for name in params},
        )

    return loss, optimizer

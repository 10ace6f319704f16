"""What a recipe's parts take, and what a whole training of the reference recipe would take.

Nobody waits for its end: a few steps are timed, and

    seconds = steps a epoch × epochs × seconds a step
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.detectors import build
from benchmarks.measure import interleave
from jaxad.core import InputError
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

IMAGES = 209
"""Normal training images of bottle."""
BATCH = 8
EPOCHS = 200
PAUSE = 0.03
"""Seconds between timed runs, see `measure.interleave`."""


class Runs(NamedTuple):
    """A recipe's parts, as functions that wait for their result."""

    step: Callable[[], Any]
    features: Callable[[], Any]


class Cost(NamedTuple):
    """What a recipe's parts take, in seconds."""

    step: float
    """A training step on features that are there."""
    features: float
    """Both frozen networks on the images of a step."""


def recipe_seconds(
    cost: Cost, *, images: int, batch: int, epochs: int, cached: bool
) -> dict[str, float]:
    """What a whole training takes: features once, or in every epoch.

    Args:
        cost: Of a full batch.
        images: In the training set.
        batch: Images a step; the last, smaller one of an epoch is counted as its share.
        epochs: Passes over the images.
        cached: Whether features are kept.

    Returns:
        `seconds` in all, `per_epoch_seconds`, and `once_seconds` of features that are kept.

    Raises:
        InputError: A number is not positive.
    """
    if min(images, batch, epochs) < 1:
        raise InputError(f"images, batch and epochs are {images}, {batch}, {epochs}: use 1 or more")
    steps = images / batch
    once = steps * cost.features if cached else 0.0
    per_epoch = steps * (cost.step + (0.0 if cached else cost.features))
    return {
        "once_seconds": once,
        "per_epoch_seconds": per_epoch,
        "seconds": once + epochs * per_epoch,
    }


def our_runs(config: Any, images: np.ndarray[Any, Any]) -> Runs:
    """Our own work of the reference recipe: the same networks, batch and whole maps."""
    detector, variables = build(config)
    method = detector.method
    optimizer = method.optimizer(1000)
    step = jax.jit(
        make_train_step(lambda v, _, batch, rng: method.loss(v, dict(batch), {}, rng), optimizer),
        donate_argnums=0,
    )
    extract = jax.jit(detector.features)
    frozen = {"backbones": variables["backbones"]}
    x = jnp.asarray(images)
    found = extract(frozen, x)
    state = init_state(jax.tree.map(jnp.array, variables["method"]), optimizer)
    rng = jax.random.key(0)

    def train() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, {}, found, rng))

    return Runs(train, lambda: jax.block_until_ready(extract(frozen, x)))


def costs(recipes: dict[str, Runs], *, pairs: int) -> dict[str, Cost]:
    """Time the parts of all recipes in turn; medians."""
    flat = {
        (name, part): run for name, runs in recipes.items() for part, run in runs._asdict().items()
    }
    seconds = interleave({" ".join(at): run for at, run in flat.items()}, pairs=pairs, pause=PAUSE)
    return {
        name: Cost(*(statistics.median(seconds[f"{name} {part}"]) for part in Cost._fields))
        for name in recipes
    }


def row_of(
    library: str, form: str, cost: Cost, *, timed_steps: int, epochs: int, cached: bool
) -> dict[str, Any]:
    """Row of the reference recipe, extrapolated from the cost of `timed_steps` steps."""
    seconds = recipe_seconds(cost, images=IMAGES, batch=BATCH, epochs=epochs, cached=cached)
    return {
        "name": f"reference, {'cached' if cached else 'uncached'}",
        "library": library,
        "form": form,
        "step_seconds": cost.step,
        "features_seconds": cost.features,
        "images": IMAGES,
        "batch": BATCH,
        "epochs": epochs,
        "extrapolated_from_steps": timed_steps,
        **seconds,
    }

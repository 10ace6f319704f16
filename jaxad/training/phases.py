"""Training one phase: its steps, on batches from the host or on features that devices hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Aux, InputError, Variables
from jaxad.detector import Detector
from jaxad.parallel import DataParallel
from jaxad.progress import Progress
from jaxad.recipes.recipe import Phase
from jaxad.training import feature_cache as features
from jaxad.training.sampling import index_stream, share, steps_of, taker
from jaxad.training.state import TrainState
from jaxad.training.steps import make_steps, make_train_step

BLOCK = 50
"""Steps in one program, where devices hold the features."""
Report = Callable[[Any], None]


def run_phase(
    phase: Phase,
    state: TrainState,
    stream: Iterator[Any],
    detector: Detector,
    groups: Sequence[np.ndarray[Any, Any]],
    config: Any,
    parallel: DataParallel,
    log: Callable[..., None],
) -> TrainState:
    """Take the phase's steps on batches from the host, and log its losses.

    Raises:
        InputError: The loss is not finite.
    """
    steps, n = steps_of(phase, groups, config), len(groups)
    drawn = share(phase.positions, n, parallel.device_count) * n // parallel.device_count

    def loss(variables: Variables, batch: Any, rng: Array) -> tuple[Array, Aux]:
        own = {name: tree for name, tree in variables.items() if name != "backbones"}
        cached = "image" not in batch
        every = batch if cached else detector.features(variables, batch["image"])
        found = {name: every[name] for name in phase.features}
        if drawn and not cached:
            found = features.draw_positions(rng, found, count=drawn, groups=n)
        return _loss(phase, own, found, rng, groups=n)

    step = parallel.train_step(
        make_train_step(loss, phase.method.optimizer(steps), mean=parallel.mean)
    )
    rng = parallel.replicate(jax.random.key(config.train.seed))
    batches = map(parallel.shard, itertools.islice(stream, steps))
    return _run(step, state, batches, rng, reporter(phase, steps, config, log))


def run_phase_on_devices(
    phase: Phase,
    state: TrainState,
    cache: Any,
    groups: Sequence[np.ndarray[Any, Any]],
    config: Any,
    parallel: DataParallel,
    log: Callable[..., None],
) -> TrainState:
    """Take the same steps on features that every device holds: the host says which, no more.

    `BLOCK` steps are one program.

    Raises:
        InputError: The loss is not finite.
    """
    steps, n = steps_of(phase, groups, config), len(groups)

    def loss(variables: Variables, batch: Any, rng: Array) -> tuple[Array, Aux]:
        return _loss(phase, variables, batch, rng, groups=n)

    one = make_train_step(loss, phase.method.optimizer(steps), mean=parallel.mean)
    block = parallel.train_step(make_steps(one, taker(phase)))
    stream = index_stream(phase, cache, groups, config, devices=parallel.device_count)
    blocks = (
        parallel.shard(np.stack(list(itertools.islice(stream, min(BLOCK, steps - done))), axis=1))
        for done in range(0, steps, BLOCK)
    )
    rng = parallel.replicate(jax.random.key(config.train.seed))
    shared = rng, {name: cache[name] for name in phase.features}
    report = reporter(phase, steps, config, log)

    def report_each(metrics: Any) -> None:
        found = jax.device_get(metrics)
        for i in range(len(found["loss"][0])):
            report({name: (total[i], count[i]) for name, (total, count) in found.items()})

    return _run(block, state, blocks, shared, report_each)


def _loss(
    phase: Phase, variables: Variables, found: Any, rng: Array, *, groups: int
) -> tuple[Array, Aux]:
    """The method's loss on a batch that goes through the groups in turn."""
    found = features.as_float32(found)
    label = jnp.arange(len(next(iter(found.values()))), dtype=jnp.int32) % groups
    return phase.method.loss(variables, found, {"subclass": label}, rng)


def _run(
    step: Callable[..., Any], state: TrainState, batches: Iterable[Any], shared: Any, report: Report
) -> TrainState:
    """Call `step` with batch after batch, at most two in flight."""
    previous: Any = None
    for batch in batches:
        state, metrics = step(state, batch, shared)
        # Reading the one before last: the device never waits, nor piles up.
        previous, metrics = metrics, previous
        if metrics is not None:
            report(metrics)
    report(previous)
    return state


def reporter(phase: Phase, steps: int, config: Any, log: Callable[..., None]) -> Report:
    """Make `report(metrics)`, which checks, logs and shows those of the next finished step."""
    progress = Progress(f"train {phase.name}", steps, "steps")
    numbers = itertools.count(1)

    def report(metrics: Any) -> None:
        number = next(numbers)
        values = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"training diverged: the loss of phase {phase.name!r} is {values['loss']} at step "
                f"{number}; lower method.learning_rate, or check the images and weights"
            )
        if number % config.train.log_every == 0 or number in (1, steps):
            log(phase=phase.name, step=number, **values)
        progress.advance(note=f"loss {values['loss']:.3g}")

    return report


def holdout(phase: Phase, variables: Variables, stream: Iterator[Any]) -> dict[str, float]:
    """Mean of the phase's score map over held-out normal images, and what it checks of them."""

    @jax.jit
    def measure(variables: Variables, found: Any, batch: Any) -> dict[str, Array]:
        mean = phase.method.score(variables, found, size=(64, 64)).map.mean()
        more = phase.check(variables, found, batch) if phase.check else {}
        return {
            "holdout": mean,
            **{f"holdout_{name}": total / count for name, (total, count) in more.items()},
        }

    count, sums = 0, dict[str, float]()
    for found, batch in stream:
        size = len(next(iter(found.values())))
        count += size
        for name, value in measure(variables, found, batch).items():
            sums[name] = sums.get(name, 0.0) + float(value) * size
    return {name: value / count for name, value in sums.items()}

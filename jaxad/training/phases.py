"""The programs of one training phase, and the loop that calls them step after step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxad.core import Array, Aux, InputError, Variables
from jaxad.detector import Detector
from jaxad.parallel import DataParallel
from jaxad.progress import Progress
from jaxad.recipes.recipe import Phase
from jaxad.training import feature_cache
from jaxad.training.state import TrainState
from jaxad.training.steps import make_steps, make_train_step

BLOCK = 50
"""Steps in one program, where devices hold the features."""
Report = Callable[[Any], None]


def cached_step(phase: Phase, steps: int, *, groups: int, parallel: DataParallel) -> Any:
    """Compile a step on features that the host sends: `step(state, {}, batch, rng)`.

    Args:
        phase: What is trained.
        steps: Of the whole phase, for its schedule.
        groups: Subclasses that a batch goes through in turn.
        parallel: Over which devices.
    """
    return parallel.train_step(_step(phase, steps, groups, parallel))


def device_step(phase: Phase, steps: int, *, groups: int, parallel: DataParallel) -> Any:
    """Compile `steps(state, cache, index, rng)`: the same steps on features that devices hold.

    The host says which ones, no more.
    """
    pick = parallel.held.pick(viewer(phase))

    def of_step(cache: Any, index: Any) -> Any:
        return {**pick(cache, index["at"]), "element": index["element"]}

    one = _step(phase, steps, groups, parallel)
    return parallel.train_step(make_steps(one, of_step), held=True)


def image_step(
    phase: Phase,
    steps: int,
    detector: Detector,
    *,
    groups: int,
    batch: int,
    parallel: DataParallel,
) -> Any:
    """Compile a step on photos: `step(state, backbones, batch, rng)`.

    Where the phase wants positions, they are drawn of these photos, as many of each.
    """
    each = positions_each(phase, batch)

    def loss(variables: Variables, frozen: Any, batch_of: Any, rng: Array) -> tuple[Array, Aux]:
        features = detector.features({"backbones": frozen}, batch_of["image"])
        found = {name: features[name] for name in phase.features}
        element = batch_of["element"]
        drawing, noise = jax.random.split(rng)
        if each:
            found, element = feature_cache.draw_positions(
                drawing, found, element, each=each, batch=batch
            )
        return _loss(phase, variables, found, element, noise, groups=groups)

    return parallel.train_step(
        make_train_step(loss, phase.method.optimizer(steps), mean=parallel.mean)
    )


def positions_each(phase: Phase, batch: int) -> int:
    """Positions that a step on photos draws of each of `batch` images; 0: whole maps."""
    return -(-phase.positions // batch)


def _step(phase: Phase, steps: int, groups: int, parallel: DataParallel) -> Any:
    def loss(variables: Variables, frozen: Any, batch: Any, rng: Array) -> tuple[Array, Aux]:
        del frozen  # features are at hand
        found = {name: batch[name] for name in phase.features}
        _, noise = jax.random.split(rng)  # as with photos
        return _loss(phase, variables, found, batch["element"], noise, groups=groups)

    return make_train_step(loss, phase.method.optimizer(steps), mean=parallel.mean)


def _loss(
    phase: Phase, variables: Variables, found: Any, element: Array, rng: Array, *, groups: int
) -> tuple[Array, Aux]:
    """The method's loss on a batch that goes through the groups in turn."""
    batch = {"element": element, "subclass": element % groups}
    return phase.method.loss(variables, feature_cache.as_float32(found), batch, rng)


def taker(phase: Phase) -> Callable[[Any, Any], Any]:
    """What makes a phase's features of a cache and an index: `f(cache, index)`."""
    view = viewer(phase)
    return lambda cache, index: feature_cache.take_images(view(cache), index)


def viewer(phase: Phase) -> Callable[[Any], Any]:
    """What shows a cache as the rows that a phase takes of it: images, or positions."""

    def view(cache: Any) -> Any:
        chosen = {name: cache[name] for name in phase.features}
        return feature_cache.as_positions(chosen) if phase.positions else chosen

    return view


def blocks(stream: Iterator[Any], steps: int, *, done: int = 0) -> Iterator[Any]:
    """Indices `(n, K)` of K steps each, with every element's place in its batch.

    K is `BLOCK`, then 1 for the steps that are left: two programs, whatever the number of steps.

    Args:
        stream: Indices of the steps that are to come.
        steps: Of the whole phase.
        done: Those that were taken before, up to the end of a block.
    """
    whole = max(steps // BLOCK - done // BLOCK, 0)
    for k in [BLOCK] * whole + [1] * (steps - done - whole * BLOCK):
        at = np.stack(list(itertools.islice(stream, k)), axis=1)
        element = np.broadcast_to(np.arange(len(at), dtype=np.int32)[:, None], at.shape)
        yield {"at": at, "element": element}


def run(
    step: Callable[..., Any],
    state: TrainState,
    frozen: Any,
    batches: Iterable[Any],
    rng: Array,
    report: Report,
    *,
    pause: Callable[[TrainState], None] = lambda state: None,
    due: Callable[[int], bool] = lambda steps: False,
) -> TrainState:
    """Call `step` with batch after batch, at most two in flight; report every step's metrics.

    Before each one, `due` is asked with the number of steps since the last pause; it may raise, to
    end the work. Where it says yes, they are reported and `pause(state)` is called.
    """
    previous: Any = None
    since = 0
    for batch in batches:
        if due(since):
            if previous is not None:
                report(previous)
            pause(state)
            previous, since = None, 0
        state, metrics = step(state, frozen, batch, rng)
        since += np.size(metrics["loss"][0])
        # Reading the one before last: the device never waits, nor piles up.
        previous, metrics = metrics, previous
        if metrics is not None:
            report(metrics)
    if previous is not None:
        report(previous)
    return state


def reporter(
    phase: str,
    steps: int,
    *,
    title: str,
    log_every: int,
    log: Callable[..., None],
    done: int = 0,
) -> Report:
    """Make `report(metrics)`, which checks, logs and shows those of the next finished steps.

    Metrics are (sum, count) pairs of one step, or of several, `(K,)` each. `done` steps were taken
    before.

    Raises:
        InputError: The loss is not finite (when called).
    """
    progress = Progress(title, steps, "steps", done=done)
    numbers = itertools.count(done + 1)

    def report(metrics: Any) -> None:
        found = jax.device_get(metrics)
        for i in range(np.size(found["loss"][0])):
            number = next(numbers)
            values = {
                key: float(np.ravel(total)[i]) / float(np.ravel(count)[i])
                for key, (total, count) in found.items()
            }
            if not math.isfinite(values["loss"]):
                raise InputError(
                    f"training diverged: the loss of phase {phase!r} is {values['loss']} at step "
                    f"{number}; lower method.learning_rate, or check the images and weights"
                )
            if number % log_every == 0 or number in (1, steps):
                log(phase=phase, step=number, **values)
            progress.advance(note=f"loss {values['loss']:.3g}")

    return report


def holdout_program(phase: Phase) -> Callable[..., Any]:
    """Compile what is measured of held-out images: mean of the score map, and the phase's check."""

    @jax.jit
    def measure_holdout(variables: Variables, found: Any, batch: Any) -> dict[str, Array]:
        mean = phase.method.score(variables, found, size=(64, 64)).map.mean()
        more = phase.check(variables, found, batch) if phase.check else {}
        return {
            "holdout": mean,
            **{f"holdout_{name}": total / count for name, (total, count) in more.items()},
        }

    return measure_holdout


def holdout(
    measure: Callable[..., Any], variables: Variables, stream: Iterable[Any]
) -> dict[str, float]:
    """Mean over held-out normal images of what `holdout_program` measures of each batch."""
    count, sums = 0, dict[str, float]()
    for found, batch in stream:
        size = len(next(iter(found.values())))
        count += size
        for name, value in measure(variables, found, batch).items():
            sums[name] = sums.get(name, 0.0) + float(value) * size
    return {name: value / count for name, value in sums.items()}

"""The programs of one training phase, and the loop that calls them step after step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.core import Array, Aux, Variables
from jaxad.detector import Detector
from jaxad.held import take
from jaxad.parallel import DataParallel
from jaxad.recipes.recipe import Phase
from jaxad.training import feature_cache
from jaxad.training.state import TrainState
from jaxad.training.steps import Step, make_steps, make_train_step
from jaxad.training.telemetry import Report, steps_in

BLOCK = 50
"""Steps in one program, where devices hold the features."""


class Computing(NamedTuple):
    """How steps are computed, whatever they learn."""

    parallel: DataParallel
    """Over which devices."""
    parts: int = 1
    """Of a batch, one after the other."""
    dtype: str = "float32"
    """Of networks."""


def cached_step(phase: Phase, steps: int, *, groups: int, computing: Computing) -> Any:
    """Compile a step on features that the host sends: `step(state, {}, batch, rng)`.

    Args:
        phase: What is trained.
        steps: Of the whole phase, for its schedule.
        groups: Subclasses that a batch goes through in turn.
        computing: On what, and how.
    """

    def take(frozen: Any, batch: Any) -> Any:
        del frozen  # features are at hand
        return {name: batch[name] for name in phase.features}

    return computing.parallel.train_step(_step(phase, steps, groups, computing, take))


def device_step(phase: Phase, steps: int, *, groups: int, computing: Computing) -> Any:
    """Compile `steps(state, cache, index, rng)`: the same steps on features that devices hold.

    The host says which ones, no more.
    """
    pick = computing.parallel.held.pick(viewer(phase))

    def take(cache: Any, index: Any) -> Any:
        return pick(cache, index["at"])

    one = _step(phase, steps, groups, computing, take)
    return computing.parallel.train_step(make_steps(one), held=True)


def image_step(
    phase: Phase,
    steps: int,
    detector: Detector,
    *,
    groups: int,
    batch: int,
    computing: Computing,
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

    return computing.parallel.train_step(_train_step(loss, phase, steps, groups, computing))


def positions_each(phase: Phase, batch: int) -> int:
    """Positions that a step on photos draws of each of `batch` images; 0: whole maps."""
    return -(-phase.positions // batch)


def _step(
    phase: Phase,
    steps: int,
    groups: int,
    computing: Computing,
    take: Callable[[Any, Any], Any],
) -> Step:
    """A step on the features that `take(frozen, batch)` gives, of one part of a batch at a time."""

    def loss(variables: Variables, frozen: Any, batch: Any, rng: Array) -> tuple[Array, Aux]:
        found = take(frozen, batch)
        _, noise = jax.random.split(rng)  # as with photos
        return _loss(phase, variables, found, batch["element"], noise, groups=groups)

    return _train_step(loss, phase, steps, groups, computing)


def _train_step(loss: Any, phase: Phase, steps: int, groups: int, computing: Computing) -> Step:
    method = phase.method
    return make_train_step(
        loss,
        method.optimizer(steps),
        mean=computing.parallel.mean,
        schedules=None if method.schedules is None else method.schedules(steps),
        parts=computing.parts,
        turn=groups,
        dtype=computing.dtype,
    )


def _loss(
    phase: Phase, variables: Variables, found: Any, element: Array, rng: Array, *, groups: int
) -> tuple[Array, Aux]:
    """The method's loss on a batch that goes through the groups in turn."""
    batch = {"element": element, "subclass": element % groups}
    return phase.method.loss(variables, feature_cache.as_float32(found), batch, rng)


def taker(phase: Phase) -> Callable[[Any, Any], Any]:
    """What makes a phase's features of a cache and an index: `f(cache, index)`."""
    view = viewer(phase)
    return lambda cache, index: take(view(cache), index)


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
    measure: Measure | None = None,
    pause: Callable[[TrainState], None] = lambda state: None,
    due: Callable[[int], bool] = lambda steps: False,
) -> TrainState:
    """Call `step` with batch after batch, at most two in flight; report every step's metrics.

    What `measure` finds of the variables after a call is reported with the metrics of its steps.
    Before each call, `due` is asked with the number of steps since the last pause; it may raise, to
    end the work. Where it says yes, all are reported and `pause(state)` is called.
    """
    previous: Any = None
    since = 0
    for batch in batches:
        if due(since):
            if previous is not None:
                report(*previous)
            pause(state)
            previous, since = None, 0
        state, metrics = step(state, frozen, batch, rng)
        count = steps_in(metrics)
        since += count
        more = measure(state.variables, count) if measure else {}
        # Reading the one before last: the device never waits, nor piles up.
        previous, ready = (metrics, more), previous
        if ready is not None:
            report(*ready)
    if previous is not None:
        report(*previous)
    return state


Measure = Callable[[Variables, int], Mapping[str, float]]
"""`measure(variables, count)` after `count` more steps: what there is to say of held-out images."""


def now_and_then(
    measure: Callable[[Variables], Mapping[str, float]], steps: int, *, every: int, done: int = 0
) -> Measure:
    """Make a `Measure` that measures every so many steps, and after the last one.

    Several steps in one program are measured at the end of it, where such a step was among them.
    It waits for these steps, and changes nothing.

    Args:
        measure: What is measured of a phase's variables.
        steps: Of the phase.
        every: Steps between two.
        done: Steps that were taken before.
    """
    number = done

    def when(variables: Variables, count: int) -> Mapping[str, float]:
        nonlocal number
        before, number = number, number + count
        due = before // every < number // every or number >= steps
        return measure(variables) if due else {}

    return when


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

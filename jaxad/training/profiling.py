"""A trace of some steps, for TensorBoard's profiler, Perfetto or XProf."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxad.errors import printable
from jaxad.training.telemetry import steps_in


class Profile(NamedTuple):
    """Which steps of a phase are traced, and where to."""

    folder: Callable[[], Path]
    """Names the folder, once there is something to write."""
    first: int
    """Step, from 1. The first one that a process takes is the one that compiles."""
    last: int


@contextmanager
def profiled(
    step: Callable[..., Any], profile: Profile | None, *, done: int = 0
) -> Iterator[Callable[..., Any]]:
    """Give a `step` that is traced from `profile.first` to `profile.last`, and else as it was.

    Of several steps in one program all are traced as soon as one is. A trace that is not at its end
    when this is left is written as it is.

    Args:
        step: As `phases.run` takes it.
        profile: None: nothing is traced.
        done: Steps that were taken before.
    """
    if profile is None or profile.last <= done:
        yield step
        return
    number, tracing = done, False

    def stop() -> None:
        nonlocal tracing
        tracing = False
        jax.profiler.stop_trace()

    def traced(state: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        nonlocal number, tracing
        coming = range(number + 1, number + _steps_of(batch) + 1)
        if not tracing and coming.stop > profile.first and coming.start <= profile.last:
            folder = profile.folder()
            print(
                f"trace of steps {coming.start} to {profile.last} in {printable(folder)}",
                file=sys.stderr,
            )
            jax.profiler.start_trace(folder)
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=coming.start):
            found = step(state, frozen, batch, rng)
        number += steps_in(found[1])
        if tracing and number >= profile.last:
            jax.block_until_ready(found)
            stop()
        return found

    try:
        yield traced
    finally:
        if tracing:
            stop()


def _steps_of(batch: Any) -> int:
    """How many steps a call with this batch takes: indices into kept features have them last."""
    return int(batch["at"].shape[-1]) if "at" in batch else 1

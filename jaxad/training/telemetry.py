"""What a training phase says of itself: lines of train.jsonl, with rates and memory."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxad.core import InputError
from jaxad.memory import peak_memory
from jaxad.parallel import device_memory_in_use
from jaxad.progress import Progress

Report = Callable[[Any, Mapping[str, float]], None]
"""`report(metrics, more)`: those of the next finished steps, and what was measured after them."""


def steps_in(metrics: Any) -> int:
    """Of how many steps these metrics are; does not wait for them."""
    return int(np.prod(np.shape(metrics["loss"][0]), dtype=int))


def memory() -> dict[str, int]:
    """Bytes: the most that the process has held, and what accelerators hold now, if there are."""
    found = {"memory_peak_bytes": peak_memory(), "device_memory_bytes": device_memory_in_use()}
    return {name: value for name, value in found.items() if value is not None}


def reporter(
    phase: str,
    steps: int,
    *,
    title: str,
    log_every: int,
    log: Callable[..., None],
    seen: Mapping[str, int] | None = None,
    done: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Make `report(metrics, more)`, which checks, logs and shows those of the next finished steps.

    A line has the phase, the step and how many there are, the mean of each metric, and memory. It
    has rates where another line, or the first call of a step, which compiles, came before it: of
    the steps since then, on the clock, with all that a run does between them. Several steps that
    come from one program are taken to be equally long. What was measured after such a program
    stands in the line of its last step, which gets one.

    Args:
        phase: Its name.
        steps: Of the phase.
        title: Of the progress that is shown.
        log_every: Steps between two lines; the first and the last one have theirs.
        log: Called with what is to be kept.
        seen: What a step sees: "images", "positions" or both, and how many.
        done: Steps that were taken before.
        clock: Seconds.

    Raises:
        InputError: The loss is not finite (when called).
    """
    progress = Progress(title, steps, "steps", done=done)
    numbers = itertools.count(done + 1)
    arrived: float | None = None
    since: tuple[int, float] | None = None

    def rates(number: int, at: float) -> dict[str, float]:
        nonlocal since
        before, since = since, (number, at)
        if before is None or at <= before[1]:
            return {}
        rate = (number - before[0]) / (at - before[1])
        each = {f"{what}_per_second": rate * count for what, count in (seen or {}).items()}
        return {"steps_per_second": rate, **each}

    def report(metrics: Any, more: Mapping[str, float]) -> None:
        nonlocal arrived, since
        found, now, count = jax.device_get(metrics), clock(), steps_in(metrics)
        number = 0
        for i in range(count):
            number = next(numbers)
            values = {
                key: float(np.ravel(total)[i]) / float(np.ravel(part)[i])
                for key, (total, part) in found.items()
            }
            if not math.isfinite(values["loss"]):
                raise InputError(
                    f"training diverged: the loss of phase {phase!r} is {values['loss']} at step "
                    f"{number}; lower method.learning_rate, or check the images and weights"
                )
            last = i == count - 1
            if number % log_every == 0 or number in (1, steps) or (last and more):
                timed = {}
                if arrived is not None:
                    timed = rates(number, arrived + (i + 1) / count * (now - arrived))
                told = more if last else {}
                log(phase=phase, step=number, steps=steps, **values, **timed, **memory(), **told)
            progress.advance(note=f"loss {values['loss']:.3g}")
        since, arrived = since or (number, now), now

    return report

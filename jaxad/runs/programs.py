"""How many programs a run compiles: the time of its first minute, and a leak if it grows."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager

import jax.monitoring

EVENT = "/jax/core/compile/backend_compile_duration"


class Programs:
    """What was compiled so far."""

    def __init__(self) -> None:
        self.names: collections.Counter[str] = collections.Counter()
        self.seconds = 0.0

    def __str__(self) -> str:
        return f"{self.names.total()} programs compiled in {self.seconds:.1f} s"


@contextmanager
def counted_programs() -> Iterator[Programs]:
    """Count what XLA compiles, or fetches from the compilation cache, while this is entered."""
    found = Programs()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == EVENT:
            found.names[str(kwargs.get("fun_name", "?"))] += 1
            found.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

"""Progress of long work: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from jaxad.errors import printable

T = TypeVar("T")


def span(seconds: float) -> str:
    """A time as a clock shows it: 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Counts done units and shows rate and time left on standard error.

    On a terminal the line is redrawn at most ten times a second; elsewhere a line is printed every
    `every` seconds and at the end. `done` units were done before: they say nothing of the rate.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        every: float = 15.0,
        stream: TextIO | None = None,
    ) -> None:
        self._label, self._total, self._unit = printable(label), total, unit
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._interval = 0.1 if self._live else every
        self._start = self._shown = time.monotonic()
        self._done = self._before = done

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` (e.g. the loss) ends the line."""
        self._done += count
        now = time.monotonic()
        last = self._done >= self._total
        if not last and now - self._shown < self._interval:
            return
        self._shown = now
        elapsed = max(now - self._start, 1e-9)
        rate = (self._done - self._before) / elapsed
        left = "" if last else f", {span((self._total - self._done) / rate)} left"
        text = (
            f"{self._label}: {self._done}/{self._total} {self._unit} in {span(elapsed)} "
            f"({rate:.1f}/s{left})" + (f"  {note}" if note else "")
        )
        if self._live:
            self._stream.write("\r\x1b[2K" + text + ("\n" if last else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def track(
    batches: Iterable[T],
    label: str,
    total: int,
    unit: str,
    size: int,
    *,
    check: Callable[[], None] = lambda: None,
) -> Iterator[T]:
    """Yield `batches`, counting up to `size` units for each one that was worked off.

    `check` is called before each of them; it may raise, to end the work.
    """
    progress = Progress(label, total, unit)
    left = total
    for batch in batches:
        check()
        yield batch
        progress.advance(min(size, left))
        left -= min(size, left)

"""Being stopped: a signal is remembered, and the work ends at the next place where nothing is lost.

An exception out of a signal handler can come anywhere: between a step's call and its result, while
a folder is renamed, in a destructor that swallows it. So the handler only remembers, and loops ask
between steps and batches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from jaxad.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def never() -> None:
    """The check of a run that nobody stops."""


class Stopping:
    """While it is entered, the first signal is remembered and the second one ends the process."""

    def __init__(self, leave: Callable[[int], None] = os._exit) -> None:
        """Set up; nothing is changed before it is entered.

        Args:
            leave: Ends the process at once, with an exit code.
        """
        self._leave = leave
        self._before: dict[int, Any] = {}
        self.signal: int | None = None
        """What came."""

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # others can not have handlers
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            for child in multiprocessing.active_children():
                child.kill()
            self._leave(128 + number)
        self.signal = number
        name = signal.Signals(number).name
        told = f"\njaxad: {name}: saving, then leaving; once more to leave at once\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, told.encode())

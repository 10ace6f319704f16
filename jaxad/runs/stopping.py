"""Being stopped: a signal is remembered, and the work ends at the next place where nothing is lost.

An exception out of a signal handler can come anywhere: between a step's call and its result, while
a folder is renamed, in a destructor that swallows it. So a signal is only remembered, and loops ask
between steps and batches. A thread listens, because Python's own handlers wait for XLA, which can
take minutes to compile.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from jaxad.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While it is entered, the first signal is remembered and the second one ends the process."""

    def __init__(
        self, leave: Callable[[int], None] = os._exit, *, doing: str = "saving, then leaving"
    ) -> None:
        """Set up; nothing is changed before it is entered.

        Args:
            leave: Ends the process at once, with an exit code.
            doing: What is said to be done when the first signal comes.
        """
        self._leave, self._doing = leave, doing
        self._before: dict[int, Any] = {}
        self.signal: int | None = None
        """What came."""

    def __enter__(self) -> Stopping:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread can have handlers
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        self._pipe = theirs
        self._listening = threading.Thread(target=self._listen, args=(ours,), daemon=True)
        self._listening.start()
        self._wake = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        # A handler there has to be: it makes the system write to the pipe.
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wake)
        os.close(self._pipe)
        self._listening.join()

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def _listen(self, pipe: int) -> None:
        while came := os.read(pipe, 1):
            number = came[0]
            if number not in SIGNALS:
                continue
            if self.signal is not None:
                self._leave(128 + number)  # decoding processes end with their sockets
                continue
            name = signal.Signals(number).name
            told = f"\njaxad: {name}: {self._doing}; once more to leave at once\n"
            os.write(2, told.encode())
            self.signal = number
        os.close(pipe)

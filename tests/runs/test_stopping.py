"""The first signal is remembered, the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from jaxad.errors import Stopped
from jaxad.runs.stopping import Stopping


def wait(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_raised_where_it_is_asked_for(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    before = signal.getsignal(number)
    with Stopping(left.append) as stopping:
        stopping.check()
        os.kill(os.getpid(), number)
        wait(lambda: stopping.signal == number)
        for _ in range(2):
            with pytest.raises(Stopped) as stopped:
                stopping.check()
            assert stopped.value.signal == number
        assert left == []
        os.kill(os.getpid(), number)
        wait(lambda: left == [128 + number])
    assert signal.getsignal(number) is before
    assert f"jaxad: {number.name}: saving, then leaving" in capfd.readouterr().err


def test_no_error_handler_takes_it_for_an_error() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_thread_has_no_handlers_and_still_works() -> None:
    seen: list[object] = []

    def work() -> None:
        with Stopping() as stopping:
            stopping.check()
        seen.append(stopping.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_the_second_signal_does_not_wait_for_python() -> None:
    """A process that is in a library's code, as XLA's when it compiles."""
    program = (
        "import ctypes, sys\nfrom jaxad.runs.stopping import Stopping\n"
        "with Stopping():\n    print('in', flush=True)\n"
        "    [ctypes.CDLL(None).sleep(60) for _ in range(9)]\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None
        assert ran.stdout.readline() == "in\n"
        for _ in range(2):
            ran.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert ran.wait(timeout=30) == 143

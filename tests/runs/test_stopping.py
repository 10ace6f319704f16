"""The first signal is remembered, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jaxad.errors import Stopped
from jaxad.runs.stopping import Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_raised_where_it_is_asked_for(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    before = signal.getsignal(number)
    with Stopping(left.append) as stopping:
        stopping.check()
        os.kill(os.getpid(), number)
        assert stopping.signal == number
        for _ in range(2):
            with pytest.raises(Stopped) as stopped:
                stopping.check()
            assert stopped.value.signal == number
        assert left == []
        os.kill(os.getpid(), number)
        assert left == [128 + number]
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

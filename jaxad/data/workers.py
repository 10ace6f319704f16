"""Processes that work for this one, and end with it, whatever ends it.

All that is between this process and a worker is one socket: a worker is sent an item and sends back
what it makes of it. No semaphore, shared memory or file is left behind where all of them are killed
at once, and a worker whose socket is closed from the other side leaves: so no word has to reach it.

Signals to stop come to a whole group of processes: from a terminal, or from a scheduler. They are
blocked in workers, since this process decides when to stop, and may need a batch before.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from jaxad.errors import InputError

LOOKED = 5.0
"""Seconds between two looks of a worker at who its parent is: a process that the parent has forked
and forgotten may keep the socket open."""


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]


class Workers:
    """A function that is called in processes of its own; call it from as many threads.

    The processes start at the first call, and end when nothing refers to this object any more.
    """

    def __init__(self, function: Callable[[Any], Any], count: int) -> None:
        """Set up; nothing is started.

        Args:
            function: What workers do. It is pickled, and so are its arguments and results.
            count: Processes.
        """
        self._function, self._count = function, count
        self._lock = threading.Lock()
        self._started: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        weakref.finalize(self, _end, self._started)

    def __call__(self, item: Any) -> Any:
        """Have a worker call the function; waits for one, and for its result.

        Raises:
            InputError: The worker ended, or the function raised it. All else that the function
                raises comes through too.
        """
        with self._lock:
            if not self._started:
                self._start()
        worker = self._idle.get()
        try:
            _send(worker, pickle.dumps(item))
            worked, result = _receive(worker)
        except BaseException:  # interrupted, perhaps: what it sends now nobody asked for
            worker.connection.close()
            raise
        finally:  # one that has ended says so to the next caller too
            self._idle.put(worker)
        if not worked:
            raise result
        return result

    def _start(self) -> None:
        function = pickle.dumps(self._function)
        try:
            for _ in range(self._count):
                self._started.append(_start())
        except OSError as error:
            _end(self._started)
            self._started.clear()
            raise InputError(
                f"{self._count} decoding processes can not be started ({error.strerror}): lower "
                "data.workers"
            ) from error
        for worker in self._started:
            _send(worker, function)
            self._idle.put(worker)


def _start() -> _Worker:
    ours, theirs = Pipe()
    # The path first: it is what makes jaxad and its libraries the same ones.
    path: Sequence[str] = [entry for entry in sys.path if isinstance(entry, str)]
    command = (
        f"import sys; sys.path[:] = {path!a}; from jaxad.data.workers import serve; "
        f"serve({theirs.fileno()}, {os.getpid()})"
    )
    # Inherited, and so in force before the first line of Python runs there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, data: bytes) -> None:
    try:
        worker.connection.send_bytes(data)
    except OSError as error:
        raise _ended(worker) from error


def _receive(worker: _Worker) -> tuple[bool, Any]:
    try:
        found: tuple[bool, Any] = pickle.loads(worker.connection.recv_bytes())
    except (EOFError, OSError) as error:
        raise _ended(worker) from error
    return found


def _ended(worker: _Worker) -> InputError:
    worker.process.kill()
    code = worker.process.wait()
    why = "for lack of memory?" if code == -signal.SIGKILL else f"exit code {code}"
    return InputError(f"a decoding process ended ({why}): lower data.workers")


def _end(workers: Sequence[_Worker]) -> None:
    """End workers at once: they hold nothing that could be lost."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()  # its connection closes with the last thread that waits for it


def serve(file: int, parent: int) -> None:
    """Be a worker: the first message is the function, all others are items.

    Args:
        file: Of the socket.
        parent: Process whose worker this is.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    connection: Connection[Any, Any] = Connection(file)
    try:
        function = pickle.loads(connection.recv_bytes())
        while True:
            item = pickle.loads(connection.recv_bytes())
            connection.send_bytes(_result(function, item))
    except (EOFError, OSError):  # the parent is gone, or done with it
        # Not `sys.exit`: nothing is there to be saved, and libraries' threads may not end.
        os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKED)
    os._exit(0)


def _result(function: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps((True, function(item)), protocol=5)
    except Exception as error:
        if not isinstance(error, InputError):  # which says all in its line
            error.add_note(traceback.format_exc())
        try:
            pickle.loads(pickled := pickle.dumps((False, error)))
        except Exception:  # of a class that can not be sent
            pickled = pickle.dumps((False, RuntimeError(traceback.format_exc())))
        return pickled

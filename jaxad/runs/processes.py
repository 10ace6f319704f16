"""Several processes that train together: how they agree, stop, and notice that one is gone.

JAX connects them (`jax.distributed`), and its coordination service, in the first process, keeps the
few words that they exchange. The first process alone writes; what it finds in the work directory it
tells the others.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxad.errors import InputError, Stopped, first_line

BEAT = 2.0
"""Seconds between two signs of life."""
SILENT = 30.0
"""Seconds without one after which a process counts as gone."""
ENDED, FAILED = "ended", "failed"
"""Last words."""
GRACE = 5.0
"""Seconds for the others to meet the same error."""
ASKED = 8
"""Between so many checks processes ask each other whether one was told to stop."""
GONE = 3
"""Exit code where another process is gone."""


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


@contextmanager
def only_the_first_speaks() -> Iterator[None]:
    """Leave progress and what is found to the first process; errors still go to standard error."""
    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


class Words:
    """What the first process of a run tells the others."""

    def __init__(self) -> None:
        """Begin a run: all processes begin theirs in the same order."""
        self._said = 0
        if jax.process_count() > 1:
            own = f"jaxad/runs/{jax.process_index()}"
            self._run = _client().key_value_increment(own, 1)

    def first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, JSON-able; the others wait for it.

        Args:
            make: Called in the first process alone.

        Raises:
            InputError: `make` has, in the first process: in all of them.
        """
        if jax.process_count() == 1:
            return make()
        self._said += 1
        client, key = _client(), f"jaxad/told/{self._run}/{self._said}"
        if jax.process_index() == 0:
            try:
                found = make()
            except (InputError, Stopped) as error:
                told = {"stopped": error.signal} if isinstance(error, Stopped) else str(error)
                client.key_value_set(key, json.dumps({"error": told}))
                raise
            client.key_value_set(key, json.dumps({"found": found}))
            return found
        # That the first one lives is the watch's business, however long this takes.
        told = json.loads(client.blocking_key_value_get(key, 10**9))
        if "error" not in told:
            return told["found"]
        if isinstance(told["error"], dict):
            raise Stopped(told["error"]["stopped"])
        raise InputError(told["error"])

    def alike(self, facts: Mapping[str, Mapping[str, str]]) -> None:
        """See that all processes have what the first one has: else they would wait in vain.

        Args:
            facts: Kind -> name -> text.

        Raises:
            InputError: In those that have something else, which is named.
        """
        first = self.first(lambda: facts)
        for kind, own in facts.items():
            other = [n for n in sorted({*own, *first[kind]}) if own.get(n) != first[kind].get(n)]
            if other:
                raise InputError(
                    f"process {jax.process_index()} has another {kind} than the first one "
                    f"({', '.join(other[:4])}): start all with the same"
                )


class Agreed:
    """A `check` for several processes: a signal to one stops all, at the same place.

    All of them have to call it equally often: they do between steps and batches.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        """Set up.

        Args:
            check: Of this process.
        """
        self._check, self._calls = check, 0

    def __call__(self) -> None:
        """Raise `Stopped` in all processes, if `check` has in one of them."""
        self._calls += 1
        if self._calls % ASKED:
            return
        signal = 0
        try:
            self._check()
        except Stopped as stopped:
            signal = stopped.signal
        signal = int(np.max(multihost_utils.process_allgather(np.int32(signal))))
        if signal:
            raise Stopped(signal)


@contextmanager
def watched() -> Iterator[None]:
    """Watch over the other processes, if there are any."""
    with Watch() if jax.process_count() > 1 else nullcontext():
        yield


class Watch:
    """While it is entered, a process that is gone ends this one, with a line that names it."""

    def __init__(self, leave: Callable[[int], None] = os._exit) -> None:
        """Set up.

        Args:
            leave: Ends this process at once, with an exit code.
        """
        self._leave, self._over, self._last_word = leave, threading.Event(), ENDED
        self._index, self._count = jax.process_index(), jax.process_count()

    def __enter__(self) -> Watch:
        run = _client().key_value_increment(f"jaxad/watches/{self._index}", 1)
        self._left = f"jaxad/left/{run}"
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Another's death may reach a collective before its silence tells: that names it.
            self._thread.join(SILENT + 3 * BEAT)
        if error is not None and not isinstance(error, Stopped | KeyboardInterrupt):
            self._last_word = FAILED
            # At exit JAX would wait for the others, which leave without a word to it.
            code = 2 if isinstance(error, InputError | OSError) else 1
            atexit.register(self._leave_alone, code)
        elif self._index:  # the first one may have to save for long, longer than JAX waits
            _client().blocking_key_value_get(self._left, 10**9)
        if not self._index:
            _client().key_value_set(self._left, self._last_word)
        self._over.set()
        self._thread.join()

    def _leave_alone(self, code: int) -> None:
        if not self._index:  # the last words of all are kept here
            time.sleep(GRACE + 3 * BEAT)
        self._leave(code)

    def _watch(self) -> None:
        client, beats = _client(), 0
        last: dict[int, tuple[str, float]] = {}
        while True:
            ends = self._over.is_set()
            try:
                word = self._last_word if ends else str(beats)
                own = f"jaxad/alive/{self._index}"
                about = f"{word} {platform.node()}"
                client.key_value_set(own, about, allow_overwrite=True)
                every = dict(client.key_value_dir_get("jaxad/alive"))
            except Exception as error:  # the service's own: it lives in the first process
                if not ends and self._index:
                    self._say(0, "", first_line(error, 160))
                return
            if ends:
                return
            beats, now = beats + 1, time.monotonic()
            for index in range(self._count):
                word = every.get(f"jaxad/alive/{index}", "")
                if index not in last or last[index][0] != word:
                    last[index] = word, now
                    continue
                said, _, host = word.partition(" ")
                silent = now - last[index][1]
                if said == FAILED and silent > GRACE:
                    self._say(index, host, "an error, which it has printed")
                    return
                if said not in (ENDED, FAILED) and silent > SILENT:
                    self._say(index, host, f"silent for {SILENT:.0f} s")
                    return
            self._over.wait(BEAT)

    def _say(self, index: int, host: str, why: str) -> None:
        where = f" on {host}" if host else ""
        print(
            f"\njaxad: process {index}{where} is gone ({why}): start all again, they go on from "
            "the last save",
            file=sys.__stderr__,
            flush=True,
        )
        self._leave(GONE)


def _client() -> Any:
    # The service's client has no public name yet (jax 0.10 to 0.12).
    from jax._src import distributed

    return distributed.global_state.client

"""What every fuzz case of the weight readers must keep to, and the count of the cases."""

from __future__ import annotations

import contextlib
import functools
import gc
import mmap
import os
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch_bytes import ZIP, within_a_second

from jaxad.errors import InputError
from ports.read import read_state

TIMES = int(os.environ.get("JAXAD_FUZZ", "1"))
CASES: Counter[str] = Counter()
"""Name of a test -> files that it has given to a reader."""


def fuzz(examples: int) -> settings:
    """The same cases in every run, unless JAXAD_FUZZ asks for more."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,  # `check` measures the reader alone
        suppress_health_check=[HealthCheck.too_slow],
    )


Flips = list[tuple[int, int]]
FLIPS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4)


def flipped(data: bytes, flips: Flips) -> bytes:
    damaged = bytearray(data)
    for where, value in flips:
        damaged[where % len(damaged)] = value
    return bytes(damaged)


WATCHED = (
    *("import", "exec", "compile", "open", "os.", "subprocess.", "shutil.", "socket.", "pickle."),
    *("marshal.", "ctypes.", "code.", "function.", "mmap.", "tempfile.", "webbrowser.", "pty."),
)


class Watch:
    """Python's own record of what this thread opens, imports and runs.

    An audit hook can not be removed; it does nothing between the cases.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] | None = None
        self.thread = threading.get_ident()
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.events is None or not event.startswith(WATCHED):
            return
        if threading.get_ident() == self.thread:
            self.events.append((event, arguments[0] if arguments else None))

    @contextlib.contextmanager
    def __call__(self) -> Iterator[list[tuple[str, object]]]:
        self.events = events = []
        try:
            yield events
        finally:
            self.events = None


@contextlib.contextmanager
def one_more_gigabyte() -> Iterator[None]:
    """Let any allocation beyond 1 GB fail, where the system can."""
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@functools.cache
def the_watch() -> Watch:
    """Return the one watch of the process, once it and the bound of memory have been tried."""
    watch = Watch()
    gc.collect()  # finalisers of earlier tests would be seen
    with watch() as events:
        pickle.loads(b"cos\ngetcwd\n)R.")
    assert [event for event, _ in events] == ["pickle.find_class"]
    if sys.platform == "linux":
        with one_more_gigabyte(), pytest.raises(MemoryError):
            bytearray(2 * 10**9)
    return watch


def check(path: Path, data: bytes, reader: Callable[[Path], object] = read_state) -> str:
    """Give the bytes to a reader, and return the line of its refusal or "" where arrays came.

    The reader takes less than a second of processor time and 1 GB, opens nothing but the file and
    runs nothing; `path` is in a folder of its own, which stays as it is.
    """
    watch = the_watch()
    CASES[sys._getframe(1).f_code.co_name] += 1
    if path.exists():
        path.write_bytes(data)
    else:  # the first case: whatever the reader imports late
        path.write_bytes(ZIP)
        reader(path)
        path.write_bytes(data)
    said = ""

    def read_once() -> None:
        nonlocal said, state
        try:
            state = reader(path)
        except InputError as error:
            said = str(error)

    state: object = None
    with one_more_gigabyte(), watch() as events:
        within_a_second(read_once)
    assert set(events) == {("open", str(path))}
    assert [entry.name for entry in os.scandir(path.parent)] == [path.name]
    if said:
        assert said.startswith(f"{path}: ")
        assert said.isprintable()
        assert 10 < len(said) - len(str(path)) < 300
    else:
        arrays = state[0] if isinstance(state, tuple) else state
        assert isinstance(arrays, dict)
        assert arrays
        assert all(type(array) is np.ndarray for array in arrays.values())
    return said

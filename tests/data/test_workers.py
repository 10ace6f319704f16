"""Worker processes: results, errors, and that none outlives the process that started it."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jaxad.data.workers import Workers
from jaxad.errors import InputError

PID = "__import__('os').getpid()"


class OfItsOwnError(Exception):
    """Of a class that pickle can write but not read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


def work(item: Any) -> Any:
    """What workers of these tests do."""
    if item == "unusable":
        raise InputError("photo.png: damaged")
    if item == "fault":
        raise KeyError(item)
    if item == "unreadable":
        raise OfItsOwnError(1, 2)
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), item


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, and whose parent has not asked, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether all end within moments."""
    end = time.monotonic() + 20
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_every_item_is_worked_on_by_one_of_them_and_errors_come_through() -> None:
    workers = Workers(work, 2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(workers, range(200)))
    assert [item for _, item in found] == list(range(200))
    pids = {pid for pid, _ in found}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    with pytest.raises(InputError, match=r"^photo\.png: damaged$"):
        workers("unusable")
    with pytest.raises(KeyError) as caught:
        workers("fault")
    assert "raise KeyError(item)" in caught.value.__notes__[0]  # where it was
    with pytest.raises(RuntimeError, match="OfItsOwnError: 1 2"):
        workers("unreadable")
    assert workers(3)[1] == 3


def test_a_worker_that_is_killed_is_one_line() -> None:
    workers = Workers(work, 1)
    for _ in range(2):  # and whoever asks next does not wait for ever
        with pytest.raises(InputError, match=r"a decoding process ended \(for lack of memory\?\)"):
            workers("killed")


def test_workers_that_can_not_be_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(InputError, match="3 decoding processes can not be started"):
        Workers(work, 3)(1)


def test_workers_end_when_nobody_has_them() -> None:
    workers = Workers(work, 2)
    pids = [workers(n)[0] for n in range(4)]
    del workers
    gc.collect()
    assert gone(pids)


SCRIPT = f"""
import concurrent.futures, os, signal, sys, threading, time
from jaxad.data.workers import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
workers = Workers(eval, 2)
with concurrent.futures.ThreadPoolExecutor(2) as threads:
    print(*threads.map(workers, ["(__import__('time').sleep(.2), {PID})[1]"] * 2), flush=True)
def ask(task):
    try:
        workers(task)
    except Exception:
        pass
for task in ("__import__('time').sleep(.3)", "bytes(10 ** 8)"):  # one works, one sends
    threading.Thread(target=ask, args=(task,), daemon=True).start()
time.sleep(.1)
end = sys.argv[1]
if end == "exit":
    os._exit(3)
if end == "error":
    raise OSError(28, "no space")
if end == "child":  # which keeps the socket open
    if os.fork() == 0:
        os.close(1)
        os.close(2)
        time.sleep(60)
    os._exit(3)
print("ready", flush=True)
time.sleep(60)
"""


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")  # where semaphores lie too
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def no_more_than(before: set[str]) -> bool:
    """Whether shared memory is as it was, now or in moments: other tests may use some."""
    end = time.monotonic() + 10
    while not shared_memory() <= before:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")
@pytest.mark.parametrize("end", ["KILL", "TERM", "INT", "KILL all", "exit", "error", "child"])
def test_no_worker_outlives_its_process(end: str) -> None:
    before = shared_memory()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(set(pids)) == 2
    if end.isupper() or end == "KILL all":
        assert process.stdout.readline() == "ready\n"
        number = getattr(signal, f"SIG{end.split()[0]}")
        if end == "KILL":  # it alone, as when memory is short
            process.kill()
        else:  # all of them, as from a terminal or a scheduler
            os.killpg(process.pid, number)
    # Their standard error is ours: closed once all have ended.
    _, said = process.communicate(timeout=40)
    assert gone(pids)
    assert process.returncode != 0
    assert no_more_than(before)
    assert said.count("Traceback") == (1 if end in ("INT", "error") else 0), said
